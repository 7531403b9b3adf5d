// What follows a change of protocol (101): bytes, both ways at once, until both sides have ended theirs. Nothing in
// them is looked at. A tunnel that is silent holds no buffer.
#include <memory>
#include <utility>

#include "dataplane/proxy/exchange.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

// What both directions share.
struct Exchange::TunnelState {
  TimePoint active;                   // bytes moved, in either direction
  RelayEnd end = RelayEnd::kRunning;  // of the direction that ended first, unless by its sender; it says why
  bool ended_upward = false;
};

class Exchange::TunnelDirection final : public RelayObserver {
 public:
  TunnelDirection(Exchange* exchange, TunnelState* state) : exchange_(*exchange), state_(*state) {}

  http::BodyForms Forms() override { return {}; }
  RelayEnd OnPiece(const http::BodyPiece&) override {
    state_.active = exchange_.loop().now();
    return RelayEnd::kRunning;
  }
  void OnFlushed() override { state_.active = exchange_.loop().now(); }
  // The other direction may be busy meanwhile.
  TimePoint ReadDeadline(TimePoint) override { return state_.active + exchange_.target_.match.route->upgrade_idle_timeout; }

 private:
  Exchange& exchange_;
  TunnelState& state_;
};

// From here on only the log wants to know what was asked: its few words are copied, and the head's buffer goes back.
void Exchange::KeepOfHead() {
  std::string_view user_agent;
  for (size_t i = 0; i < request_.head.fields.size(); ++i) {
    if (request_.head.kinds[i] == http::FieldKind::kUserAgent) user_agent = request_.head.fields[i].value;
  }
  request_.kept_storage.reserve(request_.head.target.size() + user_agent.size() + request_.id.size());
  const auto keep = [this](std::string_view text) {
    const size_t at = request_.kept_storage.size();
    request_.kept_storage += text;
    return std::string_view(request_.kept_storage.data() + at, text.size());
  };
  const std::string_view target = keep(request_.head.target);
  user_agent = keep(user_agent);
  request_.id = keep(request_.id);
  request_.head.Clear();
  request_.head.path = request_.head.query = request_.head.authority = {};
  request_.head.method = "GET";  // the only one that can change its protocol
  request_.head.target = target;
  request_.head.fields.push_back({"User-Agent", user_agent});
  request_.head.kinds.push_back(http::FieldKind::kUserAgent);
  request_.path = request_.host = {};
  target_.match.variables.clear();
  stream_.ReleaseRequest();
}

// `end` of one direction: unless its sender ended it, the other one ends too.
void Exchange::EndTunnel(http::UpstreamStream* upstream, TunnelState* state, RelayEnd end, bool upward) {
  if (end == RelayEnd::kComplete) return;
  if (state->end == RelayEnd::kRunning) {
    state->end = end;
    state->ended_upward = upward;
  }
  stream_.Cancel();
  upstream->Cancel();
}

Task<Exchange::Attempt> Exchange::Tunnel(http::UpstreamStream* upstream, http::Response* response) {
  Attempt attempt;
  attempt.answered = true;
  const http::OutgoingResponse head = BuildResponse(response);
  http::BodyPiece first;  // the service's first bytes may have come with its response
  (void)upstream->Read({}, &first);
  Io io = stream_.Begin(head, first);
  if (io == Io::kEnd) {
    attempt.answered = false;
    attempt.reason = Reason::kOverloaded;
    co_return attempt;
  }
  KeepOfHead();
  outcome_.status = 101;
  outcome_.response_started = true;
  // Each direction sees for itself how its side ends: what came before a reset is still passed on.
  CancelWhenGone(nullptr);
  admission_.permit = {};  // a place in the breaker is for requests that wait for their response
  WorkerShard& metrics = worker_->metrics();
  metrics.Add(WorkerGauge::kInFlight, -1);
  metrics.Add(WorkerGauge::kUpgraded, 1);
  metrics.Add(WorkerGauge::kUpgradedTotal, 1);

  TunnelState state{.active = loop().now()};
  const RelayLimits limits{target_.match.route->upgrade_idle_timeout, request_.ends_at};
  Task<void> upward = TunnelUp(upstream, &state);
  upward.Start();
  if (io == Io::kAgain) io = co_await stream_.Flush(limits.write_stall, limits.until);
  RelayEnd end = RelayEnd::kComplete;
  if (io != Io::kDone) {
    end = io == Io::kError ? RelayEnd::kSinkGone : OutOfTime() ? RelayEnd::kOutOfTime : RelayEnd::kSinkStalled;
  } else {
    TunnelDirection downward(this, &state);
    end = co_await Relay(&loop(), upstream, &stream_, &downward, limits);
  }
  EndTunnel(upstream, &state, end, false);
  co_await upward.Done();
  metrics.Add(WorkerGauge::kUpgraded, -1);
  metrics.Add(WorkerGauge::kInFlight, 1);

  const bool up = state.ended_upward;
  switch (state.end) {
    case RelayEnd::kSourceGone:
      attempt.reason = up ? Reason::kClientClosed : Reason::kUpstreamReset;
      break;
    case RelayEnd::kSinkGone:
      attempt.reason = up ? Reason::kUpstreamReset : Reason::kClientClosed;
      break;
    case RelayEnd::kSourceStalled:
    case RelayEnd::kSinkStalled:
      outcome_.detail = "idle for upgrade_idle_timeout";
      break;
    case RelayEnd::kOutOfTime:
      attempt.reason = Reason::kRequestDeadline;
      attempt.detail = kMaxDurationDetail;
      break;
    case RelayEnd::kOverloaded:
      attempt.reason = Reason::kOverloaded;
      break;
    default:
      break;
  }
  if (attempt.reason == Reason::kUpstreamReset) outcome_.end = http::End::kReset;
  co_return attempt;
}

Task<void> Exchange::TunnelUp(http::UpstreamStream* upstream, TunnelState* state) {
  RelayEnd end = RelayEnd::kOverloaded;
  try {
    TunnelDirection direction(this, state);
    end = co_await Relay(&loop(), &stream_, upstream, &direction, {target_.match.route->upgrade_idle_timeout, request_.ends_at});
  } catch (const std::exception& error) {
    spdlog::error("request {}: its tunnel failed: {}", request_.id, error.what());
  }
  EndTunnel(upstream, state, end, true);
}

}  // namespace gateway::dataplane
