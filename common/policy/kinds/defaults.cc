#include "common/base/quote.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/kinds/route.h"
#include "common/policy/kinds/upstream.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

void CheckDefaults(const Report& report, const v1::Defaults& defaults) {
  if (defaults.name() != kDefaultName) {
    report.Add("name", fmt::format("{}: there is one Defaults, named 'default'", QuoteForMessage(defaults.name())));
  }
  CheckLimitList(report, defaults.rate_limits());
}

void CheckDefaultsReferences(const Report& report, const v1::Defaults& defaults, Compilation* compilation) {
  CheckUpstreamReferences(report, "", defaults, compilation);
  CheckRouteReferences(report, defaults, compilation);
}

}  // namespace

Kind DefaultsKind() {
  return {
      .number = v1::Resource::kDefaults,
      .short_names = {"def", "default"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.defaults().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckDefaults(report, resource.defaults()); },
      .check_references =
          [](const Report& report, const v1::Resource& resource, Compilation* compilation) {
            CheckDefaultsReferences(report, resource.defaults(), compilation);
          },
  };
}

}  // namespace gateway
