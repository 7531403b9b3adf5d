// X.509 certificates with their private keys, read from PEM and checked.
#ifndef GATEWAY_COMMON_BASE_CERTIFICATE_H_
#define GATEWAY_COMMON_BASE_CERTIFICATE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/openssl_ptr.h"

namespace gateway {

// As it was read; `name` is for people: a file or a resource.
struct CertificateSource {
  std::string name;
  std::string chain_pem;      // the leaf first, then its issuers
  std::string key_pem;        // not encrypted
  std::string ocsp_der = {};  // a response to staple; may be empty, also after a response that is of no use
};

struct Certificate {
  CertificateSource source;
  enum class KeyType : uint8_t { kRsa, kEcdsa, kEd25519 };
  KeyType key_type = KeyType::kRsa;
  std::string subject;  // "CN=orders,O=shop" (RFC 2253)
  // subjectAltName, or the hosts it is to serve instead; lower case; "*.example.com" covers one label
  std::vector<std::string> dns_names;
  std::vector<std::string> addresses;  // subjectAltName, "10.0.0.7"
  absl::Time not_before;
  absl::Time not_after;
  absl::Time ocsp_until = absl::InfiniteFuture();  // the response is not stapled any more
  std::string fingerprint;                         // SHA-256 of the leaf, 64 hexadecimal digits
  std::vector<std::string> warnings;
};

// Larger files are rejected.
inline constexpr size_t kCertificateBytesMax = 1 << 20;
inline constexpr int kChainCertificatesMax = 16;
// OpenSSL's, of all TLS of the gateway: at least 112 bits, as RSA 2048 has.
inline constexpr int kTlsSecurityLevel = 2;

// InvalidArgument, beginning with source.name, if: a certificate or the key is missing or can't be read; the
// key is encrypted or is not the leaf's; a certificate of the chain did not issue the one before it; a key is weaker
// than RSA 2048 or P-256, or a signature than kTlsSecurityLevel; the OCSP response can't be read. Expiry and a missing
// subjectAltName are warnings, like an OCSP response that CheckOcsp refuses, which is dropped.
absl::StatusOr<Certificate> ParseCertificate(CertificateSource source, absl::Time now);

// All certificates of `pem` in their order, made with `library` (null: the default). InvalidArgument if it has
// no certificate, or one can't be read.
absl::StatusOr<std::vector<X509Ptr>> ReadCertificates(std::string_view pem, OSSL_LIB_CTX* library = nullptr);
absl::StatusOr<std::vector<CrlPtr>> ReadCrls(std::string_view pem, OSSL_LIB_CTX* library = nullptr);
// Why `key` is not good enough for TLS: weaker than RSA 2048 or P-256, or of another type than RSA, ECDSA and Ed25519;
// "": it is.
std::string KeyWeakness(EVP_PKEY* key);
// The private key of `pem`; never asks for a passphrase.
absl::StatusOr<KeyPtr> ReadPrivateKey(std::string_view pem, OSSL_LIB_CTX* library = nullptr);

// "CN=orders,O=shop" (RFC 2253).
std::string SubjectOf(const X509* certificate);
// The start and the end of its validity; InfinitePast if that cannot be read.
absl::Time StartOf(const X509* certificate);
absl::Time ExpiryOf(const X509* certificate);
// The first entry of this type (NID_commonName) in the subject, "" if it has none. InvalidArgument if the entry has a
// control character: it is never shown, and never taken for a subject without one.
absl::StatusOr<std::string> SubjectEntryOf(const X509* certificate, int nid);
// SHA-256 of the certificate, 64 hexadecimal digits in lower case.
std::string FingerprintOf(const X509* certificate);
struct AlternativeNames {
  std::vector<std::string> dns;
  std::vector<std::string> uris;       // as written
  std::vector<std::string> emails;     // as written
  std::vector<std::string> addresses;  // "10.0.0.7", "2001:db8::1"
};
// Names with a space, a control character or a byte beyond ASCII are left out. DNS names have no case, so they are in
// lower case unless they name something that has one.
enum class DnsCase : uint8_t { kLower, kAsWritten };
AlternativeNames AlternativeNamesOf(const X509* certificate, DnsCase dns_case = DnsCase::kLower);

// Whether a certificate for `pattern` ("example.com", "*.example.com") serves `host`, both in lower case. A wildcard
// covers one whole label (RFC 6125, section 6.4.3).
bool NameCovers(std::string_view pattern, std::string_view host);

// Checks that the OCSP response `der` may be stapled to the chain `pem` at `now`: its issuer confirms that the leaf is
// good. Returns the end of its validity. InvalidArgument: not a successful OCSP response (RFC 6960).
// FailedPrecondition: it is for another certificate, has expired, is not signed by the issuer, or reports a revocation.
// If the chain is the leaf alone, only the serial number is compared.
absl::StatusOr<absl::Time> CheckOcsp(std::string_view der, std::string_view pem, absl::Time now);

// The last error of OpenSSL's queue, "unknown error" if it is empty; empties the queue.
std::string OpensslError();

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_CERTIFICATE_H_
