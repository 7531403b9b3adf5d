// Hashes that are the same in every process and build: for decisions that all data planes must make alike.
#ifndef GATEWAY_COMMON_BASE_HASH_H_
#define GATEWAY_COMMON_BASE_HASH_H_

#include <cstdint>
#include <string_view>

namespace gateway {

// XXH3, 64 bits. No defense against chosen input; values that clients must not guess are keyed elsewhere.
uint64_t StableHash(std::string_view bytes, uint64_t seed = 0);

// A permutation of 64 bits; every input bit affects every output bit (splitmix64's finalizer).
constexpr uint64_t MixBits(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_HASH_H_
