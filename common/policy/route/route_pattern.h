// What operators write into a route's match: paths, templates, hosts, methods, regexes, each checked by itself. How
// they are matched: route_table.h.
#ifndef GATEWAY_COMMON_POLICY_ROUTE_ROUTE_PATTERN_H_
#define GATEWAY_COMMON_POLICY_ROUTE_ROUTE_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/v1/policy.pb.h"

namespace re2 {
class RE2;
}

namespace gateway {

inline constexpr size_t kPathPatternBytesMax = 2048;
inline constexpr size_t kPathPatternSegmentsMax = 128;  // bounds the depth of a match's recursion
inline constexpr size_t kHostBytesMax = 253;            // RFC 1035, section 2.3.4
inline constexpr size_t kConditionBytesMax = 4096;      // of an exact value or a prefix
inline constexpr size_t kRegexBytesMax = 1024;
inline constexpr size_t kRegexesMax = 1000;  // of a whole set: routes with one are tried in turn
inline constexpr int64_t kRegexMemoryBytesMax = int64_t{512} << 10;  // of one: program and state cache

struct TemplateSegment {
  enum class Kind : uint8_t { kLiteral, kVariable, kRest };
  Kind kind = Kind::kLiteral;
  std::string text;  // a literal's text, a variable's name
};

// "/users/{id}/**" taken apart. InvalidArgument says what is wrong with the first segment that is: not in normal form,
// a variable that is not a whole segment or comes twice, ** that is not last, beyond a limit above.
absl::StatusOr<std::vector<TemplateSegment>> ParseTemplate(std::string_view text);

// Whether `path` is a path as requests' paths are after NormalizePath; else InvalidArgument says what it would have to
// be.
absl::Status CheckPathPattern(std::string_view path);

// Whether `host` is a lower-case host name or an address ("[::1]" for IPv6), without a port.
absl::Status CheckHost(std::string_view host);

// Takes a field's path, relative to the match ("path.prefix"), and what is wrong there.
using ReportField = absl::FunctionRef<void(const std::string& field, const std::string& message)>;

// `match` with what its `grpc` asks for written as a path, a method and (unless `any_type`) a header; else as it is.
v1::RouteMatch WithoutGrpc(const v1::RouteMatch& match, bool any_type);

// Reports everything that is wrong with `match` by itself.
void CheckRouteMatch(const v1::RouteMatch& match, ReportField report);

// How many regexes `match` holds, of those that count against kRegexesMax.
size_t CountRegexes(const v1::RouteMatch& match);

// "/a/b" taken apart without its leading slash: "/" is one empty segment. Views into `path`.
std::vector<std::string_view> SplitSegments(std::string_view path);

// `methods`, and HEAD after them if GET is among them and HEAD is not: HEAD is a GET without the body (RFC 9110,
// section 9.3.2).
std::vector<std::string> MethodsWithHead(const google::protobuf::RepeatedPtrField<std::string>& methods);

// Within kRegexMemoryBytesMax; it works on bytes. Check ok().
std::unique_ptr<const re2::RE2> CompileRegex(const std::string& pattern);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_ROUTE_ROUTE_PATTERN_H_
