// Hashes that every process and every build agrees on: what two data planes have to decide alike is decided by these.
#ifndef GATEWAY_COMMON_BASE_HASH_H_
#define GATEWAY_COMMON_BASE_HASH_H_

#include <cstdint>
#include <string_view>

namespace gateway {

// XXH3, 64 bits. No defence against chosen bytes: what clients must not guess is keyed elsewhere.
uint64_t StableHash(std::string_view bytes, uint64_t seed = 0);

// A permutation of 64 bits in which every bit of the input moves every bit of the output (splitmix64's finalizer).
constexpr uint64_t MixBits(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_HASH_H_
