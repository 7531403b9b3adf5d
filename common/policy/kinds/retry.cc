#include "common/policy/kinds/retry.h"

#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "common/base/grpc_code.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/route/route_pattern.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {

bool AddRetryCondition(std::string_view text, RetryPolicy* policy) {
  if (text == "connect_failure") {
    policy->on_connect_failure = true;
  } else if (text == "reset") {
    policy->on_reset = true;
  } else if (text == "timeout") {
    policy->on_timeout = true;
  } else if (text == "5xx") {
    for (size_t status = 500; status < policy->statuses.size(); ++status) policy->statuses.set(status);
    policy->on_reset = policy->on_timeout = policy->on_connect_failure = true;
  } else if (text.starts_with("grpc:")) {
    const std::optional<int> code = GrpcCodeOf(text.substr(5));
    if (!code || *code == kGrpcOk) return false;
    policy->grpc_codes.set(static_cast<size_t>(*code));
  } else {
    int status = 0;
    if (text.size() != 3 || !absl::SimpleAtoi(AbslView(text), &status) || status < 400 || status > 599) return false;
    policy->statuses.set(static_cast<size_t>(status));
  }
  return true;
}

namespace {

void CheckRetry(const Report& report, const v1::Retry& retry) {
  RetryPolicy scratch;
  for (int i = 0; i < retry.conditions_size(); ++i) {
    if (!AddRetryCondition(retry.conditions(i), &scratch)) {
      const std::string near =
          NearestName(retry.conditions(i),
                      {"connect_failure", "reset", "timeout", "5xx", "grpc:unavailable", "grpc:resource_exhausted",
                       "grpc:deadline_exceeded", "grpc:internal", "grpc:aborted", "grpc:unknown", "grpc:cancelled"});
      report.Add(
          At("conditions", i),
          fmt::format("{} is not a condition; {}", QuoteForMessage(retry.conditions(i)),
                      near.empty() ? "expected connect_failure, reset, timeout, 5xx, a status from 400 to 599, or "
                                     "grpc:NAME as in grpc:unavailable"
                                   : fmt::format("did you mean {}?", QuoteForMessage(near))));
    }
  }
  for (int i = 0; i < retry.methods_size(); ++i) {
    CheckMethodName(report, At("methods", i), retry.methods(i));
  }
  if (retry.backoff().has_base() && retry.backoff().has_max() &&
      ToMillis(retry.backoff().max()) < ToMillis(retry.backoff().base())) {
    report.Add("backoff.max", "is shorter than base");
  }
}

std::shared_ptr<const RetryPolicy> CompileRetry(const v1::Retry& retry) {
  auto policy = std::make_shared<RetryPolicy>();
  policy->name = retry.name();
  if (retry.has_attempts()) policy->attempts = retry.attempts();
  for (const std::string& condition : retry.conditions()) AddRetryCondition(condition, policy.get());
  if (retry.conditions().empty()) {
    for (const std::string_view condition : {"connect_failure", "reset", "502", "503", "504"}) {
      AddRetryCondition(condition, policy.get());
    }
  }
  policy->methods = MethodsWithHead(retry.methods());
  if (policy->methods.empty()) policy->methods = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"};
  std::sort(policy->methods.begin(), policy->methods.end());
  if (retry.has_per_try_timeout()) policy->per_try_timeout = ToMillis(retry.per_try_timeout());
  if (retry.backoff().has_base()) policy->backoff_base = ToMillis(retry.backoff().base());
  if (retry.backoff().has_max()) policy->backoff_max = ToMillis(retry.backoff().max());
  policy->backoff_max = std::max(policy->backoff_max, policy->backoff_base);
  if (retry.budget().has_percent()) policy->budget_percent = retry.budget().percent();
  if (retry.budget().has_min_per_second()) policy->budget_min_per_second = retry.budget().min_per_second();
  if (retry.has_max_body_bytes()) policy->max_body_bytes = retry.max_body_bytes();
  return policy;
}

void CompileRetries(Compilation* compilation) {
  const Documents<v1::Retry> all = compilation->All<v1::Retry>();
  for (size_t i = 0; i < all.size(); ++i) compilation->retries.push_back(CompileRetry(all[i]));
}

}  // namespace

Kind RetryKind() {
  return {
      .number = v1::Resource::kRetry,
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.retry().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckRetry(report, resource.retry()); },
      .compile = &CompileRetries,
  };
}

}  // namespace gateway
