#include "common/base/certificate.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "common/base/text.h"

namespace gateway {
namespace {

constexpr int kRsaBitsMin = 2048;
constexpr int kEcBitsMin = 256;

using NamesPtr = std::unique_ptr<GENERAL_NAMES, OpensslDeleter<GENERAL_NAMES_free>>;
using OcspBasicPtr = std::unique_ptr<OCSP_BASICRESP, OpensslDeleter<OCSP_BASICRESP_free>>;
using OcspIdPtr = std::unique_ptr<OCSP_CERTID, OpensslDeleter<OCSP_CERTID_free>>;
using StorePtr = std::unique_ptr<X509_STORE, OpensslDeleter<X509_STORE_free>>;
using StackPtr = std::unique_ptr<STACK_OF(X509), decltype([](STACK_OF(X509) * stack) { sk_X509_free(stack); })>;
using OcspPtr = std::unique_ptr<OCSP_RESPONSE, OpensslDeleter<OCSP_RESPONSE_free>>;

BioPtr MemoryBio(std::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(std::min<size_t>(text.size(), kCertificateBytesMax))));
}

// An encrypted key would ask the terminal.
int NoPassphrase(char*, int, int, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

bool EndOfPem() {
  const unsigned long error = ERR_peek_last_error();
  return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTimeT(timegm(&parts));
}

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c != '\x7f'; });
}

std::string_view ViewOf(const ASN1_STRING* text) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)), static_cast<size_t>(ASN1_STRING_length(text))};
}

// Why the TLS of a listener would reject the pair; "" if it accepts it.
std::string TlsWeakness(const std::vector<X509Ptr>& chain, EVP_PKEY* key) {
  const ContextPtr context(SSL_CTX_new(TLS_method()));
  if (context == nullptr) return OpensslError();
  SSL_CTX_set_security_level(context.get(), kTlsSecurityLevel);
  STACK_OF(X509)* issuers = sk_X509_new_null();
  for (size_t i = 1; i < chain.size(); ++i) sk_X509_push(issuers, chain[i].get());
  const int used = SSL_CTX_use_cert_and_key(context.get(), chain.front().get(), key, issuers, 0);
  sk_X509_free(issuers);
  return used == 1 ? "" : OpensslError();
}

// Every object of `pem` with this label. At least one is expected.
template <typename Pointer, auto New, auto Read>
absl::StatusOr<std::vector<Pointer>> ReadAll(std::string_view pem, OSSL_LIB_CTX* library, std::string_view noun,
                                             std::string_view label) {
  const BioPtr bio = MemoryBio(pem);
  std::vector<Pointer> all;
  for (;;) {
    Pointer next(New(library, nullptr));
    if (bio == nullptr || next == nullptr) return absl::ResourceExhaustedError("out of memory");
    typename Pointer::pointer into = next.get();
    if (Read(bio.get(), &into, nullptr, nullptr) != nullptr) {
      all.push_back(std::move(next));
      continue;
    }
    if (!EndOfPem()) {
      return absl::InvalidArgumentError(
          Concat(std::string(noun), " ", all.size() + 1, " can't be read: ", OpensslError()));
    }
    ERR_clear_error();
    if (!all.empty()) return all;
    return absl::InvalidArgumentError(
        Concat("there is no ", std::string(noun), " (expected \"-----BEGIN ", std::string(label), "-----\")"));
  }
}

}  // namespace

std::string OpensslError() {
  const unsigned long code = ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "unknown error" : reason;
}

absl::StatusOr<std::vector<X509Ptr>> ReadCertificates(std::string_view pem, OSSL_LIB_CTX* library) {
  return ReadAll<X509Ptr, &X509_new_ex, &PEM_read_bio_X509>(pem, library, "certificate", "CERTIFICATE");
}

absl::StatusOr<std::vector<CrlPtr>> ReadCrls(std::string_view pem, OSSL_LIB_CTX* library) {
  return ReadAll<CrlPtr, &X509_CRL_new_ex, &PEM_read_bio_X509_CRL>(pem, library, "revocation list", "X509 CRL");
}

