#include "common/policy/route/path.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace gateway {
namespace {

struct Case {
  std::string_view in;
  std::string_view out;
};

std::string Normal(std::string_view path) {
  std::string out;
  PathError error = NormalizePath(path, /*reject_encoded_slashes=*/false, &out);
  return error == PathError::kNone ? out : "error: " + std::string(PathErrorMessage(error));
}

PathError ErrorOf(std::string_view path, bool reject_encoded_slashes = false) {
  std::string out;
  return NormalizePath(path, reject_encoded_slashes, &out);
}

TEST(NormalizePath, ResolvesDotSegmentsAsRfc3986Does) {
  for (const Case& c : std::vector<Case>{
           {"/", "/"},
           {"/a", "/a"},
           {"/a/", "/a/"},
           {"/a/b/c/./../../g", "/a/g"},  // section 5.2.4
           {"/mid/content=5/../6", "/mid/6"},
           {"/b/c/d;p/./g", "/b/c/d;p/g"},
           {"/b/c/g;x=1/./y", "/b/c/g;x=1/y"},  // section 5.4.2
           {"/b/c/g;x=1/../y", "/b/c/y"},
           {"/b/c/g.", "/b/c/g."},
           {"/b/c/.g", "/b/c/.g"},
           {"/b/c/g..", "/b/c/g.."},
           {"/b/c/..g", "/b/c/..g"},
           {"/...", "/..."},
           {"/.../..", "/"},
           {"/.", "/"},
           {"/./", "/"},
           {"/a/.", "/a/"},
           {"/a/./", "/a/"},
           {"/a/..", "/"},
           {"/a/../", "/"},
           {"/a/b/..", "/a/"},
           {"/a/b/../..", "/"},
           {"/a/b/../../c", "/c"},
           {"/./././a", "/a"},
       }) {
    EXPECT_EQ(Normal(c.in), c.out) << c.in;
  }
}

TEST(NormalizePath, DecodesUnreservedCharactersOnlyAndOnce) {
  for (const Case& c : std::vector<Case>{
           {"/%41%5a%61%7A%30%39%2d%2E%5f%7e", "/AZaz09-._~"},
           {"/%2e/a", "/a"},
           {"/a/%2E%2e/b", "/b"},
           {"/a/.%2e/b", "/b"},
           {"/a/%2e.", "/"},
           {"/%2561dmin", "/%2561dmin"},
           {"/%252e%252e/a", "/%252e%252e/a"},
           {"/%252F", "/%252F"},
           {"/a%2fb", "/a%2Fb"},
           {"/a%5cb", "/a%5Cb"},
           {"/a%0d%0ab", "/a%0D%0Ab"},
           {"/a%20b%3fc%23d", "/a%20b%3Fc%23d"},
           {"/%c3%a9", "/%C3%A9"},
           {"/%3b%40%3a%21", "/%3B%40%3A%21"},
           {"/%7f%ff", "/%7F%FF"},
           {"/%25", "/%25"},
           {"/a%2F", "/a%2F"},
           {"/%2Fa", "/%2Fa"},
           {"/%2F%5C", "/%2F%5C"},
       }) {
    EXPECT_EQ(Normal(c.in), c.out) << c.in;
  }
}

TEST(NormalizePath, MergesSlashesBeforeItResolvesDots) {
  for (const Case& c : std::vector<Case>{
           {"//", "/"},
           {"///a", "/a"},
           {"//a//b//", "/a/b/"},
           {"/a//../b", "/b"},
           {"/a/.//b", "/a/b"},
           {"/a//.", "/a/"},
           {"//evil.example/..", "/"},
       }) {
    EXPECT_EQ(Normal(c.in), c.out) << c.in;
  }
}

TEST(NormalizePath, KeepsPathParametersAndSubDelimiters) {
  for (std::string_view path :
       {"/a;b=c/d", "/;", "/;/a", "/a;..", "/a;/b", "/!$&'()*+,;=:@", "/a[0]", "/...;x", "/a..;x", "/a%3B.."}) {
    EXPECT_EQ(Normal(path), path);
  }
}

TEST(NormalizePath, RefusesPathsAboveTheRoot) {
  for (std::string_view path :
       {"/..", "/../", "/../a", "/a/../..", "/a/../../b", "/./..", "//..", "/%2e%2e", "/%2E./a", "/a/b/../../../a"}) {
    EXPECT_EQ(ErrorOf(path), PathError::kAboveRoot) << path;
  }
}

TEST(NormalizePath, RefusesDotSegmentsBehindEncodedSlashes) {
  for (std::string_view path : {"/..%2F",
                                "/..%2f",
                                "/..%5c",
                                "/%2e%2e%2f",
                                "/%2e%2e%5c",
                                "/.%2e%5Cx",
                                "/a/..%2fb",
                                "/a%2f..",
                                "/a%2F..%2Fb",
                                "/a%5c%2e%2e/b",
                                "/.%2Fa",
                                "/a%2F.",
                                "/a%2f%2e%2fb",
                                "/a%2F%2F..",
                                "/%2f..",
                                "/%5C..%5C",
                                "/a/x%2f..%2f..%2fb",
                                "/x%2f..;a",
                                "/..;%2f",
                                "/..%3b%2fx",
                                "/x;y%2f.."}) {
    EXPECT_EQ(ErrorOf(path), PathError::kEncodedDotSegment) << path;
  }
  for (std::string_view path : {"/...%2F", "/a..%2Fb", "/..a%2F", "/a%2F...", "/a%2F.b", "/%252e%252e%2F"}) {
    EXPECT_EQ(Normal(path), path);
  }
}

TEST(NormalizePath, RefusesDotSegmentsWithParameters) {
  for (std::string_view path :
       {"/..;", "/a/..;/b", "/a/..;x=1/b", "/.;", "/.;/a", "/%2e%2e;/a", "/a/..%3b/b", "/..%3B", "/a/.%2e;a=b/"}) {
    EXPECT_EQ(ErrorOf(path), PathError::kEncodedDotSegment) << path;
    EXPECT_FALSE(IsNormalPath(path)) << path;
  }
}

TEST(NormalizePath, RejectsEncodedSlashesWhereAsked) {
  for (std::string_view path : {"/a%2Fb", "/a%2fb", "/%5c", "/..%2F"}) {
    EXPECT_EQ(ErrorOf(path, /*reject_encoded_slashes=*/true), PathError::kEncodedSlash) << path;
  }
  EXPECT_EQ(ErrorOf("/a%252F", /*reject_encoded_slashes=*/true), PathError::kNone);
}

TEST(NormalizePath, RefusesMalformedPaths) {
  for (std::string_view path : {"", "a", "*", "http://a/b", "%2Fa", "."}) {
    EXPECT_EQ(ErrorOf(path), PathError::kNotAbsolute) << path;
  }
  for (std::string_view path : {"/%", "/%4", "/%g1", "/%1g", "/a%", "/%%41", "/% 1", "/%u0041", "/%4%31", "/a%2"}) {
    EXPECT_EQ(ErrorOf(path), PathError::kBadEscape) << path;
  }
  for (std::string_view path : {"/%00", "/a%00b", "/..%00/"}) {
    EXPECT_EQ(ErrorOf(path), PathError::kEncodedNul) << path;
  }
}

TEST(NormalizePath, DecidesEveryByte) {
  for (int value = 0; value < 256; ++value) {
    const char c = static_cast<char>(value);
    const std::string path = std::string("/a") + c + "/b";
    const bool forbidden =
        value <= 0x20 || value >= 0x7f || std::string_view("\"#<>?\\^`{|}").find(c) != std::string_view::npos;
    const PathError expected =
        forbidden ? PathError::kForbiddenByte : (c == '%' ? PathError::kBadEscape : PathError::kNone);
    EXPECT_EQ(ErrorOf(path), expected) << value;
    EXPECT_EQ(IsNormalPath(path), expected == PathError::kNone && c != '/') << value;
  }
}

// Every escape of one byte: unreserved ones become the byte, all others stay, in upper case.
TEST(NormalizePath, DecidesEveryEscape) {
  for (int value = 1; value < 256; ++value) {
    char upper[4];
    char lower[4];
    snprintf(upper, sizeof upper, "%%%02X", value);
    snprintf(lower, sizeof lower, "%%%02x", value);
    const char c = static_cast<char>(value);
    const bool unreserved = value < 0x80 && (isalnum(value) != 0 || std::string_view("-._~").find(c) < 4);
    const std::string expected = std::string("/x") + (unreserved ? std::string(1, c) : std::string(upper)) + "y";
    EXPECT_EQ(Normal(std::string("/x") + upper + "y"), expected);
    EXPECT_EQ(Normal(std::string("/x") + lower + "y"), expected);
  }
}

TEST(NormalizePath, AppendsAfterWhatIsThere) {
  std::string out = "GET /p/q ";
  EXPECT_EQ(NormalizePath("/a/../b", false, &out), PathError::kNone);
  EXPECT_EQ(out, "GET /p/q /b");
  out = "/x";
  EXPECT_EQ(NormalizePath("/..", false, &out), PathError::kAboveRoot);
}

TEST(NormalizePath, TellsTheClientWhatWasWrong) {
  for (auto error : {PathError::kNotAbsolute, PathError::kBadEscape, PathError::kForbiddenByte, PathError::kEncodedNul,
                     PathError::kAboveRoot, PathError::kEncodedDotSegment, PathError::kEncodedSlash}) {
    EXPECT_FALSE(PathErrorMessage(error).empty());
  }
}

TEST(IsNormalPath, HoldsForWhatNeedsNoWork) {
  for (std::string_view path : {"/", "/a", "/a/", "/a/b.c/..d/.e/f..", "/...", "/a;..", "/a.."}) {
    EXPECT_TRUE(IsNormalPath(path)) << path;
  }
  for (std::string_view path : {"", "a", "//", "/a//b", "/.", "/..", "/a/.", "/a/..", "/./a", "/../a", "/%41", "/a%2Fb",
                                "/a b", "/a?b", "/a#", "/a\\b"}) {
    EXPECT_FALSE(IsNormalPath(path)) << path;
  }
}

// Property test over strings that make paths hard: normal forms are stable, IsNormalPath is right, and no normal form
// has a dot segment, even if its escaped slashes and dots are decoded once.
TEST(NormalizePath, IsIdempotent) {
  static constexpr std::string_view kPieces[] = {"/", "/", ".", "..",  "%2e", "%2E", "%2f",   "%5C", "%25", "%41",
                                                 "a", "b", ";", "%3b", "%0d", "%",   "%252e", "\\",  "[",   "%00"};
  const auto seed = static_cast<uint32_t>(std::random_device{}());
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 rng(seed);
  int normalised = 0;
  for (int round = 0; round < 300'000; ++round) {
    std::string path = "/";
    for (int n = static_cast<int>(rng() % 10); n > 0; --n) path += kPieces[rng() % std::size(kPieces)];
    std::string once;
    if (NormalizePath(path, false, &once) != PathError::kNone) {
      ASSERT_FALSE(IsNormalPath(path)) << path;
      continue;
    }
    ++normalised;
    ASSERT_LE(once.size(), path.size() + 1) << path;
    ASSERT_EQ(Normal(once), once) << path;
    if (IsNormalPath(path)) {
      ASSERT_EQ(once, path);
    }
    // The most lenient server: decodes slashes and backslashes, cuts parameters, then resolves dots.
    std::string lenient;
    for (size_t i = 0; i < once.size(); ++i) {
      std::string_view escape = std::string_view(once).substr(i, 3);
      if (escape == "%2F" || escape == "%5C") {
        lenient += '/';
        i += 2;
      } else if (escape == "%3B") {
        lenient += ';';
        i += 2;
      } else {
        lenient += once[i];
      }
    }
    for (size_t begin = 0; begin != std::string::npos;) {
      size_t end = lenient.find('/', begin);
      std::string segment = lenient.substr(begin, end == std::string::npos ? end : end - begin);
      segment = segment.substr(0, segment.find(';'));
      ASSERT_TRUE(segment != "." && segment != "..") << path << " -> " << once;
      begin = end == std::string::npos ? end : end + 1;
    }
  }
  EXPECT_GT(normalised, 1000);
}

TEST(ReadPathAs, IsWhatOtherServersMake) {
  const auto read = [](PathReading reading, std::string_view path) {
    std::string out;
    return ReadPathAs(reading, path, &out) ? out : "none";
  };
  using enum PathReading;
  EXPECT_EQ(read(kWithoutParameters, "/admin;x=1/a;y"), "/admin/a");
  EXPECT_EQ(read(kWithoutParameters, "/;x/admin%3By"), "/admin");
  EXPECT_EQ(read(kWithoutParameters, "/admin%2Fa"), "/admin%2Fa");
  EXPECT_EQ(read(kDecodedSlashes, "/admin%2Fa%5Cb;c"), "/admin/a/b;c");
  EXPECT_EQ(read(kDecodedSlashes, "/%2Fadmin%252F"), "/admin%252F");
  EXPECT_EQ(read(kBoth, "/admin;x%2Fa"), "/admin/a");
  EXPECT_EQ(read(kBoth, "/a/%2E;/b"), "/a/b");
  EXPECT_EQ(read(kBoth, "/%2E%2E"), "none");
  EXPECT_FALSE(MayBeReadOtherwise("/a/b-c_d.e%20f%"));
  EXPECT_TRUE(MayBeReadOtherwise("/a%20b%2Fc"));
}

TEST(NormalizeHost, GivesOneSpellingToEachHost) {
  const auto normal = [](std::string_view host) {
    char out[kNormalHostBytesMax];
    return std::string(out, NormalizeHost(host, out));
  };
  EXPECT_EQ(normal("API.Example.com"), "api.example.com");
  EXPECT_EQ(normal(""), "");
  EXPECT_EQ(normal("[::1]"), "[::1]");
  EXPECT_EQ(normal("[0:0:0:0:0:0:0:1]"), "[::1]");
  EXPECT_EQ(normal("[2001:DB8:0:0::0001]"), "[2001:db8::1]");
  EXPECT_EQ(normal("[::FFFF:1.2.3.4]"), "[::ffff:1.2.3.4]");
  EXPECT_EQ(normal("[nonsense]"), "[nonsense]");
  EXPECT_EQ(normal("["), "[");
}

}  // namespace
}  // namespace gateway
