#include "common/base/units.h"
#include "common/policy/kinds/kinds.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

void CheckBreaker(const Report& report, const v1::CircuitBreaker& breaker) {
  CheckEnum(report, "force", breaker.force(), v1::CircuitBreaker::Force_IsValid);
  const Millis sleep = breaker.has_sleep_window() ? ToMillis(breaker.sleep_window()) : Millis(5000);
  if (breaker.has_max_sleep_window() && ToMillis(breaker.max_sleep_window()) < sleep) {
    report.Add("max_sleep_window", fmt::format("is shorter than sleep_window ({} ms)", sleep.count()));
  }
  if (breaker.has_slow_call_percent_threshold() && !breaker.has_slow_call_duration()) {
    report.Add("slow_call_percent_threshold", "needs slow_call_duration, which defines a slow call");
  }
}

std::shared_ptr<const BreakerPolicy> CompileBreaker(const v1::CircuitBreaker& breaker) {
  auto policy = std::make_shared<BreakerPolicy>();
  policy->name = breaker.name();
  if (breaker.has_timeout()) policy->timeout = ToMillis(breaker.timeout());
  if (breaker.has_max_concurrent_requests()) policy->max_concurrent_requests = breaker.max_concurrent_requests();
  if (breaker.has_request_volume_threshold()) policy->request_volume_threshold = breaker.request_volume_threshold();
  if (breaker.has_sleep_window()) policy->sleep_window = ToMillis(breaker.sleep_window());
  if (breaker.has_error_percent_threshold()) policy->error_percent_threshold = breaker.error_percent_threshold();
  policy->max_sleep_window =
      breaker.has_max_sleep_window() ? ToMillis(breaker.max_sleep_window()) : policy->sleep_window;
  if (breaker.has_slow_call_duration()) policy->slow_call_duration = ToMillis(breaker.slow_call_duration());
  if (breaker.has_slow_call_percent_threshold()) {
    policy->slow_call_percent_threshold = breaker.slow_call_percent_threshold();
  }
  if (breaker.has_probes()) policy->probes = breaker.probes();
  policy->force = breaker.force();
  return policy;
}

void CompileBreakers(Compilation* compilation) {
  const Documents<v1::CircuitBreaker> all = compilation->All<v1::CircuitBreaker>();
  for (size_t i = 0; i < all.size(); ++i) compilation->breakers.push_back(CompileBreaker(all[i]));
}

}  // namespace

Kind CircuitBreakerKind() {
  return {
      .number = v1::Resource::kCircuitBreaker,
      .short_names = {"cb", "breaker"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.circuit_breaker().labels(); },
      .check = [](const Report& report,
                  const v1::Resource& resource) { CheckBreaker(report, resource.circuit_breaker()); },
      .compile = &CompileBreakers,
  };
}

}  // namespace gateway
