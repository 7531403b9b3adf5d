// The header that a TCP proxy in front of us puts before the first byte of a connection, to say whose connection it is:
// the PROXY protocol, versions 1 (one line of text) and 2 (binary). Source: HAProxy's doc/proxy-protocol.txt of
// 2020/03/05; the numbers of sections below are its.
//
// Pure: no sockets, no memory of its own. Whether a peer may send one is the caller's to know; one that may not could
// claim any address.
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
  kMore,      // good so far; give it more bytes
  kComplete,  // `bytes` of the data were the header; behind them begins what the client sent
  kNotProxy,  // the first bytes are of something else
  kRefused,   // meant as a header, and not valid
};

struct ProxyHeader {
  size_t bytes = 0;
  // Whether the proxy names the two ends. Else (version 1's UNKNOWN; version 2's LOCAL, AF_UNSPEC, AF_UNIX, datagrams)
  // the connection's own addresses hold.
  bool has_source = false;
  in6_addr source{};  // IPv4 as IPv4-mapped, as destination
  uint16_t source_port = 0;
  in6_addr destination{};
  uint16_t destination_port = 0;
};

// `data` is all that has come on a connection, and only grows between two calls; nothing behind the header is read. At
// most kProxyHeaderBytesMax of it are needed to decide. `out` is set where the result is kComplete; `detail`, a
// constant for the log, where it is kNotProxy or kRefused. Costs a look at every byte of the header for each call.
//
// Version 1 is taken in its canonical spelling only. Of version 2 TLVs are walked but not used, except for a CRC32C,
// which must be right; if no addresses are named (LOCAL, AF_UNSPEC) what follows has no layout and is skipped.
ProxyResult ParseProxyHeader(std::string_view data, ProxyHeader* out, const char** detail);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_PROXY_HEADER_H_
