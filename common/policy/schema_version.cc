#include "common/policy/schema_version.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/policy/resource.h"

namespace gateway {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Field numbers of each message, and values of each enum, that version 2 knew (policy.proto of release 0.1.0). What is
// in no list is of the version now. A release that adds to the language gets a list of its own, and never changes one
// of an earlier release.
constexpr char kVersion2[] = R"(
Resource 1-10
Service 1-3,10-18
ConsulSource 1-4
ConsulSource.OnSuspect 0-2
StaticEndpoint 1-3
LoadBalancer 1-8
LoadBalancer.Policy 0-7
LoadBalancer.Zones 0-2
HashOn 1-4
HashOn.ClientIp 
HashOn.Path 
SessionCookie 1-3
HealthCheck 1-9
HealthCheck.Type 0-2
OutlierEjection 1-6
OutlierEjection.SuccessRate 1-4
ServiceLimits 1-4
Timeouts 1-3
Route 1-3,10-31
Route.Upgrade 0-1
Redirect 1-7
Respond 1-4
FieldEdits 1-3
Mirror 1-2
BodyLimits 1
RouteMatch 1-5
PathMatch 1-4
HeaderMatch 1-5
QueryMatch 1-5
WeightedService 1-2
ConsulServiceRoute 1-5
ServiceTemplate 1-8
Rewrite 1-4
RegexRewrite 1-2
RateLimit 1-3,10-15
RateLimit.Algorithm 0-3
RateLimit.Scope 0-3
RateLimit.OnUnavailable 0-3
RateLimit.Mode 0-3
Limit 1-3
CircuitBreaker 1-3,10-19
CircuitBreaker.Force 0-2
Retry 1-3,10-16
Retry.Backoff 1-2
Retry.Budget 1-2
Auth 1-3,10-12
AuthMethod 1-3
ApiKeyAuth 1
JwtAuth 1-7
Jwks 1-4
BasicAuth 1
AuthAllow 1-2
AuthForward 1-4
AuthForward.Credentials 0-2
Consumer 1-3,10-11
Credential 1-3
BasicCredential 1-2
JwtCredential 1-2
Cors 1-3,10-15
IpAccess 1-3,10-11
Defaults 1-3,10-17
)";

constexpr char kPackage[] = "gateway.v1.";

// The numbers of one line: "1-3,10".
std::vector<std::pair<int, int>> RangesOf(absl::string_view text) {
  std::vector<std::pair<int, int>> ranges;
  for (const absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(part, absl::MaxSplits('-', 1));
    int first = 0, last = 0;
    if (!absl::SimpleAtoi(ends.first, &first)) continue;
    if (ends.second.empty() || !absl::SimpleAtoi(ends.second, &last)) last = first;
    ranges.emplace_back(first, last);
  }
  return ranges;
}

// What version 2 knew, by the names of messages and enums.
class Vocabulary {
 public:
  Vocabulary() {
    for (const absl::string_view line : absl::StrSplit(kVersion2, '\n', absl::SkipEmpty())) {
      const std::pair<absl::string_view, absl::string_view> words = absl::StrSplit(line, absl::MaxSplits(' ', 1));
      known_[std::string(words.first)] = RangesOf(words.second);
    }
    Examine(v1::Resource::descriptor());
  }

  bool Knows(const std::string& full_name, int number) const {
    absl::string_view name = full_name;
    if (!absl::ConsumePrefix(&name, kPackage)) return true;  // google.protobuf.Duration
    const auto found = known_.find(std::string(name));
    return found != known_.end() &&
           std::any_of(found->second.begin(), found->second.end(), [number](const std::pair<int, int>& range) {
             return range.first <= number && number <= range.second;
           });
  }
  // Whether a message of this type can hold, or have below it, what version 2 did not know.
  bool MayBeNewer(const Descriptor* type) const { return newer_.contains(type); }

 private:
  // Fills in `newer_`, for types that refer to each other in circles as well.
  void Examine(const Descriptor* root) {
    std::vector<const Descriptor*> types = {root};
    absl::flat_hash_set<const Descriptor*> seen = {root};
    for (size_t i = 0; i < types.size(); ++i) {
      for (int f = 0; f < types[i]->field_count(); ++f) {
        const Descriptor* below = types[i]->field(f)->message_type();
        if (below != nullptr && seen.insert(below).second) types.push_back(below);
      }
    }
    for (bool changed = true; changed;) {
      changed = false;
      for (const Descriptor* type : types) {
        if (newer_.contains(type) || !HasNewer(type)) continue;
        newer_.insert(type);
        changed = true;
      }
    }
  }
  bool HasNewer(const Descriptor* type) const {
    for (int f = 0; f < type->field_count(); ++f) {
      const FieldDescriptor* field = type->field(f);
      if (!type->options().map_entry() && !Knows(type->full_name(), field->number())) return true;
      if (field->message_type() != nullptr && newer_.contains(field->message_type())) return true;
      const EnumDescriptor* values = field->enum_type();
      for (int v = 0; values != nullptr && v < values->value_count(); ++v) {
        if (!Knows(values->full_name(), values->value(v)->number())) return true;
      }
    }
    return false;
  }

  absl::flat_hash_map<std::string, std::vector<std::pair<int, int>>> known_;
  absl::flat_hash_set<const Descriptor*> newer_;
};

const Vocabulary& Version2() {
  static const auto* const vocabulary = new Vocabulary;
  return *vocabulary;
}

bool IsNewer(const Message& message, const Vocabulary& vocabulary) {
  const Descriptor* type = message.GetDescriptor();
  if (!vocabulary.MayBeNewer(type)) return false;
  const Reflection* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (!type->options().map_entry() && !vocabulary.Knows(type->full_name(), field->number())) return true;
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        if (IsNewer(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                         : reflection->GetMessage(message, field),
                    vocabulary)) {
          return true;
        }
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
        const int value = field->is_repeated() ? reflection->GetRepeatedEnumValue(message, field, i)
                                               : reflection->GetEnumValue(message, field);
        if (!vocabulary.Knows(field->enum_type()->full_name(), value)) return true;
      }
    }
  }
  return false;
}

}  // namespace

uint32_t RequiredSchemaVersion(const v1::Resource& resource) {
  return IsNewer(resource, Version2()) ? kSchemaVersion : kSchemaVersionMin;
}

}  // namespace gateway
