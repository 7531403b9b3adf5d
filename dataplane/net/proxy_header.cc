#include "dataplane/net/proxy_header.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

namespace gateway::dataplane {
namespace {

constexpr std::string_view kLineBegin = "PROXY";
constexpr std::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);

// Commands, families and transports of version 2 (section 2.2).
constexpr int kLocal = 0;
constexpr int kProxy = 1;
constexpr int kUnspec = 0;
constexpr int kInet = 1;
constexpr int kInet6 = 2;
constexpr int kUnix = 3;
constexpr int kStream = 1;
constexpr int kDatagram = 2;
constexpr uint8_t kTlvCrc32c = 0x03;
constexpr size_t kTlvHeadBytes = 3;

constexpr std::array<uint32_t, 256> MakeCrc32cTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);  // Castagnoli, reflected
    table[i] = crc;
  }
  return table;
}
constexpr auto kCrc32cTable = MakeCrc32cTable();

// Over `data`, with the four bytes at `zeroed` as zeros (section 2.2.3; RFC 4960, appendix B).
uint32_t Crc32cWithHole(std::string_view data, size_t zeroed) {
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < data.size(); ++i) {
    const uint8_t byte = i - zeroed < 4 ? 0 : static_cast<uint8_t>(data[i]);
    crc = (crc >> 8) ^ kCrc32cTable[(crc ^ byte) & 0xff];
  }
  return ~crc;
}

uint8_t Byte(std::string_view data, size_t at) { return static_cast<uint8_t>(data[at]); }

uint16_t Uint16(std::string_view data, size_t at) {
  return static_cast<uint16_t>(Byte(data, at) << 8 | Byte(data, at + 1));
}

uint32_t Uint32(std::string_view data, size_t at) {
  return static_cast<uint32_t>(Uint16(data, at)) << 16 | Uint16(data, at + 2);
}

in6_addr Mapped(const void* v4) {
  in6_addr address{};
  address.s6_addr[10] = address.s6_addr[11] = 0xff;
  std::memcpy(address.s6_addr + 12, v4, 4);
  return address;
}

// The text up to the next space or the end. A doubled space yields an empty word, which is always rejected.
std::string_view NextWord(std::string_view* rest) {
  const size_t space = rest->find(' ');
  const std::string_view word = rest->substr(0, space);
  *rest = space == std::string_view::npos ? std::string_view() : rest->substr(space + 1);
  return word;
}

bool ReadAddress(std::string_view text, bool v6, in6_addr* out) {
  char room[INET6_ADDRSTRLEN];
  if (text.size() >= sizeof room || text.find('\0') != std::string_view::npos) return false;
  text.copy(room, text.size());
  room[text.size()] = '\0';
  if (v6) return inet_pton(AF_INET6, room, out) == 1;
  in_addr v4;
  if (inet_pton(AF_INET, room, &v4) != 1) return false;
  *out = Mapped(&v4);
  return true;
}

bool ReadPort(std::string_view text, uint16_t* out) {
  if (text.empty() || (text[0] == '0' && text.size() > 1)) return false;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *out);
  return error == std::errc() && stop == end;
}

ProxyResult Refuse(const char* why, const char** detail) {
  *detail = why;
  return ProxyResult::kRefused;
}

// Section 2.1. `data` starts with "PROXY".
ProxyResult ParseLine(std::string_view data, ProxyHeader* out, const char** detail) {
  const std::string_view seen = data.substr(0, kProxyLineBytesMax);
  const size_t end = seen.find_first_of("\r\n");
  if (end == std::string_view::npos || (end + 1 == seen.size() && seen[end] == '\r')) {
    if (seen.size() == kProxyLineBytesMax) return Refuse("a PROXY line that is too long", detail);
    return ProxyResult::kMore;
  }
  if (seen.substr(end, 2) != "\r\n") return Refuse("a PROXY line that does not end in CRLF", detail);
  ProxyHeader header;
  header.bytes = end + 2;
  std::string_view rest = seen.substr(0, end);
  if (NextWord(&rest) != kLineBegin) return Refuse("a PROXY line without a protocol", detail);
  const std::string_view protocol = NextWord(&rest);
  // The rest after UNKNOWN must be ignored.
  if (protocol != "UNKNOWN") {
    const bool v6 = protocol == "TCP6";
    if (!v6 && protocol != "TCP4") return Refuse("a PROXY line of an unknown protocol", detail);
    const std::string_view source = NextWord(&rest);
    const std::string_view destination = NextWord(&rest);
    if (!ReadAddress(source, v6, &header.source) || !ReadAddress(destination, v6, &header.destination)) {
      return Refuse("a PROXY line with an invalid address", detail);
    }
    const std::string_view source_port = NextWord(&rest);
    if (!ReadPort(source_port, &header.source_port) || !ReadPort(rest, &header.destination_port)) {
      return Refuse("a PROXY line with an invalid port", detail);
    }
    header.has_source = true;
  }
  *out = header;
  return ProxyResult::kComplete;
}

