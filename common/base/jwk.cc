#include "common/base/jwk.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <array>
#include <utility>

#include "common/base/base64.h"
#include "common/base/openssl_ptr.h"
#include "common/base/strict_json.h"
#include "common/base/text.h"

namespace gateway {
namespace {

using nlohmann::json;

struct AlgorithmInfo {
  std::string_view name;
  const EVP_MD* (*digest)();  // null: the key's own
};
const std::array<AlgorithmInfo, 10> kAlgorithms = {{{"RS256", EVP_sha256},
                                                    {"RS384", EVP_sha384},
                                                    {"RS512", EVP_sha512},
                                                    {"PS256", EVP_sha256},
                                                    {"PS384", EVP_sha384},
                                                    {"PS512", EVP_sha512},
                                                    {"ES256", EVP_sha256},
                                                    {"ES384", EVP_sha384},
                                                    {"ES512", EVP_sha512},
                                                    {"EdDSA", nullptr}}};

struct CurveInfo {
  Jwk::Type type;
  std::string_view crv;
  const char* group;
  size_t coordinate_bytes;
};
constexpr std::array<CurveInfo, 3> kCurves = {{{Jwk::Type::kP256, "P-256", "prime256v1", 32},
                                               {Jwk::Type::kP384, "P-384", "secp384r1", 48},
                                               {Jwk::Type::kP521, "P-521", "secp521r1", 66}}};

using BigNumber = std::unique_ptr<BIGNUM, OpensslDeleter<BN_free>>;
using KeyContext = std::unique_ptr<EVP_PKEY_CTX, OpensslDeleter<EVP_PKEY_CTX_free>>;
using ParamBuilder = std::unique_ptr<OSSL_PARAM_BLD, OpensslDeleter<OSSL_PARAM_BLD_free>>;
using Params = std::unique_ptr<OSSL_PARAM, OpensslDeleter<OSSL_PARAM_free>>;
using DigestContext = std::unique_ptr<EVP_MD_CTX, OpensslDeleter<EVP_MD_CTX_free>>;
using EcdsaSignature = std::unique_ptr<ECDSA_SIG, OpensslDeleter<ECDSA_SIG_free>>;

BigNumber ToNumber(std::string_view bytes) {
  return BigNumber(
      BN_bin2bn(reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()), nullptr));
}

std::shared_ptr<EVP_PKEY> KeyFromParams(const char* type, OSSL_PARAM_BLD* builder) {
  const Params params(OSSL_PARAM_BLD_to_param(builder));
  const KeyContext context(EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
  EVP_PKEY* key = nullptr;
  if (params == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY, params.get()) != 1) {
    EVP_PKEY_free(key);
    return nullptr;
  }
  return {key, EVP_PKEY_free};
}

// A member that is base64url; empty if it isn't.
std::string BytesOf(const json& object, const char* name) {
  const std::string* text = FindString(object, name);
  return text == nullptr ? std::string() : DecodeBase64(Base64::kUrl, *text).value_or("");
}

// One key of a set: a key, or why it is skipped, or why it is bad.
struct Outcome {
  std::optional<Jwk> key;
  std::string skipped;
  std::string bad;
  bool unsafe = false;
};

Outcome ReadRsa(const json& object, Jwk key) {
  const std::string modulus = BytesOf(object, "n");
  const std::string exponent = BytesOf(object, "e");
  if (modulus.empty() || exponent.empty()) return {{}, {}, "n or e is missing, or not base64url"};
  const BigNumber n = ToNumber(modulus);
  const BigNumber e = ToNumber(exponent);
  const auto bits = static_cast<size_t>(BN_num_bits(n.get()));
  if (bits < JwkSet::kRsaBitsMin || bits > JwkSet::kRsaBitsMax) {
    return {
        {},
        {},
        Concat("an RSA key of ", bits, " bits; ", JwkSet::kRsaBitsMin, " to ", JwkSet::kRsaBitsMax, " are accepted")};
  }
  if (!BN_is_odd(n.get())) return {{}, {}, "n is even"};
  // An exponent of 1 would make every text its own signature; OpenSSL takes at most 64 bits for large moduli.
  if (!BN_is_odd(e.get()) || BN_is_one(e.get()) || BN_num_bits(e.get()) > 64) {
    return {{}, {}, "e is not an odd number from 3 to 2^64"};
  }
  const ParamBuilder builder(OSSL_PARAM_BLD_new());
  OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get());
  OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get());
  key.type = Jwk::Type::kRsa;
  key.key = KeyFromParams("RSA", builder.get());
  if (key.key == nullptr) return {{}, {}, "it is not an RSA key"};
  return {std::move(key), {}, {}};
}

