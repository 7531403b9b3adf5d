// Requests that two parsers might read differently are rejected with a response and a closed connection, and no part
// of them reaches a service (RFC 9112, section 11.2).
#include <ostream>
#include <string>

#include "common/base/text.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

struct Refused {
  const char* name;
  std::string bytes;
  int status;
};
void PrintTo(const Refused& refused, std::ostream* os) { *os << refused.name; }

// One gateway for all tests: starting one takes longer than a test.
class Framing : public ::testing::TestWithParam<Refused> {
 protected:
  static void SetUpTestSuite() {
    upstream_ = new ScriptedUpstream(Echo());
    DataPlane::Options options;
    options.policy = ServicePolicyYaml({upstream_->address()});
    gateway_ = new DataPlane(std::move(options));
  }
  static void TearDownTestSuite() {
    delete gateway_;
    delete upstream_;
    gateway_ = nullptr;
    upstream_ = nullptr;
  }
  static ScriptedUpstream* upstream_;
  static DataPlane* gateway_;
};
ScriptedUpstream* Framing::upstream_ = nullptr;
DataPlane* Framing::gateway_ = nullptr;

TEST_P(Framing, IsRefusedAndTheConnectionEnds) {
  const int before = upstream_->request_count();
  RawClient client(gateway_->port());
  // A request follows that must never be served.
  ASSERT_TRUE(client.Send(GetParam().bytes + "GET /svc/smuggled HTTP/1.1\r\nHost: a\r\n\r\n").ok());
  const auto response = client.ReadResponse();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(response->status, GetParam().status) << response->body;
  EXPECT_EQ(response->Field("Connection"), "close");
  EXPECT_TRUE(nlohmann::json::parse(response->body).contains("reason"));
  EXPECT_EQ(client.WaitForEnd(), PeerEnd::kFin);
  EXPECT_EQ(client.buffered(), "");
  for (const auto& request : upstream_->requests()) EXPECT_NE(request.target, "/svc/smuggled");
  // The beginning of a body that turns out invalid may have been forwarded; a complete request never is.
  EXPECT_LE(upstream_->request_count(), before + 1);
}

std::string Post(const std::string& fields, const std::string& rest) {
  return "POST /svc HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + rest;
}
std::string GetWith(const std::string& fields) { return "GET /svc HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n"; }

