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
#include "common/base/digest.h"

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

// The text of a PEM file. NotFound: it does not exist; Unavailable: it cannot be read; both name it.
absl::StatusOr<std::string> ReadPemFile(const std::string& path);
// Whether the first certificate in `pem` may issue others (basicConstraints, RFC 5280, section 4.2.1.9).
bool IsAuthority(std::string_view pem);
// Those in `pem` that have not signed themselves: what a chain has between a leaf and its root.
std::string IntermediatesOf(std::string_view pem);
// Whether the first certificate in `ca` has signed the last one in `chain`, or is it.
bool IsIssuedBy(std::string_view chain, std::string_view ca);

// Longest certificate request that is read.
inline constexpr size_t kSigningRequestBytesMax = 16u << 10;
// A new private key: EC P-256, PEM.
absl::StatusOr<std::string> MakePrivateKey();
// A certificate request (PKCS #10, RFC 2986) for `private_key`, PEM.
absl::StatusOr<std::string> MakeSigningRequest(std::string_view private_key, const std::string& common_name);
// SHA-256 of the public key in a certificate request. InvalidArgument, beginning with "certificate_request": it is not
// one in PEM, is not signed by its key, or the key is weaker than RSA 2048 or P-256.
absl::StatusOr<Digest> SigningRequestKey(std::string_view pem);
// A leaf for the key of the certificate request `pem`, of which nothing else counts; PEM. Errors as of
// SigningRequestKey and IssueCertificate.
absl::StatusOr<std::string> IssueForRequest(const CertificateAndKey& authority, const CertificateRequest& request,
                                            std::string_view pem, absl::Time now);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_PKI_H_
