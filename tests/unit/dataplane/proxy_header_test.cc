// PROXY protocol headers, whole and byte by byte.
#include "dataplane/net/proxy_header.h"

#include <arpa/inet.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/text.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

constexpr std::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);

std::string Uint16(size_t value) { return {static_cast<char>(value >> 8), static_cast<char>(value)}; }

// A version 2 header whose length is that of `variable`.
std::string Binary(int version_and_command, int family_and_transport, std::string_view variable) {
  std::string header(kSignature);
  header.push_back(static_cast<char>(version_and_command));
  header.push_back(static_cast<char>(family_and_transport));
  return Concat(header, Uint16(variable.size()), variable);
}

std::string Tlv(int type, std::string_view value) {
  return Concat(std::string(1, static_cast<char>(type)), Uint16(value.size()), value);
}

std::string Addresses4() { return std::string("\x0a\x01\x02\x03\xc0\xa8\x00\x09\xd4\x31\x01\xbb", 12); }

std::string Addresses6() {
  std::string addresses(36, '\0');
  inet_pton(AF_INET6, "2001:db8::1", addresses.data());
  inet_pton(AF_INET6, "2001:db8::2", addresses.data() + 16);
  addresses.replace(32, 4, Uint16(54321) + Uint16(443));
  return addresses;
}

// Bit by bit, as in appendix B of RFC 4960: independent of the implementation under test.
uint32_t Crc32c(std::string_view data) {
  uint32_t crc = 0xffffffff;
  for (const char c : data) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
  }
  return ~crc;
}

// A TCP4 header with a correct checksum between two other TLVs.
std::string WithChecksum() {
  std::string header =
      Binary(0x21, 0x11, Concat(Addresses4(), Tlv(0x04, "pad"), Tlv(0x03, std::string(4, '\0')), Tlv(0xe0, "mine")));
  const uint32_t crc = Crc32c(header);
  header.replace(header.size() - 7 - 4, 4, Uint16(crc >> 16) + Uint16(crc & 0xffff));
  return header;
}

std::string Text(const in6_addr& address) {
  char room[INET6_ADDRSTRLEN];
  return inet_ntop(AF_INET6, &address, room, sizeof room);
}

std::vector<std::string> Good() {
  return {
      "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
      "PROXY TCP4 10.1.2.3 192.168.0.9 0 443\r\n",
      "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
      "PROXY TCP6 2001:DB8::1 ::1 1 2\r\n",
      "PROXY UNKNOWN\r\n",
      "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
      "PROXY UNKNOWN  anything, \x01 too\r\n",
      Binary(0x21, 0x11, Addresses4()),
      Binary(0x21, 0x21, Addresses6()),
      Binary(0x21, 0x11, Addresses4() + Tlv(0x02, "api.example") + Tlv(0x04, "")),
      WithChecksum(),
      Binary(0x21, 0x12, Addresses4()),           // UDP
      Binary(0x21, 0x31, std::string(216, 'u')),  // AF_UNIX
      Binary(0x21, 0x00, ""),                     // AF_UNSPEC
      Binary(0x21, 0x00, "whatever it is"),
      Binary(0x21, 0x10, "v4, but of what?"),
      Binary(0x20, 0x00, ""),  // LOCAL
      Binary(0x20, 0xff, "ignored, as is its family"),
      Binary(0x21, 0x11, Addresses4() + Tlv(0xf0, std::string(kProxyVariableBytesMax - 12 - 3, 'x'))),
  };
}

