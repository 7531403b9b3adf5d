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
  TimePoint ReadDeadline(TimePoint) override { return state_.active + exchange_.match_.route->upgrade_idle_timeout; }

 private:
  Exchange& exchange_;
  TunnelState& state_;
};

// From here on only the log wants to know what was asked: its few words are copied, and the head's buffer goes back.
void Exchange::KeepOfHead() {
  std::string_view user_agent;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    if (head_.kinds[i] == http::FieldKind::kUserAgent) user_agent = head_.fields[i].value;
  }
  kept_room_.reserve(head_.target.size() + user_agent.size() + request_id_.size());
  const auto keep = [this](std::string_view text) {
    const size_t at = kept_room_.size();
    kept_room_ += text;
    return std::string_view(kept_room_.data() + at, text.size());
  };
  const std::string_view target = keep(head_.target);
  user_agent = keep(user_agent);
  request_id_ = keep(request_id_);
  head_.Clear();
  head_.path = head_.query = head_.authority = {};
  head_.method = "GET";  // the only one that can change its protocol
  head_.target = target;
  head_.fields.push_back({"User-Agent", user_agent});
  head_.kinds.push_back(http::FieldKind::kUserAgent);
  path_ = host_ = {};
  match_.variables.clear();
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
  status_ = 101;
  answer_started_ = true;
  // Each direction sees for itself how its side ends: what came before a reset is still passed on.
  CancelWhenGone(nullptr);
  permit_ = {};  // a place in the breaker is for requests that wait for their response
  WorkerShard& metrics = worker_->metrics();
  metrics.Add(WorkerGauge::kInFlight, -1);
  metrics.Add(WorkerGauge::kUpgraded, 1);
  metrics.Add(WorkerGauge::kUpgradedTotal, 1);

  TunnelState state{.active = loop().now()};
  const RelayLimits limits{match_.route->upgrade_idle_timeout, ends_at_};
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
      detail_ = "idle for upgrade_idle_timeout";
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
  if (attempt.reason == Reason::kUpstreamReset) end_ = http::End::kReset;
  co_return attempt;
}

Task<void> Exchange::TunnelUp(http::UpstreamStream* upstream, TunnelState* state) {
  RelayEnd end = RelayEnd::kOverloaded;
  try {
    TunnelDirection direction(this, state);
    end = co_await Relay(&loop(), &stream_, upstream, &direction, {match_.route->upgrade_idle_timeout, ends_at_});
  } catch (const std::exception& error) {
    spdlog::error("request {}: its tunnel failed: {}", request_id_, error.what());
  }
  EndTunnel(upstream, state, end, true);
}

}  // namespace gateway::dataplane