Outcome ReadEc(const json& object, Jwk key) {
  const std::string* crv = FindString(object, "crv");
  const auto* const curve = std::find_if(kCurves.begin(), kCurves.end(),
                                         [crv](const CurveInfo& each) { return crv != nullptr && each.crv == *crv; });
  if (curve == kCurves.end()) return {{}, "its curve is not P-256, P-384 or P-521", {}};
  const std::string x = BytesOf(object, "x");
  const std::string y = BytesOf(object, "y");
  if (x.size() != curve->coordinate_bytes || y.size() != curve->coordinate_bytes) {
    return {{}, {}, Concat("x or y is not base64url of ", curve->coordinate_bytes, " bytes")};
  }
  const std::string point = Concat("\x04", x, y);  // uncompressed; SEC 1, section 2.3.3
  const ParamBuilder builder(OSSL_PARAM_BLD_new());
  OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, curve->group, 0);
  OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size());
  key.type = curve->type;
  key.key = KeyFromParams("EC", builder.get());
  if (key.key != nullptr) {
    const KeyContext check(EVP_PKEY_CTX_new_from_pkey(nullptr, key.key.get(), nullptr));
    if (check == nullptr || EVP_PKEY_public_check(check.get()) != 1) key.key = nullptr;
  }
  if (key.key == nullptr) return {{}, {}, "x and y are not a point of its curve"};
  return {std::move(key), {}, {}};
}

Outcome ReadOkp(const json& object, Jwk key) {
  const std::string* crv = FindString(object, "crv");
  if (crv == nullptr || *crv != "Ed25519") return {{}, "its curve is not Ed25519", {}};
  const std::string x = BytesOf(object, "x");
  if (x.size() != 32) return {{}, {}, "x is not base64url of 32 bytes"};
  key.type = Jwk::Type::kEd25519;
  key.key = {EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, reinterpret_cast<const unsigned char*>(x.data()),
                                         x.size()),
             EVP_PKEY_free};
  if (key.key == nullptr) return {{}, {}, "it is not an Ed25519 key"};
  return {std::move(key), {}, {}};
}

// Every reader of the set could sign with such a key, so a valid signature proves nothing. Empty: the key is safe.
std::string WhyUnsafe(const json& object) {
  if (const std::string* kty = FindString(object, "kty"); kty != nullptr && *kty == "oct") {
    return "it is symmetric (kty oct); only public keys belong here";
  }
  for (const char* member : {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}) {
    if (object.contains(member)) return Concat("it has the private member ", member, "; only public keys belong here");
  }
  return {};
}

Outcome ReadKey(const json& object) {
  const std::string* kty = FindString(object, "kty");
  if (kty == nullptr) return {{}, {}, "kty is missing"};
  Jwk key;
  if (const auto kid = object.find("kid"); kid != object.end()) {
    if (!kid->is_string()) return {{}, {}, "kid is not a string"};
    key.kid = kid->get<std::string>();
    if (key.kid.size() > JwkSet::kKidBytesMax) return {{}, {}, "kid is too long"};
  }
  if (const auto use = object.find("use"); use != object.end() && *use != "sig") return {{}, "it is not for sig", {}};
  if (const auto operations = object.find("key_ops"); operations != object.end()) {
    if (!operations->is_array() || std::find(operations->begin(), operations->end(), "verify") == operations->end()) {
      return {{}, "its key_ops have no verify", {}};
    }
  }
  if (const auto alg = object.find("alg"); alg != object.end()) {
    if (alg->is_string()) key.algorithm = ParseJwsAlgorithm(alg->get_ref<const std::string&>());
    if (!key.algorithm) return {{}, "its alg is not accepted", {}};
  }
  Outcome outcome;
  if (*kty == "RSA") {
    outcome = ReadRsa(object, std::move(key));
  } else if (*kty == "EC") {
    outcome = ReadEc(object, std::move(key));
  } else if (*kty == "OKP") {
    outcome = ReadOkp(object, std::move(key));
  } else {
    return {{}, "its kty is unknown", {}};
  }
  if (outcome.key && outcome.key->algorithm && !outcome.key->Fits(*outcome.key->algorithm)) {
    return {{}, {}, "its alg does not fit its kty"};
  }
  return outcome;
}

