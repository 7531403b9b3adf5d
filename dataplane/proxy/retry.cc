#include "dataplane/proxy/retry.h"

#include "dataplane/http/grpc.h"

namespace gateway::dataplane {

bool Retries::IsStatusWanted(const FailedAttempt& attempt, const GrpcCall& call) const {
  const bool responded = attempt.status > 0;
  const int status = responded ? attempt.status : InfoOf(attempt.reason).status;
  if (static_cast<size_t>(status) < policy_->statuses.size() && policy_->statuses.test(static_cast<size_t>(status))) {
    return true;
  }
  if (!call.IsFor(*policy_)) return false;
  const int code = responded ? call.status : http::GrpcCodeOfStatus(status);
  return code > 0 && policy_->grpc_codes.test(static_cast<size_t>(code));
}

bool Retries::IsWanted(const FailedAttempt& attempt, const GrpcCall& call) const {
  switch (attempt.reason) {
    case Reason::kNone:
    case Reason::kUpstreamInvalid:
      return IsStatusWanted(attempt, call);
    case Reason::kUpstreamConnectFailed:
    case Reason::kUpstreamTlsFailed:
      return policy_->on_connect_failure || IsStatusWanted(attempt, call);
    case Reason::kUpstreamReset:
      return policy_->on_reset || IsStatusWanted(attempt, call);
    case Reason::kUpstreamTimeout:
      return policy_->on_timeout || (!attempt.connected && policy_->on_connect_failure) ||
             IsStatusWanted(attempt, call);
    default:
      return false;
  }
}

bool Retries::Grant(const FailedAttempt& attempt, const Input& in) {
  if (!left() || !(in.body.replayable || in.body.keeps)) return false;
  if (in.body.buffered.size() > policy_->max_body_bytes || !IsWanted(attempt, in.call)) return false;
  const std::chrono::milliseconds delay = RetryDelay(*policy_, made_ + 1, *in.random);
  if (in.now + delay >= in.until || in.client_gone) return false;
  if (in.service.breaker != nullptr) {
    if (attempt.status > 0) {
      const bool failed = in.call.OutcomeStatus(attempt.status) >= 500;
      in.permit->Report(failed ? Outcome::kFailure : Outcome::kSuccess, in.now, attempt.latency);
    }
    *in.permit = {};
    if (in.service.breaker->Acquire(in.now, in.permit) != BreakerVerdict::kAllowed) return false;
  }
  if (!in.service.runtime->retry_budget.Spend(*policy_, in.now)) {
    in.metrics->Add(WorkerGauge::kRetriesOverBudgetTotal, 1);
    *in.permit = {};
    return false;
  }
  delay_ = delay;
  ++made_;
  return true;
}

}  // namespace gateway::dataplane
