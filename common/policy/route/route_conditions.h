// What a route requires of a request beyond its host and its path's segments, and how texts are compared for it. How
// conditions are read: see the top of route_table.h.
#ifndef GATEWAY_COMMON_POLICY_ROUTE_ROUTE_CONDITIONS_H_
#define GATEWAY_COMMON_POLICY_ROUTE_ROUTE_CONDITIONS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/route/route_pattern.h"
#include "common/policy/snapshot.h"
#include "gateway/v1/policy.pb.h"
#include "re2/re2.h"

namespace gateway {

// What is compared decoded in literal segments.
inline constexpr std::string_view kComparedDecoded = "!$&'()*+,;=:@[]";

// The form in which literal segments are compared. Views into `segment` or `buffer`; nothing if it is longer than
// any pattern.
std::optional<std::string_view> ComparableSegment(std::string_view segment, char (&buffer)[kPathPatternBytesMax]);
std::string Comparable(std::string_view segment);

bool MatchesWhole(const RE2& regex, std::string_view text);

// Names of fields.
bool SameFieldName(std::string_view a, std::string_view b);

// The raw value of the first pair of that name in `query`.
std::optional<std::string_view> FindQuery(std::string_view query, std::string_view name);

// The bytes of a name or a value of a query, decoded one by one.
class QueryBytes {
 public:
  explicit QueryBytes(std::string_view raw) : raw_(raw) {}
  bool AtEnd() const { return i_ == raw_.size(); }
  char Next();

 private:
  std::string_view raw_;
  size_t i_ = 0;
};

// Immutable once compiled, any thread.
struct RouteConditions {
  struct Value {
    enum class Kind : uint8_t { kExact, kPrefix, kRegex, kPresent, kAbsent };
    Kind kind = Kind::kPresent;
    std::string name;  // a field's in lower case
    std::string text;  // of an exact value, a prefix, a regex
    std::unique_ptr<const RE2> regex;

    bool HoldsForField(std::string_view value) const;
    bool HoldsForQuery(std::string_view raw) const;
    // Whether it holds whenever `other` does, as far as that can be seen.
    bool Covers(const Value& other) const;
    // Whether no single text satisfies both, as far as that can be seen.
    bool Excludes(const Value& other) const;
    // Whether one requires that the name is absent, the other that it is present.
    bool IsAbsentBeside(const Value& other) const;
  };

  std::vector<std::string> methods;  // empty: any. With GET, HEAD is among them (RFC 9110, section 9.3.2)
  bool implies_head = false;         // HEAD is there only because of GET
  std::vector<Value> headers;
  std::vector<Value> query;
  std::unique_ptr<const RE2> path;  // null: none
  std::string path_prefix;          // what every path that it matches begins with
  std::optional<bool> https;        // the client's scheme; nothing: either

  // `match` has passed CheckRouteMatch (route_pattern.h).
  static RouteConditions Compile(const v1::RouteMatch& match);

  size_t Count() const { return headers.size() + query.size() + (https.has_value() ? 1 : 0); }
  bool IsEmpty() const { return methods.empty() && Count() == 0 && path == nullptr; }

  bool AllowsMethod(std::string_view method) const {
    return methods.empty() || std::find(methods.begin(), methods.end(), method) != methods.end();
  }
  // Whether HEAD was written down.
  bool ListsHead() const { return !methods.empty() && !implies_head && AllowsMethod("HEAD"); }

  // All but the method.
  bool HoldFor(const MatchInput& in) const;

  // Whether every request whose fields, query and scheme are as `other` asks has them as these ask, as far as that can
  // be seen.
  bool CoverFieldsAndQuery(const RouteConditions& other) const;

  // Whether the regex matches every path that a pattern can; `.*` matches "*" of OPTIONS besides.
  bool MatchEveryPath() const;
  bool MatchEverything() const;

  // Why no request has them hold, as far as that can be seen; else empty.
  std::string Contradiction() const;

  // One text for all that hold for the same requests, whatever the order in which they were written.
  std::string Canonical() const;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_ROUTE_ROUTE_CONDITIONS_H_