absl::StatusOr<KeyPtr> ReadPrivateKey(std::string_view pem, OSSL_LIB_CTX* library) {
  const BioPtr bio = MemoryBio(pem);
  if (bio == nullptr) return absl::ResourceExhaustedError("out of memory");
  bool asked = false;
  KeyPtr key(PEM_read_bio_PrivateKey_ex(bio.get(), nullptr, &NoPassphrase, &asked, library, nullptr));
  if (key != nullptr) return key;
  const bool absent = pem.find("PRIVATE KEY-----") == std::string_view::npos;
  const std::string error = OpensslError();
  if (asked) return absl::InvalidArgumentError("the private key is encrypted; expected one without a passphrase");
  if (absent) return absl::InvalidArgumentError("there is no private key (expected \"-----BEGIN PRIVATE KEY-----\")");
  return absl::InvalidArgumentError(Concat("the private key can't be read: ", error));
}

std::string SubjectOf(const X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || X509_NAME_print_ex(bio.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) < 0) {
    return "";
  }
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(size)};
}

absl::Time StartOf(const X509* certificate) { return ToTime(X509_get0_notBefore(certificate)); }

absl::Time ExpiryOf(const X509* certificate) { return ToTime(X509_get0_notAfter(certificate)); }

absl::StatusOr<std::string> SubjectEntryOf(const X509* certificate, int nid) {
  const X509_NAME* subject = X509_get_subject_name(certificate);
  const int at = X509_NAME_get_index_by_NID(subject, nid, -1);
  if (at < 0) return "";
  unsigned char* text = nullptr;
  const int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  std::string entry(reinterpret_cast<const char*>(text), static_cast<size_t>(std::max(size, 0)));
  OPENSSL_free(text);
  const bool shown = std::none_of(entry.begin(), entry.end(), [](unsigned char c) { return absl::ascii_iscntrl(c); });
  if (size < 0 || !shown) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        Concat("the subject's ", OBJ_nid2sn(nid), " has a control character, or is not text"));
  }
  return entry;
}

std::string FingerprintOf(const X509* certificate) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1) return "";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += absl::StrFormat("%02x", digest[i]);
  return text;
}

