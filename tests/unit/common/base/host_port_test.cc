#include "common/base/host_port.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace gateway {
namespace {

TEST(ParseHostPort, TakesNamesAndAddresses) {
  struct Case {
    const char *text, *host;
    int port;
  };
  for (const Case& c : {Case{"10.0.0.7:8080", "10.0.0.7", 8080},
                        {"[::1]:80", "::1", 80},
                        {"[2001:db8::1]:0", "2001:db8::1", 0},
                        {"host.example:65535", "host.example", 65535},
                        {"my_service-1:1", "my_service-1", 1},
                        {"localhost:8500", "localhost", 8500},
                        {"3com.example:1", "3com.example", 1}}) {
    absl::StatusOr<HostPort> parsed = ParseHostPort(c.text);
    ASSERT_TRUE(parsed.ok()) << c.text << parsed.status();
    EXPECT_EQ(parsed->host, c.host);
    EXPECT_EQ(parsed->port, c.port);
  }
  EXPECT_FALSE(ParseHostPort(":80").ok());
  EXPECT_EQ(ParseHostPort(":80", true)->host, "");
}

TEST(ParseHostPort, RefusesEverythingElse) {
  for (const char* text : {"",
                           "host",
                           "host:",
                           "host:x",
                           "host:65536",
                           "host:-1",
                           "host:+1",
                           "host: 1",
                           "host:000080",
                           "::1:80",
                           "[::1]",
                           "[::1",
                           "[]:80",
                           "[1.2.3.4]:80",
                           "[fe80::1%eth0]:1",
                           "10.0.0.256:80",
                           "1.2.3:80",
                           "a b:80",
                           "http://host:80",
                           "a..b:80",
                           ".a:80",
                           "a/b:80",
                           "[::1]x:80",
                           "h\xc3\xa9:80"}) {
    EXPECT_FALSE(ParseHostPort(text).ok()) << text;
  }
  EXPECT_FALSE(ParseHostPort(std::string(254, 'a') + ":1").ok());
  EXPECT_FALSE(ParseHostPort(std::string(64, 'a') + ":1").ok());
  EXPECT_FALSE(ParseHostPort("", true).ok());
}

}  // namespace
}  // namespace gateway
