#include "common/base/key_shares.h"

#include "absl/hash/hash.h"

namespace gateway {
namespace {

using Kind = ClientPrefix::Kind;

ClientPrefix ProviderOf(const ClientPrefix& client) {
  return {Kind::kIpv6Provider, client.bits & ~uint64_t{0xffff'ffff}};
}

uint64_t BigEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char each : bytes) value = value << 8 | static_cast<uint8_t>(each);
  return value;
}

}  // namespace

ClientPrefix ClientPrefix::Of(const in6_addr& address) {
  const std::string_view bytes(reinterpret_cast<const char*>(address.s6_addr), sizeof address.s6_addr);
  if (IN6_IS_ADDR_V4MAPPED(&address)) return {Kind::kIpv4, BigEndian(bytes.substr(12))};
  return {Kind::kIpv6Client, BigEndian(bytes.substr(0, 8))};
}

ClientPrefix ClientPrefix::FromBytes(std::string_view bytes) {
  if (bytes.size() == 4) return {Kind::kIpv4, BigEndian(bytes)};
  if (bytes.size() == 8) return {Kind::kIpv6Client, BigEndian(bytes)};
  return {};
}

std::string ClientPrefix::ToBytes() const {
  std::string bytes;
  if (kind == Kind::kNone) return bytes;
  for (int shift = kind == Kind::kIpv4 ? 24 : 56; shift >= 0; shift -= 8) {
    bytes.push_back(static_cast<char>(bits >> shift & 0xff));
  }
  return bytes;
}

ClientPrefix ClientPrefix::site() const {
  return kind == Kind::kIpv6Client ? ClientPrefix{Kind::kIpv6Site, bits & ~uint64_t{0xffff}} : *this;
}

KeyShares::Shard& KeyShares::ShardOf(const ClientPrefix& prefix) {
  return shards_[absl::Hash<ClientPrefix>()(prefix) % shards_.size()];
}

// Up to `always` places, and up to `more` where that is more.
bool KeyShares::TakeOne(const ClientPrefix& prefix, size_t always, size_t more) {
  Shard& shard = ShardOf(prefix);
  absl::MutexLock lock(&shard.mutex);
  uint32_t& held = shard.held[prefix];
  if (held >= always && held >= more) return false;  // (what is not new: a new one holds 0)
  ++held;
  return true;
}

void KeyShares::ReleaseOne(const ClientPrefix& prefix) {
  Shard& shard = ShardOf(prefix);
  absl::MutexLock lock(&shard.mutex);
  const auto at = shard.held.find(prefix);
  if (at != shard.held.end() && --at->second == 0) shard.held.erase(at);
}

KeyShares::Answer KeyShares::Take(const ClientPrefix& client, size_t free) {
  if (client.kind == Kind::kNone) return {};
  const size_t share = free / kFreePerPlace;
  if (!TakeOne(client, kClientAlways, share)) return {false, client};
  if (client.kind != Kind::kIpv6Client) return {};
  const ClientPrefix site = client.site();
  if (!TakeOne(site, kSiteAlways, share)) {
    ReleaseOne(client);
    return {false, site};
  }
  if (!TakeOne(ProviderOf(client), kProviderAlways, free)) {
    ReleaseOne(client);
    ReleaseOne(site);
    return {false, site};
  }
  return {};
}

void KeyShares::Release(const ClientPrefix& client) {
  if (client.kind == Kind::kNone) return;
  ReleaseOne(client);
  if (client.kind != Kind::kIpv6Client) return;
  ReleaseOne(client.site());
  ReleaseOne(ProviderOf(client));
}

size_t KeyShares::held(const ClientPrefix& prefix) const {
  const Shard& shard = const_cast<KeyShares*>(this)->ShardOf(prefix);
  absl::MutexLock lock(&shard.mutex);
  const auto at = shard.held.find(prefix);
  return at == shard.held.end() ? 0 : at->second;
}

size_t KeyShares::prefixes() const {
  size_t count = 0;
  for (const Shard& shard : shards_) {
    absl::MutexLock lock(&shard.mutex);
    count += shard.held.size();
  }
  return count;
}

}  // namespace gateway