// Section 2.2. `data` starts with the signature. An invalid header is rejected before the rest has arrived.
ProxyResult ParseBinary(std::string_view data, ProxyHeader* out, const char** detail) {
  constexpr size_t kCommandAt = 12;
  constexpr size_t kFamilyAt = 13;
  constexpr size_t kLengthAt = 14;
  if (data.size() <= kCommandAt) return ProxyResult::kMore;
  const int command = Byte(data, kCommandAt) & 0xf;
  if (Byte(data, kCommandAt) >> 4 != 2) return Refuse("a PROXY header of an unknown version", detail);
  if (command != kLocal && command != kProxy) return Refuse("a PROXY header with an unknown command", detail);
  if (data.size() <= kFamilyAt) return ProxyResult::kMore;
  // LOCAL's family is always ignored.
  const int family = command == kLocal ? kUnspec : Byte(data, kFamilyAt) >> 4;
  const int transport = command == kLocal ? kUnspec : Byte(data, kFamilyAt) & 0xf;
  if (family > kUnix) return Refuse("a PROXY header with an unknown address family", detail);
  if (transport > kDatagram) return Refuse("a PROXY header with an unknown transport", detail);
  if (data.size() < kProxyFixedBytes) return ProxyResult::kMore;

  const size_t length = Uint16(data, kLengthAt);
  if (length > kProxyVariableBytesMax) return Refuse("a PROXY header that is too long", detail);
  const bool has_layout = family != kUnspec && transport != kUnspec;
  const size_t address_bytes = !has_layout ? 0 : family == kInet ? 12 : family == kInet6 ? 36 : 216;
  if (length < address_bytes) return Refuse("a PROXY header that is shorter than its addresses", detail);
  if (data.size() < kProxyFixedBytes + length) return ProxyResult::kMore;
  data = data.substr(0, kProxyFixedBytes + length);

  if (has_layout) {
    bool has_checksum = false;
    for (size_t at = kProxyFixedBytes + address_bytes; at < data.size();) {
      if (data.size() - at < kTlvHeadBytes) return Refuse("a PROXY header that ends inside a TLV", detail);
      const uint8_t type = Byte(data, at);
      const size_t bytes = Uint16(data, at + 1);
      at += kTlvHeadBytes;
      if (data.size() - at < bytes) return Refuse("a PROXY header that ends inside a TLV", detail);
      if (type == kTlvCrc32c) {
        if (bytes != 4 || has_checksum) return Refuse("a PROXY header with an invalid checksum", detail);
        has_checksum = true;
        if (Crc32cWithHole(data, at) != Uint32(data, at)) return Refuse("a PROXY header with a wrong checksum", detail);
      }
      at += bytes;
    }
  }

  ProxyHeader header;
  header.bytes = data.size();
  // Other families, and datagrams: serve with the addresses of the connection itself.
  header.has_source = transport == kStream && (family == kInet || family == kInet6);
  if (header.has_source) {
    const char* addresses = data.data() + kProxyFixedBytes;
    if (family == kInet) {
      header.source = Mapped(addresses);
      header.destination = Mapped(addresses + 4);
    } else {
      std::memcpy(&header.source, addresses, 16);
      std::memcpy(&header.destination, addresses + 16, 16);
    }
    const size_t ports_at = kProxyFixedBytes + address_bytes - 4;
    header.source_port = Uint16(data, ports_at);
    header.destination_port = Uint16(data, ports_at + 2);
  }
  *out = header;
  return ProxyResult::kComplete;
}

bool BeginsLike(std::string_view data, std::string_view begin) {
  const size_t size = std::min(data.size(), begin.size());
  return data.substr(0, size) == begin.substr(0, size);
}

}  // namespace

ProxyResult ParseProxyHeader(std::string_view data, ProxyHeader* out, const char** detail) {
  if (BeginsLike(data, kLineBegin)) {
    return data.size() < kLineBegin.size() ? ProxyResult::kMore : ParseLine(data, out, detail);
  }
  if (BeginsLike(data, kSignature)) {
    return data.size() < kSignature.size() ? ProxyResult::kMore : ParseBinary(data, out, detail);
  }
  *detail = "no PROXY header";
  return ProxyResult::kNotProxy;
}

}  // namespace gateway::dataplane
