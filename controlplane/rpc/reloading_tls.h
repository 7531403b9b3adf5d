// TLS of a listener whose certificate files may change while it serves.
#ifndef GATEWAY_CONTROLPLANE_RPC_RELOADING_TLS_H_
#define GATEWAY_CONTROLPLANE_RPC_RELOADING_TLS_H_

#include <memory>
#include <mutex>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/pki.h"
#include "grpc/grpc_security.h"
#include "grpcpp/security/server_credentials.h"

namespace gateway::controlplane {

enum class ClientCertificate { kNone, kOptional, kRequired };

// Asked by gRPC before each handshake, at most once a second it looks whether the files have changed. Files that do not
// belong together, cannot be read or have expired are told in the log, once for each change, and the last good ones
// stay. Streams that are open keep what they began with. Thread-safe; must outlive the server that uses `credentials`.
class ReloadingTls {
 public:
  // `key` names it in messages: "control_plane.admin_tls". With a client CA in `files.ca` only.
  static absl::StatusOr<std::unique_ptr<ReloadingTls>> Open(std::string key, TlsFiles files, ClientCertificate clients);

  std::shared_ptr<grpc::ServerCredentials> credentials() const { return credentials_; }
  // Looks at the files now. True: there are new ones, and they are good.
  bool Reload();
  // Of the certificate in use.
  absl::Time not_after() const;
  // The client CA in use, PEM.
  std::string client_ca() const;

 private:
  class Credentials;
  ReloadingTls(std::string key, TlsFiles files, TlsMaterial material, std::string stamp);
  bool ReloadLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static grpc_ssl_certificate_config_reload_status Fetch(void* self, grpc_ssl_server_certificate_config** config);

  const std::string key_;
  const TlsFiles files_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;

  mutable std::mutex mu_;
  TlsMaterial material_ ABSL_GUARDED_BY(mu_);
  std::string stamp_ ABSL_GUARDED_BY(mu_);  // of the files as last looked at
  absl::Time looked_at_ ABSL_GUARDED_BY(mu_);
  bool taken_ ABSL_GUARDED_BY(mu_) = false;  // gRPC has `material_`
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_RPC_RELOADING_TLS_H_
