#include "controlplane/acme/keys.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/address_set.h"
#include "common/base/base64.h"
#include "common/base/certificate.h"
#include "common/base/digest.h"
#include "nlohmann/json.hpp"

namespace gateway::controlplane::acme {
namespace {

constexpr int kFieldBytes = 32;  // of P-256

using NumberPtr = std::unique_ptr<BIGNUM, OpensslDeleter<BN_free>>;
using SignatureContextPtr = std::unique_ptr<EVP_MD_CTX, OpensslDeleter<EVP_MD_CTX_free>>;
using SignaturePtr = std::unique_ptr<ECDSA_SIG, OpensslDeleter<ECDSA_SIG_free>>;
using RequestPtr = std::unique_ptr<X509_REQ, OpensslDeleter<X509_REQ_free>>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, OpensslDeleter<X509_EXTENSION_free>>;

std::string Encoded(std::string_view bytes) { return EncodeBase64(Base64::kUrl, bytes); }

absl::Status Failed(std::string_view what) {
  return absl::InternalError(absl::StrCat(std::string(what), ": ", OpensslError()));
}

// A coordinate of the public key, as JWK has it.
absl::StatusOr<std::string> Coordinate(const EVP_PKEY* key, const char* name) {
  BIGNUM* number = nullptr;
  if (EVP_PKEY_get_bn_param(key, name, &number) != 1) return Failed("an account key");
  const NumberPtr owner(number);
  std::string bytes(kFieldBytes, '\0');
  if (BN_bn2binpad(number, reinterpret_cast<unsigned char*>(bytes.data()), kFieldBytes) != kFieldBytes) {
    return Failed("an account key");
  }
  return Encoded(bytes);
}

absl::StatusOr<std::string> PemOf(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return Failed("a private key");
  }
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  std::string pem(data, static_cast<size_t>(size));
  OPENSSL_cleanse(data, static_cast<size_t>(size));
  return pem;
}

}  // namespace

absl::StatusOr<AccountKey> AccountKey::Of(KeyPtr key) {
  char group[64] = "";
  if (EVP_PKEY_get_group_name(key.get(), group, sizeof group, nullptr) != 1 ||
      OBJ_sn2nid(group) != NID_X9_62_prime256v1) {
    return absl::InvalidArgumentError("an account key: expected one of P-256");
  }
  const absl::StatusOr<std::string> x = Coordinate(key.get(), OSSL_PKEY_PARAM_EC_PUB_X);
  const absl::StatusOr<std::string> y = Coordinate(key.get(), OSSL_PKEY_PARAM_EC_PUB_Y);
  if (!x.ok()) return x.status();
  if (!y.ok()) return y.status();
  AccountKey account;
  account.key_ = std::move(key);
  account.jwk_ = absl::StrCat(R"({"crv":"P-256","kty":"EC","x":")", *x, R"(","y":")", *y, R"("})");
  return account;
}

absl::StatusOr<AccountKey> AccountKey::Generate() {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Failed("an account key");
  return Of(std::move(key));
}

absl::StatusOr<AccountKey> AccountKey::FromPem(std::string_view pem) {
  absl::StatusOr<KeyPtr> key = ReadPrivateKey(pem);
  if (!key.ok()) return key.status();
  return Of(*std::move(key));
}

absl::StatusOr<std::string> AccountKey::ToPem() const { return PemOf(key_.get()); }

std::string AccountKey::KeyAuthorization(std::string_view token) const {
  const Digest digest = Sha256(jwk_);
  return absl::StrCat(std::string(token), ".", Encoded({reinterpret_cast<const char*>(digest.data()), digest.size()}));
}

