// Secrets sealed for a disk: AES-256-GCM under one key, which is in a file of its own.
#ifndef GATEWAY_COMMON_BASE_SEALING_H_
#define GATEWAY_COMMON_BASE_SEALING_H_

#include <array>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gateway {

// Seals and opens. Thread-safe. The key is wiped at the end.
class Sealer {
 public:
  static constexpr size_t kKeyBytes = 32;

  explicit Sealer(const std::array<unsigned char, kKeyBytes>& key) : key_(key) {}
  Sealer(const Sealer&) = default;
  Sealer& operator=(const Sealer&) = default;
  ~Sealer();

  // The key of `path`: 32 bytes in base64. NotFound: the file does not exist. FailedPrecondition: it is not such a key,
  // or every user may read it. Messages name the file.
  static absl::StatusOr<Sealer> Read(const std::string& path);
  // A new random key, written to `path` with mode 0600 and synced. AlreadyExists if the file exists.
  static absl::StatusOr<Sealer> Create(const std::string& path);

  // Tells keys apart, and says nothing of them: 16 hexadecimal digits.
  std::string Fingerprint() const;

  // "sealed:1:..." in base64, another text each time. `context` says what is sealed ("Certificate/shop key"): the text
  // opens under the same one only, so that no row of a database passes for another.
  absl::StatusOr<std::string> Seal(std::string_view plain, std::string_view context) const;
  // FailedPrecondition: not sealed under this key and context, or changed since.
  absl::StatusOr<std::string> Open(std::string_view sealed, std::string_view context) const;

 private:
  std::array<unsigned char, kKeyBytes> key_;
};

// Whether `text` is what Seal gives.
bool IsSealed(std::string_view text);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_SEALING_H_
