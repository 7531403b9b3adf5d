// hash.
#include <iostream>
#include <string>

#include "common/base/digest.h"
#include "common/base/password.h"
#include "tools/gatewayctl/commands.h"

namespace gateway::ctl {
namespace {

constexpr size_t kSecretBytesMax = 4096;

}  // namespace

ExitCode Hash(Session& session) {
  // Never an argument: those are in the shell's history, and in the list of processes.
  std::string secret(kSecretBytesMax + 2, '\0');
  std::cin.read(secret.data(), static_cast<std::streamsize>(secret.size()));
  secret.resize(static_cast<size_t>(std::cin.gcount()));
  if (secret.ends_with("\n")) secret.pop_back();
  if (secret.ends_with("\r")) secret.pop_back();
  const auto refuse = [&session](const char* why) {
    session.err() << "gatewayctl: hash: " << why << "\n";
    return kUsage;
  };
  if (secret.empty())
    return refuse("standard input is empty; expected the secret, e.g. printf %s SECRET | gatewayctl ...");
  if (secret.size() > kSecretBytesMax) return refuse("the secret is longer than 4096 bytes");
  for (const char c : secret) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return refuse("the secret has a control character (a line break?), which no client could send");
    }
  }
  std::string text;
  if (session.options.secret_kind == "api-key") {
    // Fields of a request come without spaces around them.
    if (secret.front() == ' ' || secret.back() == ' ') return refuse("the key starts or ends with a space");
    text = Hex(Sha256(secret));
  } else {
    PasswordHash parameters;
    if (session.options.hash_method == "argon2id") {
      parameters.method = PasswordHash::Method::kArgon2id;
      parameters.parallelism = 1;
    }
    absl::StatusOr<std::string> phc = HashPassword(secret, parameters);
    if (!phc.ok()) return session.Fail(phc.status());
    text = *std::move(phc);
  }
  session.out() << text << "\n";
  return kDone;
}

}  // namespace gateway::ctl
