// The header that a TCP proxy in front of the gateway sends before the first byte of a connection, with the client's
// address: the PROXY protocol, versions 1 (a line of text) and 2 (binary). Source: HAProxy's doc/proxy-protocol.txt of
// 2020/03/05; section numbers refer to it.
//
// Pure: no sockets, no memory of its own. The caller decides which peers may send one; others could claim any
// address.
#ifndef GATEWAY_DATAPLANE_NET_PROXY_HEADER_H_
#define GATEWAY_DATAPLANE_NET_PROXY_HEADER_H_

#include <netinet/in.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gateway::dataplane {

inline constexpr size_t kProxyLineBytesMax = 107;       // version 1, with CRLF (section 2.1)
inline constexpr size_t kProxyFixedBytes = 16;          // version 2, before the addresses
inline constexpr size_t kProxyVariableBytesMax = 4096;  // version 2, addresses and TLVs; senders keep within an MSS
inline constexpr size_t kProxyHeaderBytesMax = kProxyFixedBytes + kProxyVariableBytesMax;

enum class ProxyResult : uint8_t {
  kMore,      // valid so far; needs more bytes
  kComplete,  // `bytes` of the data were the header; the client's bytes follow
  kNotProxy,  // the first bytes are something else
  kRefused,   // a header, but invalid
};

struct ProxyHeader {
  size_t bytes = 0;
  // Whether the proxy names both ends. Otherwise (version 1's UNKNOWN; version 2's LOCAL, AF_UNSPEC, AF_UNIX,
  // datagrams) the connection's own addresses count.
  bool has_source = false;
  in6_addr source{};  // IPv4 as IPv4-mapped; so is destination
  uint16_t source_port = 0;
  in6_addr destination{};
  uint16_t destination_port = 0;
};

// `data` is everything received on a connection so far, and only grows between two calls; nothing after the header is
// read. At most kProxyHeaderBytesMax bytes are needed to decide. `out` is set if the result is kComplete; `detail`, a
// constant for the log, if it is kNotProxy or kRefused. Each call scans the whole header.
//
// Version 1 is accepted only in its canonical spelling. TLVs of version 2 are walked but not used, except a CRC32C,
// which must match; without addresses (LOCAL, AF_UNSPEC) the rest has no layout and is skipped.
ProxyResult ParseProxyHeader(std::string_view data, ProxyHeader* out, const char** detail);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_PROXY_HEADER_H_