std::vector<std::string> Bad() {
  const std::string digits(kProxyLineBytesMax, '1');
  std::string flipped = WithChecksum();
  flipped.back() = 'E';
  return {
      "PROXY\r\n",
      "PROXY \r\n",
      "PROXYTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
      "PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
      "PROXY\tTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
      "PROXY tcp4 1.1.1.1 2.2.2.2 1 2\r\n",
      "PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
      "PROXY UNKNOWNS\r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r \n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
      "PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
      "PROXY TCP4 1.1.1.1 2.2.2.2 0x1 2\r\n",
      "PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
      "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
      "PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n",
      "PROXY TCP4 ::1 ::2 1 2\r\n",
      "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
      "PROXY TCP6 ::1::2 ::2 1 2\r\n",
      "PROXY TCP6 ::1%lo ::2 1 2\r\n",
      std::string("PROXY TCP4 1.1.1.1\0 2.2.2.2 1 2\r\n", 33),
      "PROXY TCP4 " + digits,
      "PROXY UNKNOWN " + digits.substr(0, kProxyLineBytesMax - 14 - 1) + "\r\n",
      "PROXY UNKNOWN " + digits.substr(0, kProxyLineBytesMax - 14) + "\r\n",
      "PROXY UNKNOWN a\rb\r\n",
      Binary(0x11, 0x11, Addresses4()),
      Binary(0x31, 0x11, Addresses4()),
      Binary(0x22, 0x11, Addresses4()),
      Binary(0x2f, 0x11, Addresses4()),
      Binary(0x21, 0x41, Addresses4()),
      Binary(0x21, 0x13, Addresses4()),
      Binary(0x21, 0x11, Addresses4().substr(1)),
      Binary(0x21, 0x21, Addresses6().substr(1)),
      Binary(0x21, 0x31, std::string(215, 'u')),
      Binary(0x21, 0x11, std::string(kProxyVariableBytesMax + 1, '\0')),
      Binary(0x20, 0x00, std::string(kProxyVariableBytesMax + 1, '\0')),
      Binary(0x21, 0x11, Addresses4() + "\x04"),
      Binary(0x21, 0x11, Addresses4() + std::string("\x04\0", 2)),
      Binary(0x21, 0x11, Addresses4() + std::string("\x04\0\x01", 3)),
      Binary(0x21, 0x11, Addresses4() + std::string("\x04\xff\xff", 3)),
      Binary(0x21, 0x11, Addresses4() + Tlv(0x03, "abcd")),
      Binary(0x21, 0x11, Addresses4() + Tlv(0x03, "abc")),
      flipped,
  };
}

struct Parsed {
  ProxyResult result = ProxyResult::kMore;
  ProxyHeader header;
  std::string detail;
  size_t needed = 0;  // bytes available when it was decided
};

Parsed Parse(std::string_view wire) {
  Parsed out;
  const char* detail = "";
  out.result = ParseProxyHeader(wire, &out.header, &detail);
  out.detail = detail;
  out.needed = wire.size();
  return out;
}

Parsed ParseByteByByte(std::string_view wire) {
  Parsed out;
  for (size_t have = 0; have <= wire.size() && out.result == ProxyResult::kMore; ++have) {
    // A copy of exactly these bytes, so that a sanitizer sees reads beyond them.
    const std::vector<char> copy(wire.begin(), wire.begin() + static_cast<std::ptrdiff_t>(have));
    out = Parse({copy.data(), copy.size()});
  }
  return out;
}

void ExpectSame(const Parsed& a, const Parsed& b, const std::string& what) {
  EXPECT_EQ(a.result, b.result) << what;
  EXPECT_EQ(a.detail, b.detail) << what;
  EXPECT_EQ(a.header.bytes, b.header.bytes) << what;
  EXPECT_EQ(a.header.has_source, b.header.has_source) << what;
  EXPECT_EQ(Text(a.header.source), Text(b.header.source)) << what;
  EXPECT_EQ(Text(a.header.destination), Text(b.header.destination)) << what;
  EXPECT_EQ(a.header.source_port, b.header.source_port) << what;
  EXPECT_EQ(a.header.destination_port, b.header.destination_port) << what;
}

TEST(ProxyHeader, IsCompleteWithItsLastByteAndNeverBefore) {
  for (const std::string& good : Good()) {
    for (const std::string_view behind : {"", "GET / HTTP/1.1\r\n\r\n", "PROXY UNKNOWN\r\n", "\n"}) {
      const Parsed whole = Parse(good + std::string(behind));
      EXPECT_EQ(whole.result, ProxyResult::kComplete) << good << ": " << whole.detail;
      EXPECT_EQ(whole.header.bytes, good.size()) << good;
      ExpectSame(ParseByteByByte(good + std::string(behind)), whole, good);
    }
    EXPECT_EQ(ParseByteByByte(good).needed, good.size()) << good;
    EXPECT_LE(good.size(), kProxyHeaderBytesMax);
  }
}

