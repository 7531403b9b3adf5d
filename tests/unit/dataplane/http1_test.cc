// HTTP/1.1 headers and bodies, parsed whole and in pieces of every size.
#include <charconv>
#include <optional>
#include <random>
#include <string>
#include <string_view>

#include "common/base/text.h"
#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"
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

// Recodes `wire` in pieces of random size, after decoding the first `decoded` of them and chunking them again.
std::string Recode(const std::string& wire, size_t piece_max, int decoded, std::mt19937_64* random) {
  BodyDecoder decoder = BodyDecoder::Chunked();
  std::string out;
  for (size_t at = 0; at < wire.size() && !decoder.done();) {
    std::string part = wire.substr(at, 1 + (*random)() % piece_max);
    const bool recodes = --decoded < 0;
    const auto result = recodes ? decoder.Recode(part.data(), part.size()) : decoder.Decode(part.data(), part.size());
    EXPECT_FALSE(result.refused) << decoder.detail();
    at += result.consumed;
    std::array<char, 20> room;
    if (!recodes && !result.kept.empty()) {
      Append(&out, ChunkHead(result.kept.size(), &room), result.kept, kChunkEnd);
    } else {
      Append(&out, result.before, result.kept, result.after);
    }
    if (!recodes && decoder.done()) out += kLastChunk;
  }
  EXPECT_TRUE(decoder.done());
  return out;
}

// The payload of chunks exactly as an encoder writes them; nullopt if they are not.
std::optional<std::string> PlainPayload(std::string_view wire) {
  std::string payload;
  while (wire != kLastChunk) {
    uint64_t size = 0;
    const auto [end, error] = std::from_chars(wire.data(), wire.data() + wire.size(), size, 16);
    std::array<char, 20> room;
    if (error != std::errc() || size == 0 || size > BodyDecoder::kKeptChunkBytesMax) return std::nullopt;
    const std::string_view head = ChunkHead(size, &room);
    if (!wire.starts_with(head) || wire.size() < head.size() + size + 2) return std::nullopt;
    payload += wire.substr(head.size(), size);
    if (wire.substr(head.size() + size, 2) != "\r\n") return std::nullopt;
    wire.remove_prefix(head.size() + size + 2);
  }
  return payload;
}

TEST(BodyDecoder, RecodedChunksAreAsAnEncoderWritesThem) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(Concat("seed ", seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::string body;
    std::string wire;
    const size_t chunk_max = round % 2 == 0 ? 8 : 3000;
    for (int chunk = static_cast<int>(random() % 6); chunk > 0; --chunk) {
      std::string part(1 + random() % chunk_max, '\0');
      for (char& c : part) c = static_cast<char>(random());
      std::array<char, 20> room;
      std::string_view head = ChunkHead(part.size(), &room);
      head.remove_suffix(2);
      Append(&wire, random() % 3 == 0 ? "000" : "", head, random() % 3 == 0 ? ";a=\"b\"" : "", "\r\n", part, "\r\n");
      body += part;
    }
    Append(&wire, random() % 2 == 0 ? "0" : "000;last", "\r\n", random() % 2 == 0 ? "X-Trailer: a\r\n" : "", "\r\n");
    const size_t piece_max = 1 + random() % (round % 3 == 0 ? 9 : 4000);
    ASSERT_EQ(PlainPayload(Recode(wire, piece_max, static_cast<int>(random() % 4), &random)), body);
  }
}

TEST(BodyDecoder, RecodingLeavesWhatIsPlainWhereItIs) {
  std::string wire = "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
  const std::string before = wire;
  BodyDecoder decoder = BodyDecoder::Chunked();
  const auto result = decoder.Recode(wire.data(), wire.size());
  EXPECT_EQ(result.kept.data(), wire.data());
  EXPECT_EQ(result.kept, before.substr(0, before.size() - kLastChunk.size()));
  EXPECT_EQ(result.after, kLastChunk);
  EXPECT_EQ(result.payload, 21u);
  EXPECT_EQ(wire, before);
}