absl::StatusOr<std::string> AccountKey::Sign(std::string_view url, std::string_view nonce, std::string_view account,
                                             std::string_view payload) const {
  nlohmann::ordered_json header = {{"alg", "ES256"}};
  if (account.empty()) {
    header["jwk"] = nlohmann::ordered_json::parse(jwk_);
  } else {
    header["kid"] = account;
  }
  header["nonce"] = nonce;
  header["url"] = url;
  const std::string protected_header =
      Encoded(header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  const std::string body = Encoded(payload);
  const std::string signed_text = absl::StrCat(protected_header, ".", body);

  const SignatureContextPtr context(EVP_MD_CTX_new());
  size_t size = 0;
  const auto* text = reinterpret_cast<const unsigned char*>(signed_text.data());
  if (context == nullptr || EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, text, signed_text.size()) != 1) {
    return Failed("a signature");
  }
  std::string der(size, '\0');
  if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(der.data()), &size, text, signed_text.size()) !=
      1) {
    return Failed("a signature");
  }
  // JWS has the two numbers side by side (RFC 7518, section 3.4).
  const auto* at = reinterpret_cast<const unsigned char*>(der.data());
  const SignaturePtr signature(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(size)));
  std::string raw(2 * kFieldBytes, '\0');
  auto* out = reinterpret_cast<unsigned char*>(raw.data());
  if (signature == nullptr || BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), out, kFieldBytes) != kFieldBytes ||
      BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), out + kFieldBytes, kFieldBytes) != kFieldBytes) {
    return Failed("a signature");
  }
  return absl::StrCat(R"({"protected":")", protected_header, R"(","payload":")", body, R"(","signature":")",
                      Encoded(raw), R"("})");
}

absl::StatusOr<CertificateSigningRequest> MakeRequest(std::span<const std::string> hosts) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  const RequestPtr request(X509_REQ_new());
  if (key == nullptr || request == nullptr || X509_REQ_set_version(request.get(), 0) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1) {
    return Failed("a certificate request");
  }
  std::string names;
  for (const std::string& host : hosts) {
    in6_addr address;
    absl::StrAppend(&names, names.empty() ? "" : ",", ParseIp(host, &address) ? "IP:" : "DNS:", host);
  }
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, names.c_str()));
  if (extension == nullptr) return Failed("a certificate request");
  STACK_OF(X509_EXTENSION)* const extensions = sk_X509_EXTENSION_new_null();
  const bool added = extensions != nullptr && sk_X509_EXTENSION_push(extensions, extension.get()) > 0 &&
                     X509_REQ_add_extensions(request.get(), extensions) == 1;
  sk_X509_EXTENSION_free(extensions);
  if (!added || X509_REQ_sign(request.get(), key.get(), EVP_sha256()) == 0) return Failed("a certificate request");
  unsigned char* der = nullptr;
  const int size = i2d_X509_REQ(request.get(), &der);
  if (size <= 0) return Failed("a certificate request");
  CertificateSigningRequest made;
  made.der.assign(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  absl::StatusOr<std::string> pem = PemOf(key.get());
  if (!pem.ok()) return pem.status();
  made.key_pem = *std::move(pem);
  return made;
}

absl::StatusOr<std::string> RenewalId(std::string_view chain_pem) {
  const auto chain = ReadCertificates(chain_pem);
  if (!chain.ok()) return chain.status();
  const X509* const leaf = chain->front().get();
  const ASN1_OCTET_STRING* const authority = X509_get0_authority_key_id(const_cast<X509*>(leaf));
  if (authority == nullptr) return absl::InvalidArgumentError("it has no authority key identifier");
  // The serial number's bytes as DER has them: a leading zero keeps it positive.
  const ASN1_INTEGER* const number = X509_get0_serialNumber(leaf);
  std::string serial(reinterpret_cast<const char*>(ASN1_STRING_get0_data(number)),
                     static_cast<size_t>(ASN1_STRING_length(number)));
  if (!serial.empty() && (static_cast<unsigned char>(serial[0]) & 0x80) != 0) serial.insert(0, 1, '\0');
  return absl::StrCat(Encoded({reinterpret_cast<const char*>(ASN1_STRING_get0_data(authority)),
                               static_cast<size_t>(ASN1_STRING_length(authority))}),
                      ".", Encoded(serial));
}

}  // namespace gateway::controlplane::acme
