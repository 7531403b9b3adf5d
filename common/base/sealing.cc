#include "common/base/sealing.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "common/base/base64.h"
#include "common/base/digest.h"
#include "common/base/openssl_ptr.h"
#include "common/base/text.h"

namespace gateway {
namespace {

constexpr std::string_view kPrefix = "sealed:1:";
constexpr size_t kNonceBytes = 12;
constexpr size_t kTagBytes = 16;
constexpr size_t kKeyFileBytesMax = 1024;

using CipherContextPtr = std::unique_ptr<EVP_CIPHER_CTX, OpensslDeleter<EVP_CIPHER_CTX_free>>;

const unsigned char* BytesOf(std::string_view text) { return reinterpret_cast<const unsigned char*>(text.data()); }
unsigned char* BytesOf(std::string& text) { return reinterpret_cast<unsigned char*>(text.data()); }

absl::Status ErrnoStatus(std::string_view what, const std::string& path) {
  return absl::FailedPreconditionError(
      Concat("the sealing key '", path, "' ", std::string(what), ": ", std::strerror(errno)));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

Sealer::~Sealer() { OPENSSL_cleanse(key_.data(), key_.size()); }

absl::StatusOr<Sealer> Sealer::Read(const std::string& path) {
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    if (errno == ENOENT) return absl::NotFoundError(Concat("there is no sealing key '", path, "'"));
    return ErrnoStatus("can't be read", path);
  }
  struct stat found {};
  if (fstat(file.get(), &found) != 0) return ErrnoStatus("can't be read", path);
  if (!S_ISREG(found.st_mode))
    return absl::FailedPreconditionError(Concat("the sealing key '", path, "' is not a file"));
  if ((found.st_mode & 07) != 0) {
    return absl::FailedPreconditionError(
        Concat("the sealing key '", path, "' is open to everybody; expected mode 0600"));
  }
  std::string text(kKeyFileBytesMax, '\0');
  const ssize_t size = read(file.get(), text.data(), text.size());
  if (size < 0) return ErrnoStatus("can't be read", path);
  text.resize(static_cast<size_t>(size));
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  std::optional<std::string> bytes = DecodeBase64(Base64::kStandard, text);
  OPENSSL_cleanse(text.data(), text.size());
  if (!bytes.has_value() || bytes->size() != kKeyBytes) {
    return absl::FailedPreconditionError(
        Concat("the sealing key '", path, "' is not 32 bytes in base64 (as `openssl rand -base64 32` makes them)"));
  }
  std::array<unsigned char, kKeyBytes> key;
  std::memcpy(key.data(), bytes->data(), key.size());
  OPENSSL_cleanse(bytes->data(), bytes->size());
  Sealer sealer(key);
  OPENSSL_cleanse(key.data(), key.size());
  return sealer;
}

absl::StatusOr<Sealer> Sealer::Create(const std::string& path) {
  std::array<unsigned char, kKeyBytes> key;
  if (RAND_bytes(key.data(), static_cast<int>(key.size())) != 1) {
    return absl::InternalError("no randomness for a sealing key");
  }
  const std::string text =
      EncodeBase64(Base64::kStandard, {reinterpret_cast<const char*>(key.data()), key.size()}) + "=\n";
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (file.get() < 0) {
    if (errno == EEXIST) return absl::AlreadyExistsError(Concat("there is a sealing key '", path, "' already"));
    return ErrnoStatus("can't be made", path);
  }
  // Half a key would lose whatever is sealed under the whole one.
  if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) || fsync(file.get()) != 0) {
    const absl::Status status = ErrnoStatus("can't be written", path);
    (void)unlink(path.c_str());
    return status;
  }
  Sealer sealer(key);
  OPENSSL_cleanse(key.data(), key.size());
  return sealer;
}

std::string Sealer::Fingerprint() const {
  std::string text = "gateway sealing key\n";
  text.append(reinterpret_cast<const char*>(key_.data()), key_.size());
  const std::string hex = Hex(Sha256(text));
  OPENSSL_cleanse(text.data(), text.size());
  return hex.substr(0, 16);
}

absl::StatusOr<std::string> Sealer::Seal(std::string_view plain, std::string_view context) const {
  std::string sealed(kNonceBytes + plain.size() + kTagBytes, '\0');
  unsigned char* const nonce = BytesOf(sealed);
  unsigned char* const body = nonce + kNonceBytes;
  const CipherContextPtr cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  const bool done =
      cipher != nullptr && RAND_bytes(nonce, kNonceBytes) == 1 &&
      EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, key_.data(), nonce) == 1 &&
      EVP_EncryptUpdate(cipher.get(), nullptr, &size, BytesOf(context), static_cast<int>(context.size())) == 1 &&
      EVP_EncryptUpdate(cipher.get(), body, &size, BytesOf(plain), static_cast<int>(plain.size())) == 1 &&
      EVP_EncryptFinal_ex(cipher.get(), body + plain.size(), &size) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, kTagBytes, body + plain.size()) == 1;
  if (!done) return absl::InternalError("a secret can't be sealed");
  return Concat(kPrefix, EncodeBase64(Base64::kStandard, sealed));
}

absl::StatusOr<std::string> Sealer::Open(std::string_view sealed, std::string_view context) const {
  const auto wrong = [] {
    return absl::FailedPreconditionError(
        "a sealed secret can't be opened: it was sealed under another key, or is damaged");
  };
  if (!IsSealed(sealed)) return wrong();
  std::optional<std::string> bytes = DecodeBase64(Base64::kStandard, sealed.substr(kPrefix.size()));
  if (!bytes.has_value() || bytes->size() < kNonceBytes + kTagBytes) return wrong();
  unsigned char* const nonce = BytesOf(*bytes);
  unsigned char* const body = nonce + kNonceBytes;
  const size_t plain_bytes = bytes->size() - kNonceBytes - kTagBytes;
  std::string plain(plain_bytes, '\0');
  const CipherContextPtr cipher(EVP_CIPHER_CTX_new());
  int size = 0;
  const bool done =
      cipher != nullptr && EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, key_.data(), nonce) == 1 &&
      EVP_DecryptUpdate(cipher.get(), nullptr, &size, BytesOf(context), static_cast<int>(context.size())) == 1 &&
      EVP_DecryptUpdate(cipher.get(), BytesOf(plain), &size, body, static_cast<int>(plain_bytes)) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, kTagBytes, body + plain_bytes) == 1 &&
      EVP_DecryptFinal_ex(cipher.get(), BytesOf(plain) + plain_bytes, &size) == 1;
  if (!done) return wrong();
  return plain;
}

bool IsSealed(std::string_view text) { return text.starts_with(kPrefix); }

}  // namespace gateway