AlternativeNames AlternativeNamesOf(const X509* certificate, DnsCase dns_case) {
  AlternativeNames names;
  const NamesPtr all(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; i < sk_GENERAL_NAME_num(all.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(all.get(), i);
    if (name->type == GEN_IPADD) {
      const std::string_view bytes = ViewOf(name->d.iPAddress);
      char text[INET6_ADDRSTRLEN] = "";
      if (bytes.size() != 4 && bytes.size() != 16) continue;
      (void)inet_ntop(bytes.size() == 4 ? AF_INET : AF_INET6, bytes.data(), text, sizeof text);
      names.addresses.emplace_back(text);
      continue;
    }
    if (name->type != GEN_DNS && name->type != GEN_URI && name->type != GEN_EMAIL) continue;
    const std::string_view text = ViewOf(name->d.ia5);
    if (text.empty() || !IsPrintable(text)) continue;
    if (name->type == GEN_DNS) {
      names.dns.emplace_back(text);
      if (dns_case == DnsCase::kLower) absl::AsciiStrToLower(&names.dns.back());
    }
    if (name->type == GEN_URI) names.uris.emplace_back(text);
    if (name->type == GEN_EMAIL) names.emails.emplace_back(text);
  }
  return names;
}

bool NameCovers(std::string_view pattern, std::string_view host) {
  if (!pattern.starts_with("*.")) return pattern == host;
  const size_t dot = host.find('.');
  return dot != std::string_view::npos && dot > 0 && host.substr(dot + 1) == pattern.substr(2);
}

absl::StatusOr<absl::Time> CheckOcsp(std::string_view der, std::string_view pem, absl::Time now) {
  constexpr absl::Duration kClockSkew = absl::Minutes(5);
  const auto refuse = [](std::string why) {
    ERR_clear_error();
    return absl::FailedPreconditionError(std::move(why));
  };
  const auto* at = reinterpret_cast<const unsigned char*>(der.data());
  const OcspPtr response(
      d2i_OCSP_RESPONSE(nullptr, &at, static_cast<long>(std::min(der.size(), kCertificateBytesMax))));
  const OcspBasicPtr basic(response == nullptr ||
                                   OCSP_response_status(response.get()) != OCSP_RESPONSE_STATUS_SUCCESSFUL
                               ? nullptr
                               : OCSP_response_get1_basic(response.get()));
  if (basic == nullptr) {
    ERR_clear_error();
    return absl::InvalidArgumentError("the OCSP response can't be read; expected a successful response in DER");
  }
  const auto chain = ReadCertificates(pem);
  if (!chain.ok()) return refuse(std::string(chain.status().message()));
  const X509* const leaf = chain->front().get();
  X509* const issuer = chain->size() > 1 ? (*chain)[1].get() : nullptr;
  OCSP_SINGLERESP* found = nullptr;
  for (int i = 0; i < OCSP_resp_count(basic.get()) && found == nullptr; ++i) {
    OCSP_SINGLERESP* const single = OCSP_resp_get0(basic.get(), i);
    auto* const id = const_cast<OCSP_CERTID*>(OCSP_SINGLERESP_get0_id(single));
    ASN1_OBJECT* algorithm = nullptr;
    ASN1_INTEGER* serial = nullptr;
    if (OCSP_id_get0_info(nullptr, &algorithm, nullptr, &serial, id) != 1) continue;
    if (ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(leaf)) != 0) continue;
    if (issuer != nullptr) {
      const EVP_MD* const hash = EVP_get_digestbyobj(algorithm);
      const OcspIdPtr expected(hash == nullptr ? nullptr : OCSP_cert_to_id(hash, leaf, issuer));
      if (expected == nullptr || OCSP_id_cmp(id, expected.get()) != 0) continue;
    }
    found = single;
  }
  if (found == nullptr) return refuse("it is of another certificate");
  if (issuer != nullptr) {
    const StorePtr trusted(X509_STORE_new());
    const StackPtr known(sk_X509_new_null());
    if (trusted == nullptr || known == nullptr || X509_STORE_add_cert(trusted.get(), issuer) != 1 ||
        sk_X509_push(known.get(), issuer) == 0) {
      return refuse(OpensslError());
    }
    X509_STORE_set_flags(trusted.get(), X509_V_FLAG_PARTIAL_CHAIN);
    if (OCSP_basic_verify(basic.get(), known.get(), trusted.get(), 0) != 1) {
      return refuse(Concat("its signature is not of the certificate's issuer: ", OpensslError()));
    }
  }
  int reason = 0;
  ASN1_GENERALIZEDTIME *revoked = nullptr, *from = nullptr, *to = nullptr;
  const int status = OCSP_single_get0_status(found, &reason, &revoked, &from, &to);
  if (status == V_OCSP_CERTSTATUS_REVOKED) return refuse("it says that the certificate is revoked");
  if (status != V_OCSP_CERTSTATUS_GOOD) return refuse("it says that the CA does not know the certificate");
  if (from == nullptr || ToTime(from) > now + kClockSkew) return refuse("it is not valid yet");
  const absl::Time until = to == nullptr ? absl::InfiniteFuture() : ToTime(to);
  if (until <= now) return refuse(Concat("it expired on ", absl::FormatTime(until, absl::UTCTimeZone())));
  ERR_clear_error();
  return until;
}

std::string KeyWeakness(EVP_PKEY* key) {
  const int bits = EVP_PKEY_get_bits(key);
  switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
      if (bits < kRsaBitsMin)
        return absl::StrFormat("an RSA key of %d bits; at least %d are needed", bits, kRsaBitsMin);
      return "";
    case EVP_PKEY_EC:
      if (bits < kEcBitsMin)
        return absl::StrFormat("an elliptic-curve key of %d bits; at least %d are needed", bits, kEcBitsMin);
      return "";
    case EVP_PKEY_ED25519:
      return "";
    default:
      return "a key of a type that is not supported; expected RSA, ECDSA or Ed25519";
  }
}