// r || s as the DER that OpenSSL takes; empty if it can't be a signature.
std::string ToDer(std::string_view raw, size_t coordinate_bytes) {
  if (raw.size() != 2 * coordinate_bytes) return {};
  BigNumber r = ToNumber(raw.substr(0, coordinate_bytes));
  BigNumber s = ToNumber(raw.substr(coordinate_bytes));
  const EcdsaSignature signature(ECDSA_SIG_new());
  if (signature == nullptr || r == nullptr || s == nullptr) return {};
  ECDSA_SIG_set0(signature.get(), r.release(), s.release());
  const int size = i2d_ECDSA_SIG(signature.get(), nullptr);
  if (size <= 0) return {};
  std::string der(static_cast<size_t>(size), '\0');
  auto* out = reinterpret_cast<unsigned char*>(der.data());
  i2d_ECDSA_SIG(signature.get(), &out);
  return der;
}

}  // namespace

std::optional<JwsAlgorithm> ParseJwsAlgorithm(std::string_view name) {
  for (size_t i = 0; i < kAlgorithms.size(); ++i) {
    if (kAlgorithms[i].name == name) return static_cast<JwsAlgorithm>(i);
  }
  return std::nullopt;
}

std::string_view NameOf(JwsAlgorithm algorithm) { return kAlgorithms[static_cast<size_t>(algorithm)].name; }

bool Jwk::Fits(JwsAlgorithm wanted) const {
  if (algorithm && *algorithm != wanted) return false;
  switch (wanted) {
    case JwsAlgorithm::kRs256:
    case JwsAlgorithm::kRs384:
    case JwsAlgorithm::kRs512:
    case JwsAlgorithm::kPs256:
    case JwsAlgorithm::kPs384:
    case JwsAlgorithm::kPs512:
      return type == Type::kRsa;
    case JwsAlgorithm::kEs256:
      return type == Type::kP256;
    case JwsAlgorithm::kEs384:
      return type == Type::kP384;
    case JwsAlgorithm::kEs512:
      return type == Type::kP521;
    case JwsAlgorithm::kEdDsa:
      return type == Type::kEd25519;
  }
  return false;
}

absl::StatusOr<JwkSet> ParseJwks(std::string_view text, BadJwk bad) {
  if (text.size() > JwkSet::kTextBytesMax) {
    return absl::InvalidArgumentError(Concat("the key set is larger than ", JwkSet::kTextBytesMax >> 10, " KiB"));
  }
  const absl::StatusOr<json> parsed = ParseJsonObject(text);
  if (!parsed.ok()) return absl::InvalidArgumentError(Concat("the key set: ", std::string(parsed.status().message())));
  const auto keys = parsed->find("keys");
  if (keys == parsed->end() || !keys->is_array()) {
    return absl::InvalidArgumentError(R"(the key set has no list `keys`; expected {"keys": [{"kty": ...}, ...]})");
  }
  if (keys->size() > JwkSet::kKeysMax) {
    return absl::InvalidArgumentError(Concat("the key set has ", keys->size(), " keys, more than ", JwkSet::kKeysMax));
  }
  JwkSet set;
  for (size_t i = 0; i < keys->size(); ++i) {
    const json& object = (*keys)[i];
    const std::string where = Concat("key ", i + 1);
    Outcome outcome;
    if (!object.is_object()) {
      outcome.bad = "it is not an object";
    } else {
      outcome.bad = WhyUnsafe(object);
      outcome.unsafe = !outcome.bad.empty();
      if (!outcome.unsafe) outcome = ReadKey(object);
      const auto same = [&outcome](const Jwk& each) {
        return !each.kid.empty() && each.kid == outcome.key->kid && each.type == outcome.key->type;
      };
      if (outcome.key && std::any_of(set.keys.begin(), set.keys.end(), same)) {
        outcome = {{}, {}, "its kid is another key's, too"};
      }
    }
    if (outcome.key) {
      set.keys.push_back(*std::move(outcome.key));
    } else if (!outcome.bad.empty() && bad == BadJwk::kRefuse) {
      return absl::InvalidArgumentError(Concat(where, ": ", outcome.bad));
    } else {
      if (outcome.unsafe) set.unsafe.push_back(Concat(where, ": ", outcome.bad));
      set.skipped.push_back(Concat(where, ": ", outcome.bad.empty() ? outcome.skipped : outcome.bad));
    }
  }
  ERR_clear_error();  // of texts that were not keys
  if (set.keys.empty()) {
    return absl::InvalidArgumentError(
        Concat("the key set has no usable key", set.skipped.empty() ? "" : Concat(" (", set.skipped[0], ")")));
  }
  return set;
}

