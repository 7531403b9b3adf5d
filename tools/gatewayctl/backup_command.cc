// backup.
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/gatewayctl/commands.h"

namespace gateway::ctl {
namespace {

// A file that gets its name once it is whole: a backup that was cut short is none. Mode 0600.
class BackupFile {
 public:
  explicit BackupFile(std::string path) : path_(std::move(path)), part_(absl::StrCat(path_, ".part")) {}
  ~BackupFile() {
    if (fd_ < 0) return;
    close(fd_);
    unlink(part_.c_str());
  }
  BackupFile(const BackupFile&) = delete;
  BackupFile& operator=(const BackupFile&) = delete;

  absl::Status Create() {
    unlink(part_.c_str());
    fd_ = open(part_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    return fd_ < 0 ? Failed("create") : absl::OkStatus();
  }
  absl::Status Append(const std::string& data) {
    for (size_t at = 0; at < data.size();) {
      const ssize_t written = write(fd_, data.data() + at, data.size() - at);
      if (written < 0 && errno != EINTR) return Failed("write");
      if (written > 0) at += static_cast<size_t>(written);
    }
    return absl::OkStatus();
  }
  absl::Status Finish() {
    if (fsync(fd_) != 0 || rename(part_.c_str(), path_.c_str()) != 0) return Failed("write");
    close(std::exchange(fd_, -1));
    return absl::OkStatus();
  }

 private:
  absl::Status Failed(const char* what) const {
    return absl::InternalError(absl::StrCat("cannot ", what, " '", part_, "': ", std::strerror(errno)));
  }

  const std::string path_, part_;
  int fd_ = -1;
};

struct DigestDeleter {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

}  // namespace

ExitCode Backup(Session& session) {
  const std::string& path = session.options.output_file;
  BackupFile file(path);
  if (absl::Status s = file.Create(); !s.ok()) return session.Fail(s);
  const std::unique_ptr<EVP_MD_CTX, DigestDeleter> digest(EVP_MD_CTX_new());
  if (digest == nullptr || EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) != 1) {
    return session.Fail(absl::InternalError("no SHA-256"));
  }
  v1::BackupInfo info;
  uint64_t received = 0;
  std::string sha256;
  absl::Status failure;
  const absl::Status ended = session.client.Backup([&](const v1::BackupResponse& part) {
    if (part.has_info()) info = part.info();
    if (!part.data().empty()) {
      received += part.data().size();
      EVP_DigestUpdate(digest.get(), part.data().data(), part.data().size());
      failure = file.Append(part.data());
    }
    if (!part.sha256().empty()) sha256 = part.sha256();
    return failure.ok();
  });
  if (!failure.ok()) return session.Fail(failure);
  if (!ended.ok()) return session.Fail(ended);
  unsigned char sum[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(digest.get(), sum, &size);
  if (received != info.bytes() || sha256 != std::string(reinterpret_cast<char*>(sum), size)) {
    return session.Fail(absl::DataLossError(
        absl::StrCat("the backup did not arrive whole: ", received, " of ", info.bytes(), " bytes; nothing was kept")));
  }
  if (absl::Status s = file.Finish(); !s.ok()) return session.Fail(s);
  Json json = {{"file", path},
               {"revision", info.revision()},
               {"epoch", info.epoch()},
               {"bytes", info.bytes()},
               {"control_plane", info.control_plane()}};
  if (session.PrintStructured(json)) return kDone;
  session.out() << path
                << (session.options.output == "name"
                        ? ""
                        : absl::StrCat(": revision ", info.revision(), ", ", info.bytes(), " bytes"))
                << "\n";
  return kDone;
}

}  // namespace gateway::ctl
