// Request targets: the one place that decides what a path is.
#ifndef GATEWAY_COMMON_PATH_H_
#define GATEWAY_COMMON_PATH_H_

#include <string>
#include <string_view>

namespace gateway {

enum class PathError {
  kNone,
  kNotAbsolute,        // does not begin with '/'
  kBadEscape,          // '%' without two hex digits
  kForbiddenByte,      // a control byte, space, '#', '"', '<', '>', '\\', '^', '`', '{', '|', '}' or a byte above 0x7e
  kEncodedNul,         // %00
  kAboveRoot,          // more ".." than segments before them
  kEncodedDotSegment,  // an encoded slash or backslash that would make a dot segment: "..%2F", "%2e%2e%5c"
  kEncodedSlash,       // %2F or %5C, where they are rejected
};

// Whether `path` is in normal form already, so that it can be used as it is: no "//", no dot segments, no '%', only
// allowed bytes. One pass, no allocation: the fast path.
bool IsNormalPath(std::string_view path);

// Appends the normal form of `path` (without query) to `out` (RFC 3986, sections 5.2.4 and 6.2.2): unreserved
// characters are decoded, hex digits of the escapes that stay are upper case, dot segments are resolved (encoded dots
// too), repeated slashes are one. %2F, %5C, %0D, %0A and every other reserved escape stay as they are; nothing is
// decoded twice. On error `out` is unspecified.
PathError NormalizePath(std::string_view path, bool reject_encoded_slashes, std::string* out);

// What the client is told.
std::string_view PathErrorMessage(PathError error);

}  // namespace gateway

#endif  // GATEWAY_COMMON_PATH_H_
