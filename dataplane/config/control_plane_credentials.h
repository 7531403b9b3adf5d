// How a data plane identifies itself to control planes: data_plane.tls, read again for every connection.
#ifndef GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_CREDENTIALS_H_
#define GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_CREDENTIALS_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/pki.h"
#include "gateway/v1/bootstrap.pb.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace gateway::dataplane {

// Thread-safe. Keeps the last good files: a pair that is just being replaced costs no connection.
class ControlPlaneCredentials {
 public:
  explicit ControlPlaneCredentials(const v1::ClientTlsSection& tls);

  // For one connection; cleartext without TLS. The name that the control plane's certificate must have goes into
  // `arguments`. An error where the files are not good and never were, or have expired since.
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ForConnection(absl::Time now,
                                                                          grpc::ChannelArguments* arguments);

  // The first name in this data plane's certificate; "" without TLS, or if it has no name.
  absl::StatusOr<std::string> Name(absl::Time now);

 private:
  absl::StatusOr<TlsMaterial> Read(absl::Time now) ABSL_LOCKS_EXCLUDED(mu_);

  const TlsFiles files_;
  const std::string server_name_;
  absl::Mutex mu_;
  std::string stamp_ ABSL_GUARDED_BY(mu_);
  TlsMaterial material_ ABSL_GUARDED_BY(mu_);  // the last good one; `ca` empty: none yet
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CONTROL_PLANE_CREDENTIALS_H_
