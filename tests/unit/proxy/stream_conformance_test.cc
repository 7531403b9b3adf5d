// What the exchange relies on holds for every protocol: one list of behaviours for the streams of clients, one for the
// streams to endpoints, each with HTTP/1 and HTTP/2 over a real pair of sockets. Test and loop share a thread.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/http/connection.h"
#include "dataplane/http/http1/client_stream.h"
#include "dataplane/http/http1/server_stream.h"
#include "dataplane/http/http2/client_session.h"
#include "dataplane/http/http2/server_session.h"
#include "gtest/gtest.h"
#include "tests/fixtures/http2_client.h"
#include "tests/fixtures/http2_server.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::Http2Client;
using fixtures::Http2Server;

// A loop and a pair of sockets, the first for the stream under test.
class Wired {
 public:
  Wired() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends_), 0); }

  EventLoop& loop() { return loop_; }
  const http::StreamResources& streams() const { return streams_; }
  int stream_end() const { return ends_[0]; }
  int peer_end() const { return ends_[1]; }

  // Turns the loop and the peer until `done`.
  template <typename Peer, typename Done>
  [[nodiscard]] bool Until(Peer* peer, Done done) {
    const auto patience = std::chrono::steady_clock::now() + 10s;
    while (!done() && std::chrono::steady_clock::now() < patience) {
      loop_.TurnAt(loop_.now());
      peer->Turn();
    }
    return done();
  }
  // What is on its way arrives.
  template <typename Peer>
  void Settle(Peer* peer) {
    for (int i = 0; i < 20; ++i) {
      loop_.TurnAt(loop_.now());
      peer->Turn();
    }
  }

 private:
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
  int ends_[2] = {-1, -1};
};

// One end of a connection that speaks HTTP/1 by hand.
class Http1Peer {
 public:
  explicit Http1Peer(int fd) : fd_(fd) {}
  ~Http1Peer() { Close(); }
  void Turn() {
    char bytes[16 * 1024];
    for (;;) {
      const ssize_t n = fd_ < 0 ? -1 : recv(fd_, bytes, sizeof bytes, 0);
      if (n <= 0) {
        ended_ = ended_ || n == 0;
        return;
      }
      received_.append(bytes, static_cast<size_t>(n));
    }
  }
  void Send(const std::string& bytes) {
    EXPECT_EQ(send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), std::ssize(bytes));
  }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }
  const std::string& received() const { return received_; }
  bool ended() const { return ended_; }

  // Takes the first header out of what was received. Empty: it is not complete.
  std::string TakeHeader() {
    const size_t end = received_.find("\r\n\r\n");
    if (end == std::string::npos) return "";
    const std::string header = received_.substr(0, end + 4);
    received_.erase(0, end + 4);
    return header;
  }
  // Decodes chunks, or as many bytes as were announced, of what follows a header. Nothing: it is not complete.
  static std::optional<std::string> DecodeBody(const std::string& header, const std::string& rest) {
    if (const size_t at = header.find("Content-Length: "); at != std::string::npos) {
      const size_t length = std::stoul(header.substr(at + 16));
      if (rest.size() < length) return std::nullopt;
      return rest.substr(0, length);
    }
    if (header.find("Transfer-Encoding: chunked") == std::string::npos) return "";
    std::string body;
    for (size_t at = 0;;) {
      const size_t line = rest.find("\r\n", at);
      if (line == std::string::npos) return std::nullopt;
      const size_t size = std::stoul(rest.substr(at, line - at), nullptr, 16);
      if (rest.size() < line + 2 + size + 2) return std::nullopt;
      if (size == 0) return body;
      body += rest.substr(line + 2, size);
      at = line + 2 + size + 2;
    }
  }

 private:
  int fd_;
  std::string received_;
  bool ended_ = false;
};

std::string Chunk(const std::string& text) {
  char size[16];
  const auto end = std::to_chars(size, size + sizeof size, text.size(), 16).ptr;
  return std::string(size, end) + "\r\n" + text + "\r\n";
}

// The parameter of the server's suite: a client that sends one request, and the stream that it becomes.
class Http1Server {
 public:
  static constexpr bool kTrailers = false;
  using Serve = std::function<Task<void>(http::DownstreamStream&)>;

