// Request targets: the one place that decides what a path is.
#ifndef GATEWAY_COMMON_POLICY_ROUTE_PATH_H_
#define GATEWAY_COMMON_POLICY_ROUTE_PATH_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace gateway {

enum class PathError {
  kNone,
  kNotAbsolute,    // does not begin with '/'
  kBadEscape,      // '%' without two hex digits
  kForbiddenByte,  // a control byte, space, '"', '#', '<', '>', '?', '\\', '^', '`', '{', '|', '}' or a byte above 0x7e
  kEncodedNul,     // %00
  kAboveRoot,      // more ".." than segments before them
  kEncodedDotSegment,  // a dot segment in disguise: "..%2F", "a%5C%2e%2e", "..;x"; see below
  kEncodedSlash,       // %2F or %5C, if they are rejected
};

// Whether `path` is in normal form already, so that it can be used as it is: no "//", no dot segments (also none with
// parameters, "..;x"), no '%', only allowed bytes. One pass, no allocation: the fast path. If it holds,
// NormalizePath gives the same bytes back; a normal form that keeps an escape ("/a%20b") is not found by it.
bool IsNormalPath(std::string_view path);

// Appends the normal form of `path` (without query) to `out` (RFC 3986, sections 5.2.4 and 6.2.2): unreserved
// characters are decoded, hex digits of the escapes that stay are upper case, dot segments are resolved (encoded dots
// too), repeated slashes are one, before dot segments are resolved ("/a//../b" is "/b"). %2F, %5C, %0D, %0A and every
// other reserved escape stay as they are; nothing is decoded twice. The first error from the left is returned; on error
// `out` is unspecified.
//
// A segment that some server behind us would resolve as "." or ".." although RFC 3986 would not is rejected
// (kEncodedDotSegment): one that has such a piece when it is split at its %2F and %5C (for servers that decode them
// first), and one whose part in front of a ';' or %3B is such a piece (for those that strip path parameters first).
// Other path parameters are ordinary characters of their segment.
PathError NormalizePath(std::string_view path, bool reject_encoded_slashes, std::string* out);

// How else servers behind us may read a path in normal form.
enum class PathReading {
  kWithoutParameters,  // ";x" of a segment cut off, as servlet containers do, also where the ';' is encoded
  kDecodedSlashes,     // %2F and %5C as slashes
  kBoth,               // slashes first
};
// Whether one of them could differ from the path itself.
bool MayBeReadOtherwise(std::string_view path);
// Appends `path`, read like that, in normal form to `out`. False: the result is not a path.
bool ReadPathAs(PathReading reading, std::string_view path, std::string* out);

// Writes `host` (without port, at most kNormalHostBytesMax bytes) as hosts are compared: in lower case, an IPv6 literal
// in its one short spelling (RFC 5952), so that "[0::1]" is "[::1]". `out` has room for as many. The bytes written.
inline constexpr size_t kNormalHostBytesMax = 256;
size_t NormalizeHost(std::string_view host, char* out);

// The message for the client.
std::string_view PathErrorMessage(PathError error);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_ROUTE_PATH_H_
