#include "controlplane/identity/secret.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "absl/strings/escaping.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kSecretBytes = 32;

}  // namespace

absl::StatusOr<std::string> NewSecret(std::string_view prefix) {
  unsigned char bytes[kSecretBytes];
  if (RAND_bytes(bytes, sizeof bytes) != 1) return absl::InternalError("no random bytes for a token");
  std::string text = absl::WebSafeBase64Escape(absl::string_view(reinterpret_cast<char*>(bytes), sizeof bytes));
  OPENSSL_cleanse(bytes, sizeof bytes);
  while (text.ends_with('=')) text.pop_back();
  return std::string(prefix) + text;
}

}  // namespace gateway::controlplane
