// How the two bodies of an exchange flow, both at once: the request's in a task of its own, the answer's in the
// exchange's. A relay holds at most one buffer each way, which grows while bytes flow and is given back while they
// don't. A flow that has filled the largest buffer goes through a pipe instead, uncopied, while nobody has to look into
// it: where its length is known, and much of it is still to come.
#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "dataplane/http/http1/response_reader.h"
#include "dataplane/proxy/exchange.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

// So much of a body is copied behind its head: cheaper than telling the kernel of two pieces.
constexpr size_t kCopiedBytesMax = 2048;
// Shorter rests of a body are copied: a pipe has its cost too.
constexpr uint64_t kSplicedBytesMin = 2 * SplicePipe::kBytesMax;

// The pieces of one write.
class Parts {
 public:
  void Add(std::string_view bytes) {
    if (!bytes.empty()) parts_[count_++] = {const_cast<char*>(bytes.data()), bytes.size()};
  }
  void Add(const http1::BodyDecoder::Result& piece) {
    Add(piece.before);
    Add(piece.kept);
    Add(piece.after);
  }
  // `payload` in a chunk of its own (nothing where it is empty), and the end of the body.
  void AddChunk(std::string_view payload, bool last) {
    if (!payload.empty()) {
      Add(http1::ChunkHead(payload.size(), &room_));
      Add(payload);
      Add(last ? std::string_view("\r\n0\r\n\r\n") : http1::kChunkEnd);
    } else if (last) {
      Add(http1::kLastChunk);
    }
  }
  std::span<iovec> span() { return {parts_.data(), count_}; }
  size_t bytes() const {
    size_t sum = 0;
    for (size_t i = 0; i < count_; ++i) sum += parts_[i].iov_len;
    return sum;
  }
  // Behind what `out` holds; there is room.
  void CopyTo(Buffer* out) const {
    for (size_t i = 0; i < count_; ++i) {
      std::memcpy(out->space(), parts_[i].iov_base, parts_[i].iov_len);
      out->Filled(parts_[i].iov_len);
    }
  }

 private:
  std::array<char, 20> room_;
  std::array<iovec, 4> parts_;
  size_t count_ = 0;
};

}  // namespace

void Exchange::TakeBufferedBody() {
  replayable_ = true;
  if (!head_.HasBody()) return;
  body_ = head_.chunked ? http1::BodyDecoder::Chunked() : http1::BodyDecoder::Length(head_.length);
  Buffer& input = client_->input;
  char* const data = input.data() + input_used_;
  const auto result = body_.Decode(data, input.size() - input_used_);
  input_used_ += result.consumed;
  bytes_in_ += result.consumed;
  buffered_body_ = {data, result.payload};
  body_bytes_ = result.payload;
  replayable_ = body_.done();
  if (result.refused) {
    upload_ = Upload::kRefused;
    body_detail_ = body_.detail();
  }
}

Task<void> Exchange::UploadBody(UpstreamConnection* upstream) {
  Upload how = Upload::kOverloaded;
  try {
    how = co_await PumpBody(upstream);
  } catch (const std::exception& error) {
    spdlog::error("request {}: its body could not be relayed: {}", request_id_, error.what());
  }
  upload_ = how;
  if (how == Upload::kComplete || how == Upload::kUpstreamFailed) {
    // Now the clock runs for the answer. An endpoint that takes no more may have answered before it stopped reading.
    request_sent_ = request_complete_ = loop().now();
    upstream->socket.ExtendRead(
        answer_head_read_ ? std::min(loop().now() + service_->policy->response_timeout, ends_at_) : AnswerDeadline());
  } else if (how != Upload::kStopped) {
    // It ends the exchange with it: nobody waits for an answer any more.
    upstream->socket.Cancel();
  }
}

// What a piece of the body that was sent to the endpoint, or could not be, means for the rest: kRunning, go on.
Exchange::Upload Exchange::EndOfPiece(Io sent, const Socket& to) const {
  if (stop_upload_) return Upload::kStopped;
  if (sent == Io::kAgain) return Upload::kUpstreamTimeout;
  if (sent == Io::kError) return to.cancelled() ? Upload::kClientClosed : Upload::kUpstreamFailed;
  return Upload::kRunning;
}

