// Request targets: the only code that decides what a path is.
#ifndef GATEWAY_COMMON_POLICY_ROUTE_PATH_H_
#define GATEWAY_COMMON_POLICY_ROUTE_PATH_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace gateway {

enum class PathError {
  kNone,
  kNotAbsolute,    // does not start with '/'
  kBadEscape,      // '%' without two hex digits
  kForbiddenByte,  // a control byte, space, '"', '#', '<', '>', '?', '\\', '^', '`', '{', '|', '}' or a byte above 0x7e
  kEncodedNul,     // %00
  kAboveRoot,      // more ".." than segments before them
  kEncodedDotSegment,  // a dot segment in disguise: "..%2F", "a%5C%2e%2e", "..;x"; see below
  kEncodedSlash,       // %2F or %5C, where they are rejected
};

// Whether `path` is in normal form already and can be used as is: no "//", no dot segments (also with parameters,
// "..;x"), no '%', only allowed bytes. The fast path: one pass, no allocation. If true, NormalizePath returns the same
// bytes; false for normal forms that keep an escape ("/a%20b").
bool IsNormalPath(std::string_view path);

// Appends the normal form of `path` (without query) to `out` (RFC 3986, sections 5.2.4 and 6.2.2): unreserved
// characters are decoded, hex digits of remaining escapes are upper case, repeated slashes become one, and
// then dot segments (encoded ones too) are resolved ("/a//../b" is "/b"). %2F, %5C, %0D, %0A and all other
// reserved escapes stay; nothing is decoded twice. Returns the first error from the left; then `out` is
// unspecified.
//
// Rejects a segment that a server behind the gateway could resolve as "." or ".." although RFC 3986 would not
// (kEncodedDotSegment): one with such a piece when split at its %2F and %5C (for servers that decode them first), and
// one whose part before a ';' or %3B is such a piece (for servers that strip path parameters first). Other path
// parameters are ordinary characters of their segment.
PathError NormalizePath(std::string_view path, bool reject_encoded_slashes, std::string* out);

// Other ways in which servers behind the gateway may read a path in normal form.
enum class PathReading {
  kWithoutParameters,  // ";x" removed from segments, as servlet containers do, also with an encoded ';'
  kDecodedSlashes,     // %2F and %5C as slashes
  kBoth,               // slashes first
};
// Whether one of them could differ from the path itself.
bool MayBeReadOtherwise(std::string_view path);
// Appends `path`, read that way, in normal form to `out`. False: it has no normal form.
bool ReadPathAs(PathReading reading, std::string_view path, std::string* out);

// Writes `host` (without port, at most kNormalHostBytesMax bytes) as hosts are compared: in lower case, an IPv6 literal
// in its one short spelling (RFC 5952), so that "[0::1]" is "[::1]". `out` has room for as many. The bytes written.
inline constexpr size_t kNormalHostBytesMax = 256;
size_t NormalizeHost(std::string_view host, char* out);

// The message for the client.
std::string_view PathErrorMessage(PathError error);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_ROUTE_PATH_H_
