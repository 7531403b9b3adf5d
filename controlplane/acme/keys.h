// The keys and signatures of ACME: the account's JWS (RFC 7515, ES256), and what certificates are asked for with.
#ifndef GATEWAY_CONTROLPLANE_ACME_KEYS_H_
#define GATEWAY_CONTROLPLANE_ACME_KEYS_H_

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/base/openssl_ptr.h"

namespace gateway::controlplane::acme {

// P-256. Immutable; any thread.
class AccountKey {
 public:
  static absl::StatusOr<AccountKey> Generate();
  // As ToPem gives it.
  static absl::StatusOr<AccountKey> FromPem(std::string_view pem);
  absl::StatusOr<std::string> ToPem() const;

  // The public key, members in the order that RFC 7638 hashes.
  const std::string& jwk() const { return jwk_; }
  // TOKEN.THUMBPRINT (RFC 8555, section 8.1).
  std::string KeyAuthorization(std::string_view token) const;
  // A flattened JWS of `payload` (empty: POST-as-GET) to `url`. `account`: its URL; empty: by `jwk` (RFC 8555, section
  // 6.2).
  absl::StatusOr<std::string> Sign(std::string_view url, std::string_view nonce, std::string_view account,
                                   std::string_view payload) const;

 private:
  static absl::StatusOr<AccountKey> Of(KeyPtr key);
  KeyPtr key_;
  std::string jwk_;
};

struct CertificateSigningRequest {
  std::string der;      // PKCS #10
  std::string key_pem;  // a new P-256 key
};
// For `hosts`, DNS names or IP addresses, all of them as subjectAltName.
absl::StatusOr<CertificateSigningRequest> MakeRequest(std::span<const std::string> hosts);

// By which renewalInfo knows the leaf of `chain_pem` (RFC 9773, section 4.1); InvalidArgument: it has no authority key
// identifier.
absl::StatusOr<std::string> RenewalId(std::string_view chain_pem);

}  // namespace gateway::controlplane::acme

#endif  // GATEWAY_CONTROLPLANE_ACME_KEYS_H_
