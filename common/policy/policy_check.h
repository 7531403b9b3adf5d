// What one document can get wrong by itself.
#ifndef GATEWAY_COMMON_POLICY_POLICY_CHECK_H_
#define GATEWAY_COMMON_POLICY_POLICY_CHECK_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/policy/resource.h"
#include "gateway/v1/admin.pb.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

inline constexpr std::string_view kNone = "none";  // as a reference: nothing, not even what Defaults says
inline constexpr std::string_view kDefaultName = "default";
inline constexpr size_t kRespondBodyBytesMax = 64 * 1024;
inline constexpr size_t kConsumersMax = 100'000;
inline constexpr size_t kCertificatesMax = 1000;
inline constexpr absl::Duration kCertificateExpiresSoon = absl::Hours(24 * 30);

// Collects what is wrong with one resource.
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

// Checks one resource by itself: names, ranges and forms, no references. Appends to `errors`.
void CheckResource(const v1::Resource& resource, std::vector<v1::PolicyError>* errors);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_POLICY_CHECK_H_
