#include "dataplane/config/cache_keys.h"

#include <openssl/crypto.h>
#include <openssl/x509.h>

#include <array>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/certificate.h"
#include "common/base/digest.h"
#include "common/base/sealing.h"
#include "common/config/redaction.h"
#include "spdlog/fmt/fmt.h"

namespace gateway::dataplane {
namespace {

// Empty: there is no key, or it can't be read.
std::optional<Sealer> CacheSealer(const std::string& key_file) {
  if (key_file.empty()) return std::nullopt;
  std::ifstream file(key_file, std::ios::binary);
  std::string pem(kCertificateBytesMax, '\0');
  file.read(pem.data(), static_cast<std::streamsize>(pem.size()));
  pem.resize(static_cast<size_t>(file.gcount()));
  const auto key = ReadPrivateKey(pem);
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!key.ok()) return std::nullopt;
  unsigned char* der = nullptr;
  const int size = i2d_PrivateKey(key->get(), &der);
  if (size <= 0) return std::nullopt;
  std::string text =
      fmt::format("gateway cache\n{}", std::string_view(reinterpret_cast<char*>(der), static_cast<size_t>(size)));
  OPENSSL_clear_free(der, static_cast<size_t>(size));
  const Digest digest = Sha256(text);
  OPENSSL_cleanse(text.data(), text.size());
  std::array<unsigned char, Sealer::kKeyBytes> sealing_key;
  std::memcpy(sealing_key.data(), digest.data(), sealing_key.size());
  return Sealer(sealing_key);
}

std::string SealingContext(const v1::Certificate& certificate) {
  return fmt::format("Certificate/{} key", certificate.name());
}

}  // namespace

void SealKeys(const std::string& key_file, v1::PolicyUpdate* update) {
  std::optional<Sealer> sealer;
  bool asked = false;
  for (v1::VersionedResource& each : *update->mutable_resources()) {
    if (!each.resource().certificate().has_key()) continue;  // also one with acme that is not issued yet
    if (!std::exchange(asked, true)) sealer = CacheSealer(key_file);
    v1::Certificate& certificate = *each.mutable_resource()->mutable_certificate();
    if (sealer.has_value() && !IsRedacted(certificate.key().inline_())) {
      auto sealed = sealer->Seal(certificate.key().inline_(), SealingContext(certificate));
      if (sealed.ok()) {
        certificate.mutable_key()->set_inline_(*std::move(sealed));
        continue;
      }
    }
    RedactSecrets(&certificate);
  }
}

void OpenKeys(const std::string& key_file, v1::PolicyUpdate* update) {
  std::optional<Sealer> sealer;
  bool asked = false;
  for (v1::VersionedResource& each : *update->mutable_resources()) {
    if (!IsSealed(each.resource().certificate().key().inline_())) continue;
    if (!std::exchange(asked, true)) sealer = CacheSealer(key_file);
    v1::Certificate& certificate = *each.mutable_resource()->mutable_certificate();
    absl::StatusOr<std::string> plain = absl::FailedPreconditionError("no key");
    if (sealer.has_value()) plain = sealer->Open(certificate.key().inline_(), SealingContext(certificate));
    if (plain.ok()) {
      certificate.mutable_key()->set_inline_(*std::move(plain));
    } else {
      RedactSecrets(&certificate);
    }
  }
}

}  // namespace gateway::dataplane
