#include "dataplane/net/tls/acme_challenges.h"

#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "common/base/certificate.h"
#include "common/base/digest.h"
#include "common/base/openssl_ptr.h"
#include "common/base/text.h"

namespace gateway::dataplane::tls {
namespace {

constexpr char kAcmeIdentifierOid[] = "1.3.6.1.5.5.7.1.31";
constexpr long kChallengeSeconds = 24 * 3600;  // CAs do not look at its validity

using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpensslDeleter<X509_EXTENSION_free>>;
using ObjectPtr = std::unique_ptr<ASN1_OBJECT, OpensslDeleter<ASN1_OBJECT_free>>;
using OctetsPtr = std::unique_ptr<ASN1_OCTET_STRING, OpensslDeleter<ASN1_OCTET_STRING_free>>;

absl::Status Failed() { return absl::InternalError(Concat("a challenge's certificate: ", OpensslError())); }

std::string TextOf(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

}  // namespace

void AcmeChallenges::Set(std::vector<Challenge> challenges) {
  if (challenges.size() > kMax) challenges.resize(kMax);
  absl::MutexLock lock(&mutex_);
  http_.clear();
  tls_.clear();
  for (Challenge& each : challenges) {
    if (each.tls) {
      tls_[std::move(each.host)] = std::move(each.key_authorization);
    } else {
      http_[{std::move(each.host), std::move(each.token)}] = std::move(each.key_authorization);
    }
  }
  any_ = !http_.empty() || !tls_.empty();
}

std::optional<std::string> AcmeChallenges::FindHttp(std::string_view host, std::string_view path) const {
  if (!path.starts_with(kAcmePath) || !any_.load(std::memory_order_acquire)) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  const auto found = http_.find(std::pair<std::string, std::string>(host, path.substr(kAcmePath.size())));
  if (found == http_.end()) return std::nullopt;
  return found->second;
}

std::optional<std::string> AcmeChallenges::FindTls(std::string_view host) const {
  if (!any_.load(std::memory_order_acquire)) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  const auto found = tls_.find(std::string(host));
  if (found == tls_.end()) return std::nullopt;
  return found->second;
}

absl::StatusOr<ChallengeCertificate> MakeChallengeCertificate(const std::string& host,
                                                              std::string_view key_authorization) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  const X509Ptr certificate(X509_new());
  if (key == nullptr || certificate == nullptr) return Failed();
  X509* const x509 = certificate.get();
  const bool named =
      X509_set_version(x509, 2) == 1 && ASN1_INTEGER_set(X509_get_serialNumber(x509), 1) == 1 &&
      X509_gmtime_adj(X509_getm_notBefore(x509), -3600) != nullptr &&
      X509_gmtime_adj(X509_getm_notAfter(x509), kChallengeSeconds) != nullptr &&
      X509_set_pubkey(x509, key.get()) == 1 &&
      X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
                                 reinterpret_cast<const unsigned char*>("ACME challenge"), -1, -1, 0) == 1 &&
      X509_set_issuer_name(x509, X509_get_subject_name(x509)) == 1;
  if (!named) return Failed();
  const ExtensionPtr names(X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, Concat("DNS:", host).c_str()));
  if (names == nullptr || X509_add_ext(x509, names.get(), -1) != 1) return Failed();
  // OCTET STRING of 32 bytes, inside the extension's own.
  const Digest digest = Sha256(key_authorization);
  std::string value = {0x04, static_cast<char>(digest.size())};
  value.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  const ObjectPtr oid(OBJ_txt2obj(kAcmeIdentifierOid, 1));
  const OctetsPtr octets(ASN1_OCTET_STRING_new());
  if (oid == nullptr || octets == nullptr ||
      ASN1_OCTET_STRING_set(octets.get(), reinterpret_cast<const unsigned char*>(value.data()),
                            static_cast<int>(value.size())) != 1) {
    return Failed();
  }
  const ExtensionPtr identifier(X509_EXTENSION_create_by_OBJ(nullptr, oid.get(), /*crit=*/1, octets.get()));
  if (identifier == nullptr || X509_add_ext(x509, identifier.get(), -1) != 1) return Failed();
  if (X509_sign(x509, key.get(), EVP_sha256()) == 0) return Failed();
  const BioPtr certificate_pem(BIO_new(BIO_s_mem())), key_pem(BIO_new(BIO_s_mem()));
  if (certificate_pem == nullptr || key_pem == nullptr || PEM_write_bio_X509(certificate_pem.get(), x509) != 1 ||
      PEM_write_bio_PKCS8PrivateKey(key_pem.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Failed();
  }
  return ChallengeCertificate{TextOf(certificate_pem.get()), TextOf(key_pem.get())};
}

}  // namespace gateway::dataplane::tls
