#include "dataplane/config/config_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "boost/crc.hpp"
#include "boost/endian/conversion.hpp"
#include "common/base/thread.h"
#include "spdlog/fmt/fmt.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr std::string_view kMagic = "GWCACHE\n";
constexpr uint32_t kFormatVersion = 1;
constexpr char kPolicyFile[] = "policy.cache";
constexpr char kEndpointsFile[] = "endpoints.cache";

// Magic, format version (4 bytes), CRC-32 of the payload (4), its length (8); little endian.
constexpr size_t kHeaderBytes = 24;

uint32_t ChecksumOf(std::string_view payload) {
  boost::crc_32_type crc;
  crc.process_bytes(payload.data(), payload.size());
  return crc.checksum();
}

std::string HeaderOf(std::string_view payload) {
  std::string header(kMagic);
  header.resize(kHeaderBytes);
  auto* bytes = reinterpret_cast<unsigned char*>(header.data());
  boost::endian::store_little_u32(bytes + 8, kFormatVersion);
  boost::endian::store_little_u32(bytes + 12, ChecksumOf(payload));
  boost::endian::store_little_u64(bytes + 16, payload.size());
  return header;
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status ErrnoStatus(std::string_view what, const std::string& path) {
  const int error = errno;
  return absl::UnavailableError(fmt::format("cannot {} '{}': {}", what, path, std::strerror(error)));
}

absl::Status WriteAll(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus("write", path);
    text.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// After this returns OK, a crash leaves the new file; before, the old one.
absl::Status ReplaceFile(const std::string& directory, const std::string& path, std::string_view payload) {
  const std::string beside = path + ".tmp";
  {
    const Descriptor file(open(beside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return ErrnoStatus("create", beside);
    absl::Status status = WriteAll(file.get(), HeaderOf(payload), beside);
    if (status.ok()) status = WriteAll(file.get(), payload, beside);
    if (status.ok() && fsync(file.get()) != 0) status = ErrnoStatus("sync", beside);
    if (!status.ok()) {
      (void)unlink(beside.c_str());  // half a file is of no use, and the disk may be full
      return status;
    }
  }
  if (rename(beside.c_str(), path.c_str()) != 0) return ErrnoStatus("replace", path);
  const Descriptor folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0 || fsync(folder.get()) != 0) return ErrnoStatus("sync", directory);
  return absl::OkStatus();
}

// The payload; NotFound without a file.
absl::StatusOr<std::string> ReadPayload(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) {
    if (errno == ENOENT) return absl::NotFoundError(path);
    return ErrnoStatus("open", path);
  }
  struct stat info {};
  if (fstat(file.get(), &info) != 0) return ErrnoStatus("read", path);
  const auto damaged = [&path](std::string_view how) {
    return absl::DataLossError(fmt::format("'{}' is damaged ({})", path, how));
  };
  const auto size = static_cast<uint64_t>(info.st_size);
  if (!S_ISREG(info.st_mode) || size < kHeaderBytes) return damaged("too short");
  if (size > ConfigCache::kFileBytesMax) return damaged("too long");

  std::string text(size, '\0');
  for (size_t length = 0; length < text.size();) {
    const ssize_t got = read(file.get(), text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus("read", path);
    if (got == 0) return damaged("cut short");
    length += static_cast<size_t>(got);
  }
  if (!std::string_view(text).starts_with(kMagic)) return damaged("not a cache file");
  const auto* header = reinterpret_cast<const unsigned char*>(text.data());
  if (const uint32_t version = boost::endian::load_little_u32(header + 8); version != kFormatVersion) {
    return absl::FailedPreconditionError(
        fmt::format("'{}' has format {}, this version reads {}", path, version, kFormatVersion));
  }
  if (boost::endian::load_little_u64(header + 16) != size - kHeaderBytes) return damaged("cut short");
  const uint32_t checksum = boost::endian::load_little_u32(header + 12);
  text.erase(0, kHeaderBytes);
  if (ChecksumOf(text) != checksum) return damaged("checksum");
  return text;
}

template <typename Update>
void LoadFile(const std::string& path, std::optional<Update>* update, std::vector<std::string>* problems) {
  const absl::StatusOr<std::string> payload = ReadPayload(path);
  if (absl::IsNotFound(payload.status())) return;
  if (!payload.ok()) {
    problems->emplace_back(payload.status().message());
    return;
  }
  if (!update->emplace().ParseFromString(*payload)) {
    update->reset();
    problems->push_back(fmt::format("'{}' is damaged (no message)", path));
  }
}

}  // namespace

struct ConfigCache::Impl {
  explicit Impl(std::string directory) : directory(std::move(directory)) {}

  std::string Path(const char* file) const { return directory + "/" + file; }

  void Run() {
    while (true) {
      std::optional<v1::PolicyUpdate> policy;
      std::optional<v1::EndpointsUpdate> endpoints;
      {
        const auto awake = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex) {
          return waiting.policy || waiting.endpoints || closing;
        };
        absl::MutexLock lock(&mutex);
        mutex.Await(absl::Condition(&awake));
        policy = std::exchange(waiting.policy, std::nullopt);
        endpoints = std::exchange(waiting.endpoints, std::nullopt);
        if (!policy && !endpoints) return;  // closing, and nothing left
      }
      if (policy) Write(kPolicyFile, *policy);
      if (endpoints) Write(kEndpointsFile, *endpoints);
    }
  }

  void Write(const char* file, const google::protobuf::Message& update) {
    std::string payload;
    absl::Status status = absl::OkStatus();
    if (!update.SerializeToString(&payload) || payload.size() > kFileBytesMax - kHeaderBytes) {
      status = absl::ResourceExhaustedError("too large to be kept");
    } else {
      std::error_code error;
      std::filesystem::create_directories(directory, error);  // it may have been removed meanwhile
      status = ReplaceFile(directory, Path(file), payload);
    }
    if (status.ok()) return;
    write_errors.fetch_add(1, std::memory_order_relaxed);
    spdlog::error("configuration cache: {} (served configuration is not concerned)", std::string(status.message()));
  }

  const std::string directory;
  absl::Mutex mutex;
  Content waiting ABSL_GUARDED_BY(mutex);  // the newest of each
  bool closing ABSL_GUARDED_BY(mutex) = false;
  std::atomic<uint64_t> write_errors{0};
  std::thread writer;
};

ConfigCache::ConfigCache(std::string directory) : impl_(std::make_unique<Impl>(std::move(directory))) {
  std::error_code error;
  if (std::filesystem::create_directories(impl_->directory, error)) {
    std::filesystem::permissions(impl_->directory, std::filesystem::perms::owner_all, error);
  }
  if (error) {
    spdlog::error("configuration cache: cannot make the directory '{}': {}", impl_->directory, error.message());
  }
  impl_->writer = StartThread("config-cache", ThreadPriority::kBackground, [this] { impl_->Run(); });
}

ConfigCache::~ConfigCache() {
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->closing = true;
  }
  impl_->writer.join();
}

ConfigCache::Content ConfigCache::Load(std::vector<std::string>* problems) const {
  Content content;
  LoadFile(impl_->Path(kPolicyFile), &content.policy, problems);
  LoadFile(impl_->Path(kEndpointsFile), &content.endpoints, problems);
  return content;
}

void ConfigCache::Save(v1::PolicyUpdate policy) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->waiting.policy = std::move(policy);
}

void ConfigCache::Save(v1::EndpointsUpdate endpoints) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->waiting.endpoints = std::move(endpoints);
}

uint64_t ConfigCache::write_errors() const { return impl_->write_errors.load(std::memory_order_relaxed); }

}  // namespace gateway::dataplane
