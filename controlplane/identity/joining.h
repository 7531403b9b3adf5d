// How a data plane comes by its certificate: the first for a join token, the next ones for the certificate it has.
#ifndef GATEWAY_CONTROLPLANE_IDENTITY_JOINING_H_
#define GATEWAY_CONTROLPLANE_IDENTITY_JOINING_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/pki.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/join.pb.h"

namespace gateway::controlplane {

inline constexpr absl::Duration kJoinTokenLifetime = absl::Hours(1);  // unless the request has another
inline constexpr absl::Duration kJoinTokenLifetimeMax = absl::Hours(24 * 30);

// Secrets are "gwj_" and 256 random bits; only their SHA-256 is kept. A token is spent by the first certificate, and
// bound to its key: the same data plane may ask again as long as the token lives, in case a response is lost, and
// nobody else. The authority's files are read for each certificate, so that they may be replaced. Thread-safe; every
// call blocks on the disk.
class Joining {
 public:
  struct Options {
    TlsFiles authority;              // cert and key
    std::string server_certificate;  // file: the chain that data planes see of the control plane
    absl::Duration lifetime = absl::Hours(24);
  };
  static Options OptionsOf(const v1::ControlPlaneSection& section);
  // `client_ca`: the CAs (PEM) by which the listener verifies data planes now. FailedPrecondition names the file that
  // cannot be used: the certificate is not a CA's, or is not among those. Checked again for each certificate.
  static absl::StatusOr<std::unique_ptr<Joining>> Open(Options options, std::function<std::string()> client_ca,
                                                       Store* store);

  // InvalidArgument names the field; ResourceExhausted: kJoinTokensMax are in force.
  absl::StatusOr<v1::CreateJoinTokenResponse> CreateToken(const v1::CreateJoinTokenRequest& request, absl::Time now);

  // As in join.proto. `name`: the data plane's, as soon as it is known.
  absl::Status Enroll(const v1::EnrollRequest& request, absl::Time now, std::string* name,
                      v1::EnrollResponse* response);
  // `certificate`: which the listener has verified, PEM; "": none was shown. Its DNS and URI names stay.
  absl::Status Renew(const v1::RenewRequest& request, const std::string& certificate, absl::Time now, std::string* name,
                     v1::EnrollResponse* response);

 private:
  Joining(Options options, std::function<std::string()> client_ca, Store* store)
      : options_(std::move(options)), client_ca_(std::move(client_ca)), store_(store) {}
  absl::StatusOr<CertificateAndKey> Authority(absl::Time now) const;
  // A certificate for `names`, of which the first is the data plane's; InvalidArgument: the request is not good.
  absl::Status Issue(const std::string& signing_request, std::vector<std::string> names, absl::Time now,
                     v1::EnrollResponse* response) const;
  // The CA, if the control plane's own certificate is of it; "" otherwise.
  std::string CaOfServer(const CertificateAndKey& authority) const;

  const Options options_;
  const std::function<std::string()> client_ca_;
  Store* const store_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_IDENTITY_JOINING_H_
