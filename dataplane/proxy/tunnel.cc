// What follows a change of protocol (101): bytes, both ways at once, until both sides have ended theirs. Nothing in
// them is looked at. A tunnel that is silent holds no buffer.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "dataplane/proxy/exchange.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

// From here on only the log wants to know what was asked: its few words are copied, and the head's buffer goes back.
void Exchange::KeepOfHead() {
  std::string_view user_agent;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    if (head_.kinds[i] == http1::FieldKind::kUserAgent) user_agent = head_.fields[i].value;
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
  head_.path = head_.query = head_.host = {};
  head_.method = "GET";  // the only one that can change its protocol
  head_.target = target;
  head_.fields.push_back({"User-Agent", user_agent});
  head_.kinds.push_back(http1::FieldKind::kUserAgent);
  path_ = host_ = {};
  match_.variables.clear();
  client_->input.Reset();
  input_used_ = 0;
}

Task<Exchange::Attempt> Exchange::Tunnel(UpstreamConnection* upstream, http1::ResponseHead* answer) {
  Attempt attempt;
  attempt.answered = true;
  // The client's first bytes may have come with its head, the service's with its answer.
  Buffer up, down;
  BufferPool& buffers = worker_->buffers();
  const size_t early = client_->input.size() - input_used_;
  if (early > 0) {
    up = buffers.Acquire(early);
    if (up) {
      std::memcpy(up.space(), client_->input.data() + input_used_, early);
      up.Filled(early);
    }
  }
  down = buffers.Acquire(BufferPool::kSmall);
  const size_t first = upstream->input.size() - answer->bytes;
  if ((early > 0 && !up) || !down || !BuildAnswerHead(*answer, false, false, &down) ||
      (down.room() < first && !buffers.Grow(&down, down.size() + first))) {
    attempt.answered = false;
    attempt.reason = Reason::kOverloaded;
    co_return attempt;
  }
  std::memcpy(down.space(), upstream->input.data() + answer->bytes, first);
  down.Filled(first);
  upstream->input.Reset();
  KeepOfHead();
  status_ = 101;
  answer_started_ = true;
  client_->EndGone();  // when the tunnel has ended, so has the connection
  // Each pump sees for itself how its side ends: what came before a reset is still passed on.
  client_->socket.CancelOnReset(nullptr);
  permit_ = {};  // a place in the breaker is for requests that wait for their answer
  WorkerShard& metrics = worker_->metrics();
  metrics.Add(WorkerGauge::kInFlight, -1);
  metrics.Add(WorkerGauge::kUpgraded, 1);
  metrics.Add(WorkerGauge::kUpgradedTotal, 1);
  tunnel_active_ = loop().now();

  TunnelEnd up_end = TunnelEnd::kEnded;
  Task<void> upward = PumpTunnelUp(upstream, std::move(up), &up_end);
  upward.Start();
  const TunnelEnd down_end = co_await PumpTunnel(&upstream->socket, &client_->socket, std::move(down), &bytes_out_);
  if (down_end != TunnelEnd::kEnded) {
    client_->socket.Cancel();
    upstream->socket.Cancel();
  }
  co_await upward.Done();
  metrics.Add(WorkerGauge::kUpgraded, -1);
  metrics.Add(WorkerGauge::kInFlight, 1);

  // The one that ended by itself says why; the other was cancelled for it.
  const bool up_first = down_end == TunnelEnd::kEnded || down_end == TunnelEnd::kCancelled;
  switch (up_first ? up_end : down_end) {
    case TunnelEnd::kEnded:
    case TunnelEnd::kCancelled:
      break;
    case TunnelEnd::kFromBroken:
      attempt.reason = up_first ? Reason::kClientClosed : Reason::kUpstreamReset;
      break;
    case TunnelEnd::kToBroken:
      attempt.reason = up_first ? Reason::kUpstreamReset : Reason::kClientClosed;
      break;
    case TunnelEnd::kIdle:
      detail_ = "idle for upgrade_idle_timeout";
      break;
    case TunnelEnd::kOutOfTime:
      attempt.reason = Reason::kRequestDeadline;
      attempt.detail = kMaxDurationDetail;
      break;
    case TunnelEnd::kOverloaded:
      attempt.reason = Reason::kOverloaded;
      break;
  }
  if (attempt.reason == Reason::kUpstreamReset) client_->ResetAtEnd();
  co_return attempt;
}