// Relays the request's body until it has ended, or can't go on.
Task<Exchange::Upload> Exchange::PumpBody(UpstreamConnection* upstream) {
  Socket& from = client_->socket;
  Socket& to = upstream->socket;
  size_t wanted = BufferPool::FirstForFlow(client_->input);
  size_t this_turn = 0;
  Buffer buffer;
  SplicePipe pipe;
  while (!body_.done()) {
    if (this_turn >= kRelayBytesPerTurnMax) {
      this_turn = 0;
      buffer.Reset();  // empty: whose turn is next shall have it while it is in the cache
      co_await Yield(&loop());
      if (stop_upload_) co_return Upload::kStopped;
    }
    if (!pipe && wanted == BufferPool::kLarge && !mirrors_ && body_.LengthLeft() >= kSplicedBytesMin &&
        from.CanSplice() && to.CanSplice()) {
      buffer.Reset();
      pipe = worker_->pipes().Acquire();
    }
    if (!pipe && !buffer) buffer = worker_->buffers().AcquireUpTo(wanted);
    if (!pipe && !buffer) co_return Upload::kOverloaded;
    const size_t room = std::min(pipe ? SplicePipe::kBytesMax : buffer.room(), body_.ReadableBytes());
    size_t moved = 0;
    const Io io = pipe ? from.ReadInto(&pipe, room, &moved) : from.Read(buffer.space(), room, &moved);
    if (io == Io::kEnd || io == Io::kError) co_return Upload::kClientClosed;
    if (io == Io::kAgain) {
      buffer.Reset();
      pipe.Reset();
      this_turn = 0;
      // Who waits for a 100 does not stall.
      const Wait wait = co_await from.Readable(continue_awaited_ ? ends_at_ : loop().now() + options_.read_timeout);
      if (stop_upload_) co_return Upload::kStopped;
      if (wait == Wait::kReady) continue;
      co_return wait == Wait::kTimeout ? Upload::kClientTimeout : Upload::kClientClosed;
    }
    this_turn += moved;
    upload_begun_ = true;
    if (continue_awaited_) {
      continue_awaited_ = false;  // it did not wait
      to.ExtendRead(ends_at_);
    }
    if (pipe) {
      bytes_in_ += moved;
      body_bytes_ += moved;
      body_.Advance(moved);
      worker_->metrics().Add(WorkerGauge::kSplicedBytesTotal, static_cast<int64_t>(moved));
      uint64_t written = 0;
      Io sent = to.WriteFrom(&pipe, &moved);
      if (sent == Io::kAgain) {
        this_turn = 0;
        sent = co_await to.WriteRestFrom(&pipe, service_->policy->response_timeout, &written);
      }
      if (const Upload end = EndOfPiece(sent, to); end != Upload::kRunning) co_return end;
      continue;
    }
    // Chunks go on as chunks, where nobody else needs their payload in one piece.
    const bool recodes = head_.chunked && !mirrors_;
    const auto result = recodes ? body_.Recode(buffer.data(), moved) : body_.Decode(buffer.data(), moved);
    bytes_in_ += result.consumed;
    if (result.refused) {
      body_detail_ = body_.detail();
      co_return Upload::kRefused;
    }
    body_bytes_ += result.payload;
    if (match_.route->bounds_body && body_bytes_ > match_.route->max_body_bytes) co_return Upload::kTooLarge;
    if (mirrors_) {
      CopyForMirrors(result.kept);
      if (body_.done()) StartMirrors();
    }
    Parts parts;
    if (head_.chunked && !recodes) {
      parts.AddChunk(result.kept, body_.done());
    } else {
      parts.Add(result);
    }
    std::span<iovec> rest = parts.span();
    size_t written = 0;
    Io sent = to.Write(&rest, &written);
    if (sent == Io::kAgain) {
      uint64_t more = 0;
      this_turn = 0;
      sent = co_await to.WriteRest(rest, service_->policy->response_timeout, &more);
    }
    if (const Upload end = EndOfPiece(sent, to); end != Upload::kRunning) co_return end;
    if (result.consumed < moved) {
      // Behind a chunked body, the beginning of the next request.
      buffer.Filled(moved);
      buffer.Skip(result.consumed);
      next_input_ = std::move(buffer);
      co_return Upload::kComplete;
    }
    if (moved == room && room == buffer.capacity() && wanted < BufferPool::kLarge) {
      wanted = BufferPool::LargerForFlow(buffer.capacity());
      buffer.Reset();
    }
  }
  co_return Upload::kComplete;
}

