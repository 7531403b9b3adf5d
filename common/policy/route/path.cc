#include "common/policy/route/path.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace gateway {
namespace {

enum class ByteClass : uint8_t { kForbidden, kPlain, kSlash, kPercent };

// What a byte of a path may be: RFC 3986's pchar, '/', and '[' and ']', which clients send bare and no server misreads.
constexpr std::array<ByteClass, 256> MakeByteClasses() {
  std::array<ByteClass, 256> classes{};
  for (int c = 0x21; c < 0x7f; ++c) classes[c] = ByteClass::kPlain;
  for (char c : {'"', '#', '<', '>', '?', '\\', '^', '`', '{', '|', '}'}) {
    classes[static_cast<unsigned char>(c)] = ByteClass::kForbidden;
  }
  classes['/'] = ByteClass::kSlash;
  classes['%'] = ByteClass::kPercent;
  return classes;
}
constexpr std::array<ByteClass, 256> kByteClasses = MakeByteClasses();

constexpr uint8_t kNoHexDigit = 0xff;
constexpr std::array<uint8_t, 256> MakeHexValues() {
  std::array<uint8_t, 256> values{};
  for (uint8_t& v : values) v = kNoHexDigit;
  for (int i = 0; i < 10; ++i) values['0' + i] = static_cast<uint8_t>(i);
  for (int i = 0; i < 6; ++i) values['a' + i] = values['A' + i] = static_cast<uint8_t>(10 + i);
  return values;
}
constexpr std::array<uint8_t, 256> kHexValues = MakeHexValues();

ByteClass ClassOf(char c) { return kByteClasses[static_cast<unsigned char>(c)]; }

bool IsUnreserved(unsigned char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
         c == '_' || c == '~';
}

// Whether `piece`, with its parameters cut off, is "." or "..". `has_parameters`: whether there were any.
bool IsDots(std::string_view piece, bool* has_parameters) {
  size_t dots = 0;
  while (dots < piece.size() && piece[dots] == '.') ++dots;
  if (dots != 1 && dots != 2) return false;
  std::string_view rest = piece.substr(dots);
  *has_parameters = !rest.empty();
  return rest.empty() || rest.front() == ';' || rest.substr(0, 3) == "%3B";
}

// Whether a server that decodes %2F and %5C before it resolves dot segments would find one in `segment`, which is in
// normal form.
bool HidesDotSegment(std::string_view segment) {
  bool has_parameters = false;
  size_t begin = 0;
  for (size_t i = 0; i + 2 < segment.size(); ++i) {
    if (segment[i] != '%') continue;
    std::string_view escape = segment.substr(i, 3);
    if (escape == "%2F" || escape == "%5C") {
      if (IsDots(segment.substr(begin, i - begin), &has_parameters)) return true;
      begin = i + 3;
    }
    i += 2;
  }
  return IsDots(segment.substr(begin), &has_parameters);
}

}  // namespace

bool IsNormalPath(std::string_view path) {
  if (path.empty() || path.front() != '/') return false;
  const size_t size = path.size();
  for (size_t i = 0; i < size; ++i) {
    ByteClass byte_class = ClassOf(path[i]);
    if (byte_class == ByteClass::kPlain) continue;
    if (byte_class != ByteClass::kSlash) return false;
    size_t next = i + 1;
    if (next == size) return true;
    if (path[next] == '/') return false;
    if (path[next] != '.') continue;
    ++next;
    if (next < size && path[next] == '.') ++next;
    if (next == size || path[next] == '/' || path[next] == ';') return false;
  }
  return true;
}

