#include "dataplane/http/http1/server_stream.h"

#include <sys/socket.h>

#include <cstring>
#include <string>
#include <utility>

#include "dataplane/http/http1/head_writer.h"

namespace gateway::dataplane::http1 {
namespace {

using http::BodyPiece;
using http::BodyRead;
using http::OutgoingResponse;
using http::Version;

// Status line, Content-Length, Connection, without what comes from the response.
constexpr size_t kOwnBytesMax = 256;

size_t HeadBytesMax(const OutgoingResponse& response) {
  return kOwnBytesMax + response.phrase.size() + FieldBytes(response.fields) + response.lines.size();
}

}  // namespace

ServerStream::~ServerStream() {
  if (Buffer rest = body_.TakeRest()) {
    connection_.input = std::move(rest);
  } else if (connection_.input && input_used_ > 0) {
    connection_.input.Consume(input_used_);
  }
}

Task<bool> ServerStream::ReadHead() {
  Buffer& input = connection_.input;
  BufferPool& buffers = *resources_.buffers;
  EventLoop& loop = *resources_.loop;
  HeadScanner scanner;
  size_t skipped = 0;  // an empty line before the request (RFC 9112, section 2.2)
  TimePoint deadline{};
  started_ = loop.now();
  started_wall_ = loop.wall_now();
  for (;;) {
    if (!input.empty()) {
      if (skipped == 0 && !connection_.empty_line_seen && input.size() >= 2 && input.data()[0] == '\r' &&
          input.data()[1] == '\n') {
        skipped = 2;
        if (input.size() == 2) {
          // Alone it does not begin a request: the connection is still idle.
          connection_.empty_line_seen = true;
          input.Clear();
          co_return false;
        }
      }
      const auto result = scanner.Scan(input.data() + skipped, input.size() - skipped);
      if (result == HeadScanner::Result::kComplete) {
        if (scanner.head_bytes() > resources_.header_bytes_max) Reject(Reason::kHeadersTooLarge);
        break;
      }
      if (result == HeadScanner::Result::kRefused) {
        Reject(Reason::kBadRequest, scanner.detail());
      } else if (!scanner.line_seen() && input.size() - skipped > kTargetBytesMax + 64) {
        Reject(Reason::kTargetTooLong);
      } else if (input.size() - skipped >= resources_.header_bytes_max) {
        Reject(scanner.line_seen() ? Reason::kHeadersTooLarge : Reason::kTargetTooLong);
      }
    }
    if (rejection_) break;
    if (!input) {
      input = buffers.Acquire(BufferPool::kSmall);
      if (!input) {
        Reject(Reason::kOverloaded);
        break;
      }
    } else if (input.room() == 0) {
      input.Compact();
      if (input.room() == 0 && !buffers.Grow(&input, input.capacity() * 2)) {
        Reject(Reason::kOverloaded);
        break;
      }
    }
    size_t moved = 0;
    switch (connection_.socket.Read(input.space(), input.room(), &moved)) {
      case Io::kDone:
        if (input.empty()) {
          started_ = loop.now();
          started_wall_ = loop.wall_now();
        }
        input.Filled(moved);
        continue;
      case Io::kEnd:
      case Io::kError:
        // The client closed between requests or inside a header: there is no client to respond to.
        connection_.ending = connection_.gone = true;
        input.Reset();
        co_return false;
      case Io::kAgain:
        break;
    }
    // A spurious wakeup: the connection is idle, without a buffer.
    if (input.empty()) co_return false;
    if (deadline == TimePoint{}) deadline = started_ + resources_.header_timeout;
    // Shrink the buffer of a slow header to what it holds, so that slow clients cannot exhaust the pool.
    buffers.Shrink(&input);
    const Wait wait = co_await connection_.socket.Readable(deadline);
    if (wait == Wait::kTimeout) {
      Reject(Reason::kRequestTimeout, "the header did not arrive in time");
    } else if (wait == Wait::kCancelled) {
      connection_.ending = connection_.gone = true;
      input.Reset();
      co_return false;
    }
  }
  if (rejection_) {
    bytes_received_ = input.size();
  } else {
    // Where the budget is scarce, so does a request that may have to wait for its response.
    if (buffers.scarce()) buffers.Shrink(&input);
    rejection_ = ParseRequestHead({input.data() + skipped, scanner.head_bytes()}, &head_);
    input_used_ = bytes_received_ = skipped + scanner.head_bytes();
  }
  connection_.empty_line_seen = false;
  if (rejection_) {
    EndAfterThis();  // where the next request would begin is not known any more
  } else if (head_.has_body) {
    body_.Start(head_.framing.chunked ? BodyDecoder::Chunked() : BodyDecoder::Length(*head_.length),
                BufferPool::FirstForFlow(input));
  }
  co_return true;
}

BodyRead ServerStream::Read(http::BodyForms takes, BodyPiece* piece) {
  if (read_begun_) return body_.Read(takes, piece, &bytes_received_);
  read_begun_ = true;
  Buffer& input = connection_.input;
  size_t consumed = 0;
  const BodyRead read = body_.ReadHere(input.data() + input_used_, input.size() - input_used_, piece, &consumed);
  input_used_ += consumed;
  bytes_received_ += consumed;
  return read;
}

void ServerStream::ReleaseRequest() {
  connection_.input.Reset();
  input_used_ = 0;
}

Io ServerStream::SendInterim(const OutgoingResponse& response) {
  Buffer out;
  // Without memory for it, it is not sent: it is only a hint.
  if (head_.version == Version::kHttp10 || !MakeRoom(resources_.buffers, &out, HeadBytesMax(response)))
    return Io::kDone;
  HeadWriter writer(out.space());
  writer << "HTTP/1.1 " << static_cast<uint64_t>(response.status) << " " << response.phrase << "\r\n";
  writer.Fields(response.fields);
  writer << response.lines << "\r\n";
  out.Filled(static_cast<size_t>(writer.at() - out.space()));
  return Send(std::move(out), {}, {});
}

Io ServerStream::Begin(const OutgoingResponse& response, const BodyPiece& first) {
  Buffer out;
  std::string spare;
  char* begin = nullptr;
  if (MakeRoom(resources_.buffers, &out, HeadBytesMax(response))) {
    begin = out.space();
  } else if (response.fields.empty()) {
    // A refusal for want of memory must be possible.
    spare.resize(HeadBytesMax(response));
    begin = spare.data();
  } else {
    return Io::kEnd;
  }
  const bool old = head_.version == Version::kHttp10;
  const bool sends_body = response.has_body && head_.method != "HEAD";
  if (response.status == 101) {
    if (!BeginTunnel()) return Io::kEnd;
  } else {
    close_delimited_ = sends_body && !response.length && old;
    if (rejection_ || close_delimited_ || !body_.done() || *resources_.draining) EndAfterThis();
    // The client asked for it and has sent everything: it waits for nothing but the end, so there is nothing to linger
    // for.
    if (!head_.Persistent()) connection_.ending = true;
  }
  writer_.set_chunked(sends_body && !response.length && !old);

  HeadWriter writer(begin);
  writer << "HTTP/1.1 " << static_cast<uint64_t>(response.status) << " " << response.phrase << "\r\n";
  writer.Fields(response.fields);
  writer << response.lines;
  if (tunnel_) {
    writer << "Connection: Upgrade\r\nUpgrade: websocket\r\n";
  } else {
    if (response.length) {
      writer << "Content-Length: " << *response.length << "\r\n";
    } else if (writer_.chunked()) {
      writer << "Transfer-Encoding: chunked\r\n";
    } else if (!response.has_body && head_.method != "HEAD" && response.status != 204 && response.status != 304) {
      writer << "Content-Length: 0\r\n";  // of HTTP/2, which needs no length to say so
    }
    if (connection_.ending) {
      writer << "Connection: close\r\n";
    } else if (old) {
      writer << "Connection: keep-alive\r\n";
    }
  }
  writer << "\r\n";
  const auto bytes = static_cast<size_t>(writer.at() - begin);
  if (out) {
    out.Filled(bytes);
  } else {
    spare.resize(bytes);
  }
  return Send(std::move(out), std::move(spare), sends_body || tunnel_ ? first : BodyPiece{.last = first.last});
}

bool ServerStream::BeginTunnel() {
  // The client's first bytes may have come with its header.
  const size_t early = connection_.input.size() - input_used_;
  Buffer beginning;
  if (early > 0) {
    beginning = resources_.buffers->Acquire(early);
    if (!beginning) return false;
    std::memcpy(beginning.space(), connection_.input.data() + input_used_, early);
    beginning.Filled(early);
  }
  body_.StartWith(BodyDecoder::UntilClose(), BufferPool::kSmall, std::move(beginning));
  read_begun_ = tunnel_ = true;
  connection_.ending = connection_.gone = true;  // the connection ends with the tunnel
  return true;
}

Io ServerStream::Send(Buffer head, std::string spare_head, const BodyPiece& piece) {
  last_written_ = piece.last;
  const bool ends = piece.last && connection_.ending && body_.done();
  return EndOfWrite(writer_.Write(std::move(head), std::move(spare_head), piece, ends, &bytes_sent_));
}

Task<Io> ServerStream::Flush(std::chrono::milliseconds stall, TimePoint until) {
  const Io io = co_await writer_.Flush(stall, until, &bytes_sent_);
  stalled_ = io == Io::kAgain;
  co_return EndOfWrite(io);
}

Io ServerStream::EndOfWrite(Io io) {
  // It fails where that side is gone, which its own direction finds out.
  if (io == Io::kDone && tunnel_ && last_written_) (void)connection_.socket.ShutdownWrite();
  return io;
}

void ServerStream::Finish(http::End end) {
  switch (end) {
    case http::End::kComplete:
      if (!body_.done()) EndAfterThis();
      break;
    case http::End::kCutShort:
      // There is no last chunk, and too few bytes; where only the end says how long the response is, it is a reset.
      EndAfterThis();
      if (close_delimited_ || (stalled_ && !tunnel_)) connection_.reset = true;
      break;
    case http::End::kReset:
      EndAfterThis();
      connection_.reset = true;
      break;
    case http::End::kUnanswered:
      connection_.ending = connection_.gone = true;
      break;
  }
}

}  // namespace gateway::dataplane::http1
