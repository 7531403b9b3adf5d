#include "dataplane/limits/limit_key.h"

#include <openssl/evp.h>

namespace gateway::dataplane {

void AppendKeyPart(std::string_view part, std::string* key) {
  // Its length first (LEB128), then itself.
  size_t length = part.size();
  for (; length >= 128; length >>= 7) key->push_back(static_cast<char>(128 | (length & 127)));
  key->push_back(static_cast<char>(length));
  key->append(part);
}

void AppendKeyAddress(const in6_addr& address, std::string* key) {
  const bool v4 = IN6_IS_ADDR_V4MAPPED(&address);
  AppendKeyPart({reinterpret_cast<const char*>(address.s6_addr) + (v4 ? 12 : 0), size_t{v4 ? 4u : 8u}}, key);
}

void BoundKey(std::string* key, size_t from, size_t bytes_max) {
  if (key->size() - from <= bytes_max) return;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(key->data() + from, key->size() - from, digest, &size, EVP_sha256(), nullptr) == 1) {
    key->resize(from);
    key->append(reinterpret_cast<const char*>(digest), size);
  } else {
    key->resize(from + bytes_max);  // out of memory: rather one bucket for several than a longer key
  }
}

}  // namespace gateway::dataplane
