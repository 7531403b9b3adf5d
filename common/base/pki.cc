#include "common/base/pki.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/openssl_ptr.h"

namespace gateway {
namespace {

using Extension = std::unique_ptr<X509_EXTENSION, OpensslDeleter<X509_EXTENSION_free>>;
using GeneralNames = std::unique_ptr<GENERAL_NAMES, OpensslDeleter<GENERAL_NAMES_free>>;

// Clocks of two machines differ; a certificate that begins in the future of one is refused there.
constexpr absl::Duration kBackdate = absl::Minutes(5);
constexpr size_t kSerialBytes = 16;
constexpr size_t kCommonNameBytesMax = 64;  // ub-common-name, RFC 5280, appendix A.1
constexpr int kCertificatesMax = 1000;      // in one file

BioPtr ReadOnly(std::string_view text) { return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

// Never asks a terminal for a passphrase.
int NoPassphrase(char*, int, int, void*) { return -1; }

std::vector<X509Ptr> ParseCertificates(std::string_view pem) {
  std::vector<X509Ptr> all;
  const BioPtr in = ReadOnly(pem);
  while (all.size() < kCertificatesMax) {
    X509Ptr next(PEM_read_bio_X509(in.get(), nullptr, NoPassphrase, nullptr));
    if (next == nullptr) break;
    all.push_back(std::move(next));
  }
  ERR_clear_error();
  return all;
}

std::string Date(absl::Time time) { return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone()); }

KeyPtr ParseKey(std::string_view pem) {
  const BioPtr in = ReadOnly(pem);
  KeyPtr key(PEM_read_bio_PrivateKey(in.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  return key;
}

std::string TextOf(BIO* out) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  return std::string(data, static_cast<size_t>(size));
}

bool AddExtension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool SetTimes(X509* certificate, absl::Time begin, absl::Time end) {
  return ASN1_TIME_set(X509_getm_notBefore(certificate), absl::ToTimeT(begin)) != nullptr &&
         ASN1_TIME_set(X509_getm_notAfter(certificate), absl::ToTimeT(end)) != nullptr;
}

bool SetSerial(X509* certificate) {
  unsigned char bytes[kSerialBytes];
  if (RAND_bytes(bytes, sizeof bytes) != 1) return false;
  bytes[0] &= 0x7f;  // positive
  BIGNUM* number = BN_bin2bn(bytes, sizeof bytes, nullptr);
  const bool set = number != nullptr && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(number);
  return set;
}

bool AddEntry(X509_NAME* name, int nid, const std::string& value) {
  return X509_NAME_add_entry_by_NID(name, nid, MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(value.data()),
                                    static_cast<int>(value.size()), -1, 0) == 1;
}

// What IssueCertificate and MakeAuthority share: version, serial number, times, subject, key.
X509Ptr Blank(EVP_PKEY* key, const std::string& common_name, const std::string& unit, absl::Time begin,
              absl::Time end) {
  X509Ptr certificate(X509_new());
  if (certificate == nullptr) return nullptr;
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  const bool made = X509_set_version(certificate.get(), X509_VERSION_3) == 1 && SetSerial(certificate.get()) &&
                    SetTimes(certificate.get(), begin, end) && X509_set_pubkey(certificate.get(), key) == 1 &&
                    (unit.empty() || AddEntry(subject, NID_organizationalUnitName, unit)) &&
                    AddEntry(subject, NID_commonName, common_name);
  return made ? std::move(certificate) : nullptr;
}

// An alternative name as OpenSSL's structure; null: it fits none.
GENERAL_NAME* NameOf(const std::string& text) {
  unsigned char address[16];
  GENERAL_NAME* name = GENERAL_NAME_new();
  if (name == nullptr) return nullptr;
  const bool v4 = inet_pton(AF_INET, text.c_str(), address) == 1;
  if (v4 || inet_pton(AF_INET6, text.c_str(), address) == 1) {
    ASN1_OCTET_STRING* bytes = ASN1_OCTET_STRING_new();
    ASN1_OCTET_STRING_set(bytes, address, v4 ? 4 : 16);
    GENERAL_NAME_set0_value(name, GEN_IPADD, bytes);
    return name;
  }
  ASN1_IA5STRING* string = ASN1_IA5STRING_new();
  ASN1_STRING_set(string, text.data(), static_cast<int>(text.size()));
  GENERAL_NAME_set0_value(name, absl::StrContains(text, "://") ? GEN_URI : GEN_DNS, string);
  return name;
}

absl::Status AddNames(X509* certificate, const std::vector<std::string>& names) {
  const GeneralNames all(sk_GENERAL_NAME_new_null());
  for (const std::string& text : names) {
    const bool printable = std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isgraph(c); });
    if (text.empty() || text.size() > 253 || !printable) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text, "': expected a name of 1 to 253 printable characters without spaces"));
    }
    GENERAL_NAME* name = NameOf(text);
    if (name == nullptr || sk_GENERAL_NAME_push(all.get(), name) == 0) {
      GENERAL_NAME_free(name);
      return absl::ResourceExhaustedError("no memory for a certificate");
    }
  }
  if (X509_add1_ext_i2d(certificate, NID_subject_alt_name, all.get(), 0, X509V3_ADD_DEFAULT) != 1) {
    return absl::InternalError("the alternative names do not fit into a certificate");
  }
  return absl::OkStatus();
}

