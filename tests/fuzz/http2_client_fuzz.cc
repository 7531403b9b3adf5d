// Any bytes of an endpoint, into a session with a GET, a HEAD and a POST: the session must end, leak nothing, and
// return no response that HTTP/1 could read differently.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "dataplane/http/http1/head.h"
#include "dataplane/http/http2/client_session.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane::http2 {
namespace {

constexpr size_t kInputMax = 64 * 1024;  // fits into a socket pair without a reader

void Require(bool holds) {
  if (!holds) std::abort();
}

// No byte could end a line or a token if written as HTTP/1.1.
void CheckResponse(const http::Response& response) {
  Require(response.status >= 100 && response.status <= 599 && response.status != 101);
  for (const FieldView& field : response.fields) {
    Require(http1::IsToken(field.name));
    Require(http1::Trim(field.value) == field.value);
    for (const char c : field.value) Require(c == '\t' || (static_cast<unsigned char>(c) >= ' ' && c != 0x7f));
  }
}

Task<void> Ask(http::UpstreamStream* stream, std::string_view method) {
  if (co_await stream->Connect(TimePoint::max()) != Io::kDone) co_return;
  http::OutgoingRequest request;
  request.method = method;
  request.scheme = "http";
  request.authority = "svc";
  request.path = "/";
  request.has_body = method == "POST";
  if (stream->Begin(request, {.bytes = request.has_body ? "body" : "", .last = true}) == Io::kAgain) {
    (void)co_await stream->Flush(std::chrono::milliseconds(10), TimePoint::max());
  }
  http::Response* response = nullptr;
  for (;;) {
    const http::HeadRead read = stream->ReadHead(&response);
    if (read == http::HeadRead::kWait) {
      if (co_await stream->Readable(TimePoint::max()) != Wait::kReady) co_return;
      continue;
    }
    if (read != http::HeadRead::kFinal && read != http::HeadRead::kInterim) co_return;
    CheckResponse(*response);
    if (read == http::HeadRead::kFinal) break;
  }
  const bool bodyless = method == "HEAD" || response->status == 204 || response->status == 304;
  uint64_t bytes = 0;
  for (http::BodyPiece piece; !piece.last;) {
    const http::BodyRead read = stream->Read({}, &piece);
    if (read == http::BodyRead::kWait) {
      if (co_await stream->Readable(TimePoint::max()) != Wait::kReady) co_return;
      continue;
    }
    if (read != http::BodyRead::kPiece) co_return;
    bytes += piece.bytes.size();
    for (const FieldView& field : piece.trailers) Require(http1::IsToken(field.name));
  }
  Require(!bodyless || bytes == 0);
  Require(bodyless || !response->length || bytes == *response->length);
  stream->Finish();
}

Detached AskAndEnd(ClientSession* session, std::string_view method) {
  const std::unique_ptr<http::UpstreamStream> stream = session->Open();
  co_await Ask(stream.get(), method);
}

Detached Run(EventLoop* loop, int fd, ClientResources* resources) {
  Socket socket(loop);
  Require(socket.Adopt(fd));
  {
    ClientSession session(
        resources, &socket, [](void*) {}, nullptr);
    Task<void> serving = session.Serve();
    for (const std::string_view method : {"GET", "HEAD", "POST"}) AskAndEnd(&session, method);
    serving.Start();
    co_await serving.Done();
    Require(session.streams() == 0);
  }
  loop->Stop();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > kInputMax) return 0;
  std::array<int, 2> ends;
  Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
  Require(write(ends[1], data, size) == static_cast<ssize_t>(size));
  Require(shutdown(ends[1], SHUT_WR) == 0);
  ClientMetrics metrics;
  BufferBudget budget(8 << 20);
  {
    EventLoop loop;
    BufferPool buffers(&budget);
    ClientResources resources(&loop, &buffers, &metrics);
    loop.Post([&] { Run(&loop, ends[0], &resources); });
    loop.Run();
  }
  Require(metrics.Get(ClientCounter::kStreams) == 0 && metrics.Get(ClientCounter::kConnections) == 0);
  Require(budget.used() == 0);
  close(ends[1]);
  return 0;
}

}  // namespace gateway::dataplane::http2
