// The path normalizer on any bytes: never out of bounds, results are stable, and no result has a dot segment, a double
// slash or a byte that is not allowed in a request line.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/policy/route/path.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using gateway::NormalizePath;
  using gateway::PathError;
  const std::string_view path(reinterpret_cast<const char*>(data), size);
  const bool is_normal = gateway::IsNormalPath(path);
  std::string once = "x";  // something to append to
  const PathError error = NormalizePath(path, /*reject_encoded_slashes=*/false, &once);
  if (error != PathError::kNone) {
    if (is_normal) std::abort();
    return 0;
  }
  once.erase(0, 1);
  if (is_normal && once != path) std::abort();
  std::string twice;
  if (NormalizePath(once, false, &twice) != PathError::kNone || twice != once) std::abort();
  if (once.empty() || once[0] != '/') std::abort();
  for (std::string_view bad : {"//", "/./", "/../", "/..;", "/.;", "%00", "%2e", "%2E"}) {
    if (once.find(bad) != std::string::npos) std::abort();
  }
  if (once.ends_with("/.") || once.ends_with("/..")) std::abort();
  for (char c : once) {
    if (c <= ' ' || c == 0x7f || c == '?' || c == '#' || c == '\\') std::abort();
  }
  std::string strict;
  const bool has_slash = once.find("%2F") != std::string::npos || once.find("%5C") != std::string::npos;
  const PathError strict_error = NormalizePath(once, /*reject_encoded_slashes=*/true, &strict);
  if ((strict_error == PathError::kEncodedSlash) != has_slash) std::abort();
  return 0;
}
