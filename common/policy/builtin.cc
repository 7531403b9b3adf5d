#include "common/policy/builtin.h"

#include <string>

#include "common/base/units.h"
#include "common/policy/resource.h"

namespace gateway {

std::optional<BuiltinRateLimit> BuiltinLimitOf(const v1::Bootstrap& config) {
  if (!config.has_rate_limit() || !config.rate_limit().enabled()) return std::nullopt;
  return BuiltinRateLimit{config.rate_limit().max_requests(), ToMillis(config.rate_limit().window_size())};
}

std::vector<v1::Resource> BuiltinResources(const std::optional<BuiltinRateLimit>& rate_limit) {
  std::vector<v1::Resource> resources(3);

  const BuiltinRateLimit limit = rate_limit.value_or(BuiltinRateLimit{});
  v1::RateLimit& default_limit = *resources[0].mutable_rate_limit();
  default_limit.set_name(std::string(kDefaultName));
  default_limit.add_key("client_ip");
  default_limit.add_key("path");
  default_limit.mutable_limit()->set_requests(limit.max_requests);
  google::protobuf::Duration& window = *default_limit.mutable_limit()->mutable_window();
  window.set_seconds(limit.window.count() / 1000);
  window.set_nanos(static_cast<int32_t>(limit.window.count() % 1000 * 1'000'000));
  if (!rate_limit.has_value()) default_limit.set_mode(v1::RateLimit::DISABLED);

  v1::CircuitBreaker& hystrix = *resources[1].mutable_circuit_breaker();
  hystrix.set_name("hystrix");
  hystrix.mutable_timeout()->set_seconds(1);
  hystrix.set_max_concurrent_requests(100);
  hystrix.set_request_volume_threshold(20);
  hystrix.mutable_sleep_window()->set_seconds(5);
  hystrix.set_error_percent_threshold(50);

  v1::Defaults& defaults = *resources[2].mutable_defaults();
  defaults.set_name(std::string(kDefaultName));
  defaults.add_rate_limits(std::string(kDefaultName));
  defaults.mutable_timeout()->set_seconds(30);
  return resources;
}

}  // namespace gateway