absl::Status CheckJwks(std::string_view json) { return ParseJwks(json, BadJwk::kRefuse).status(); }

bool VerifySignature(const Jwk& key, JwsAlgorithm algorithm, std::string_view input, std::string_view signature) {
  if (!key.Fits(algorithm)) return false;
  std::string der;
  for (const CurveInfo& curve : kCurves) {
    if (curve.type != key.type) continue;
    der = ToDer(signature, curve.coordinate_bytes);
    if (der.empty()) return false;
    signature = der;
  }
  const DigestContext context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* key_context = nullptr;  // the digest context's
  const auto digest = kAlgorithms[static_cast<size_t>(algorithm)].digest;
  bool good =
      context != nullptr && EVP_DigestVerifyInit(context.get(), &key_context, digest == nullptr ? nullptr : digest(),
                                                 nullptr, key.key.get()) == 1;
  if (good && algorithm >= JwsAlgorithm::kPs256 && algorithm <= JwsAlgorithm::kPs512) {
    // The salt is as long as the digest (RFC 7518, section 3.5); MGF1's digest is the message's.
    good = EVP_PKEY_CTX_set_rsa_padding(key_context, RSA_PKCS1_PSS_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_pss_saltlen(key_context, RSA_PSS_SALTLEN_DIGEST) == 1;
  }
  good = good &&
         EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(signature.data()), signature.size(),
                          reinterpret_cast<const unsigned char*>(input.data()), input.size()) == 1;
  if (!good) ERR_clear_error();  // the thread's queue would grow
  return good;
}

absl::StatusOr<CompactJws> CompactJws::Parse(std::string_view token) {
  if (token.size() > kTextBytesMax) return absl::InvalidArgumentError("the token is too long");
  const size_t first = token.find('.');
  const size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
  if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos) {
    return absl::InvalidArgumentError("the token has not three parts");
  }
  const std::optional<std::string> header_text = DecodeBase64(Base64::kUrl, token.substr(0, first));
  std::optional<std::string> payload = DecodeBase64(Base64::kUrl, token.substr(first + 1, second - first - 1));
  std::optional<std::string> signature = DecodeBase64(Base64::kUrl, token.substr(second + 1));
  if (!header_text || !payload || !signature) return absl::InvalidArgumentError("the token is not base64url");
  const absl::StatusOr<json> header = ParseJsonObject(*header_text);
  if (!header.ok()) {
    return absl::InvalidArgumentError(Concat("the token's header: ", std::string(header.status().message())));
  }
  const std::string* alg = FindString(*header, "alg");
  if (alg == nullptr) return absl::InvalidArgumentError("the token's header has no alg");
  const std::optional<JwsAlgorithm> algorithm = ParseJwsAlgorithm(*alg);
  if (!algorithm) return absl::InvalidArgumentError("the token's algorithm is not accepted");
  if (header->contains("crit")) return absl::InvalidArgumentError("the token's header has crit");
  // Unencoded payloads (RFC 7797) only come with crit; by itself b64 means a maker that others read differently.
  if (header->contains("b64")) return absl::InvalidArgumentError("the token's header has b64");
  CompactJws jws;
  jws.algorithm = *algorithm;
  if (const auto kid = header->find("kid"); kid != header->end()) {
    if (!kid->is_string()) return absl::InvalidArgumentError("the token's kid is not a string");
    jws.kid = kid->get<std::string>();
    if (jws.kid.size() > JwkSet::kKidBytesMax) return absl::InvalidArgumentError("the token's kid is too long");
  }
  if (const std::string* type = FindString(*header, "typ")) jws.type = *type;
  jws.payload = *std::move(payload);
  jws.signature = *std::move(signature);
  jws.signing_input = token.substr(0, second);
  return jws;
}

}  // namespace gateway
