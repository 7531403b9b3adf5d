#include "common/policy/kinds/kinds.h"

#include <algorithm>
#include <string>

#include "common/config/codec.h"
#include "common/policy/resource.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr int kLabelsMax = 64;
constexpr size_t kLabelBytesMax = 256;  // a key or a value
constexpr size_t kDescriptionBytesMax = 4096;

void CheckEnvelope(const Report& report, const Labels& labels, const std::string& description) {
  if (labels.size() > kLabelsMax)
    report.Add("labels", fmt::format("has {} entries; at most {}", labels.size(), kLabelsMax));
  for (const auto& [key, value] : labels) {
    if (key.empty()) report.Add("labels", "has an empty key");
    if (key.size() > kLabelBytesMax || value.size() > kLabelBytesMax) {
      report.Add(fmt::format("labels.{}", KeyInPath(key)), fmt::format("is longer than {} bytes", kLabelBytesMax));
    }
  }
  if (description.size() > kDescriptionBytesMax) {
    report.Add("description", fmt::format("is longer than {} bytes", kDescriptionBytesMax));
  }
}

}  // namespace

std::span<const Kind> Kinds() {
  static const auto* const kKinds = new std::vector<Kind>{
      RateLimitKind(), CircuitBreakerKind(), RetryKind(), AuthKind(),        ConsumerKind(), CorsKind(),
      IpAccessKind(),  ServiceKind(),        RouteKind(), CertificateKind(), DefaultsKind(),
  };
  return *kKinds;
}

const Kind* KindOf(const v1::Resource& resource) {
  const std::span<const Kind> kinds = Kinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(),
                                  [&resource](const Kind& kind) { return kind.number == resource.kind_case(); });
  return found == kinds.end() ? nullptr : &*found;
}

void CheckResource(const v1::Resource& resource, std::vector<v1::PolicyError>* errors) {
  const ResourceKey key = KeyOf(resource);
  const Report report(key, errors);
  const Kind* kind = KindOf(resource);
  if (kind == nullptr) {
    report.Add("kind", "is missing, or one that this version does not know");
    return;
  }
  report.AddIfBad("name", CheckName(key.name));
  std::vector<FieldProblem> problems;
  CheckRules(*BodyOf(resource), &problems);
  for (const FieldProblem& problem : problems) report.Add(problem.field, problem.message);
  CheckEnvelope(report, LabelsOf(resource), DescriptionOf(resource));
  if (kind->check != nullptr) kind->check(report, resource);
}

}  // namespace gateway
