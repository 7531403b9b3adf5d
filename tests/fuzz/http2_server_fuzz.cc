// Any bytes after the client's preface, into a server session: it must end, leak nothing, and return no request that
// HTTP/1 could read differently.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "dataplane/http/http1/head.h"
#include "dataplane/http/http2/server_session.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane::http2 {
namespace {

constexpr size_t kInputMax = 64 * 1024;  // fits into a socket pair without a reader

void Require(bool holds) {
  if (!holds) std::abort();
}

// No byte could end a line or a token if written as HTTP/1.1.
void CheckRequest(const http::Request& request) {
  Require(http1::IsToken(request.method));
  Require(http1::IsValidHost(request.authority));
  Require(request.path == "*" || request.path.starts_with('/'));
  for (const char c : request.target) Require(c > ' ' && c != 0x7f && c != '#');
  for (const FieldView& field : request.fields) {
    Require(http1::IsToken(field.name));
    Require(http1::Trim(field.value) == field.value);
    for (const char c : field.value) Require(c == '\t' || (static_cast<unsigned char>(c) >= ' ' && c != 0x7f));
  }
}

Task<void> Serve(void*, http::DownstreamStream& stream) {
  http::OutgoingResponse response;
  response.status = 200;
  std::string body;
  if (stream.rejection()) {
    response.status = 400;
  } else {
    CheckRequest(stream.request());
    for (;;) {
      http::BodyPiece piece;
      const http::BodyRead read = stream.Read({}, &piece);
      if (read == http::BodyRead::kWait) {
        if (co_await stream.Readable(TimePoint::max()) != Wait::kReady) break;
        continue;
      }
      if (read != http::BodyRead::kPiece) break;
      body.append(piece.bytes);
      if (piece.last) break;
    }
  }
  response.has_body = !body.empty();
  http::BodyPiece piece;
  piece.bytes = body;
  piece.last = true;
  if (stream.Begin(response, piece) == Io::kAgain) {
    (void)co_await stream.Flush(std::chrono::milliseconds(10), TimePoint::max());
  }
  stream.Finish(http::End::kComplete);
}

Detached Run(EventLoop* loop, int fd, SessionResources* resources) {
  const http::ConnectionInfo info;
  Socket socket(loop);
  Require(socket.Adopt(fd));
  {
    ServerSession session(resources, &socket, &info, &Serve, nullptr);
    (void)co_await session.Serve({});
  }
  loop->Stop();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > kInputMax) return 0;
  int ends[2];
  Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  std::string wire(kClientPreface);
  wire.append(reinterpret_cast<const char*>(data), size);
  Require(write(ends[1], wire.data(), wire.size()) == static_cast<ssize_t>(wire.size()));
  Require(shutdown(ends[1], SHUT_WR) == 0);
  SessionMetrics metrics;
  BufferBudget budget(8 << 20);
  {
    EventLoop loop;
    BufferPool buffers(&budget);
    SessionResources resources(&loop, &buffers, &metrics, SessionOptions());
    loop.Post([&] { Run(&loop, ends[0], &resources); });
    loop.Run();
  }
  Require(metrics.Get(SessionCounter::kStreams) == 0 && metrics.Get(SessionCounter::kConnections) == 0);
  Require(budget.used() == 0);
  close(ends[1]);
  return 0;
}

}  // namespace gateway::dataplane::http2
