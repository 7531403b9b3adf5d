// What the checks of several kinds share: how an error is reported, and what fields of one form may hold.
#ifndef GATEWAY_COMMON_POLICY_KINDS_CHECKS_H_
#define GATEWAY_COMMON_POLICY_KINDS_CHECKS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/policy/resource.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/policy.pb.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {

// Collects what is wrong with one resource; `key` and `errors` outlive it.
class Report {
 public:
  Report(const ResourceKey& key, std::vector<v1::PolicyError>* errors) : key_(key), errors_(errors) {}

  void Add(std::string_view field, std::string_view message) const;
  void AddIfBad(std::string_view field, const absl::Status& status) const;

 private:
  const ResourceKey& key_;
  std::vector<v1::PolicyError>* errors_;
};

// "split[1].service".
std::string At(std::string_view list, int index, std::string_view field = "");

// Each of these reports at `field` what is wrong with its last argument.

template <typename Enum>
void CheckEnum(const Report& report, std::string_view field, Enum value, bool (*is_valid)(int)) {
  if (!is_valid(value))
    report.Add(field, fmt::format("is {}, which this version does not know", static_cast<int>(value)));
}

// A method that is written down, by its case too.
void CheckMethodName(const Report& report, const std::string& field, std::string_view method);

// The name of a header that policy writes or removes.
void CheckFieldName(const Report& report, const std::string& field, std::string_view name);

// A header that is read: requests lose some before policy looks at them.
void CheckRead(const Report& report, const std::string& field, std::string_view name);

// One line that is sent as it is written.
void CheckPlainText(const Report& report, const std::string& field, const std::string& text);

// "example.com", "example.com:8443", "[::1]:80".
void CheckHostWithPort(const Report& report, const std::string& field, std::string_view host);

// What is wrong with `name` if it is not a token.
std::string NoFieldName(std::string_view name);

// Whether `path` can stand in a request line: no space, no control byte, nothing beyond ASCII.
bool IsTargetText(std::string_view path);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_CHECKS_H_
