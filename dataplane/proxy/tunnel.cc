#include "dataplane/proxy/tunnel.h"

#include <exception>
#include <utility>

#include "dataplane/proxy/header_rules.h"
#include "dataplane/proxy/relay.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

// What both directions share.
struct TunnelState {
  EventLoop* loop;
  RequestContext* context;
  http::UpstreamStream* upstream;
  RelayLimits limits;
  TimePoint active;                   // bytes moved, in either direction
  RelayEnd end = RelayEnd::kRunning;  // of the direction that ended first, unless its sender ended it
  bool ended_upward = false;

  // One direction has ended: unless its sender ended it, the other one ends too.
  void EndDirection(RelayEnd how, bool upward) {
    if (how == RelayEnd::kComplete) return;
    if (end == RelayEnd::kRunning) {
      end = how;
      ended_upward = upward;
    }
    context->stream.Cancel();
    upstream->Cancel();
  }
};

class Direction final : public RelayObserver {
 public:
  explicit Direction(TunnelState* state) : state_(*state) {}

  http::BodyForms Forms() override { return {}; }
  RelayEnd OnPiece(const http::BodyPiece&) override {
    state_.active = state_.loop->now();
    return RelayEnd::kRunning;
  }
  void OnFlushed() override { state_.active = state_.loop->now(); }
  // The other direction may be busy meanwhile.
  TimePoint ReadDeadline(TimePoint) override { return state_.active + state_.limits.write_stall; }

 private:
  TunnelState& state_;
};

Task<void> RunUpward(TunnelState* state) {
  RelayEnd end = RelayEnd::kOverloaded;
  try {
    Direction direction(state);
    end = co_await Relay(state->loop, &state->context->stream, state->upstream, &direction, state->limits);
  } catch (const std::exception& error) {
    spdlog::error("request {}: its tunnel failed: {}", state->context->facts.request_id, error.what());
  }
  state->EndDirection(end, true);
}

// From here on only the log uses the request's header: the few texts that it needs are copied, and the buffer is given
// back.
void ReleaseHeader(RequestContext* context) {
  http::Request& request = context->header;
  RequestFacts& facts = context->facts;
  std::string_view user_agent;
  for (size_t i = 0; i < request.fields.size(); ++i) {
    if (request.kinds[i] == http::FieldKind::kUserAgent) user_agent = request.fields[i].value;
  }
  std::string& storage = facts.header_storage;
  storage.reserve(request.target.size() + user_agent.size() + facts.request_id.size());
  const auto keep = [&storage](std::string_view text) {
    const size_t at = storage.size();
    storage += text;
    return std::string_view(storage.data() + at, text.size());
  };
  const std::string_view target = keep(request.target);
  user_agent = keep(user_agent);
  facts.request_id = keep(facts.request_id);
  request.Clear();
  request.path = request.query = request.authority = {};
  request.method = "GET";  // the only one that can change its protocol
  request.target = target;
  request.fields.push_back({"User-Agent", user_agent});
  request.kinds.push_back(http::FieldKind::kUserAgent);
  facts.path = facts.host = {};
  context->target.match.variables.clear();
  context->stream.ReleaseRequest();
}

AttemptEnd EndOf(const TunnelState& state, Result* result) {
  AttemptEnd attempt;
  attempt.responded = true;
  switch (state.end) {
    case RelayEnd::kSourceGone:
      attempt.reason = state.ended_upward ? Reason::kClientClosed : Reason::kUpstreamReset;
      break;
    case RelayEnd::kSinkGone:
      attempt.reason = state.ended_upward ? Reason::kUpstreamReset : Reason::kClientClosed;
      break;
    case RelayEnd::kSourceStalled:
    case RelayEnd::kSinkStalled:
      result->refusal.detail = "idle for upgrade_idle_timeout";
      break;
    case RelayEnd::kOutOfTime:
      attempt.reason = Reason::kRequestDeadline;
      attempt.detail = Deadline::kMaxDurationDetail;
      break;
    case RelayEnd::kOverloaded:
      attempt.reason = Reason::kOverloaded;
      break;
    default:
      break;
  }
  if (attempt.reason == Reason::kUpstreamReset) result->end = http::End::kReset;
  return attempt;
}

}  // namespace

Task<AttemptEnd> RunTunnel(ExchangeResources* resources, RequestContext* context, CircuitBreaker::Permit* permit,
                           http::UpstreamStream* upstream, http::Response* response, std::string_view session_cookie) {
  http::DownstreamStream& stream = context->stream;
  const http::OutgoingResponse header = BuildResponse(*context, session_cookie, resources, response);
  http::BodyPiece first;  // the service's first bytes may have come with its response
  (void)upstream->Read({}, &first);
  Io io = stream.Begin(header, first);
  if (io == Io::kEnd) {
    AttemptEnd attempt;
    attempt.reason = Reason::kOverloaded;
    co_return attempt;
  }
  ReleaseHeader(context);
  context->result.status = 101;
  context->result.response_started = true;
  // Each direction sees for itself how its side ends: what came before a reset is still passed on.
  stream.WatchGone(nullptr, nullptr);
  *permit = {};
  WorkerShard& metrics = *resources->metrics;
  metrics.Add(WorkerGauge::kInFlight, -1);
  metrics.Add(WorkerGauge::kUpgraded, 1);
  metrics.Add(WorkerGauge::kUpgradedTotal, 1);

  EventLoop* const loop = resources->loop;
  const RelayLimits limits{context->target.policy().upgrade_idle_timeout, context->deadline.at};
  TunnelState state{.loop = loop, .context = context, .upstream = upstream, .limits = limits, .active = loop->now()};
  Task<void> upward = RunUpward(&state);
  upward.Start();
  if (io == Io::kAgain) io = co_await stream.Flush(limits.write_stall, limits.until);
  RelayEnd end = RelayEnd::kComplete;
  if (io != Io::kDone) {
    end = io == Io::kError                        ? RelayEnd::kSinkGone
          : context->deadline.IsOver(loop->now()) ? RelayEnd::kOutOfTime
                                                  : RelayEnd::kSinkStalled;
  } else {
    Direction downward(&state);
    end = co_await Relay(loop, upstream, &stream, &downward, limits);
  }
  state.EndDirection(end, false);
  co_await upward.Done();
  metrics.Add(WorkerGauge::kUpgraded, -1);
  metrics.Add(WorkerGauge::kInFlight, 1);
  co_return EndOf(state, &context->result);
}

}  // namespace gateway::dataplane