  Http1Server(Wired* wired, Serve serve) : wired_(*wired), serve_(std::move(serve)), peer_(wired->peer_end()) {}
  void Begin(const std::string& method, const std::string& path, bool sends_body, const std::string& fields = "") {
    peer_.Send(method + " " + path + " HTTP/1.1\r\nHost: api.example\r\n" + fields +
               (sends_body ? "Transfer-Encoding: chunked\r\n" : "") + "\r\n");
    Run();
  }
  // A whole request, with a trailer "checksum: 1".
  void BeginWithTrailer(const std::string& body) {
    Begin("PUT", "/", true);
    peer_.Send(Chunk(body) + "0\r\nchecksum: 1\r\n\r\n");
  }
  void SendBody(const std::string& text, bool last) { peer_.Send(Chunk(text) + (last ? "0\r\n\r\n" : "")); }
  void Leave() { peer_.Close(); }
  void Turn() {
    peer_.Turn();
    for (std::string header; status_ == 0 && !(header = peer_.TakeHeader()).empty();) {
      const int status = std::stoi(header.substr(9, 3));
      if (status < 200) {
        interim_.push_back(status);
      } else {
        status_ = status;
        header_ = header;
      }
    }
  }
  bool served() const { return served_; }
  int status() const { return status_; }
  std::vector<int> interim() const { return interim_; }
  // Nothing: its end has not come.
  std::optional<std::string> body() const { return Http1Peer::DecodeBody(header_, peer_.received()); }
  bool over() const { return peer_.ended() || (status_ > 0 && body().has_value()); }

 private:
  Detached Run() {
    http::Connection connection(&wired_.loop());
    connection.socket.Adopt(wired_.stream_end());
    {
      http1::ServerStream stream(wired_.streams(), &connection);
      while (!co_await stream.ReadHead()) (void)co_await connection.socket.Readable(TimePoint::max());
      co_await serve_(stream);
    }
    connection.socket.Close();
    served_ = true;
  }

  Wired& wired_;
  const Serve serve_;
  Http1Peer peer_;
  bool served_ = false;
  int status_ = 0;
  std::vector<int> interim_;
  std::string header_;
};

class Http2ServerSide {
 public:
  static constexpr bool kTrailers = true;
  using Serve = std::function<Task<void>(http::DownstreamStream&)>;

  Http2ServerSide(Wired* wired, Serve serve)
      : wired_(*wired),
        serve_(std::move(serve)),
        resources_(&wired->loop(), wired->streams().buffers, &metrics_, {}),
        client_(std::make_unique<Http2Client>(wired->peer_end())) {
    Run();
  }
  ~Http2ServerSide() {
    client_ = nullptr;
    for (int i = 0; i < 1000 && !ended_; ++i) wired_.loop().TurnAt(wired_.loop().now() + 10ms);
    EXPECT_TRUE(ended_);
  }
  void Begin(const std::string& method, const std::string& path, bool sends_body, const std::string& fields = "") {
    fixtures::Fields more;
    if (const size_t colon = fields.find(": "); colon != std::string::npos) {
      std::string name = fields.substr(0, colon);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      more.emplace_back(name, fields.substr(colon + 2, fields.size() - colon - 4));
    }
    stream_ = client_->Send({.method = method, .path = path, .fields = more, .ends = !sends_body});
  }
  void BeginWithTrailer(const std::string& body) {
    stream_ = client_->Send({.method = "PUT", .body = body, .trailers = {{"checksum", "1"}}});
  }
  void SendBody(const std::string& text, bool last) { client_->SendData(stream_, text, last); }
  void Leave() { client_->Reset(stream_); }
  void Turn() { client_->Turn(); }
  bool served() const { return served_; }
  int status() { return client_->response(stream_).status; }
  std::vector<int> interim() {
    std::vector<int> statuses = client_->response(stream_).interim;  // those with another header behind them
    if (status() >= 100 && status() < 200) statuses.push_back(status());
    return statuses;
  }
  std::optional<std::string> body() {
    const fixtures::Http2Response& response = client_->response(stream_);
    return response.ended ? std::optional(response.body) : std::nullopt;
  }
  bool over() { return client_->response(stream_).over(); }

