#include "dataplane/proxy/relay.h"

#include <algorithm>

namespace gateway::dataplane {

Task<RelayEnd> Relay(EventLoop* loop, http::BodySource* source, http::BodySink* sink, RelayObserver* observer,
                     RelayLimits limits) {
  const auto out_of_time = [&] { return loop->now() >= limits.until; };
  const http::BodyForms takes = sink->takes();
  size_t this_turn = 0;
  for (;;) {
    if (this_turn >= kRelayBytesPerTurnMax) {
      this_turn = 0;
      source->Pause();
      co_await Yield(loop);
      if (observer->Stopped()) co_return RelayEnd::kStopped;
    }
    if (out_of_time()) co_return RelayEnd::kOutOfTime;
    http::BodyPiece piece;
    switch (source->Read(observer->Forms() & takes, &piece)) {
      case http::BodyRead::kPiece:
        break;
      case http::BodyRead::kCutShort:
        co_return RelayEnd::kSourceGone;
      case http::BodyRead::kInvalid:
        co_return RelayEnd::kInvalid;
      case http::BodyRead::kOverloaded:
        co_return RelayEnd::kOverloaded;
      case http::BodyRead::kWait: {
        this_turn = 0;
        const TimePoint since = loop->now();
        const Wait wait = co_await source->Readable(std::min(observer->ReadDeadline(since), limits.until));
        if (observer->Stopped()) co_return RelayEnd::kStopped;
        if (wait == Wait::kCancelled) co_return RelayEnd::kSourceGone;
        if (wait == Wait::kTimeout && out_of_time()) co_return RelayEnd::kOutOfTime;
        if (wait == Wait::kTimeout && loop->now() >= observer->ReadDeadline(since)) co_return RelayEnd::kSourceStalled;
        continue;
      }
    }
    this_turn += piece.payload;
    if (const RelayEnd end = observer->OnPiece(piece); end != RelayEnd::kRunning) co_return end;
    Io io = sink->Write(piece);
    if (io == Io::kAgain) {
      this_turn = 0;
      io = co_await sink->Flush(limits.write_stall, limits.until);
      observer->OnFlushed();
    }
    if (observer->Stopped()) co_return RelayEnd::kStopped;
    if (io == Io::kAgain) co_return out_of_time() ? RelayEnd::kOutOfTime : RelayEnd::kSinkStalled;
    if (io != Io::kDone) co_return RelayEnd::kSinkGone;
    if (piece.last) co_return RelayEnd::kComplete;
  }
}

}  // namespace gateway::dataplane