using SigningRequest = std::unique_ptr<X509_REQ, OpensslDeleter<X509_REQ_free>>;

// The public key of a certificate request, checked as SigningRequestKey has it.
absl::StatusOr<KeyPtr> KeyOfRequest(std::string_view pem) {
  const auto invalid = [](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("certificate_request: ", why));
  };
  if (pem.size() > kSigningRequestBytesMax) {
    return invalid(absl::StrCat("expected at most ", kSigningRequestBytesMax, " bytes"));
  }
  const BioPtr in = ReadOnly(pem);
  const SigningRequest request(PEM_read_bio_X509_REQ(in.get(), nullptr, NoPassphrase, nullptr));
  KeyPtr key(request == nullptr ? nullptr : X509_REQ_get_pubkey(request.get()));
  const bool is_signed = key != nullptr && X509_REQ_verify(request.get(), key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) return invalid("expected a certificate request (PKCS #10) in PEM");
  if (!is_signed) return invalid("is not signed by its own key");
  if (const std::string weakness = KeyWeakness(key.get()); !weakness.empty()) return invalid(weakness);
  return key;
}

absl::StatusOr<std::string> PemOf(X509* certificate) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(out.get(), certificate) != 1) {
    ERR_clear_error();
    return absl::InternalError("the certificate cannot be written as PEM");
  }
  return TextOf(out.get());
}

absl::StatusOr<std::string> PemOf(EVP_PKEY* key) {
  const BioPtr out(BIO_new(BIO_s_secmem()));
  if (PEM_write_bio_PKCS8PrivateKey(out.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    ERR_clear_error();
    return absl::InternalError("the key cannot be written as PEM");
  }
  return TextOf(out.get());
}

absl::StatusOr<CertificateAndKey> ToPem(X509* certificate, EVP_PKEY* key) {
  absl::StatusOr<std::string> certificate_pem = PemOf(certificate), key_pem = PemOf(key);
  if (!certificate_pem.ok()) return certificate_pem.status();
  if (!key_pem.ok()) return key_pem.status();
  return CertificateAndKey{*std::move(certificate_pem), *std::move(key_pem)};
}

// A leaf for `key`, signed by `authority`.
absl::StatusOr<X509Ptr> SignLeaf(const CertificateAndKey& authority, const CertificateRequest& request, EVP_PKEY* key,
                                 absl::Time now) {
  const std::vector<X509Ptr> issuers = ParseCertificates(authority.certificate);
  const KeyPtr issuer_key = ParseKey(authority.private_key);
  if (issuers.empty() || issuer_key == nullptr ||
      X509_check_private_key(issuers.front().get(), issuer_key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError("the authority's certificate and key do not belong together");
  }
  X509* issuer = issuers.front().get();
  if (request.common_name.empty() || request.common_name.size() > kCommonNameBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", request.common_name, "': expected a name of 1 to ", kCommonNameBytesMax, " bytes"));
  }
  const absl::Time authority_end = ExpiryOf(issuer);
  if (authority_end <= now) {
    return absl::FailedPreconditionError(absl::StrCat("the authority expired at ", Date(authority_end)));
  }
  // Backdated less if it is short-lived, since clients renew by the fraction of the validity that is over.
  const absl::Time from = now - std::min(kBackdate, request.lifetime / 10);
  X509Ptr certificate = Blank(key, request.common_name, request.organizational_unit, from,
                              std::min(now + request.lifetime, authority_end));
  const char* usage = request.server && request.client ? "serverAuth,clientAuth"
                      : request.server                 ? "serverAuth"
                                                       : "clientAuth";
  if (certificate == nullptr || X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer)) != 1 ||
      !AddExtension(certificate.get(), issuer, NID_basic_constraints, "critical,CA:FALSE") ||
      !AddExtension(certificate.get(), issuer, NID_key_usage, "critical,digitalSignature") ||
      !AddExtension(certificate.get(), issuer, NID_ext_key_usage, usage) ||
      !AddExtension(certificate.get(), issuer, NID_authority_key_identifier, "keyid")) {
    ERR_clear_error();
    return absl::InternalError("OpenSSL made no certificate");
  }
  if (!request.names.empty()) {
    if (absl::Status status = AddNames(certificate.get(), request.names); !status.ok()) return status;
  }
  if (X509_sign(certificate.get(), issuer_key.get(), EVP_sha256()) <= 0) {
    ERR_clear_error();
    return absl::InternalError("OpenSSL did not sign the certificate");
  }
  return certificate;
}

}  // namespace

