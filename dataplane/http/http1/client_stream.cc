#include "dataplane/http/http1/client_stream.h"

#include <sys/socket.h>

#include <utility>

#include "dataplane/http/http1/head_writer.h"

namespace gateway::dataplane::http1 {
namespace {

using http::HeadRead;

// Request line, Host, framing, without what comes from the request.
constexpr size_t kOwnBytesMax = 256;

}  // namespace

Task<Io> ClientStream::Connect(TimePoint deadline) {
  const Wait wait = co_await socket_.Writable(deadline);
  if (wait == Wait::kTimeout) co_return Io::kAgain;
  co_return wait == Wait::kReady&& socket_.ConnectError() == 0 && !socket_.broken() ? Io::kDone : Io::kError;
}

Io ClientStream::Begin(const http::OutgoingRequest& request, const http::BodyPiece& first) {
  Buffer out;
  const size_t bytes = kOwnBytesMax + request.method.size() + request.authority.size() + request.path.size() +
                       request.query.size() + FieldBytes(request.fields) + request.lines.size();
  if (!MakeRoom(resources_.buffers, &out, bytes)) return Io::kEnd;
  to_head_ = request.method == "HEAD";
  upgrading_ = !request.protocol.empty();
  writer_.set_chunked(request.has_body && !request.length);

  HeadWriter writer(out.space());
  writer << request.method << " " << request.path;
  if (request.has_query) writer << "?" << request.query;
  writer << " HTTP/1.1\r\n";
  writer.Field("Host", request.authority);
  writer.Fields(request.fields);
  writer << request.lines;
  if (upgrading_) writer << "Connection: Upgrade\r\nUpgrade: websocket\r\n";
  if (request.length) {
    writer << "Content-Length: " << *request.length << "\r\n";
  } else if (writer_.chunked()) {
    writer << "Transfer-Encoding: chunked\r\n";
  }
  writer << "\r\n";
  out.Filled(static_cast<size_t>(writer.at() - out.space()));
  return Send(std::move(out), first);
}

HeadRead ClientStream::ReadHead(http::Response** response) {
  if (interim_bytes_ > 0) input_.Consume(std::exchange(interim_bytes_, 0));
  for (;;) {
    switch (reader_.Read(input_.data(), input_.size(), &head_)) {
      case ResponseReader::Result::kRejected:
        detail_ = reader_.detail();
        return HeadRead::kInvalid;
      case ResponseReader::Result::kInterim:
        interim_bytes_ = reader_.head_bytes();
        *response = &head_;
        return HeadRead::kInterim;
      case ResponseReader::Result::kFinal:
        return BeginBody(response);
      case ResponseReader::Result::kMore:
        break;
    }
    if (!input_) {
      // Only when there is something to read: a request that waits holds no second buffer.
      if (!IsReadable()) return HeadRead::kWait;
      input_ = resources_.buffers->Acquire(BufferPool::kSmall);
      if (!input_) return HeadRead::kOverloaded;
    } else if (input_.room() == 0) {
      input_.Compact();
      if (input_.room() == 0 && !resources_.buffers->Grow(&input_, input_.capacity() * 2)) return HeadRead::kOverloaded;
    }
    size_t moved = 0;
    switch (socket_.cancelled() ? Io::kError : socket_.Read(input_.space(), input_.room(), &moved)) {
      case Io::kDone:
        heard_ = true;
        input_.Filled(moved);
        break;
      case Io::kAgain:
        return HeadRead::kWait;
      case Io::kEnd:
      case Io::kError:
        detail_ = heard_ ? "the connection ended inside the response header" : "the connection ended before a response";
        return HeadRead::kCutShort;
    }
  }
}

HeadRead ClientStream::BeginBody(http::Response** response) {
  const size_t first_bytes = BufferPool::FirstForFlow(input_);
  input_.Skip(reader_.head_bytes());  // the header's views hold until the second Read
  if (head_.status == 101) {
    if (!upgrading_ || !head_.NamesWebSocket()) {
      detail_ = "an unsolicited 101";
      return HeadRead::kInvalid;
    }
    tunnel_ = true;
    body_.StartWith(BodyDecoder::UntilClose(), BufferPool::kSmall, std::move(input_));
  } else {
    body_.StartWith(BodyOf(head_, to_head_), first_bytes, std::move(input_));
    head_.has_body = !body_.done();
  }
  *response = &head_;
  return HeadRead::kFinal;
}

Io ClientStream::Send(Buffer head, const http::BodyPiece& piece) {
  last_written_ = piece.last;
  return EndOfWrite(writer_.Write(std::move(head), {}, piece, false, &bytes_sent_));
}

Task<Io> ClientStream::Flush(std::chrono::milliseconds stall, TimePoint until) {
  const Io io = co_await writer_.Flush(stall, until, &bytes_sent_);
  co_return EndOfWrite(io);
}

Io ClientStream::EndOfWrite(Io io) {
  // It fails where that side is gone, which its own direction finds out.
  if (io == Io::kDone && tunnel_ && last_written_) (void)socket_.ShutdownWrite();
  return io;
}

}  // namespace gateway::dataplane::http1