 private:
  Detached Run() {
    Socket socket(&wired_.loop());
    socket.Adopt(wired_.stream_end());
    http2::ServerSession session(
        &resources_, &socket, &info_,
        [](void* self, http::DownstreamStream& stream) {
          return static_cast<Http2ServerSide*>(self)->ServeStream(stream);
        },
        this);
    (void)co_await session.Serve({});
    socket.Close();
    ended_ = true;
  }
  Task<void> ServeStream(http::DownstreamStream& stream) {
    co_await serve_(stream);
    served_ = true;
  }

  Wired& wired_;
  const Serve serve_;
  http2::SessionMetrics metrics_;
  http2::SessionResources resources_;
  http::ConnectionInfo info_;
  std::unique_ptr<Http2Client> client_;
  int32_t stream_ = 0;
  bool served_ = false;
  bool ended_ = false;
};

// What of a body came before its end, and how it ended.
struct BodyEnd {
  std::string text;
  http::BodyRead read = http::BodyRead::kWait;
  Wait wait = Wait::kReady;
  std::string trailers;
};

Task<BodyEnd> ReadBody(http::BodySource* source) {
  BodyEnd end;
  for (;;) {
    http::BodyPiece piece;
    end.read = source->Read({}, &piece);
    if (end.read == http::BodyRead::kWait) {
      end.wait = co_await source->Readable(TimePoint::max());
      if (end.wait == Wait::kCancelled) co_return end;
      continue;
    }
    if (end.read != http::BodyRead::kPiece) co_return end;
    end.text += piece.bytes;
    for (const FieldView& field : piece.trailers)
      end.trailers += std::string(field.name) + ":" + std::string(field.value);
    if (piece.last) co_return end;
  }
}

Task<Io> Respond(http::DownstreamStream* stream, int status, std::string_view body, bool last = true) {
  http::OutgoingResponse response;
  response.status = status;
  response.phrase = "OK";
  response.has_body = true;
  const http::BodyPiece piece{.bytes = body, .payload = body.size(), .last = last};
  Io io = stream->Begin(response, piece);
  if (io == Io::kAgain) io = co_await stream->Flush(10s, TimePoint::max());
  co_return io;
}

template <typename Side>
class ServerStreams : public ::testing::Test {
 protected:
  void Serve(typename Side::Serve serve) { side_ = std::make_unique<Side>(&wired_, std::move(serve)); }
  template <typename Done>
  [[nodiscard]] bool Until(Done done) {
    return wired_.Until(side_.get(), done);
  }
  void Settle() { wired_.Settle(side_.get()); }

  Wired wired_;
  std::unique_ptr<Side> side_;
};
using ServerSides = ::testing::Types<Http1Server, Http2ServerSide>;
TYPED_TEST_SUITE(ServerStreams, ServerSides);

TYPED_TEST(ServerStreams, ARequestWithoutABody) {
  std::string seen;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    const http::Request& request = stream.request();
    seen = std::string(request.method) + " " + std::string(request.path) + "?" + std::string(request.query) + " " +
           std::string(request.authority) + (request.has_body ? " with a body" : "");
    (void)co_await Respond(&stream, 200, "ok");
    stream.Finish(http::End::kComplete);
  });
  this->side_->Begin("GET", "/a?b=c", false);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(seen, "GET /a?b=c api.example");
  EXPECT_EQ(this->side_->status(), 200);
  EXPECT_EQ(this->side_->body(), "ok");
}

TYPED_TEST(ServerStreams, ABodyInPieces) {
  BodyEnd body;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    EXPECT_TRUE(stream.request().has_body);
    body = co_await ReadBody(&stream);
    (void)co_await Respond(&stream, 200, body.text);
    stream.Finish(http::End::kComplete);
  });
  this->side_->Begin("PUT", "/", true);
  this->side_->SendBody("one ", false);
  this->Settle();
  this->side_->SendBody("two", true);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(body.text, "one two");
  EXPECT_EQ(this->side_->body(), "one two");
}

TYPED_TEST(ServerStreams, TrailersPassIfTheProtocolHasThem) {
  BodyEnd body;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    body = co_await ReadBody(&stream);
    (void)co_await Respond(&stream, 200, body.text);
    stream.Finish(http::End::kComplete);
  });
  this->side_->BeginWithTrailer("all");
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(body.text, "all");
  EXPECT_EQ(body.trailers, TypeParam::kTrailers ? "checksum:1" : "");
}