Task<Exchange::Attempt> Exchange::RelayAnswer(UpstreamConnection* upstream, http1::ResponseHead* answer) {
  Attempt attempt;
  attempt.answered = true;
  Buffer& input = upstream->input;
  Socket& from = upstream->socket;
  Socket& to = client_->socket;

  // The answer's framing (RFC 9112, section 6.3), and the client's.
  const bool to_head = head_.method == "HEAD";
  auto body = http1::BodyOf(*answer, to_head);
  const bool unknown_length = body.chunked() || body.until_close();
  const bool rechunk = unknown_length && head_.minor_version > 0;
  const bool close_delimited = unknown_length && head_.minor_version == 0;
  if (close_delimited || upload_ != Upload::kComplete || worker_->draining()) client_->EndAfterThis();
  if (!head_.Persistent()) client_->EndAsAsked();

  Buffer out = worker_->buffers().Acquire(BufferPool::kSmall);
  const bool with_length = answer->has_length && answer->status != 204;
  if (!out || !BuildAnswerHead(*answer, rechunk, with_length, &out)) {
    attempt.answered = false;
    attempt.reason = Reason::kOverloaded;
    co_return attempt;
  }
  const bool upstream_persists = http1::MayReuseConnection(*answer, to_head);
  const size_t answer_bytes = answer->bytes;
  status_ = answer->status;
  answer_started_ = true;
  size_t wanted = BufferPool::FirstForFlow(input);
  input.Consume(answer_bytes);

  size_t this_turn = 0;
  bool ended = false;  // an answer without framing ends with its connection
  SplicePipe pipe;
  for (;;) {
    http1::BodyDecoder::Result piece;
    const bool recodes = rechunk && body.chunked();
    if (!input.empty() && !body.done()) {
      piece = recodes ? body.Recode(input.data(), input.size()) : body.Decode(input.data(), input.size());
    }
    const bool last = body.done() || ended;
    Parts parts;
    std::array<iovec, 5> with_head;
    if (rechunk && !recodes) {
      parts.AddChunk(piece.kept, last);
    } else {
      parts.Add(piece);
    }
    std::span<iovec> rest = parts.span();
    if (!out.empty() && parts.bytes() <= kCopiedBytesMax && parts.bytes() <= out.room()) {
      parts.CopyTo(&out);
      with_head[0] = {out.data(), out.size()};
      rest = std::span(with_head.data(), 1);
    } else if (!out.empty()) {
      with_head[0] = {out.data(), out.size()};
      std::copy(rest.begin(), rest.end(), with_head.begin() + 1);
      rest = std::span(with_head.data(), rest.size() + 1);
    }
    size_t written = 0;
    const bool ends = last && client_->ending() && upload_ == Upload::kComplete;
    Io io = pipe.held() > 0 ? to.WriteFrom(&pipe, &written)
            : ends          ? to.WriteLast(&rest, &written)
                            : to.Write(&rest, &written);
    bytes_out_ += written;
    if (io == Io::kAgain && pipe.held() > 0) {
      io = co_await to.WriteRestFrom(&pipe, options_.write_timeout, &bytes_out_, ends_at_);
    } else if (io == Io::kAgain) {
      io = co_await to.WriteRest(rest, options_.write_timeout, &bytes_out_, ends_at_);
    }
    out.Reset();
    if (io != Io::kDone) {
      const bool late = io == Io::kAgain && OutOfTime();
      attempt.reason = late ? Reason::kRequestDeadline : Reason::kClientClosed;
      attempt.detail = late ? kMaxDurationDetail : io == Io::kAgain ? "the client stopped reading" : "";
      client_->EndAfterThis();
      if (io == Io::kAgain) client_->ResetAtEnd();
      co_return attempt;
    }
    if (piece.refused) {
      attempt.reason = Reason::kUpstreamInvalid;
      attempt.detail = body.detail();
      break;
    }
    input.Consume(piece.consumed);
    if (last) {
      if (!input.empty()) worker_->pool().Distrust(upstream->endpoint.get());
      attempt.reusable = upstream_persists && input.empty() && upload_ == Upload::kComplete;
      co_return attempt;
    }

    if (this_turn >= kRelayBytesPerTurnMax) {
      this_turn = 0;
      if (input.empty()) input.Reset();
      co_await Yield(&loop());
    }
    if (OutOfTime()) {
      attempt.reason = Reason::kRequestDeadline;
      attempt.detail = kMaxDurationDetail;
      break;
    }
    // More of it, into a larger buffer where the flow has earned one.
    if (input.empty() && input.capacity() < wanted) input.Reset();
    bool truncated = false;
    while (input.empty() && pipe.held() == 0 && !ended) {
      if (!pipe && wanted == BufferPool::kLarge && body.LengthLeft() >= kSplicedBytesMin && from.CanSplice() &&
          to.CanSplice()) {
        input.Reset();
        pipe = worker_->pipes().Acquire();
      }
      if (!pipe && !input) input = worker_->buffers().AcquireUpTo(wanted);
      if (!pipe && !input) {
        attempt.reason = Reason::kOverloaded;
        truncated = true;
        break;
      }
      const size_t room = std::min(pipe ? SplicePipe::kBytesMax : input.room(), body.ReadableBytes());
      size_t moved = 0;
      io = pipe ? from.ReadInto(&pipe, room, &moved) : from.Read(input.space(), room, &moved);
      // A response that still flows when the breaker's timeout has passed since its head succeeded, so that a long one
      // does not hold a probe until it is given up.
      if (io == Io::kDone && service_->breaker != nullptr &&
          loop().now() >= head_read_ + service_->policy->breaker->timeout) {
        ReportSuccess();
      }
      if (io == Io::kDone && pipe) {
        this_turn += moved;
        body.Advance(moved);
        worker_->metrics().Add(WorkerGauge::kSplicedBytesTotal, static_cast<int64_t>(moved));
      } else if (io == Io::kDone) {
        input.Filled(moved);
        this_turn += moved;
        // Filled to the brim: the next read may take more.
        if (moved == input.capacity() && wanted < BufferPool::kLarge)
          wanted = BufferPool::LargerForFlow(input.capacity());
      } else if (io == Io::kAgain) {
        input.Reset();
        pipe.Reset();
        this_turn = 0;
        // While the request is still on its way the endpoint may be waiting for it.
        const TimePoint patience =
            upload_ == Upload::kRunning ? TimePoint::max() : loop().now() + service_->policy->response_timeout;
        const Wait wait = co_await from.Readable(std::min(patience, ends_at_));
        if (wait == Wait::kReady) continue;
        if (wait == Wait::kTimeout && !OutOfTime()) {
          attempt.reason = Reason::kUpstreamTimeout;
          attempt.detail = "the response stalled";
        } else {
          const Attempt end = EndOfWait(wait);
          attempt.reason = end.reason;
          attempt.detail = wait == Wait::kTimeout ? end.detail : "";
        }
        truncated = true;
        break;
      } else if (io == Io::kEnd && body.until_close()) {
        ended = true;
      } else {
        attempt.reason = Reason::kUpstreamReset;
        attempt.detail = "the response was cut off";
        truncated = true;
        break;
      }
    }
    if (truncated) break;
  }
  // Cut off: the client must see that, so there is no last chunk, and where only the end says how long the answer is, a
  // reset.
  client_->EndAfterThis();
  if (close_delimited) client_->ResetAtEnd();
  co_return attempt;
}

Task<Io> Exchange::SendToClient(std::span<iovec> parts, bool last) {
  size_t written = 0;
  const bool ends = last && client_->ending();
  const Io io = ends ? client_->socket.WriteLast(&parts, &written) : client_->socket.Write(&parts, &written);
  bytes_out_ += written;
  if (io != Io::kAgain) co_return io;
  co_return co_await client_->socket.WriteRest(parts, options_.write_timeout, &bytes_out_, ends_at_);
}

}  // namespace gateway::dataplane
