// Response headers, and which connections can be reused.
#include "dataplane/http/http1/response_reader.h"

#include <string>
#include <string_view>

#include "common/base/text.h"
#include "gtest/gtest.h"

namespace gateway::dataplane::http1 {
namespace {

using Result = ResponseReader::Result;

ResponseHead Parsed(std::string_view fields, int status = 200) {
  static std::string text;  // the parsed header points into it
  text = Concat("HTTP/1.1 ", status, " x\r\n", fields, "\r\n");
  ResponseHead head;
  EXPECT_FALSE(ParseResponseHead(text, &head));
  return head;
}

// Feeds `interim` repeatedly, more than `bytes` in total. Returns the number of headers accepted.
size_t InterimHeadsAccepted(const std::string& interim, size_t bytes, ResponseReader* reader) {
  ResponseHead head;
  size_t accepted = 0;
  for (size_t fed = 0; fed < bytes; fed += interim.size(), ++accepted) {
    if (reader->Read(interim.data(), interim.size(), &head) != Result::kInterim) break;
  }
  return accepted;
}

TEST(ResponseReader, PassesManySmallInterimResponses) {
  const std::string hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
  ResponseReader reader;
  EXPECT_EQ(InterimHeadsAccepted(hint, 100 * hint.size(), &reader), 100u);
  const std::string last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
  ResponseHead head;
  for (size_t size = 0; size < last.size(); ++size) ASSERT_EQ(reader.Read(last.data(), size, &head), Result::kMore);
  EXPECT_EQ(reader.Read(last.data(), last.size(), &head), Result::kFinal);
  EXPECT_EQ(reader.head_bytes(), last.size());
  EXPECT_EQ(head.status, 200);
}

TEST(ResponseReader, RejectsInterimResponsesWithoutEnd) {
  const std::string hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
  ResponseReader reader;
  EXPECT_EQ(InterimHeadsAccepted(hint, 2 * ResponseReader::kInterimBytesMax, &reader),
            ResponseReader::kInterimBytesMax / hint.size());
  EXPECT_STREQ(reader.detail(), "too many bytes of interim responses");
}

TEST(MayReuseConnection, NotWhereABodyIsAnnouncedThatMustNotCome) {
  EXPECT_FALSE(MayReuseConnection(Parsed("Content-Length: 5\r\n"), true));
  EXPECT_FALSE(MayReuseConnection(Parsed("Transfer-Encoding: chunked\r\n"), true));
  EXPECT_FALSE(MayReuseConnection(Parsed("Content-Length: 5\r\n", 304), false));
  EXPECT_TRUE(MayReuseConnection(Parsed("Content-Length: 0\r\n"), true));
  EXPECT_TRUE(MayReuseConnection(Parsed("", 204), false));
}

TEST(MayReuseConnection, OnlyWhereTheEndOfTheBodyIsKnown) {
  EXPECT_TRUE(MayReuseConnection(Parsed("Content-Length: 5\r\n"), false));
  EXPECT_TRUE(MayReuseConnection(Parsed("Transfer-Encoding: chunked\r\n"), false));
  EXPECT_FALSE(MayReuseConnection(Parsed(""), false));
  EXPECT_FALSE(MayReuseConnection(Parsed("Content-Length: 5\r\nConnection: close\r\n"), false));
}

}  // namespace
}  // namespace gateway::dataplane::http1