TYPED_TEST(ServerStreams, AResponseMayComeBeforeTheEndOfTheRequest) {
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    (void)co_await Respond(&stream, 403, "no");
    stream.Finish(http::End::kComplete);
  });
  this->side_->Begin("PUT", "/", true);
  this->side_->SendBody("some", false);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(this->side_->status(), 403);
  EXPECT_EQ(this->side_->body(), "no");
}

TYPED_TEST(ServerStreams, InterimResponsesComeFirst) {
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    EXPECT_TRUE(stream.request().expect_continue);
    http::OutgoingResponse interim;
    interim.status = 103;
    interim.phrase = "Early Hints";
    EXPECT_EQ(stream.SendInterim(interim), Io::kDone);
    interim.status = 100;
    interim.phrase = "Continue";
    EXPECT_EQ(stream.SendInterim(interim), Io::kDone);
    const BodyEnd body = co_await ReadBody(&stream);
    (void)co_await Respond(&stream, 200, body.text);
    stream.Finish(http::End::kComplete);
  });
  this->side_->Begin("PUT", "/", true, "Expect: 100-continue\r\n");
  ASSERT_TRUE(this->Until([&] { return this->side_->interim().size() == 2; }));
  EXPECT_EQ(this->side_->interim(), (std::vector<int>{103, 100}));
  this->side_->SendBody("late", true);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(this->side_->body(), "late");
}

TYPED_TEST(ServerStreams, AClientThatLeavesIsSeenAtOnce) {
  bool told = false;
  BodyEnd body;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    stream.WatchGone([](void* seen) { *static_cast<bool*>(seen) = true; }, &told);
    body = co_await ReadBody(&stream);
    EXPECT_TRUE(stream.gone());
    stream.Finish(http::End::kUnanswered);
  });
  this->side_->Begin("PUT", "/", true);
  this->side_->SendBody("some", false);
  this->Settle();
  this->side_->Leave();
  ASSERT_TRUE(this->Until([&] { return this->side_->served(); }));
  EXPECT_TRUE(told);
  EXPECT_TRUE(body.read == http::BodyRead::kCutShort || body.wait == Wait::kCancelled);
}

TYPED_TEST(ServerStreams, CancelEndsEveryWaitForGood) {
  std::vector<Wait> waits;
  Io written = Io::kDone;
  http::DownstreamStream* served = nullptr;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    served = &stream;
    http::BodyPiece piece;
    while (stream.Read({}, &piece) == http::BodyRead::kPiece) {
    }
    waits.push_back(co_await stream.Readable(TimePoint::max()));
    waits.push_back(co_await stream.Readable(TimePoint::max()));
    EXPECT_TRUE(stream.cancelled());
    written = co_await Respond(&stream, 200, std::string(8 << 20, 'x'));
    stream.Finish(http::End::kReset);
  });
  this->side_->Begin("PUT", "/", true);
  ASSERT_TRUE(this->Until([&] { return served != nullptr; }));
  served->Cancel();
  ASSERT_TRUE(this->Until([&] { return this->side_->served(); }));
  EXPECT_EQ(waits, (std::vector<Wait>{Wait::kCancelled, Wait::kCancelled}));
  EXPECT_EQ(written, Io::kError);
}

TYPED_TEST(ServerStreams, InterruptEndsOneWait) {
  std::vector<Wait> waits;
  BodyEnd body;
  http::DownstreamStream* served = nullptr;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    served = &stream;
    http::BodyPiece piece;
    while (stream.Read({}, &piece) == http::BodyRead::kPiece) {
    }
    waits.push_back(co_await stream.Readable(TimePoint::max()));
    body = co_await ReadBody(&stream);
    (void)co_await Respond(&stream, 200, body.text);
    stream.Finish(http::End::kComplete);
  });
  this->side_->Begin("PUT", "/", true);
  ASSERT_TRUE(this->Until([&] { return served != nullptr; }));
  served->Interrupt();
  EXPECT_EQ(waits.size(), 1u);
  this->side_->SendBody("more", true);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(body.text, "more");
}