PathError NormalizePath(std::string_view path, bool reject_encoded_slashes, std::string* out) {
  static constexpr char kHexDigits[] = "0123456789ABCDEF";
  if (path.empty() || path.front() != '/') return PathError::kNotAbsolute;
  const size_t base = out->size();
  const size_t size = path.size();
  out->reserve(base + size);
  size_t i = 0;
  bool ends_in_slash = true;
  while (true) {
    // Here path[i] is a slash, or the end.
    while (i < size && path[i] == '/') ++i, ends_in_slash = true;
    if (i == size) break;
    const size_t slash = out->size();
    out->push_back('/');
    bool has_encoded_slash = false;
    for (; i < size; ++i) {
      const char c = path[i];
      const ByteClass byte_class = ClassOf(c);
      if (byte_class == ByteClass::kPlain) {
        out->push_back(c);
        continue;
      }
      if (byte_class == ByteClass::kSlash) break;
      if (byte_class == ByteClass::kForbidden) return PathError::kForbiddenByte;
      if (size - i < 3) return PathError::kBadEscape;
      const uint8_t high = kHexValues[static_cast<unsigned char>(path[i + 1])];
      const uint8_t low = kHexValues[static_cast<unsigned char>(path[i + 2])];
      if (high == kNoHexDigit || low == kNoHexDigit) return PathError::kBadEscape;
      i += 2;
      const auto value = static_cast<unsigned char>(high << 4 | low);
      if (value == 0) return PathError::kEncodedNul;
      if (IsUnreserved(value)) {
        out->push_back(static_cast<char>(value));
        continue;
      }
      if (value == '/' || value == '\\') {
        if (reject_encoded_slashes) return PathError::kEncodedSlash;
        has_encoded_slash = true;
      }
      out->push_back('%');
      out->push_back(kHexDigits[high]);
      out->push_back(kHexDigits[low]);
    }
    std::string_view segment = std::string_view(*out).substr(slash + 1);
    ends_in_slash = false;
    if (has_encoded_slash) {
      if (HidesDotSegment(segment)) return PathError::kEncodedDotSegment;
      continue;
    }
    bool has_parameters = false;
    if (!IsDots(segment, &has_parameters)) continue;
    if (has_parameters) return PathError::kEncodedDotSegment;
    const bool is_parent = segment.size() == 2;
    out->resize(slash);
    ends_in_slash = true;
    if (!is_parent) continue;
    if (slash == base) return PathError::kAboveRoot;
    out->resize(out->rfind('/'));  // of the segment before, which begins at `base` or after it
  }
  if (ends_in_slash) out->push_back('/');
  return PathError::kNone;
}

bool MayBeReadOtherwise(std::string_view path) {
  for (size_t i = path.find_first_of(";%"); i != std::string_view::npos; i = path.find_first_of(";%", i + 1)) {
    const std::string_view escape = path.substr(i, 3);
    if (path[i] == ';' || escape == "%2F" || escape == "%5C" || escape == "%3B") return true;
  }
  return false;
}

bool ReadPathAs(PathReading reading, std::string_view path, std::string* out) {
  std::string read;
  read.reserve(path.size());
  bool in_parameters = false;
  for (size_t i = 0; i < path.size(); ++i) {
    const std::string_view escape = path.substr(i, 3);
    const bool slash =
        path[i] == '/' || (reading != PathReading::kWithoutParameters && (escape == "%2F" || escape == "%5C"));
    const bool semicolon = path[i] == ';' || escape == "%3B";
    if (slash) {
      in_parameters = false;
      read.push_back('/');
    } else if (semicolon && reading != PathReading::kDecodedSlashes) {
      in_parameters = true;
    } else if (!in_parameters) {
      read.push_back(path[i]);
    }
    if (slash && path[i] == '%') i += 2;
  }
  return NormalizePath(read, false, out) == PathError::kNone;
}

size_t NormalizeHost(std::string_view host, char* out) {
  if (host.size() > 2 && host.front() == '[' && host.back() == ']' && host.size() - 2 < INET6_ADDRSTRLEN) {
    char literal[INET6_ADDRSTRLEN];
    literal[host.copy(literal, host.size() - 2, 1)] = '\0';
    in6_addr address;
    if (inet_pton(AF_INET6, literal, &address) == 1) {
      inet_ntop(AF_INET6, &address, out + 1, INET6_ADDRSTRLEN);
      const size_t end = 1 + std::strlen(out + 1);
      out[0] = '[';
      out[end] = ']';
      return end + 1;
    }
  }
  std::transform(host.begin(), host.end(), out,
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return host.size();
}

std::string_view PathErrorMessage(PathError error) {
  switch (error) {
    case PathError::kNone:
      return "";
    case PathError::kNotAbsolute:
      return "The path does not start with a slash";
    case PathError::kBadEscape:
      return "The path has an incomplete percent-escape";
    case PathError::kForbiddenByte:
      return "The path has a character that must be percent-encoded";
    case PathError::kEncodedNul:
      return "The path has an encoded NUL";
    case PathError::kAboveRoot:
      return "The path leads above its root";
    case PathError::kEncodedDotSegment:
      return "The path hides a dot segment";
    case PathError::kEncodedSlash:
      return "The path has an encoded slash or backslash";
  }
  return "The path is invalid";
}

}  // namespace gateway
