#include "controlplane/admin/backup_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controlplane/rpc/grpc_status.h"

namespace gateway::controlplane {

BackupStream::~BackupStream() {
  if (file_ >= 0) close(file_);
  EVP_MD_CTX_free(digest_);
}

BackupStream::Step BackupStream::Next(v1::BackupResponse* message) {
  if (!std::exchange(started_, true)) {
    if (!source_.executor->Run([self = std::static_pointer_cast<BackupStream>(shared_from_this())] { self->Copy(); })) {
      EndLocked({grpc::StatusCode::UNAVAILABLE, "too many requests are waiting"});
    }
    return Step::kWait;
  }
  if (file_ < 0) return Step::kWait;
  if (!std::exchange(told_, true)) {
    *message->mutable_info() = info_;
    return Step::kWrite;
  }
  std::string* data = message->mutable_data();
  data->resize(std::min<uint64_t>(kBackupChunkBytes, info_.bytes() - sent_));
  if (data->empty()) {
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (EVP_DigestFinal_ex(digest_, sum, &size) != 1) return Fail("its SHA-256 cannot be made");
    message->set_sha256(sum, size);
    return Step::kWriteLast;
  }
  const ssize_t got = pread(file_, data->data(), data->size(), static_cast<off_t>(sent_));
  if (got <= 0) return Fail(got == 0 ? "it has become shorter" : strerror(errno));
  data->resize(static_cast<size_t>(got));
  sent_ += static_cast<uint64_t>(got);
  if (EVP_DigestUpdate(digest_, data->data(), data->size()) != 1) return Fail("its SHA-256 cannot be made");
  return Step::kWrite;
}

BackupStream::Step BackupStream::Fail(absl::string_view why) {
  EndLocked({grpc::StatusCode::DATA_LOSS, absl::StrCat("the copy of the database cannot be read: ", why)});
  return Step::kWait;
}

void BackupStream::Copy() {
  const std::string& path = source_.file;
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) (void)unlink(absl::StrCat(path, suffix).c_str());
  const absl::StatusOr<uint64_t> revision = source_.publisher->store().BackUp(path);
  const int file = revision.ok() ? open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
  struct stat found {};
  const bool readable = file >= 0 && fstat(file, &found) == 0;
  const int error = errno;
  (void)unlink(path.c_str());  // the open file is all that is needed, and a crash leaves nothing
  {
    std::lock_guard lock(mu_);
    if (!readable) {
      if (file >= 0) close(file);
      return EndLocked(ToGrpc(revision.ok()
                                  ? absl::InternalError(absl::StrCat("cannot read '", path, "': ", strerror(error)))
                                  : revision.status()));
    }
    info_.set_epoch(source_.publisher->store().epoch());
    info_.set_revision(*revision);
    info_.set_bytes(static_cast<uint64_t>(found.st_size));
    info_.set_control_plane(source_.control_plane);
    digest_ = EVP_MD_CTX_new();
    if (digest_ == nullptr || EVP_DigestInit_ex(digest_, EVP_sha256(), nullptr) != 1) {
      close(file);
      return EndLocked({grpc::StatusCode::INTERNAL, "no SHA-256"});
    }
    file_ = file;
  }
  source_.audit->Done(caller_, absl::StrCat("copied the database, revision ", *revision), absl::Now());
  Wake();
}

}  // namespace gateway::controlplane