INSTANTIATE_TEST_SUITE_P(
    Requests, Framing,
    ::testing::Values(
        Refused{"LengthSigned", Post("Content-Length: +3\r\n", "abc"), 400},
        Refused{"LengthNegative", Post("Content-Length: -3\r\n", "abc"), 400},
        Refused{"LengthHex", Post("Content-Length: 0x3\r\n", "abc"), 400},
        Refused{"LengthOverflow", Post("Content-Length: 18446744073709551617\r\n", "abc"), 400},
        Refused{"LengthList", Post("Content-Length: 3, 4\r\n", "abc"), 400},
        Refused{"LengthTwice", Post("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"), 400},
        Refused{"LengthEmpty", Post("Content-Length: \r\n", "abc"), 400},
        Refused{"LengthAndCoding", Post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
        Refused{"CodingAndLength", Post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"), 400},
        Refused{"CodingTwice", Post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
        Refused{"CodingUnknown", Post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 400},
        Refused{"CodingNotLast", Post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 400},
        Refused{"CodingOther", Post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501},
        Refused{"CodingInOldVersion", "POST /svc HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        Refused{"ChunkSizeSigned", Post("Transfer-Encoding: chunked\r\n", "+3\r\nabc\r\n0\r\n\r\n"), 400},
        Refused{"ChunkSizePrefixed", Post("Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"), 400},
        Refused{"ChunkSizeSpace", Post("Transfer-Encoding: chunked\r\n", "3 \r\nabc\r\n0\r\n\r\n"), 400},
        Refused{"ChunkSizeHuge", Post("Transfer-Encoding: chunked\r\n", "11111111111111111\r\nabc\r\n0\r\n\r\n"), 400},
        Refused{"ChunkSizeBareLf", Post("Transfer-Encoding: chunked\r\n", "3\nabc\r\n0\r\n\r\n"), 400},
        Refused{"ChunkTooLong", Post("Transfer-Encoding: chunked\r\n", "3\r\nabcd\r\n0\r\n\r\n"), 400},
        Refused{"ChunkBareLf", Post("Transfer-Encoding: chunked\r\n", "3\r\nabc\n0\r\n\r\n"), 400},
        Refused{"TrailerForbidden", Post("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length: 3\r\n\r\n"), 400},
        Refused{"TrailerFolded", Post("Transfer-Encoding: chunked\r\n", "0\r\nA: b\r\n c\r\n\r\n"), 400},
        Refused{"SpaceBeforeColon", GetWith("X : 1\r\n"), 400}, Refused{"FoldedLine", GetWith("X: 1\r\n 2\r\n"), 400},
        Refused{"NameNoToken", GetWith("X(: 1\r\n"), 400}, Refused{"NameEmpty", GetWith(": 1\r\n"), 400},
        Refused{"Nul", GetWith(std::string("X: a\0b\r\n", 8)), 400}, Refused{"Control", GetWith("X: a\x01" "b\r\n"), 400},
        Refused{"BareCr", GetWith("X: a\rb\r\n"), 400}, Refused{"BareLf", "GET /svc HTTP/1.1\nHost: a\n\n", 400},
        Refused{"NoHost", "GET /svc HTTP/1.1\r\n\r\n", 400}, Refused{"TwoHosts", GetWith("Host: b\r\n"), 400},
        Refused{"HostInvalid", "GET /svc HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
        Refused{"HostUserinfo", "GET /svc HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
        Refused{"HostBadPort", "GET /svc HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400},
        Refused{"AbsoluteWithoutHost", "GET http://a/svc HTTP/1.1\r\n\r\n", 400},
        Refused{"Asterisk", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        Refused{"Fragment", "GET /svc#x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        Refused{"NoTarget", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        Refused{"TwoSpaces", "GET  /svc HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        Refused{"VersionTwo", "GET /svc HTTP/2.0\r\nHost: a\r\n\r\n", 505},
        Refused{"VersionLower", "GET /svc http/1.1\r\nHost: a\r\n\r\n", 400},
        Refused{"NoVersion", "GET /svc\r\n\r\n", 400}, Refused{"Expectation", GetWith("Expect: magic\r\n"), 417},
        Refused{"LongTarget", "GET /svc/" + std::string(20'000, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
        Refused{"LongHead", GetWith("X: " + std::string(70'000, 'a') + "\r\n"), 431},
        Refused{"ManyFields", [] {
                  std::string fields;
                  for (int i = 0; i < 300; ++i) Append(&fields, "X", i, ": 1\r\n");
                  return GetWith(fields);
                }(), 431},
        Refused{"Connect", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405},
        Refused{"Trace", "TRACE /svc HTTP/1.1\r\nHost: a\r\n\r\n", 405}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(Framing, ServesWhatIsUnusualButRight) {
  RawClient client(gateway_->port());
  const auto target = [&](const std::string& bytes) -> std::string {
    if (!client.Send(bytes).ok()) return "not sent";
    const auto response = client.ReadResponse();
    if (!response.ok()) return response.status().ToString();
    if (response->status != 200) return Concat(response->status, " ", response->body);
    return nlohmann::json::parse(response->body)["target"];
  };
  EXPECT_EQ(target("\r\nGET /svc/1 HTTP/1.1\r\nHost: a\r\n\r\n"), "/svc/1");  // one empty line is allowed
  EXPECT_EQ(target("GET http://b.example/svc/2?x HTTP/1.1\r\nHost: a\r\n\r\n"), "/svc/2?x");
  EXPECT_EQ(target("GET /svc/" + std::string(7'900, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n"),
            "/svc/" + std::string(7'900, 'a'));
  EXPECT_EQ(target("GET /x/../svc/%41%2f%7e//b?%2e%2e HTTP/1.1\r\nHost: a\r\n\r\n"), "/svc/A%2F~/b?%2e%2e");
  EXPECT_EQ(target("GET /svc/3 HTTP/1.1\r\nhOsT:\ta\t\r\n\r\n"), "/svc/3");
}

TEST_F(Framing, PathsThatReadDifferentlyAreRefused) {
  for (const char* path :
       {"/../svc", "/svc/..%2Fsecret", "/svc/%2e%2e%5csecret", "/svc/%00", "/svc/%zz", "/svc\\..\\x"}) {
    const auto response = Fetch(gateway_->port(), "GET", path);
    ASSERT_TRUE(response.ok()) << path << response.status();
    EXPECT_EQ(response->status, 400) << path;
  }
}

}  // namespace
}  // namespace gateway::fixtures