TYPED_TEST(ServerStreams, AWaitEndsAtItsDeadline) {
  std::optional<Wait> wait;
  http::DownstreamStream* served = nullptr;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    served = &stream;
    http::BodyPiece piece;
    while (stream.Read({}, &piece) == http::BodyRead::kPiece) {
    }
    wait = co_await stream.Readable(this->wired_.loop().now() + 5s);
    (void)co_await Respond(&stream, 408, "");
    stream.Finish(http::End::kComplete);
  });
  this->side_->Begin("PUT", "/", true);
  ASSERT_TRUE(this->Until([&] { return served != nullptr; }));
  const TimePoint since = this->wired_.loop().now();
  this->wired_.loop().TurnAt(since + 4900ms);
  EXPECT_FALSE(wait);
  this->wired_.loop().TurnAt(since + 5020ms);
  EXPECT_EQ(wait, Wait::kTimeout);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
}

TYPED_TEST(ServerStreams, AResponseThatIsCutShortDoesNotLookComplete) {
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    (void)co_await Respond(&stream, 200, "some", false);
    stream.Finish(http::End::kCutShort);
  });
  this->side_->Begin("GET", "/", false);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(this->side_->status(), 200);
  EXPECT_EQ(this->side_->body(), std::nullopt);
}

TYPED_TEST(ServerStreams, ALongResponseWaitsForItsReader) {
  const std::string large(4 << 20, 'x');
  Io io = Io::kError;
  this->Serve([&](http::DownstreamStream& stream) -> Task<void> {
    http::OutgoingResponse response;
    response.status = 200;
    response.has_body = true;
    response.length = large.size();
    io = stream.Begin(response, {.bytes = large, .payload = large.size(), .last = true});
    EXPECT_EQ(io, Io::kAgain);
    if (io == Io::kAgain) io = co_await stream.Flush(10s, TimePoint::max());
    stream.Finish(http::End::kComplete);
  });
  this->side_->Begin("GET", "/", false);
  ASSERT_TRUE(this->Until([&] { return this->side_->over(); }));
  EXPECT_EQ(io, Io::kDone);
  EXPECT_EQ(this->side_->body(), large);
}

// The parameter of the client's suite: an endpoint that gets one request.
class Http1Endpoint {
 public:
  static constexpr bool kTrailers = false;

  explicit Http1Endpoint(Wired* wired) : wired_(*wired), socket_(&wired->loop()), peer_(wired->peer_end()) {
    socket_.Adopt(wired->stream_end());
  }
  std::unique_ptr<http::UpstreamStream> Open() { return std::make_unique<Stream>(wired_.streams(), &socket_, &input_); }
  void Turn() {
    peer_.Turn();
    if (header_.empty()) header_ = peer_.TakeHeader();
  }
  // "PUT /a", once its header has come.
  std::string request() const { return header_.substr(0, header_.find(" HTTP/1.1")); }
  std::optional<std::string> body() const { return Http1Peer::DecodeBody(header_, peer_.received()); }
  void Interim(int status) { peer_.Send("HTTP/1.1 " + std::to_string(status) + " Interim\r\n\r\n"); }
  void Respond(int status, const std::string& body) {
    peer_.Send("HTTP/1.1 " + std::to_string(status) + " OK\r\nContent-Length: " + std::to_string(body.size()) +
               "\r\n\r\n" + body);
  }
  void RespondPartly(const std::string& body) {
    peer_.Send("HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size() + 1) + "\r\n\r\n" + body);
  }
  void RespondInvalidly() { peer_.Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"); }
  void RespondWithTrailer(const std::string& body) {
    peer_.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + Chunk(body) + "0\r\nchecksum: 1\r\n\r\n");
  }
  void Reset() { peer_.Close(); }

 private:
  class Stream final : public http1::ClientStream {
   public:
    Stream(const http::StreamResources& resources, Socket* socket, Buffer* input)
        : ClientStream(resources, socket, input, true) {}
    void Finish() override {}
  };

  Wired& wired_;
  Socket socket_;
  Buffer input_;
  Http1Peer peer_;
  std::string header_;
};

class Http2Endpoint {
 public:
  static constexpr bool kTrailers = true;

