#include "dataplane/proxy/stages/body.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "dataplane/proxy/relay.h"

namespace gateway::dataplane {
namespace {

// Keeps what it is given, behind what it holds, until that is more than `bytes_max`: then it takes no more.
class BodyBuffer final : public http::BodySink {
 public:
  BodyBuffer(BufferPool* pool, Buffer* out, uint64_t bytes_max) : pool_(pool), out_(*out), bytes_max_(bytes_max) {}

  http::BodyForms takes() const override { return {}; }
  Io Write(const http::BodyPiece& piece) override {
    if (out_.room() < piece.bytes.size() && !pool_->Grow(&out_, out_.size() + piece.bytes.size())) {
      overloaded_ = true;
      return Io::kError;
    }
    std::memcpy(out_.space(), piece.bytes.data(), piece.bytes.size());
    out_.Filled(piece.bytes.size());
    return out_.size() > bytes_max_ && !piece.last ? Io::kError : Io::kDone;
  }
  Task<Io> Flush(std::chrono::milliseconds, TimePoint) override { co_return Io::kDone; }
  bool overloaded() const { return overloaded_; }

 private:
  BufferPool* const pool_;
  Buffer& out_;
  const uint64_t bytes_max_;
  bool overloaded_ = false;
};

class Buffering final : public RelayObserver {
 public:
  Buffering(const BufferInput& in, RequestBody* body) : in_(in), body_(*body) {}

  http::BodyForms Forms() override { return {}; }
  RelayEnd OnPiece(const http::BodyPiece& piece) override {
    body_.complete = piece.last;
    body_.bytes += piece.payload;
    return IsTooLarge(in_.route, body_.bytes) ? RelayEnd::kTooLarge : RelayEnd::kRunning;
  }
  TimePoint ReadDeadline(TimePoint since) override { return since + in_.read_timeout; }

 private:
  const BufferInput& in_;
  RequestBody& body_;
};

}  // namespace

std::optional<Refusal> TakeBufferedBody(const http::Request& request, http::DownstreamStream* stream,
                                        RequestBody* body) {
  body->complete = body->replayable = !request.has_body;
  if (!request.has_body) return std::nullopt;
  http::BodyPiece piece;
  switch (stream->Read({}, &piece)) {
    case http::BodyRead::kPiece:
      body->buffered = piece.bytes;
      body->bytes = piece.payload;
      body->complete = body->replayable = piece.last;
      body->trailers = piece.trailers;
      return std::nullopt;
    case http::BodyRead::kInvalid:
      return Refusal{Reason::kBadRequest, stream->detail()};
    default:
      return std::nullopt;
  }
}

std::optional<Refusal> CheckBodySize(const RoutePolicy& route, const http::Request& request, const RequestBody& body) {
  if (!IsTooLarge(route, request.length.value_or(body.bytes))) return std::nullopt;
  return Refusal{.reason = Reason::kBodyTooLarge};
}

Task<std::optional<Refusal>> BufferBody(const BufferInput& in, const http::Request& request,
                                        http::DownstreamStream* stream, RequestBody* body) {
  if (request.length.value_or(0) > in.bytes_max || body->buffered.size() > in.bytes_max) co_return std::nullopt;
  const size_t expected = request.length.value_or(body->buffered.size() + 1);
  Buffer& storage = body->storage;
  storage = in.buffers->AcquireUpTo(std::max<size_t>(expected, 1));
  if (!storage || (storage.room() < expected && !in.buffers->Grow(&storage, expected))) {
    storage.Reset();
    co_return std::nullopt;
  }
  std::memcpy(storage.space(), body->buffered.data(), body->buffered.size());
  storage.Filled(body->buffered.size());
  BodyBuffer sink(in.buffers, &storage, in.bytes_max);
  Buffering buffering(in, body);
  const RelayEnd end = co_await Relay(in.loop, stream, &sink, &buffering, {in.read_timeout, in.until});
  body->buffered = {storage.data(), storage.size()};
  body->complete_at = in.loop->now();
  switch (end) {
    case RelayEnd::kComplete:
      body->replayable = storage.size() <= in.bytes_max;
      co_return std::nullopt;
    case RelayEnd::kSinkGone:  // it is longer
      if (!sink.overloaded()) co_return std::nullopt;
      co_return Refusal{.reason = Reason::kOverloaded};
    case RelayEnd::kInvalid:
      co_return Refusal{Reason::kBadRequest, stream->detail()};
    case RelayEnd::kTooLarge:
      co_return Refusal{.reason = Reason::kBodyTooLarge};
    case RelayEnd::kOverloaded:
      co_return Refusal{.reason = Reason::kOverloaded};
    case RelayEnd::kSourceStalled:
    case RelayEnd::kOutOfTime:
      co_return Refusal{.reason = Reason::kRequestTimeout};
    default:
      co_return Refusal{.reason = Reason::kClientClosed};
  }
}

void KeepForRetry(const http::BodyPiece& piece, BufferPool* buffers, uint64_t bytes_max, RequestBody* body) {
  Buffer& storage = body->storage;
  const std::string_view before = storage ? std::string_view() : body->buffered;
  const size_t held = storage ? storage.size() : before.size();
  const auto append = [&storage](std::string_view bytes) {
    std::memcpy(storage.space(), bytes.data(), bytes.size());
    storage.Filled(bytes.size());
  };
  bool fits = held + piece.bytes.size() <= bytes_max;
  if (fits && !storage) storage = buffers->Acquire(std::max<size_t>(held + piece.bytes.size(), 1));
  fits = fits && storage &&
         (storage.room() >= before.size() + piece.bytes.size() || buffers->Grow(&storage, held + piece.bytes.size()));
  if (!fits) {
    body->keeps = false;
    storage.Reset();
    return;
  }
  append(before);
  append(piece.bytes);
  // Trailers of a request are not kept.
  if (!piece.last || !piece.trailers.empty()) return;
  body->keeps = false;
  body->buffered = {storage.data(), storage.size()};
  body->replayable = true;
}

}  // namespace gateway::dataplane
