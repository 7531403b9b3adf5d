#include "controlplane/sources/consul/state_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/crc.hpp"
#include "boost/endian/conversion.hpp"

namespace gateway::controlplane {
namespace {

// "GWENDPT1", the payload's length and CRC-32 (little endian), the payload: an EndpointStateFile.
constexpr std::string_view kMagic = "GWENDPT1";
constexpr size_t kHeadBytes = 8 + 8 + 4;

uint32_t Crc(std::string_view text) {
  boost::crc_32_type crc;
  crc.process_bytes(text.data(), text.size());
  return crc.checksum();
}

absl::Status Failed(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(what, " ", path));
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
  const int fd_;
};

absl::Status WriteAll(const std::string& path, std::string_view text) {
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.get() < 0) return Failed("cannot write", path);
  while (!text.empty()) {
    const ssize_t written = write(file.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Failed("cannot write", path);
    text.remove_prefix(static_cast<size_t>(written));
  }
  if (fsync(file.get()) != 0) return Failed("cannot sync", path);
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteStateFile(const std::string& path, const KeptEndpoints& kept) {
  v1::EndpointStateFile file;
  for (const auto& set : kept.sets) *file.add_sets() = *set;
  for (const auto& set : kept.frozen) *file.add_frozen() = *set;
  file.mutable_events()->Assign(kept.events.begin(), kept.events.end());
  if (file.ByteSizeLong() > kStateFileBytesMax) return absl::ResourceExhaustedError("too many endpoints to keep");
  const std::string payload = file.SerializeAsString();
  std::string text(kMagic);
  text.resize(kHeadBytes);
  boost::endian::store_little_u64(reinterpret_cast<unsigned char*>(&text[8]), payload.size());
  boost::endian::store_little_u32(reinterpret_cast<unsigned char*>(&text[16]), Crc(payload));
  text += payload;

  const std::string temporary = path + ".new";
  if (absl::Status status = WriteAll(temporary, text); !status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) return Failed("cannot replace", path);
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const Descriptor folder(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0 || fsync(folder.get()) != 0) return Failed("cannot sync", directory);
  return absl::OkStatus();
}

absl::StatusOr<KeptEndpoints> ReadStateFile(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0) return Failed("cannot read", path);
  struct stat info;
  if (fstat(file.get(), &info) != 0) return Failed("cannot read", path);
  if (!S_ISREG(info.st_mode)) return absl::DataLossError(absl::StrCat(path, ": not a file"));
  if (info.st_size < 0 || static_cast<uint64_t>(info.st_size) > kStateFileBytesMax + kHeadBytes) {
    return absl::DataLossError(absl::StrCat(path, ": too long"));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = read(file.get(), &text[filled], text.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Failed("cannot read", path);
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  text.resize(filled);

  if (text.size() < kHeadBytes || !std::string_view(text).starts_with(kMagic)) {
    return absl::DataLossError(absl::StrCat(path, ": not a file of endpoints"));
  }
  const std::string_view payload = std::string_view(text).substr(kHeadBytes);
  const auto* head = reinterpret_cast<const unsigned char*>(text.data());
  if (boost::endian::load_little_u64(head + 8) != payload.size() ||
      boost::endian::load_little_u32(head + 16) != Crc(payload)) {
    return absl::DataLossError(absl::StrCat(path, ": damaged"));
  }
  v1::EndpointStateFile read;
  if (!read.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::DataLossError(absl::StrCat(path, ": damaged"));
  }
  KeptEndpoints kept;
  for (auto [from, to] : {std::pair{read.mutable_sets(), &kept.sets}, std::pair{read.mutable_frozen(), &kept.frozen}}) {
    for (v1::EndpointSet& set : *from) to->push_back(std::make_shared<const v1::EndpointSet>(std::move(set)));
  }
  kept.events.assign(read.events().begin(), read.events().end());
  return kept;
}

}  // namespace gateway::controlplane
