#include "common/base/password.h"

#include <argon2.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <charconv>
#include <vector>

#include "common/base/base64.h"
#include "common/base/digest.h"
#include "common/base/text.h"

namespace gateway {
namespace {

constexpr uint32_t kArgon2Version = 0x13;  // the only one of RFC 9106

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(
      Concat("the password hash ", what, "; expected $scrypt$ln=N,r=N,p=N$SALT$HASH or ",
             "$argon2id$v=19$m=N,t=N,p=N$SALT$HASH (gatewayctl hash password makes one)"));
}

// "ln=15,r=8,p=3" -> the numbers of `names`, in that order, each given once.
bool ParseParameters(std::string_view text, std::initializer_list<std::pair<std::string_view, uint32_t*>> names) {
  size_t index = 0;
  for (const auto& [name, number] : names) {
    if (text.substr(0, name.size()) != name || text.substr(name.size(), 1) != "=") return false;
    text.remove_prefix(name.size() + 1);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
    if (error != std::errc() || end == text.data()) return false;
    text.remove_prefix(static_cast<size_t>(end - text.data()));
    if (++index < names.size()) {
      if (text.empty() || text.front() != ',') return false;
      text.remove_prefix(1);
    }
  }
  return text.empty();
}

// What an attempt uses: {bytes of memory, bytes written}; 0 if a parameter is out of range.
struct Cost {
  uint64_t memory_bytes = 0;
  uint64_t work_bytes = 0;
};
Cost CostOf(const PasswordHash& hash) {
  Cost cost;
  if (hash.method == PasswordHash::Method::kScrypt) {
    if (hash.log2_cost < 1 || hash.log2_cost > 24 || hash.block_size < 1 || hash.block_size > 64 ||
        hash.parallelism < 1 || hash.parallelism > 64) {
      return cost;
    }
    const uint64_t block = 128ull * hash.block_size;
    cost.memory_bytes = (block << hash.log2_cost) + block * hash.parallelism;
    cost.work_bytes = (block << hash.log2_cost) * hash.parallelism;
  } else {
    if (hash.parallelism < 1 || hash.parallelism > 64 || hash.passes < 1 || hash.passes > 64 ||
        hash.memory_kib < 8 * hash.parallelism || hash.memory_kib > (1u << 24)) {
      return cost;
    }
    cost.memory_bytes = uint64_t{hash.memory_kib} << 10;
    cost.work_bytes = cost.memory_bytes * hash.passes;
  }
  return cost;
}

absl::Status CheckCost(const PasswordHash& hash) {
  const Cost cost = CostOf(hash);
  if (cost.memory_bytes == 0) return Bad("has a parameter out of range");
  if (cost.memory_bytes > PasswordHash::kMemoryBytesMax + (1 << 20)) {
    return Bad(Concat("takes ", cost.memory_bytes >> 20, " MiB of memory a check, more than ",
                      PasswordHash::kMemoryBytesMax >> 20, " MiB"));
  }
  if (cost.work_bytes > PasswordHash::kWorkBytesMax) {
    return Bad(Concat("fills ", cost.work_bytes >> 20, " MiB a check, more than ", PasswordHash::kWorkBytesMax >> 20,
                      " MiB: lower its passes or its parallelism"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Derive(const PasswordHash& hash, std::string_view password, size_t bytes) {
  std::string derived(bytes, '\0');
  auto* out = reinterpret_cast<unsigned char*>(derived.data());
  const auto* salt = reinterpret_cast<const unsigned char*>(hash.salt.data());
  if (hash.method == PasswordHash::Method::kScrypt) {
    if (EVP_PBE_scrypt(password.data(), password.size(), salt, hash.salt.size(), uint64_t{1} << hash.log2_cost,
                       hash.block_size, hash.parallelism, CostOf(hash).memory_bytes + (1 << 20), out, bytes) != 1) {
      return absl::ResourceExhaustedError("scrypt failed");
    }
    return derived;
  }
  argon2_context context{};
  context.out = out;
  context.outlen = static_cast<uint32_t>(bytes);
  // The library takes them as mutable, but does not change them unless its flags say to clear them.
  context.pwd = reinterpret_cast<uint8_t*>(const_cast<char*>(password.data()));
  context.pwdlen = static_cast<uint32_t>(password.size());
  context.salt = const_cast<uint8_t*>(salt);
  context.saltlen = static_cast<uint32_t>(hash.salt.size());
  context.t_cost = hash.passes;
  context.m_cost = hash.memory_kib;
  context.lanes = hash.parallelism;
  context.threads = 1;  // callers are a pool of threads, so a check uses one thread only
  context.version = kArgon2Version;
  context.flags = ARGON2_DEFAULT_FLAGS;
  if (const int error = argon2id_ctx(&context); error != ARGON2_OK) {
    return absl::ResourceExhaustedError(Concat("argon2id failed: ", argon2_error_message(error)));
  }
  return derived;
}

}  // namespace

absl::StatusOr<PasswordHash> PasswordHash::Parse(std::string_view phc) {
  if (phc.size() > kTextBytesMax) return Bad("is too long");
  std::vector<std::string_view> parts;
  for (std::string_view rest = phc;;) {
    const size_t dollar = rest.find('$');
    parts.push_back(rest.substr(0, dollar));
    if (dollar == std::string_view::npos) break;
    rest.remove_prefix(dollar + 1);
  }
  if (parts.size() < 2 || !parts[0].empty()) return Bad("is not a PHC string");
  PasswordHash hash;
  size_t at = 2;
  if (parts[1] == "scrypt") {
    hash.method = Method::kScrypt;
    if (parts.size() != 5) return Bad("has not the parts of a PHC string");
    if (!ParseParameters(parts[at++], {{"ln", &hash.log2_cost}, {"r", &hash.block_size}, {"p", &hash.parallelism}})) {
      return Bad("has other parameters than ln, r and p");
    }
  } else if (parts[1] == "argon2id") {
    hash.method = Method::kArgon2id;
    if (parts.size() != 6) return Bad("has not the parts of a PHC string");
    if (parts[at++] != "v=19") return Bad("is of another version of argon2 than 19");
    if (!ParseParameters(parts[at++], {{"m", &hash.memory_kib}, {"t", &hash.passes}, {"p", &hash.parallelism}})) {
      return Bad("has other parameters than m, t and p");
    }
  } else {
    // (The word may be the start of anything, even of a password.)
    return Bad("is of another method than scrypt and argon2id");
  }
  std::optional<std::string> salt = DecodeBase64(Base64::kStandard, parts[at]);
  std::optional<std::string> bytes = DecodeBase64(Base64::kStandard, parts[at + 1]);
  if (!salt || !bytes) return Bad("has a salt or a hash that is not base64");
  if (salt->size() < kSaltBytesMin || salt->size() > kSaltBytesMax) {
    return Bad(Concat("has a salt of ", salt->size(), " bytes, not ", kSaltBytesMin, " to ", kSaltBytesMax));
  }
  if (bytes->size() < kHashBytesMin || bytes->size() > kHashBytesMax) {
    return Bad(Concat("has a hash of ", bytes->size(), " bytes, not ", kHashBytesMin, " to ", kHashBytesMax));
  }
  hash.salt = *std::move(salt);
  hash.hash = *std::move(bytes);
  if (absl::Status status = CheckCost(hash); !status.ok()) return status;
  return hash;
}

std::string PasswordHash::ToText() const {
  std::string text = method == Method::kScrypt
                         ? Concat("$scrypt$ln=", log2_cost, ",r=", block_size, ",p=", parallelism)
                         : Concat("$argon2id$v=", kArgon2Version, "$m=", memory_kib, ",t=", passes, ",p=", parallelism);
  Append(&text, "$", EncodeBase64(Base64::kStandard, salt), "$", EncodeBase64(Base64::kStandard, hash));
  return text;
}

absl::Status CheckPasswordHash(std::string_view phc) { return PasswordHash::Parse(phc).status(); }

absl::StatusOr<bool> VerifyPassword(const PasswordHash& hash, std::string_view password) {
  absl::StatusOr<std::string> derived = Derive(hash, password, hash.hash.size());
  if (!derived.ok()) return derived.status();
  return EqualInConstantTime(*derived, hash.hash);
}

absl::StatusOr<std::string> HashPassword(std::string_view password, PasswordHash parameters) {
  if (parameters.salt.empty()) {
    parameters.salt.resize(16);
    if (RAND_bytes(reinterpret_cast<unsigned char*>(parameters.salt.data()), 16) != 1) {
      return absl::UnavailableError("no random bytes are available");
    }
  }
  if (absl::Status status = CheckCost(parameters); !status.ok()) return status;
  absl::StatusOr<std::string> derived = Derive(parameters, password, 32);
  if (!derived.ok()) return derived.status();
  parameters.hash = *std::move(derived);
  return parameters.ToText();
}

}  // namespace gateway
