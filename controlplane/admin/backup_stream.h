// Backup: a copy of the database for a caller.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_BACKUP_STREAM_H_
#define GATEWAY_CONTROLPLANE_ADMIN_BACKUP_STREAM_H_

#include <openssl/evp.h>

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "controlplane/admin/streaming_calls.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/rpc/executor.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr size_t kBackupChunkBytes = 1u << 20;

// What a backup needs, and `file`: where the copy is while it is read; `control_plane`: the name of this one.
struct BackupSource {
  Publisher* publisher;
  Executor* executor;
  AuditLog* audit;
  std::string file;
  std::string control_plane;
};

// Copies the database, then sends the copy piece by piece, at the caller's pace. One at a time.
class BackupStream final : public AdminStream<v1::BackupResponse> {
 public:
  BackupStream(StreamingCalls* calls, BackupSource source, Caller caller)
      : AdminStream(calls, &source.publisher->revisions()), source_(std::move(source)), caller_(std::move(caller)) {}
  ~BackupStream() override;

 protected:
  Step Next(v1::BackupResponse* message) override;

 private:
  Step Fail(absl::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Copy();  // on the executor's thread

  const BackupSource source_;
  const Caller caller_;
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool told_ ABSL_GUARDED_BY(mu_) = false;
  v1::BackupInfo info_ ABSL_GUARDED_BY(mu_);
  int file_ ABSL_GUARDED_BY(mu_) = -1;
  EVP_MD_CTX* digest_ ABSL_GUARDED_BY(mu_) = nullptr;
  uint64_t sent_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_BACKUP_STREAM_H_
