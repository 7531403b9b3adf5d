// Certificates between our own processes: files read and checked before TLS sees them, what a certificate says about
// its owner, and a small authority for labs. PEM in, PEM out.
#ifndef GATEWAY_COMMON_BASE_PKI_H_
#define GATEWAY_COMMON_BASE_PKI_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/certificate.h"

namespace gateway {

// Longest certificate, key or CA file that is read.
inline constexpr size_t kPemFileBytesMax = 1u << 20;

struct CertificateInfo {
  std::string common_name;
  std::string organizational_unit;
  AlternativeNames names;  // DNS names as written, since data planes' names have a case
  absl::Time not_before, not_after;
};

// Of the first certificate in `pem`. InvalidArgument if it holds none, or one whose common name or organizational unit
// has a control character.
absl::StatusOr<CertificateInfo> DescribeCertificate(std::string_view pem);

// How one end of a TLS connection identifies itself and what it trusts: PEM files. `cert` (leaf first) and `key` belong
// together; either pair or `ca` may be absent ("").
struct TlsFiles {
  std::string cert = {}, key = {}, ca = {};
};
struct TlsMaterial {
  std::string certificate_chain, private_key, ca;
  absl::Time not_after = absl::InfiniteFuture();  // of the leaf
};

// Reads and checks all of it, so that a handshake cannot fail because of this end. Errors name the file: it cannot be
// read, is not PEM, the key is encrypted or another certificate's, the certificate has expired or is not valid yet.
absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsFiles& files, absl::Time now);

// Changes when a file does; cheap enough for each handshake. A file that is not there has a stamp too.
std::string TlsFilesStamp(const TlsFiles& files);

// Whether the two PEM texts have a certificate in common.
bool ShareCertificate(std::string_view a, std::string_view b);

struct CertificateAndKey {
  std::string certificate, private_key;
};

// A self-signed authority: EC P-256, ECDSA with SHA-256.
absl::StatusOr<CertificateAndKey> MakeAuthority(const std::string& common_name, absl::Time now,
                                                absl::Duration lifetime);

struct CertificateRequest {
  std::string common_name = {};
  std::string organizational_unit = {};  // "": none
  std::vector<std::string> names = {};   // IP addresses, URIs ("spiffe://..."), else DNS names
  bool server = false, client = false;
  absl::Duration lifetime = absl::ZeroDuration();
};
// A leaf with a new key. Ends no later than its authority. InvalidArgument: a name that fits no certificate.
absl::StatusOr<CertificateAndKey> IssueCertificate(const CertificateAndKey& authority,
                                                   const CertificateRequest& request, absl::Time now);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_PKI_H_