  explicit Http2Endpoint(Wired* wired)
      : wired_(*wired), resources_(&wired->loop(), wired->streams().buffers, &metrics_), socket_(&wired->loop()) {
    peer_ = std::make_unique<Http2Server>(wired->peer_end());
    socket_.Adopt(wired->stream_end());
    session_ = std::make_unique<http2::ClientSession>(
        &resources_, &socket_, [](void*) {}, nullptr);
    Run();
    EXPECT_TRUE(wired->Until(this, [&] { return session_->HasRoom() && session_->serving(); }));
  }
  ~Http2Endpoint() {
    peer_ = nullptr;
    for (int i = 0; i < 1000 && !ended_; ++i) wired_.loop().TurnAt(wired_.loop().now() + 10ms);
    EXPECT_TRUE(ended_);
  }
  std::unique_ptr<http::UpstreamStream> Open() { return session_->Open(); }
  void Turn() {
    if (peer_ != nullptr) peer_->Turn();
  }
  std::string request() const {
    const fixtures::Http2Request* const request = Request();
    return request != nullptr && request->complete ? request->Field(":method") + " " + request->Field(":path") : "";
  }
  std::optional<std::string> body() const {
    const fixtures::Http2Request* const request = Request();
    return request != nullptr && request->ended ? std::optional(request->body) : std::nullopt;
  }
  void Interim(int status) { peer_->SendInterim(Request()->stream, {{":status", std::to_string(status)}}); }
  void Respond(int status, const std::string& body) { peer_->Respond(Request()->stream, status, body); }
  void RespondPartly(const std::string& body) {
    peer_->SendHead(Request()->stream, {{":status", "200"}});
    peer_->SendData(Request()->stream, body);
  }
  void RespondInvalidly() { peer_->SendHead(Request()->stream, {{":status", "200"}, {"connection", "close"}}); }
  void RespondWithTrailer(const std::string& body) {
    peer_->Respond(Request()->stream, 200, body, {}, {{"checksum", "1"}});
  }
  void Reset() { peer_->Reset(Request()->stream, NGHTTP2_INTERNAL_ERROR); }

 private:
  fixtures::Http2Request* Request() const {
    return peer_->requests().empty() ? nullptr : &peer_->requests().begin()->second;
  }
  Detached Run() {
    co_await session_->Serve();
    socket_.Close();
    ended_ = true;
  }

  Wired& wired_;
  http2::ClientMetrics metrics_;
  http2::ClientResources resources_;
  Socket socket_;
  std::unique_ptr<http2::ClientSession> session_;
  std::unique_ptr<Http2Server> peer_;
  bool ended_ = false;
};

template <typename Side>
class ClientStreams : public ::testing::Test {
 protected:
  ClientStreams() : side_(&wired_), stream_(side_.Open()) {}

  // `body` empty: none; not `last`: the rest is sent by the test.
  void Send(const std::string& method, const std::string& body = "", bool last = true) {
    http::OutgoingRequest request;
    request.method = method;
    request.scheme = "http";
    request.authority = "svc.example";
    request.path = "/a";
    request.has_body = !body.empty() || !last;
    EXPECT_EQ(stream_->Begin(request, {.bytes = body, .payload = body.size(), .last = last}), Io::kDone);
    EXPECT_TRUE(stream_->sent());
    ASSERT_TRUE(Until([&] { return !side_.request().empty(); }));
    EXPECT_EQ(side_.request(), method + " /a");
  }
  void Receive() {
    task_.emplace(ReadResponse());
    task_->Start();
  }
  template <typename Done>
  [[nodiscard]] bool Until(Done done) {
    return wired_.Until(&side_, done);
  }
  [[nodiscard]] bool UntilReceived() {
    return Until([&] { return task_->done(); });
  }

  Task<void> ReadResponse() {
    http::Response* response = nullptr;
    for (;;) {
      head_ = stream_->ReadHead(&response);
      if (head_ == http::HeadRead::kFinal) break;
      if (head_ == http::HeadRead::kInterim) {
        interim_.push_back(response->status);
        continue;
      }
      if (head_ != http::HeadRead::kWait) co_return;
      wait_ = co_await stream_->Readable(TimePoint::max());
      if (wait_ == Wait::kCancelled) co_return;
    }
    status_ = response->status;
    if (response->has_body) body_ = co_await ReadBody(stream_.get());
  }

