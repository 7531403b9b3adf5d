// The name of the bucket that a request belongs to, put together from what a RateLimit counts by.
#ifndef GATEWAY_DATAPLANE_LIMITS_LIMIT_KEY_H_
#define GATEWAY_DATAPLANE_LIMITS_LIMIT_KEY_H_

#include <netinet/in.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace gateway::dataplane {

// Longer ones are replaced by their digest, so that what a client makes up costs a bucket no more than this.
inline constexpr size_t kLimitKeyBytesMax = 256;

// Appends a part such that no two lists of parts make the same key, whatever bytes are in them.
void AppendKeyPart(std::string_view part, std::string* key);

// The same for a client's address: all of IPv4, the /64 of IPv6 (a household's or a machine's, RFC 6177).
void AppendKeyAddress(const in6_addr& address, std::string* key);

// Of the finished key, which begins at `from`: SHA-256, where it is longer than `bytes_max`.
void BoundKey(std::string* key, size_t from = 0, size_t bytes_max = kLimitKeyBytesMax);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_LIMITS_LIMIT_KEY_H_
