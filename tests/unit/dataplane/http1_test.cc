// Heads and bodies of HTTP/1.1, taken apart whole and in pieces of every size.
#include <random>
#include <string>
#include <string_view>

#include "common/text.h"
#include "dataplane/http1/body.h"
#include "dataplane/http1/head.h"
#include "gtest/gtest.h"

namespace gateway::dataplane::http1 {
namespace {

struct Decoded {
  std::string payload;
  size_t consumed = 0;
  bool done = false;
  bool refused = false;
};

// Decodes `wire` in pieces of `piece` bytes.
Decoded Decode(BodyDecoder decoder, std::string wire, size_t piece) {
  Decoded out;
  while (out.consumed < wire.size() && !decoder.done() && !out.refused) {
    std::string part = wire.substr(out.consumed, piece);
    const auto result = decoder.Decode(part.data(), part.size());
    out.payload.append(part, 0, result.payload);
    out.consumed += result.consumed;
    out.refused = result.refused;
  }
  out.done = decoder.done();
  return out;
}

TEST(BodyDecoder, TakesChunksApartHoweverTheyArrive) {
  const std::string wire = "5;name=value\r\nhello\r\n00000a\r\n, the worl\r\n1\r\nd\r\n0\r\nX-Trailer: a\r\n\r\nNEXT";
  for (size_t piece = 1; piece <= wire.size(); ++piece) {
    const Decoded out = Decode(BodyDecoder::Chunked(), wire, piece);
    EXPECT_EQ(out.payload, "hello, the world") << piece;
    EXPECT_TRUE(out.done) << piece;
    EXPECT_FALSE(out.refused) << piece;
    EXPECT_EQ(out.consumed, wire.size() - 4) << piece;
  }
}

TEST(BodyDecoder, EncodedChunksDecodeToTheSame) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(Concat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::string body;
    std::string wire;
    for (int chunk = static_cast<int>(random() % 5); chunk >= 0; --chunk) {
      std::string part(1 + random() % 3000, '\0');
      for (char& c : part) c = static_cast<char>(random());
      std::array<char, 20> room;
      Append(&wire, ChunkHead(part.size(), &room), part, kChunkEnd);
      body += part;
    }
    wire += kLastChunk;
    const Decoded out = Decode(BodyDecoder::Chunked(), wire, 1 + random() % 4000);
    ASSERT_EQ(out.payload == body, true);
    ASSERT_TRUE(out.done);
    ASSERT_EQ(out.consumed, wire.size());
  }
}

TEST(BodyDecoder, NeverReadsBeyondALength) {
  for (size_t piece = 1; piece <= 12; ++piece) {
    const Decoded out = Decode(BodyDecoder::Length(5), "helloGET /", piece);
    EXPECT_EQ(out.payload, "hello");
    EXPECT_TRUE(out.done);
    EXPECT_EQ(out.consumed, 5u);
  }
  EXPECT_EQ(BodyDecoder::Length(5).ReadableBytes(), 5u);
  EXPECT_TRUE(BodyDecoder::Length(0).done());
}

TEST(BodyDecoder, BoundsExtensionsAndTrailers) {
  const std::string endless(BodyDecoder::kExtensionBytesMax + 1, 'e');
  EXPECT_TRUE(Decode(BodyDecoder::Chunked(), "1;" + endless, 1000).refused);
  // Over all chunks of a message, not for each.
  std::string many;
  for (int i = 0; i < 20; ++i) Append(&many, "1;", std::string(1000, 'e'), "\r\nx\r\n");
  EXPECT_TRUE(Decode(BodyDecoder::Chunked(), many, 1000).refused);
  EXPECT_TRUE(
      Decode(BodyDecoder::Chunked(), "0\r\nA: " + std::string(BodyDecoder::kTrailerBytesMax, 'a'), 1000).refused);
}

TEST(HeadScanner, FindsTheEndHoweverTheHeadArrives) {
  const std::string head = "GET / HTTP/1.1\r\nHost: a\r\nX: \tb\xc3\xa4\r\n\r\n";
  const std::string wire = head + "rest\r\n\r\n";
  for (size_t piece = 1; piece <= wire.size(); ++piece) {
    HeadScanner scanner;
    auto result = HeadScanner::Result::kMore;
    for (size_t have = piece; result == HeadScanner::Result::kMore; have += piece) {
      ASSERT_LE(have, wire.size() + piece);
      result = scanner.Scan(wire.data(), std::min(have, wire.size()));
    }
    EXPECT_EQ(result, HeadScanner::Result::kComplete) << piece;
    EXPECT_EQ(scanner.head_bytes(), head.size()) << piece;
  }
}

TEST(HeadScanner, RefusesWhatIsReadDifferentlyHoweverItArrives) {
  for (const std::string& bad :
       {std::string("GET / HTTP/1.1\nHost: a\r\n\r\n"), std::string("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n"), std::string("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 25),
        std::string("GET / HTTP/1.1\r\nA: \x7f\r\n\r\n"), std::string("\tGET / HTTP/1.1\r\n\tA: b\r\n\r\n")}) {
    for (size_t piece = 1; piece <= bad.size(); ++piece) {
      HeadScanner scanner;
      auto result = HeadScanner::Result::kMore;
      for (size_t have = piece; result == HeadScanner::Result::kMore && have < bad.size() + piece; have += piece) {
        result = scanner.Scan(bad.data(), std::min(have, bad.size()));
      }
      EXPECT_EQ(result, HeadScanner::Result::kRefused) << bad << " in pieces of " << piece;
    }
  }
}

TEST(ParseRequestHead, TakesAHeadApart) {
  RequestHead head;
  const std::string text =
      "POST /a/b?c=d HTTP/1.1\r\nHost: api.example:8080\r\nContent-Length: 12\r\nConnection: close, X-Y\r\n\r\n";
  ASSERT_FALSE(ParseRequestHead(text, &head));
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.path, "/a/b");
  EXPECT_EQ(head.query, "c=d");
  EXPECT_TRUE(head.has_query);
  EXPECT_EQ(head.host, "api.example:8080");
  EXPECT_EQ(head.length, 12u);
  EXPECT_FALSE(head.Persistent());
  EXPECT_TRUE(head.Nominates("x-y"));
  EXPECT_FALSE(head.Nominates("close"));
}

TEST(ParseRequestHead, AbsoluteFormReplacesHost) {
  RequestHead head;
  ASSERT_FALSE(ParseRequestHead("GET http://b.example HTTP/1.1\r\nHost: a\r\n\r\n", &head));
  EXPECT_EQ(head.host, "b.example");
  EXPECT_EQ(head.path, "/");
  RequestHead query;
  ASSERT_FALSE(ParseRequestHead("GET http://b.example?x HTTP/1.1\r\nHost: a\r\n\r\n", &query));
  EXPECT_EQ(query.path, "/");
  EXPECT_EQ(query.query, "x");
}

TEST(ParseRequestHead, ExpectationsNeedABodyAndHttp11) {
  RequestHead without;
  ASSERT_FALSE(ParseRequestHead("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", &without));
  EXPECT_FALSE(without.expect_continue);
  RequestHead old;
  ASSERT_FALSE(ParseRequestHead("POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", &old));
  EXPECT_FALSE(old.expect_continue);
}

TEST(ParseResponseHead, TakesAHeadApart) {
  ResponseHead head;
  ASSERT_FALSE(
      ParseResponseHead("HTTP/1.0 404 Not Here\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", &head));
  EXPECT_EQ(head.status, 404);
  EXPECT_EQ(head.phrase, "Not Here");
  EXPECT_EQ(head.length, 3u);
  EXPECT_TRUE(head.Persistent());
  ResponseHead empty;
  EXPECT_FALSE(ParseResponseHead("HTTP/1.1 200 \r\n\r\n", &empty));
}

TEST(ClassifyField, KnowsNamesInAnyCaseAndTheirLookalikes) {
  EXPECT_EQ(ClassifyField("hOST"), FieldKind::kHost);
  EXPECT_EQ(ClassifyField("X-Forwarded-For"), FieldKind::kForwardedFor);
  EXPECT_EQ(ClassifyField("X_Forwarded-For"), FieldKind::kLookalike);
  EXPECT_EQ(ClassifyField("content_length"), FieldKind::kLookalike);
  EXPECT_EQ(ClassifyField("Proxy-Anything"), FieldKind::kHopByHop);
  EXPECT_EQ(ClassifyField("x-gateway-reason"), FieldKind::kGateway);
  EXPECT_EQ(ClassifyField("my_own_field"), FieldKind::kOther);
  EXPECT_EQ(ClassifyField("hostx"), FieldKind::kOther);
}

TEST(IsValidHost, AcceptsHostsAndNothingElse) {
  for (const char* good : {"a", "api.example.com", "a:80", "10.0.0.1:8080", "[::1]", "[::1]:80", "a_b", "a."})
    EXPECT_TRUE(IsValidHost(good)) << good;
  for (const char* bad : {"", ":80", "u@a", "a/b", "a:99999", "a:8x", "[::1", "[]", "[::1]x", "a b", "a,b", "a?b"}) {
    EXPECT_FALSE(IsValidHost(bad)) << bad;
  }
}

}  // namespace
}  // namespace gateway::dataplane::http1