absl::StatusOr<Certificate> ParseCertificate(CertificateSource source, absl::Time now) {
  const auto invalid = [&source](std::string_view what) {
    return absl::InvalidArgumentError(Concat(source.name, ": ", std::string(what)));
  };
  if (source.chain_pem.size() > kCertificateBytesMax) return invalid("larger than 1 MiB");
  auto chain = ReadCertificates(source.chain_pem);
  if (!chain.ok()) return invalid(std::string(chain.status().message()));
  if (chain->size() > kChainCertificatesMax) {
    return invalid(absl::StrFormat("%d certificates; at most %d are allowed", chain->size(), kChainCertificatesMax));
  }
  auto key = ReadPrivateKey(source.key_pem);
  if (!key.ok()) return invalid(std::string(key.status().message()));

  const X509* leaf = chain->front().get();
  if (X509_check_private_key(leaf, key->get()) != 1) {
    ERR_clear_error();
    for (size_t i = 1; i < chain->size(); ++i) {
      if (X509_check_private_key((*chain)[i].get(), key->get()) == 1) {
        return invalid(
            absl::StrFormat("the private key belongs to certificate %d of the chain; the leaf comes first", i + 1));
      }
      ERR_clear_error();
    }
    return invalid(Concat("the private key is not that of the certificate (", SubjectOf(leaf), ")"));
  }
  if (const std::string weakness = KeyWeakness(key->get()); !weakness.empty()) return invalid(weakness);
  for (size_t i = 1; i < chain->size(); ++i) {
    if (X509_check_issued((*chain)[i].get(), (*chain)[i - 1].get()) != X509_V_OK) {
      return invalid(
          absl::StrFormat("certificate %d of the chain (%s) did not issue certificate %d (%s); expected the "
                          "leaf first, then its issuers in order",
                          i + 1, SubjectOf((*chain)[i].get()), i, SubjectOf((*chain)[i - 1].get())));
    }
  }
  if (const std::string weakness = TlsWeakness(*chain, key->get()); !weakness.empty()) {
    return invalid(Concat("TLS rejects it: ", weakness));
  }

  Certificate certificate;
  const int type = EVP_PKEY_get_base_id(key->get());
  certificate.key_type = type == EVP_PKEY_EC        ? Certificate::KeyType::kEcdsa
                         : type == EVP_PKEY_ED25519 ? Certificate::KeyType::kEd25519
                                                    : Certificate::KeyType::kRsa;
  certificate.subject = SubjectOf(leaf);
  AlternativeNames names = AlternativeNamesOf(leaf);
  certificate.dns_names = std::move(names.dns);
  certificate.addresses = std::move(names.addresses);
  certificate.fingerprint = FingerprintOf(leaf);
  certificate.not_before = StartOf(leaf);
  certificate.not_after = ExpiryOf(leaf);
  const auto warn = [&](std::string text) { certificate.warnings.push_back(Concat(source.name, ": ", text)); };
  if (certificate.not_after <= now) {
    warn(Concat("expired on ", absl::FormatTime(certificate.not_after, absl::UTCTimeZone())));
  } else if (certificate.not_before > now) {
    warn(Concat("not valid before ", absl::FormatTime(certificate.not_before, absl::UTCTimeZone())));
  }
  if (certificate.dns_names.empty() && certificate.addresses.empty()) {
    warn("no subjectAltName: clients reject it, and no server name selects it");
  }
  if (!source.ocsp_der.empty()) {
    const absl::StatusOr<absl::Time> until = CheckOcsp(source.ocsp_der, source.chain_pem, now);
    if (absl::IsInvalidArgument(until.status())) return invalid(std::string(until.status().message()));
    if (until.ok()) {
      certificate.ocsp_until = *until;
    } else {
      warn(Concat("the OCSP response is not stapled: ", std::string(until.status().message())));
      source.ocsp_der.clear();
    }
  }
  certificate.source = std::move(source);
  return certificate;
}

}  // namespace gateway
