// Whatever an endpoint sends as the body of a response, it reaches the client as the same bytes in every form in which
// a relay may pass it (payload, chunks with their framing, a pipe), and ends the same way.
//
// The first byte of the input says how: chunked or with a length, and how the wire is cut into writes. The rest is, if
// chunked, the body as it is on the wire, valid or not; else the payload, repeated until a pipe is worth it.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "dataplane/http/connection.h"
#include "dataplane/http/flow.h"
#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/client_stream.h"
#include "dataplane/http/http1/server_stream.h"
#include "dataplane/proxy/relay.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;

constexpr size_t kInputMax = 64 * 1024;
constexpr size_t kSplicedBytes = 4 * http::Flow::kSplicedBytesMin;
constexpr int kTurnsMax = 100'000;

void Require(bool holds) {
  if (!holds) std::abort();
}

class FixedForms final : public RelayObserver {
 public:
  explicit FixedForms(http::BodyForms forms) : forms_(forms) {}
  http::BodyForms Forms() override { return forms_; }
  RelayEnd OnPiece(const http::BodyPiece&) override { return RelayEnd::kRunning; }
  TimePoint ReadDeadline(TimePoint) override { return TimePoint::max(); }

 private:
  const http::BodyForms forms_;
};

class EndpointStream final : public http1::ClientStream {
 public:
  using ClientStream::ClientStream;
  void Finish() override {}
};

// Two pairs of sockets: the endpoint's and the client's ends are the fuzzer's.
struct Outcome {
  std::optional<RelayEnd> end;
  std::string received;  // by the client, as on the wire, with the header
};

class Relayed {
 public:
  Relayed(const std::string& header, const std::string& body, size_t write_bytes, http::BodyForms forms)
      : wire_(header + body), write_bytes_(write_bytes), observer_(forms) {
    int endpoint[2], client[2];
    Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, endpoint) == 0);
    Require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, client) == 0);
    endpoint_ = endpoint[1];
    client_ = client[1];
    constexpr std::string_view kRequest = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    Require(send(client_, kRequest.data(), kRequest.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(kRequest.size()));
    Run(endpoint[0], client[0]);
  }
  ~Relayed() {
    if (endpoint_ >= 0) close(endpoint_);
    close(client_);
  }
  Relayed(const Relayed&) = delete;
  Relayed& operator=(const Relayed&) = delete;

  Outcome Finish() {
    for (int turn = 0; turn < kTurnsMax && !over_; ++turn) {
      if (endpoint_ >= 0) {
        const size_t bytes = std::min(write_bytes_, wire_.size() - written_);
        const ssize_t sent = send(endpoint_, wire_.data() + written_, bytes, MSG_NOSIGNAL);
        if (sent > 0) written_ += static_cast<size_t>(sent);
        if (written_ == wire_.size()) close(std::exchange(endpoint_, -1));
      }
      loop_.TurnAt(loop_.now());
      Drain();
    }
    Require(over_);
    Drain();
    return std::move(outcome_);
  }

 private:
  Detached Run(int endpoint, int client) {
    Socket upstream_socket(&loop_);
    upstream_socket.Adopt(endpoint);
    http::Connection connection(&loop_);
    connection.socket.Adopt(client);
    Buffer input;
    {
      http1::ServerStream downstream(streams_, &connection);
      while (!co_await downstream.ReadHead()) (void)co_await connection.socket.Readable(TimePoint::max());
      EndpointStream upstream(streams_, &upstream_socket, &input, true);
      http::OutgoingRequest request;
      request.method = "GET";
      request.authority = "a";
      request.path = "/";
      Require(upstream.Begin(request, {.last = true}) == Io::kDone);
      http::Response* response = nullptr;
      http::HeadRead read;
      while ((read = upstream.ReadHead(&response)) == http::HeadRead::kWait) {
        (void)co_await upstream.Readable(TimePoint::max());
      }
      Require(read == http::HeadRead::kFinal);
      http::OutgoingResponse header;
      header.status = 200;
      header.phrase = "OK";
      header.has_body = response->has_body;
      header.length = response->length;
      Io io = downstream.Begin(header, {});
      if (io == Io::kAgain) io = co_await downstream.Flush(10s, TimePoint::max());
      Require(io == Io::kDone);
      outcome_.end = co_await Relay(&loop_, &upstream, &downstream, &observer_, {10s});
    }
    connection.socket.Close();
    over_ = true;
  }

  void Drain() {
    char bytes[64 * 1024];
    for (ssize_t n; (n = recv(client_, bytes, sizeof bytes, 0)) > 0;) {
      outcome_.received.append(bytes, static_cast<size_t>(n));
    }
  }

  EventLoop loop_;
  BufferBudget budget_{64 << 20};
  BufferPool buffers_{&budget_};
  SplicePipePool pipes_{&budget_, nullptr};
  bool draining_ = false;
  const http::StreamResources streams_{.loop = &loop_,
                                       .buffers = &buffers_,
                                       .pipes = &pipes_,
                                       .draining = &draining_,
                                       .header_timeout = 10s,
                                       .header_bytes_max = 64 * 1024};
  const std::string wire_;
  const size_t write_bytes_;
  FixedForms observer_;
  int endpoint_ = -1;
  int client_ = -1;
  size_t written_ = 0;
  bool over_ = false;
  Outcome outcome_;
};

// The payload of what the client got; of chunks as far as they go.
std::string PayloadOf(const std::string& received, bool chunked) {
  const size_t header = received.find("\r\n\r\n");
  Require(header != std::string::npos);
  std::string body = received.substr(header + 4);
  if (!chunked) return body;
  http1::BodyDecoder decoder = http1::BodyDecoder::Chunked();
  std::string payload;
  while (!body.empty() && !decoder.done()) {
    const auto result = decoder.Decode(body.data(), body.size());
    Require(!result.refused);  // the gateway's own framing is valid
    payload.append(body, 0, result.payload);
    if (result.consumed == 0) break;
    body.erase(0, result.consumed);
  }
  return payload;
}

void Compare(std::string_view input) {
  const auto how = static_cast<uint8_t>(input.front());
  input.remove_prefix(1);
  const bool chunked = (how & 1) != 0;
  const size_t write_bytes = chunked ? 1 + (how >> 1) * size_t{97} : size_t{1} << (10 + (how >> 1) % 9);
  std::string body(input);
  std::string header = "HTTP/1.1 200 OK\r\n";
  if (chunked) {
    header += "Transfer-Encoding: chunked\r\n\r\n";
  } else {
    if (body.empty()) body = "x";
    while (body.size() < kSplicedBytes) body += body.substr(0, kSplicedBytes - body.size());
    header += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n";
  }
  std::optional<Outcome> first;
  std::string payload;
  for (const http::BodyForms forms :
       {http::BodyForms{}, http::BodyForms{.framed = true}, http::BodyForms{.framed = true, .pipe = true}}) {
    Relayed relayed(header, body, write_bytes, forms);
    Outcome outcome = relayed.Finish();
    const std::string got = PayloadOf(outcome.received, chunked);
    if (!first) {
      first = std::move(outcome);
      payload = got;
      if (!chunked) Require(got == body && first->end == RelayEnd::kComplete);
      continue;
    }
    Require(outcome.end == first->end);
    if (first->end == RelayEnd::kComplete) Require(got == payload);
  }
}

}  // namespace
}  // namespace gateway::dataplane

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > gateway::dataplane::kInputMax) return 0;
  gateway::dataplane::Compare({reinterpret_cast<const char*>(data), size});
  return 0;
}