TEST(ProxyHeader, IsRefusedHoweverItArrives) {
  for (const std::string& bad : Bad()) {
    const Parsed whole = Parse(bad);
    EXPECT_EQ(whole.result, ProxyResult::kRefused) << bad;
    EXPECT_NE(whole.detail, "") << bad;
    ExpectSame(ParseByteByByte(bad), whole, bad);
  }
}

TEST(ProxyHeader, EndlessOnesAreRefusedAtTheirLimits) {
  EXPECT_EQ(ParseByteByByte("PROXY UNKNOWN " + std::string(200, 'x')).needed, kProxyLineBytesMax);
  EXPECT_EQ(ParseByteByByte(Binary(0x21, 0x11, std::string(kProxyVariableBytesMax + 1, '\0'))).needed,
            kProxyFixedBytes);
}

TEST(ProxyHeader, WhatBeginsOtherwiseIsNone) {
  for (const std::string_view other : {"GET / HTTP/1.1\r\n", "P", "PR", "PROX", "PUT / HTTP/1.1\r\n", "proxy TCP4",
                                       "\r\n", "\r\n\r\n", "\r\nGET", "\n", "\x16\x03\x01"}) {
    const bool could_be = std::string_view("PROXY").starts_with(other) || kSignature.starts_with(other);
    EXPECT_EQ(Parse(other).result, could_be ? ProxyResult::kMore : ProxyResult::kNotProxy) << other;
  }
  EXPECT_EQ(Parse("").result, ProxyResult::kMore);
  EXPECT_EQ(ParseByteByByte("\r\n\r\n\x01").result, ProxyResult::kNotProxy);
}

TEST(ProxyHeader, NamesBothEnds) {
  const Parsed line4 = Parse("PROXY TCP4 10.1.2.3 192.168.0.9 54321 443\r\n");
  ExpectSame(
      Parse(Binary(0x21, 0x11, Addresses4())),
      [&] {
        Parsed binary = line4;
        binary.header.bytes = 28;
        return binary;
      }(),
      "the same ends in both versions");
  EXPECT_TRUE(line4.header.has_source);
  EXPECT_EQ(Text(line4.header.source), "::ffff:10.1.2.3");
  EXPECT_EQ(Text(line4.header.destination), "::ffff:192.168.0.9");
  EXPECT_EQ(line4.header.source_port, 54321);
  EXPECT_EQ(line4.header.destination_port, 443);
  const Parsed binary6 = Parse(Binary(0x21, 0x21, Addresses6()));
  EXPECT_TRUE(binary6.header.has_source);
  EXPECT_EQ(Text(binary6.header.source), "2001:db8::1");
  EXPECT_EQ(Text(binary6.header.destination), "2001:db8::2");
  EXPECT_EQ(binary6.header.source_port, 54321);
  EXPECT_EQ(binary6.header.destination_port, 443);
  EXPECT_TRUE(Parse(WithChecksum()).header.has_source);
}

TEST(ProxyHeader, NamesNobodyWhereItHasNoAddresses) {
  for (const std::string& header :
       {std::string("PROXY UNKNOWN\r\n"), std::string("PROXY UNKNOWN 1.1.1.1 2.2.2.2 1 2\r\n"),
        Binary(0x20, 0x11, Addresses4()), Binary(0x21, 0x00, Addresses4()), Binary(0x21, 0x12, Addresses4()),
        Binary(0x21, 0x22, Addresses6()), Binary(0x21, 0x31, std::string(216, 'u'))}) {
    const Parsed parsed = Parse(header);
    EXPECT_EQ(parsed.result, ProxyResult::kComplete) << header;
    EXPECT_FALSE(parsed.header.has_source) << header;
    EXPECT_EQ(Text(parsed.header.source), "::") << header;
  }
}

// The check value of CRC-32C (RFC 3720, section B.4: 32 bytes of zeros) confirms the test's own sum.
TEST(ProxyHeader, ChecksumIsCastagnolis) { EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau); }

}  // namespace
}  // namespace gateway::dataplane