Task<void> Exchange::PumpTunnelUp(UpstreamConnection* upstream, Buffer first, TunnelEnd* end) {
  *end = TunnelEnd::kOverloaded;
  try {
    *end = co_await PumpTunnel(&client_->socket, &upstream->socket, std::move(first), &bytes_in_);
  } catch (const std::exception& error) {
    spdlog::error("request {}: its tunnel failed: {}", request_id_, error.what());
  }
  if (*end != TunnelEnd::kEnded) {
    client_->socket.Cancel();
    upstream->socket.Cancel();
  }
}

// One direction, until its sender has ended it; then the receiver is told.
Task<Exchange::TunnelEnd> Exchange::PumpTunnel(Socket* from, Socket* to, Buffer first, uint64_t* bytes) {
  const std::chrono::milliseconds patience = match_.route->upgrade_idle_timeout;
  Buffer buffer = std::move(first);
  size_t wanted = BufferPool::kSmall;
  size_t this_turn = 0;
  for (;;) {
    if (!buffer.empty()) {
      std::array<iovec, 1> part = {{{buffer.data(), buffer.size()}}};
      std::span<iovec> rest(part);
      size_t written = 0;
      Io io = to->Write(&rest, &written);
      *bytes += written;
      if (io == Io::kAgain) {
        this_turn = 0;
        io = co_await to->WriteRest(rest, patience, bytes, ends_at_);
      }
      if (io == Io::kAgain) co_return OutOfTime() ? TunnelEnd::kOutOfTime : TunnelEnd::kIdle;
      if (io == Io::kError) co_return to->cancelled() ? TunnelEnd::kCancelled : TunnelEnd::kToBroken;
      tunnel_active_ = loop().now();
      buffer.Clear();
    }
    if (OutOfTime()) co_return TunnelEnd::kOutOfTime;
    if (this_turn >= kRelayBytesPerTurnMax) {
      this_turn = 0;
      co_await Yield(&loop());
    }
    if (buffer && buffer.capacity() < wanted) buffer.Reset();
    if (!buffer) buffer = worker_->buffers().AcquireUpTo(wanted);
    if (!buffer) co_return TunnelEnd::kOverloaded;
    size_t moved = 0;
    const Io io = from->cancelled() ? Io::kError : from->Read(buffer.space(), buffer.room(), &moved);
    if (io == Io::kDone) {
      buffer.Filled(moved);
      this_turn += moved;
      tunnel_active_ = loop().now();
      if (buffer.room() == 0) wanted = BufferPool::LargerForFlow(buffer.capacity());
      continue;
    }
    if (io == Io::kEnd) {
      (void)shutdown(to->fd(), SHUT_WR);  // fails where that side is gone, which its own pump finds out
      co_return TunnelEnd::kEnded;
    }
    if (io == Io::kError) co_return from->cancelled() ? TunnelEnd::kCancelled : TunnelEnd::kFromBroken;
    buffer.Reset();
    this_turn = 0;
    const Wait wait = co_await from->Readable(std::min(tunnel_active_ + patience, ends_at_));
    if (wait == Wait::kCancelled) co_return TunnelEnd::kCancelled;
    if (wait == Wait::kTimeout && OutOfTime()) co_return TunnelEnd::kOutOfTime;
    // The other direction may have been busy meanwhile.
    if (wait == Wait::kTimeout && loop().now() >= tunnel_active_ + patience) co_return TunnelEnd::kIdle;
  }
}

}  // namespace gateway::dataplane