TEST(BodyDecoder, CutsChunksThatAreTooLargeForSomebody) {
  std::mt19937_64 random(1);
  const std::string body(BodyDecoder::kKeptChunkBytesMax + 3'000'000, 'x');
  std::array<char, 20> room;
  const std::string wire = Concat(ChunkHead(body.size(), &room), body, "\r\n1\r\ny\r\n", kLastChunk);
  EXPECT_EQ(PlainPayload(Recode(wire, 500'000, 0, &random)) == body + "y", true);
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
  // The limit covers all chunks of a message, not each.
  std::string many;
  for (int i = 0; i < 20; ++i) Append(&many, "1;", std::string(1000, 'e'), "\r\nx\r\n");
  EXPECT_TRUE(Decode(BodyDecoder::Chunked(), many, 1000).refused);
  EXPECT_TRUE(
      Decode(BodyDecoder::Chunked(), "0\r\nA: " + std::string(BodyDecoder::kTrailerBytesMax, 'a'), 1000).refused);
}

TEST(BodyDecoder, ReadsExtensionsStrictly) {
  for (const std::string good : {"", ";a", ";a=b", ";a;b", "; a = b ; c", R"(;a="b;c")", R"(;a="\"";b)", "; a\t;b",
                                 R"(;a="")", ";a=\"\xc3\xa4\""}) {
    for (size_t piece = 1; piece < 8; ++piece) {
      EXPECT_EQ(Decode(BodyDecoder::Chunked(), "1" + good + "\r\nx\r\n0" + good + "\r\n\r\n", piece).payload, "x")
          << good;
      EXPECT_TRUE(Decode(BodyDecoder::Chunked(), "0" + good + "\r\n\r\n", piece).done) << good;
    }
  }
  for (const std::string bad : {";", ";;a", ";a;", ";=b", ";a=", ";a b", ";a=b c", ";a ", ";a=b ", R"(;a="b)",
                                R"(;a="b\")", R"(;a="b"c)", " ;a", ";a\x01", ";a=(", ";\xc3", ";a=\"\x7f\""}) {
    for (size_t piece = 1; piece < 8; ++piece) {
      EXPECT_TRUE(Decode(BodyDecoder::Chunked(), "1" + bad + "\r\nx\r\n0\r\n\r\n", piece).refused) << bad;
    }
  }
}

TEST(BodyDecoder, RefusesSizesThatAreNegativeToSomebody) {
  EXPECT_FALSE(Decode(BodyDecoder::Chunked(), "7fffffffffffffff\r\nx", 1).refused);
  for (const char* bad : {"8000000000000000\r\nx", "FFFFFFFFFFFFFFFF\r\nx", "00000000000000001\r\nx"}) {
    EXPECT_TRUE(Decode(BodyDecoder::Chunked(), bad, 1).refused) << bad;
  }
}

TEST(BodyDecoder, RefusesTrailersThatDecideHowAMessageIsRead) {
  for (const char* name : {"Content-Length", "transfer-encoding", "Host", "TE", "Keep-Alive", "Proxy-Connection",
                           "Content_Length", "X-Forwarded-For", "Forwarded", "Set-Cookie"}) {
    EXPECT_TRUE(Decode(BodyDecoder::Chunked(), Concat("0\r\n", name, ": 1\r\n\r\n"), 100).refused) << name;
  }
  for (const char* name : {"X-Checksum", "Server-Timing", "grpc-status"}) {
    EXPECT_TRUE(Decode(BodyDecoder::Chunked(), Concat("0\r\n", name, ": 1\r\n\r\n"), 100).done) << name;
  }
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

TEST(HeadScanner, RefusesOtherProtocolsWithTheirFirstLine) {
  const auto scan = [](std::string_view line) {
    HeadScanner scanner;
    return scanner.Scan(line.data(), line.size());
  };
  for (const char* line :
       {"GET / HTTP/1.1\r\n", "GET / HTTP/2.0\r\n", "HTTP/1.1 200\r\n", "HTTP/1.0 404 Not Here\r\n"}) {
    EXPECT_EQ(scan(line), HeadScanner::Result::kMore) << line;
  }
  for (const char* line :
       {"GET /\r\n", "GET / http/1.1\r\n", "GET / HTTP/1.1 \r\n", "HELO a\r\n", "SSH-2.0-x\r\n", "HTTP\r\n"}) {
    EXPECT_EQ(scan(line), HeadScanner::Result::kRefused) << line;
    EXPECT_EQ(scan(std::string_view(line).substr(0, std::string_view(line).size() - 1)), HeadScanner::Result::kMore);
  }
  EXPECT_EQ(scan("\r\n"), HeadScanner::Result::kComplete);
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
  EXPECT_EQ(head.authority, "api.example:8080");
  EXPECT_EQ(head.length, 12u);
  EXPECT_FALSE(head.Persistent());
  EXPECT_EQ(head.framing.nominated.size(), 1u);
  EXPECT_TRUE(head.has_body);
}

TEST(ParseRequestHead, AbsoluteFormReplacesHost) {
  RequestHead head;
  ASSERT_FALSE(ParseRequestHead("GET http://b.example HTTP/1.1\r\nHost: a\r\n\r\n", &head));
  EXPECT_EQ(head.authority, "b.example");
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

TEST(ParseRequestHead, OptionsOfABareAuthorityIsForTheServer) {
  RequestHead head;
  ASSERT_FALSE(ParseRequestHead("OPTIONS http://b.example HTTP/1.1\r\nHost: a\r\n\r\n", &head));
  EXPECT_EQ(head.path, "*");
  EXPECT_EQ(head.authority, "b.example");
  RequestHead with_query;
  ASSERT_FALSE(ParseRequestHead("OPTIONS http://b.example?x HTTP/1.1\r\nHost: a\r\n\r\n", &with_query));
  EXPECT_EQ(with_query.path, "/");
  RequestHead get;
  ASSERT_FALSE(ParseRequestHead("GET http://b.example HTTP/1.1\r\nHost: a\r\n\r\n", &get));
  EXPECT_EQ(get.path, "/");
}

TEST(ParseRequestHead, ExpectationsAreAList) {
  for (const char* known : {"100-continue", "100-Continue", "100-continue, 100-continue", "100-continue,"}) {
    RequestHead head;
    EXPECT_FALSE(ParseRequestHead(
        Concat("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: ", known, "\r\n\r\n"), &head))
        << known;
    EXPECT_TRUE(head.expect_continue) << known;
  }
  RequestHead none;
  EXPECT_FALSE(ParseRequestHead("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect:\r\n\r\n", &none));
  EXPECT_FALSE(none.expect_continue);
  for (const char* unknown : {"100-continue, foo", "foo,100-continue", "100-continue foo", "100"}) {
    RequestHead head;
    EXPECT_EQ(ParseRequestHead(
                  Concat("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: ", unknown, "\r\n\r\n"), &head)
                  .reason,
              Reason::kExpectationFailed)
        << unknown;
  }
}

TEST(ParseRequestHead, ReadsLaterMinorVersionsAsTheOneItKnows) {
  for (const char* version : {"1.2", "1.9"}) {
    const std::string text =
        Concat("PUT /a?b HTTP/", version, "\r\nHost: c\r\nX-Y: z\r\nContent-Length: 3\r\nConnection: close\r\n\r\n");
    RequestHead head;
    ASSERT_FALSE(ParseRequestHead(text, &head)) << version;
    EXPECT_EQ(head.version, http::Version::kHttp11);
    EXPECT_EQ(head.method, "PUT");
    EXPECT_EQ(head.target, "/a?b");
    EXPECT_EQ(head.path, "/a");
    EXPECT_EQ(head.authority, "c");
    EXPECT_EQ(head.length, 3u);
    EXPECT_EQ(head.fields.size(), 4u);
    EXPECT_TRUE(head.framing.close);
    EXPECT_EQ(head.bytes, text.size());
    // Views into the header itself.
    EXPECT_EQ(head.method.data(), text.data());
    EXPECT_EQ(head.target.data(), text.data() + 4);
  }
  RequestHead old;
  EXPECT_EQ(ParseRequestHead("GET / HTTP/2.0\r\nHost: a\r\n\r\n", &old).reason, Reason::kHttpVersion);
  for (const char* bad : {"GET / HTTP/1.10", "GET / HTTP/1.", "GET / HTTP/1.x", "GET /  HTTP/1.2", "GET HTTP/1.2",
                          "GET /\xff\x01 HTTP/1.2", " HTTP/1.2", "GET / HTTP/01.2", "GET / HTTP/1.2 "}) {
    RequestHead head;
    EXPECT_EQ(ParseRequestHead(Concat(bad, "\r\nHost: a\r\n\r\n"), &head).reason, Reason::kBadRequest) << bad;
  }
  RequestHead no_host;
  EXPECT_EQ(ParseRequestHead("GET / HTTP/1.2\r\n\r\n", &no_host).reason, Reason::kBadRequest);
}

TEST(ParseRequestHead, RefusesLengthsThatAreNegativeToSomebody) {
  RequestHead most;
  EXPECT_FALSE(ParseRequestHead("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n", &most));
  RequestHead more;
  EXPECT_TRUE(ParseRequestHead("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", &more));
}

TEST(ParseRequestHead, BoundsMethods) {
  RequestHead known;
  EXPECT_FALSE(ParseRequestHead(Concat(std::string(kMethodBytesMax, 'M'), " / HTTP/1.1\r\nHost: a\r\n\r\n"), &known));
  RequestHead endless;
  EXPECT_EQ(ParseRequestHead(Concat(std::string(kMethodBytesMax + 1, 'M'), " / HTTP/1.1\r\nHost: a\r\n\r\n"), &endless)
                .reason,
            Reason::kNotImplemented);
}

TEST(ParseRequestHead, RefusesAKnownMethodInLowerCase) {
  for (const char* method : {"get", "Get", "heaD", "options", "propfind", "m-search", "trace", "connect"}) {
    RequestHead head;
    EXPECT_EQ(ParseRequestHead(Concat(method, " / HTTP/1.1\r\nHost: a\r\n\r\n"), &head).reason, Reason::kBadRequest)
        << method;
  }
  for (const char* method : {"GET", "PROPFIND", "PURGE", "MINE", "mine", "gets"}) {
    RequestHead head;
    EXPECT_FALSE(ParseRequestHead(Concat(method, " / HTTP/1.1\r\nHost: a\r\n\r\n"), &head)) << method;
  }
}

TEST(ParseResponseHead, ReadsAStatusLineThatEndsBehindItsCode) {
  const std::string text = "HTTP/1.1 200\r\nContent-Length: 3\r\n\r\n";
  ResponseHead head;
  ASSERT_FALSE(ParseResponseHead(text, &head));
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.phrase, "");
  EXPECT_EQ(head.length, 3u);
  EXPECT_EQ(head.fields.size(), 1u);
  EXPECT_EQ(head.bytes, text.size());
  ResponseHead later;
  ASSERT_FALSE(ParseResponseHead("HTTP/1.3 404 Not Here\r\n\r\n", &later));
  EXPECT_EQ(later.phrase, "Not Here");
  EXPECT_EQ(later.version, http::Version::kHttp11);
  ResponseHead old;
  ASSERT_FALSE(ParseResponseHead("HTTP/1.0 204\r\n\r\n", &old));
  EXPECT_EQ(old.version, http::Version::kHttp10);
  for (const char* bad :
       {"HTTP/1.1 20", "HTTP/1.1 2000", "HTTP/1.1", "HTTP/1.1  200", "HTTP/1.1 200\tOK", "HTTP/1.1 -20", "HTTP/2.0 200",
        "HTTP/1.x 200", "HTTP/1.1 000 None", "HTTP/1.1 600", "HTTP/1.10 200"}) {
    ResponseHead refused;
    EXPECT_TRUE(ParseResponseHead(Concat(bad, "\r\nA: b\r\n\r\n"), &refused)) << bad;
  }
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
  for (const char* good : {"a", "api.example.com", "a:80", "10.0.0.1:8080", "[::1]", "[::1]:80", "[::ffff:1.2.3.4]",
                           "[2001:db8:ffff:ffff:ffff:ffff:255.255.255.255]", "a_b", "a.", "a:"})
    EXPECT_TRUE(IsValidHost(good)) << good;
  for (const char* bad :
       {"", ":80", "u@a", "a/b", "a:99999", "a:8x", "[::1", "[]", "[::1]x", "a b", "a,b", "a?b", "[::::]", "[1.2.3.4]",
        "[::1%25lo]", "[1]", "[v1.a]", "[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:1]"}) {
    EXPECT_FALSE(IsValidHost(bad)) << bad;
  }
}

}  // namespace
}  // namespace gateway::dataplane::http1