absl::StatusOr<std::string> ReadPemFile(const std::string& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (in) {
    text.resize(kPemFileBytesMax + 1);
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(in.gcount()));
  }
  if (!in.is_open() || in.bad()) {
    const int error = errno == 0 ? EIO : errno;
    const std::string message = absl::StrCat(path, ": cannot be read: ", strerror(error));
    return error == ENOENT ? absl::NotFoundError(message) : absl::UnavailableError(message);
  }
  if (text.size() > kPemFileBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected at most ", kPemFileBytesMax, " bytes of PEM"));
  }
  return text;
}

bool IsAuthority(std::string_view pem) {
  const std::vector<X509Ptr> all = ParseCertificates(pem);
  // 1: by basicConstraints; higher values stand for older, weaker signs.
  const bool may = !all.empty() && X509_check_ca(all.front().get()) == 1;
  ERR_clear_error();
  return may;
}

std::string IntermediatesOf(std::string_view pem) {
  std::string chain;
  for (const X509Ptr& each : ParseCertificates(pem)) {
    if (X509_self_signed(each.get(), 0) == 1) continue;
    if (const absl::StatusOr<std::string> text = PemOf(each.get()); text.ok()) absl::StrAppend(&chain, *text);
  }
  ERR_clear_error();
  return chain;
}

bool IsIssuedBy(std::string_view chain, std::string_view ca) {
  const std::vector<X509Ptr> certificates = ParseCertificates(chain), issuers = ParseCertificates(ca);
  if (certificates.empty() || issuers.empty()) return false;
  X509* const last = certificates.back().get();
  X509* const issuer = issuers.front().get();
  const bool is_it = X509_cmp(last, issuer) == 0 ||
                     (X509_check_issued(issuer, last) == X509_V_OK && X509_verify(last, X509_get0_pubkey(issuer)) == 1);
  ERR_clear_error();
  return is_it;
}

absl::StatusOr<CertificateInfo> DescribeCertificate(std::string_view pem) {
  const std::vector<X509Ptr> all = ParseCertificates(pem);
  if (all.empty()) return absl::InvalidArgumentError("holds no certificate; expected PEM");
  const X509* certificate = all.front().get();
  absl::StatusOr<std::string> common_name = SubjectEntryOf(certificate, NID_commonName);
  if (!common_name.ok()) return common_name.status();
  absl::StatusOr<std::string> unit = SubjectEntryOf(certificate, NID_organizationalUnitName);
  if (!unit.ok()) return unit.status();
  return CertificateInfo{.common_name = *std::move(common_name),
                         .organizational_unit = *std::move(unit),
                         .names = AlternativeNamesOf(certificate, DnsCase::kAsWritten),
                         .not_before = StartOf(certificate),
                         .not_after = ExpiryOf(certificate)};
}

absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsFiles& files, absl::Time now) {
  TlsMaterial material;
  if (!files.cert.empty()) {
    absl::StatusOr<std::string> chain = ReadPemFile(files.cert);
    if (!chain.ok()) return chain.status();
    absl::StatusOr<std::string> key_text = ReadPemFile(files.key);
    if (!key_text.ok()) return key_text.status();
    const std::vector<X509Ptr> certificates = ParseCertificates(*chain);
    if (certificates.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(files.cert, ": holds no certificate; expected PEM"));
    }
    const KeyPtr key = ParseKey(*key_text);
    if (key == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(files.key, ": holds no private key in PEM without a passphrase"));
    }
    if (X509_check_private_key(certificates.front().get(), key.get()) != 1) {
      ERR_clear_error();
      return absl::FailedPreconditionError(
          absl::StrCat(files.key, ": is not the key of the certificate in ", files.cert));
    }
    const absl::Time start = StartOf(certificates.front().get()), end = ExpiryOf(certificates.front().get());
    if (end <= now) {
      return absl::FailedPreconditionError(absl::StrCat(files.cert, ": the certificate expired at ", Date(end)));
    }
    if (start > now) {
      return absl::FailedPreconditionError(
          absl::StrCat(files.cert, ": the certificate is not valid before ", Date(start)));
    }
    material.certificate_chain = *std::move(chain);
    material.private_key = *std::move(key_text);
    material.not_after = end;
  }
  if (!files.ca.empty()) {
    absl::StatusOr<std::string> ca = ReadPemFile(files.ca);
    if (!ca.ok()) return ca.status();
    const std::vector<X509Ptr> authorities = ParseCertificates(*ca);
    if (authorities.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(files.ca, ": holds no certificate; expected PEM"));
    }
    const bool all_expired = std::all_of(authorities.begin(), authorities.end(),
                                         [now](const X509Ptr& each) { return ExpiryOf(each.get()) <= now; });
    if (all_expired) {
      return absl::FailedPreconditionError(absl::StrCat(files.ca, ": every certificate in it has expired"));
    }
    material.ca = *std::move(ca);
  }
  return material;
}