  Wired wired_;
  Side side_;
  std::unique_ptr<http::UpstreamStream> stream_;
  std::optional<Task<void>> task_;
  http::HeadRead head_ = http::HeadRead::kWait;
  Wait wait_ = Wait::kReady;
  std::vector<int> interim_;
  int status_ = 0;
  BodyEnd body_;
};
using ClientSides = ::testing::Types<Http1Endpoint, Http2Endpoint>;
TYPED_TEST_SUITE(ClientStreams, ClientSides);

TYPED_TEST(ClientStreams, ARequestWithABodyAndItsResponse) {
  this->Send("PUT", "one ", false);
  EXPECT_EQ(this->stream_->Write({.bytes = "two", .payload = 3, .last = true}), Io::kDone);
  ASSERT_TRUE(this->Until([&] { return this->side_.body().has_value(); }));
  EXPECT_EQ(this->side_.body(), "one two");
  this->Receive();
  EXPECT_FALSE(this->task_->done());
  this->side_.Respond(201, "made");
  ASSERT_TRUE(this->UntilReceived());
  EXPECT_TRUE(this->stream_->heard());
  EXPECT_EQ(this->status_, 201);
  EXPECT_EQ(this->body_.read, http::BodyRead::kPiece);
  EXPECT_EQ(this->body_.text, "made");
  this->stream_->Finish();
}

TYPED_TEST(ClientStreams, InterimResponsesComeFirst) {
  this->Send("GET");
  this->side_.Interim(103);
  this->side_.Interim(102);
  this->side_.Respond(200, "x");
  this->Receive();
  ASSERT_TRUE(this->UntilReceived());
  EXPECT_EQ(this->interim_, (std::vector<int>{103, 102}));
  EXPECT_EQ(this->status_, 200);
}

TYPED_TEST(ClientStreams, TrailersPassIfTheProtocolHasThem) {
  EXPECT_EQ(this->stream_->carries_trailers(), TypeParam::kTrailers);
  this->Send("GET");
  this->side_.RespondWithTrailer("all");
  this->Receive();
  ASSERT_TRUE(this->UntilReceived());
  EXPECT_EQ(this->body_.text, "all");
  EXPECT_EQ(this->body_.trailers, TypeParam::kTrailers ? "checksum:1" : "");
}

TYPED_TEST(ClientStreams, AResponseMayComeBeforeTheEndOfTheRequest) {
  this->Send("PUT", "some", false);
  this->side_.Respond(403, "no");
  this->Receive();
  ASSERT_TRUE(this->UntilReceived());
  EXPECT_EQ(this->status_, 403);
  EXPECT_EQ(this->body_.text, "no");
}

TYPED_TEST(ClientStreams, AResetBeforeTheHeaderIsNoResponse) {
  this->Send("GET");
  this->Receive();
  this->side_.Reset();
  ASSERT_TRUE(this->UntilReceived());
  EXPECT_EQ(this->head_, http::HeadRead::kCutShort);
  EXPECT_FALSE(this->stream_->refused());
}

TYPED_TEST(ClientStreams, AResetInsideTheBodyCutsItShort) {
  this->Send("GET");
  this->side_.RespondPartly("some");
  this->Receive();
  ASSERT_TRUE(this->Until([&] { return this->body_.text == "some" || this->status_ == 200; }));
  this->side_.Reset();
  ASSERT_TRUE(this->UntilReceived());
  EXPECT_EQ(this->status_, 200);
  EXPECT_EQ(this->body_.read, http::BodyRead::kCutShort);
}

TYPED_TEST(ClientStreams, AnInvalidHeaderSaysWhy) {
  this->Send("GET");
  this->side_.RespondInvalidly();
  this->Receive();
  ASSERT_TRUE(this->UntilReceived());
  EXPECT_EQ(this->head_, http::HeadRead::kInvalid);
  EXPECT_STRNE(this->stream_->detail(), "");
}

TYPED_TEST(ClientStreams, CancelEndsEveryWaitForGood) {
  this->Send("GET");
  this->Receive();
  EXPECT_FALSE(this->task_->done());
  this->stream_->Cancel();
  EXPECT_TRUE(this->task_->done());
  EXPECT_EQ(this->wait_, Wait::kCancelled);
  EXPECT_TRUE(this->stream_->cancelled());
  this->Receive();
  EXPECT_TRUE(this->task_->done());
}

}  // namespace
}  // namespace gateway::dataplane