std::string TlsFilesStamp(const TlsFiles& files) {
  std::string stamp;
  for (const std::string& path : {files.cert, files.key, files.ca}) {
    struct stat there {};
    if (path.empty() || stat(path.c_str(), &there) != 0) {
      stamp += "-;";
      continue;
    }
    absl::StrAppend(&stamp, there.st_dev, ".", there.st_ino, ".", there.st_size, ".", there.st_mtim.tv_sec, ".",
                    there.st_mtim.tv_nsec, ";");
  }
  return stamp;
}

bool ShareCertificate(std::string_view a, std::string_view b) {
  const std::vector<X509Ptr> ours = ParseCertificates(a), theirs = ParseCertificates(b);
  return std::any_of(ours.begin(), ours.end(), [&theirs](const X509Ptr& one) {
    return std::any_of(theirs.begin(), theirs.end(),
                       [&one](const X509Ptr& other) { return X509_cmp(one.get(), other.get()) == 0; });
  });
}

absl::StatusOr<CertificateAndKey> MakeAuthority(const std::string& common_name, absl::Time now,
                                                absl::Duration lifetime) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  const X509Ptr certificate =
      key == nullptr ? nullptr : Blank(key.get(), common_name, "", now - kBackdate, now + lifetime);
  const bool made =
      certificate != nullptr &&
      X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get())) == 1 &&
      AddExtension(certificate.get(), certificate.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
      AddExtension(certificate.get(), certificate.get(), NID_key_usage, "critical,keyCertSign,cRLSign") &&
      AddExtension(certificate.get(), certificate.get(), NID_subject_key_identifier, "hash") &&
      X509_sign(certificate.get(), key.get(), EVP_sha256()) > 0;
  ERR_clear_error();
  if (!made) return absl::InternalError("OpenSSL made no certificate");
  return ToPem(certificate.get(), key.get());
}

absl::StatusOr<CertificateAndKey> IssueCertificate(const CertificateAndKey& authority,
                                                   const CertificateRequest& request, absl::Time now) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return absl::InternalError("OpenSSL made no key");
  absl::StatusOr<X509Ptr> certificate = SignLeaf(authority, request, key.get(), now);
  if (!certificate.ok()) return certificate.status();
  return ToPem(certificate->get(), key.get());
}

absl::StatusOr<std::string> MakePrivateKey() {
  const KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return absl::InternalError("OpenSSL made no key");
  return PemOf(key.get());
}

absl::StatusOr<std::string> MakeSigningRequest(std::string_view private_key, const std::string& common_name) {
  const KeyPtr key = ParseKey(private_key);
  if (key == nullptr) return absl::InvalidArgumentError("holds no private key in PEM without a passphrase");
  const SigningRequest request(X509_REQ_new());
  const BioPtr out(BIO_new(BIO_s_mem()));
  const bool made = request != nullptr && X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) == 1 &&
                    AddEntry(X509_REQ_get_subject_name(request.get()), NID_commonName, common_name) &&
                    X509_REQ_set_pubkey(request.get(), key.get()) == 1 &&
                    X509_REQ_sign(request.get(), key.get(), EVP_sha256()) > 0 &&
                    PEM_write_bio_X509_REQ(out.get(), request.get()) == 1;
  ERR_clear_error();
  if (!made) return absl::InternalError("OpenSSL made no certificate request");
  return TextOf(out.get());
}

absl::StatusOr<Digest> SigningRequestKey(std::string_view pem) {
  const absl::StatusOr<KeyPtr> key = KeyOfRequest(pem);
  if (!key.ok()) return key.status();
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(key->get(), &der);
  if (size <= 0) return absl::InternalError("OpenSSL does not encode the key");
  const Digest digest = Sha256({reinterpret_cast<const char*>(der), static_cast<size_t>(size)});
  OPENSSL_free(der);
  return digest;
}

absl::StatusOr<std::string> IssueForRequest(const CertificateAndKey& authority, const CertificateRequest& request,
                                            std::string_view pem, absl::Time now) {
  const absl::StatusOr<KeyPtr> key = KeyOfRequest(pem);
  if (!key.ok()) return key.status();
  absl::StatusOr<X509Ptr> certificate = SignLeaf(authority, request, key->get(), now);
  if (!certificate.ok()) return certificate.status();
  return PemOf(certificate->get());
}

}  // namespace gateway
