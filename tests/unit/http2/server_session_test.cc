#include "dataplane/http/http2/server_session.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/fixtures/byte_stream.h"
#include "tests/fixtures/http2_client.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane::http2 {
namespace {

using namespace std::chrono_literals;
using fixtures::ByteStream;
using fixtures::Event;
using fixtures::Http2Client;
using fixtures::Http2Frame;
using fixtures::Http2Response;
using fixtures::WaitFor;

std::string Repeat(const std::string& text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

// A worker's loop in its own thread, and one session on a socket pair. The test's handler serves requests, on the
// loop.
class Sessions : public ::testing::Test {
 public:
  EventLoop& loop() { return loop_; }

 protected:
  using Serve = std::function<Task<void>(Sessions&, http::DownstreamStream&)>;

  Sessions() { info_.peer_ip = "192.0.2.1"; }
  ~Sessions() override {
    client_.reset();
    EXPECT_TRUE(!begun_ || ended_.Wait()) << "the session never ended";
    loop_.Stop();
    if (thread_.joinable()) thread_.join();
    EXPECT_EQ(metrics_.Get(SessionCounter::kStreams), 0);
    EXPECT_EQ(metrics_.Get(SessionCounter::kConnections), 0);
    EXPECT_EQ(served_now_, 0);
  }

  Http2Client& Connect(Http2Client::Options options = {}) {
    client_ = std::make_unique<Http2Client>(OpenSession(), std::move(options));
    return *client_;
  }

  // Returns the client's end of a serving session.
  int OpenSession() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    EXPECT_EQ(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    if (send_buffer_ > 0) {
      EXPECT_EQ(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &send_buffer_, sizeof send_buffer_), 0);
    }
    begun_ = true;
    resources_ = std::make_unique<SessionResources>(&loop_, &buffers_, &metrics_, options_);
    thread_ = std::thread([this, fd = ends[0]] {
      loop_.Post([this, fd] { Run(fd); });
      loop_.Run();
    });
    return ends[1];
  }

  Detached Run(int fd) {
    Socket socket(&loop_);
    socket.Adopt(fd);
    ServerSession session(
        resources_.get(), &socket, &info_,
        [](void* self, http::DownstreamStream& stream) { return static_cast<Sessions*>(self)->ServeStream(stream); },
        this);
    session_ = &session;
    end_ = co_await session.Serve({});
    abuse_ = session.abuse();
    session_ = nullptr;
    socket.Close();
    ended_.Set();
  }

  Task<void> ServeStream(http::DownstreamStream& stream) {
    ++served_now_;
    ++served_;
    co_await serve_(*this, stream);
    --served_now_;
  }

  // Passes each frame from the server to `until`, until that returns true. Otherwise how the connection closed:
  // OutOfRange (FIN) or Aborted (RST).
  static absl::Status ReadFrames(ByteStream& stream,
                                 const std::function<bool(uint8_t type, const std::string& payload)>& until) {
    for (;;) {
      const auto header = stream.ReadExactly(9);
      if (!header.ok()) return header.status();
      const size_t size = static_cast<uint8_t>((*header)[1]) << 8 | static_cast<uint8_t>((*header)[2]);
      const auto payload = stream.ReadExactly(size);
      if (!payload.ok()) return payload.status();
      if (until(static_cast<uint8_t>((*header)[3]), *payload)) return absl::OkStatus();
    }
  }

  // Reads until the connection closes; expects a GOAWAY with `code` as the last frame. Returns how it closed.
  static absl::Status ReadToGoaway(ByteStream& stream, uint32_t code) {
    uint8_t last_type = 0;
    std::string last;
    absl::Status end = ReadFrames(stream, [&](uint8_t type, const std::string& payload) {
      last_type = type;
      last = payload;
      return false;
    });
    EXPECT_EQ(last_type, NGHTTP2_GOAWAY) << end;
    EXPECT_EQ(last.substr(std::min<size_t>(4, last.size())), std::string(3, '\0') + static_cast<char>(code));
    return end;
  }

  // Runs `work` on the loop and waits for it.
  void OnLoop(std::function<void()> work) {
    Event done;
    loop_.Post([&] {
      work();
      done.Set();
    });
    ASSERT_TRUE(done.Wait());
  }

  static Task<Io> Respond(http::DownstreamStream& stream, int status, std::string_view body,
                          std::span<const FieldView> trailers = {}) {
    http::OutgoingResponse response;
    response.status = status;
    response.has_body = !body.empty() || !trailers.empty();
    if (trailers.empty()) response.length = body.size();
    http::BodyPiece piece;
    piece.bytes = body;
    piece.payload = body.size();
    piece.last = true;
    piece.trailers = trailers;
    Io io = stream.Begin(response, piece);
    if (io == Io::kAgain) io = co_await stream.Flush(10s, TimePoint::max());
    co_return io;
  }

  // The whole request body, copied; empty, and `how` set, if it breaks off.
  static Task<std::string> ReadBody(http::DownstreamStream& stream, http::BodyRead* how = nullptr) {
    std::string body;
    for (;;) {
      http::BodyPiece piece;
      const http::BodyRead read = stream.Read({}, &piece);
      if (read == http::BodyRead::kWait) {
        const Wait wait = co_await stream.Readable(TimePoint::max());
        if (wait == Wait::kReady) continue;
      }
      if (how != nullptr) *how = read;
      if (read != http::BodyRead::kPiece) co_return "";
      body.append(piece.bytes);
      if (piece.last) co_return body;
    }
  }

  // Responds with a description of the request.
  static Task<void> Describe(Sessions&, http::DownstreamStream& stream) {
    const http::Request& request = stream.request();
    std::string text;
    if (stream.rejection()) {
      text = std::string("rejected: ") + stream.rejection().detail;
    } else {
      text = std::string(request.method) + " " + std::string(request.scheme) + " " + std::string(request.authority) +
             " " + std::string(request.path) + "?" + std::string(request.query);
      for (const FieldView& field : request.fields) {
        text += "\n" + std::string(field.name) + ": " + std::string(field.value);
      }
      if (request.has_body) text += "\n\n" + co_await ReadBody(stream);
    }
    const int status = stream.rejection() ? InfoOf(stream.rejection().reason).status : 200;
    (void)co_await Respond(stream, status, text);
    stream.Finish(http::End::kComplete);
  }

  // Waits for the end of the request's body, which may never arrive.
  static Task<void> Hang(Sessions& self, http::DownstreamStream& stream) {
    std::pair<Sessions*, http::DownstreamStream*> watched = {&self, &stream};
    stream.WatchGone(
        [](void* watch) {
          auto& [sessions, on] = *static_cast<std::pair<Sessions*, http::DownstreamStream*>*>(watch);
          ++sessions->told_gone_;
          on->Cancel();
        },
        &watched);
    (void)co_await stream.Readable(TimePoint::max());
    while (!stream.gone() && !stream.cancelled()) {
      http::BodyPiece piece;
      (void)stream.Read({}, &piece);
      if (piece.last) break;
      (void)co_await stream.Readable(TimePoint::max());
    }
    stream.Finish(stream.gone() ? http::End::kUnanswered : http::End::kReset);
  }

  EventLoop loop_;
  BufferBudget budget_{64 << 20};
  BufferPool buffers_{&budget_};
  SessionMetrics metrics_;
  SessionOptions options_;
  http::ConnectionInfo info_;
  Serve serve_ = &Sessions::Describe;
  std::unique_ptr<SessionResources> resources_;
  ServerSession* session_ = nullptr;  // on the loop
  std::atomic<int> served_{0};
  std::atomic<int> served_now_{0};
  std::atomic<int> told_gone_{0};
  std::atomic<ServerSession::End> end_{ServerSession::End::kGone};
  std::atomic<Abuse> abuse_{Abuse::kNone};
  int send_buffer_ = 0;  // of the server's socket; 0: the system's default
  bool begun_ = false;
  Event ended_;
  std::thread thread_;
  std::unique_ptr<Http2Client> client_;
};

TEST_F(Sessions, ARequestBecomesItsParts) {
  Http2Client& client = Connect();
  const Http2Response& response = client.Fetch({.method = "POST",
                                                .path = "/a/b?c=d",
                                                .fields = {{"x-one", "1"}, {"cookie", "a=b"}, {"cookie", "c=d"}},
                                                .body = "hello"});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.body, "POST http api.example /a/b?c=d\nhost: api.example\nx-one: 1\ncookie: a=b; c=d\n\nhello");
  EXPECT_TRUE(response.ended);
  EXPECT_FALSE(response.reset);
  EXPECT_EQ(client.Setting(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS), 128u);
  EXPECT_EQ(client.Setting(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE), 256u * 1024);
  EXPECT_EQ(client.Setting(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE), 64u * 1024);
}

TEST_F(Sessions, ManyStreamsShareAConnection) {
  Http2Client& client = Connect();
  std::vector<int32_t> streams;
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 100; ++i) streams.push_back(client.Send({.path = "/" + std::to_string(i)}));
    for (const int32_t stream : streams) ASSERT_EQ(client.Finish(stream).status, 200) << stream;
  }
  EXPECT_EQ(served_, 500);
  EXPECT_FALSE(client.goaway());
}

TEST_F(Sessions, BodiesLongerThanAnyBufferPassBothWays) {
  std::string large(3 << 20, '\0');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>('a' + i * 7 % 26);
  serve_ = [](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    const std::string body = co_await ReadBody(stream);
    (void)co_await Respond(stream, 200, body);
    stream.Finish(http::End::kComplete);
  };
  Http2Client& client = Connect();
  const int32_t first = client.Send({.method = "POST", .body = large});
  const int32_t second = client.Send({.method = "POST", .body = large});
  EXPECT_EQ(client.Finish(first, 60s).body, large);
  EXPECT_EQ(client.Finish(second, 60s).body, large);
}

// A frame may have been started while there was no room for it, and its bytes may be gone once there is.
TEST_F(Sessions, AWriterThatGivesUpLeavesTheConnectionToOthers) {
  send_buffer_ = 4096;
  Event sent, gave_up;
  const std::string large(1 << 20, 'x');
  serve_ = [&](Sessions& self, http::DownstreamStream& stream) -> Task<void> {
    if (stream.request().path != "/large") co_return co_await Describe(self, stream);
    EXPECT_TRUE(sent.Wait());  // the client reads as long as it sends
    http::OutgoingResponse response;
    response.status = 200;
    response.has_body = true;
    Io io = stream.Begin(response, {.bytes = large, .payload = large.size(), .last = true});
    if (io == Io::kAgain) io = co_await stream.Flush(50ms, TimePoint::max());
    EXPECT_EQ(io, Io::kAgain);
    stream.Finish(http::End::kCutShort);
    gave_up.Set();
  };
  Http2Client& client = Connect();
  ASSERT_TRUE(client.Await([&] { return client.settings_received(); }));
  const int32_t stream = client.Send({.path = "/large"});
  sent.Set();
  ASSERT_TRUE(gave_up.Wait());  // nothing is read meanwhile
  EXPECT_EQ(client.Finish(stream).reset, static_cast<uint32_t>(NGHTTP2_INTERNAL_ERROR));
  EXPECT_EQ(client.Fetch({.path = "/small"}).status, 200);
  EXPECT_FALSE(client.goaway());
}

// The handler does not read the request's body: the client can send the stream's window and no more.
TEST_F(Sessions, AnUnreadBodyIsHeldBackByTheWindow) {
  std::atomic<http::DownstreamStream*> seen{nullptr};
  serve_ = [&](Sessions& self, http::DownstreamStream& stream) -> Task<void> {
    seen = &stream;
    co_await Hang(self, stream);
  };
  options_.initial_window = 64 * 1024;
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .body = std::string(1 << 20, 'x'), .ends = false});
  ASSERT_TRUE(client.Await([&] { return seen.load() != nullptr; }));
  ASSERT_FALSE(client.Await([&] { return budget_.used() > 400 * 1024; }, 300ms));
  EXPECT_FALSE(client.response(stream).over());
  client.Reset(stream);
}

TEST_F(Sessions, AStreamThatReadsNothingLeavesOthersAlone) {
  options_.initial_window = 64 * 1024;
  serve_ = [](Sessions& self, http::DownstreamStream& stream) -> Task<void> {
    return stream.request().path == "/hang" ? Hang(self, stream) : Describe(self, stream);
  };
  Http2Client& client = Connect();
  const int32_t stuck =
      client.Send({.method = "POST", .path = "/hang", .body = std::string(1 << 20, 'x'), .ends = false});
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(client.Fetch({.method = "POST", .path = "/", .body = std::string(200 * 1024, 'y')}).status, 200);
  }
  client.Reset(stuck);
}

TEST_F(Sessions, TrailersPassBothWays) {
  serve_ = [](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    std::string seen;
    for (bool last = false; !last;) {
      http::BodyPiece piece;
      if (stream.Read({}, &piece) == http::BodyRead::kWait) {
        if (co_await stream.Readable(TimePoint::max()) != Wait::kReady) break;
        continue;
      }
      last = piece.last;
      for (const FieldView& field : piece.trailers) seen += std::string(field.name) + "=" + std::string(field.value);
    }
    const FieldView trailers[] = {{"Grpc-Status", "0"}, {"x-seen", seen}};
    (void)co_await Respond(stream, 200, "body", trailers);
    stream.Finish(http::End::kComplete);
  };
  Http2Client& client = Connect();
  const Http2Response& response = client.Fetch({.method = "POST", .body = "x", .trailers = {{"x-sum", "42"}}});
  EXPECT_EQ(response.body, "body");
  EXPECT_EQ(response.Trailer("grpc-status"), "0");
  EXPECT_EQ(response.Trailer("x-seen"), "x-sum=42");
}

TEST_F(Sessions, TrailersThatFrameOrAuthenticateAreRefused) {
  std::atomic<int> invalid{0};
  serve_ = [&](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    http::BodyRead how = http::BodyRead::kPiece;
    (void)co_await ReadBody(stream, &how);
    if (how == http::BodyRead::kInvalid) ++invalid;
    (void)co_await Respond(stream, 400, "");
    stream.Finish(http::End::kComplete);
  };
  Http2Client& client = Connect();
  for (const char* name : {"content-length", "host", "authorization", "x-forwarded-for", "x-consumer", "te"}) {
    const Http2Response& response = client.Fetch({.method = "POST", .body = "x", .trailers = {{name, "1"}}});
    EXPECT_TRUE(response.status == 400 || response.reset) << name;
  }
  EXPECT_GE(invalid, 5);
}

TEST_F(Sessions, InterimResponsesComeBeforeTheFinalOne) {
  serve_ = [](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    http::OutgoingResponse interim;
    interim.status = 100;
    EXPECT_EQ(stream.SendInterim(interim), Io::kDone);
    interim.status = 103;
    interim.lines = "Link: </a.css>\r\n";
    EXPECT_EQ(stream.SendInterim(interim), Io::kDone);
    const std::string body = co_await ReadBody(stream);
    (void)co_await Respond(stream, 200, body);
    stream.Finish(http::End::kComplete);
  };
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .fields = {{"expect", "100-continue"}}, .ends = false});
  ASSERT_TRUE(client.Await([&] { return client.response(stream).status == 103; }));
  client.SendData(stream, "late", true);
  const Http2Response& response = client.Finish(stream);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.interim, std::vector<int>({100, 103}));
  EXPECT_EQ(response.body, "late");
}

TEST_F(Sessions, AClientThatResetsItsStreamIsNoticedAtOnce) {
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .ends = false});
  ASSERT_TRUE(client.Await([&] { return served_now_ == 1; }));
  client.Reset(stream);
  EXPECT_TRUE(WaitFor([&] { return served_now_ == 0; }));
  EXPECT_EQ(told_gone_, 1);
  EXPECT_FALSE(client.closed());
}

TEST_F(Sessions, AConnectionThatIsLostEndsItsStreams) {
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  client.Send({.method = "POST", .ends = false});
  ASSERT_TRUE(client.Await([&] { return served_now_ == 1; }));
  client_.reset();
  EXPECT_TRUE(ended_.Wait());
  EXPECT_EQ(told_gone_, 1);
  EXPECT_EQ(end_, ServerSession::End::kGone);
}

TEST_F(Sessions, AResponseThatBreaksOffIsSeenToDoSo) {
  serve_ = [](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    http::OutgoingResponse response;
    response.status = 200;
    response.has_body = true;
    response.length = 100;
    http::BodyPiece piece;
    piece.bytes = "some";
    EXPECT_EQ(stream.Begin(response, piece), Io::kDone);
    stream.Finish(http::End::kCutShort);
    co_return;
  };
  Http2Client& client = Connect();
  const Http2Response& response = client.Fetch({});
  EXPECT_EQ(response.status, 200);
  EXPECT_FALSE(response.ended);
  EXPECT_EQ(response.reset, uint32_t{NGHTTP2_INTERNAL_ERROR});
}

// RFC 9113, section 8.1: the response is complete, so the client must stop sending.
TEST_F(Sessions, AResponseBeforeTheEndOfTheRequestStopsIt) {
  serve_ = [](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    (void)co_await Respond(stream, 413, "too large");
    stream.Finish(http::End::kComplete);
  };
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .body = std::string(1 << 20, 'x'), .ends = false});
  ASSERT_TRUE(client.Await([&] { return client.response(stream).reset.has_value(); }));
  EXPECT_EQ(client.response(stream).status, 413);
  EXPECT_EQ(client.response(stream).body, "too large");
  EXPECT_TRUE(client.response(stream).ended);
  EXPECT_EQ(client.response(stream).reset, uint32_t{NGHTTP2_NO_ERROR});
  EXPECT_EQ(client.Fetch({.path = "/"}).status, 413) << "the connection stays usable";
}

TEST_F(Sessions, AReaderThatStallsEndsTheWait) {
  std::atomic<Io> io{Io::kDone};
  serve_ = [&](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    const std::string body(1 << 20, 'x');
    http::OutgoingResponse response;
    response.status = 200;
    response.has_body = true;
    http::BodyPiece piece;
    piece.bytes = body;
    piece.last = true;
    Io how = stream.Begin(response, piece);
    if (how == Io::kAgain) how = co_await stream.Flush(50ms, TimePoint::max());
    io = how;
    stream.Finish(http::End::kReset);
  };
  Http2Client& client = Connect({.initial_window = 1000, .update_windows = false});
  const Http2Response& response = client.Fetch({});
  EXPECT_EQ(response.body.size(), 1000u);
  EXPECT_TRUE(response.reset);
  EXPECT_EQ(io, Io::kAgain);
}

TEST_F(Sessions, AWindowThatOpensBitByBitGetsEverything) {
  serve_ = [](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    EXPECT_EQ(co_await Respond(stream, 200, std::string(200, 'x')), Io::kDone);
    stream.Finish(http::End::kComplete);
  };
  Http2Client& client = Connect({.initial_window = 1, .update_windows = false});
  const int32_t stream = client.Send({});
  for (size_t i = 1; i < 200; ++i) {
    ASSERT_TRUE(client.Await([&] { return client.response(stream).body.size() == i; }));
    client.GrantWindow(stream, 1);
  }
  EXPECT_EQ(client.Finish(stream).body.size(), 200u);
}

TEST_F(Sessions, ExtendedConnectIsAWebSocket) {
  serve_ = [](Sessions&, http::DownstreamStream& stream) -> Task<void> {
    const http::Request& request = stream.request();
    EXPECT_EQ(request.method, "GET");
    EXPECT_EQ(request.protocol, "websocket");
    EXPECT_FALSE(request.has_body);
    http::OutgoingResponse response;
    response.status = 101;
    EXPECT_EQ(stream.Begin(response, {}), Io::kDone);
    for (;;) {
      http::BodyPiece piece;
      const http::BodyRead read = stream.Read({}, &piece);
      if (read == http::BodyRead::kWait) {
        if (co_await stream.Readable(TimePoint::max()) != Wait::kReady) break;
        continue;
      }
      http::BodyPiece echo;
      echo.bytes = piece.bytes;
      echo.last = piece.last;
      Io io = stream.Write(echo);
      if (io == Io::kAgain) io = co_await stream.Flush(10s, TimePoint::max());
      if (io != Io::kDone || piece.last) break;
    }
    stream.Finish(http::End::kComplete);
  };
  Http2Client& client = Connect();
  ASSERT_TRUE(client.Await([&] { return client.settings_received(); }));
  EXPECT_EQ(client.Setting(NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL), 1u);
  const int32_t stream = client.Send({.method = "CONNECT", .path = "/chat", .ends = false, .protocol = "websocket"});
  ASSERT_TRUE(client.Await([&] { return client.response(stream).status == 200; }));
  client.SendData(stream, "ping", false);
  ASSERT_TRUE(client.Await([&] { return client.response(stream).body == "ping"; }));
  client.SendData(stream, "bye", true);
  EXPECT_EQ(client.Finish(stream).body, "pingbye");
}

TEST_F(Sessions, RequestsThatHttp1CouldReadDifferentlyAreRefused) {
  Http2Client& client = Connect();
  const auto with = [](fixtures::Fields more) {
    fixtures::Fields fields = {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}};
    fields.insert(fields.end(), more.begin(), more.end());
    return fields;
  };
  const std::vector<fixtures::Fields> wrong = {
      with({{"connection", "close"}}),
      with({{"transfer-encoding", "chunked"}}),
      with({{"upgrade", "websocket"}}),
      with({{"keep-alive", "1"}}),
      with({{"te", "gzip"}}),
      with({{"host", "b"}}),
      with({{"host", "a"}, {"host", "a"}}),
      with({{"content-length", "1"}}),
      with({{"content-length", "0"}, {"content-length", "0"}}),
      with({{"content-length", "+0"}}),
      with({{"x", "a\r\nb: c"}}),
      with({{"x", std::string("a\0b", 3)}}),
      with({{"x y", "1"}}),
      with({{"x:y", "1"}}),
      with({{"", "1"}}),
      with({{"x", " a"}}),
      with({{":path", "/"}}),
      with({{":unknown", "/"}}),
      with({{"x", "1"}, {":authority", "b"}}),
      {{":method", "GET"}, {":scheme", "http"}, {":path", "/"}},
      {{":method", "GET"}, {":authority", "a"}, {":path", "/"}},
      {{":method", "GET"}, {":scheme", "ftp"}, {":authority", "a"}, {":path", "/"}},
      {{":method", "G ET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "a b"}, {":path", "/"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "u@a"}, {":path", "/"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/ HTTP/1.1\r\nX: y"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/a#b"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/\xc3\xa4"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "*"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "a"}},
      {{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", ""}},
      {{":method", "CONNECT"}, {":authority", "a:80"}},
      {{":method", "TRACE"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}},
  };
  for (size_t i = 0; i < wrong.size(); ++i) {
    const int32_t stream = client.SendFields(wrong[i]);
    ASSERT_GT(stream, 0) << i;
    const Http2Response& response = client.Finish(stream);
    EXPECT_TRUE(response.status >= 400 || response.reset == uint32_t{NGHTTP2_PROTOCOL_ERROR}) << i << response.body;
  }
  EXPECT_EQ(client.Fetch({}).status, 200);
  // Also those that nghttp2 has reset: the request path records them.
  EXPECT_EQ(served_, static_cast<int>(wrong.size()) + 1);
}

TEST_F(Sessions, MoreDataThanAnnouncedResetsTheStream) {
  Http2Client& client = Connect();
  EXPECT_EQ(client.Fetch({.method = "POST", .fields = {{"content-length", "3"}}, .body = "four"}).reset,
            uint32_t{NGHTTP2_PROTOCOL_ERROR});
  EXPECT_EQ(client.Fetch({.method = "POST", .fields = {{"content-length", "5"}}, .body = "four"}).reset,
            uint32_t{NGHTTP2_PROTOCOL_ERROR});
  EXPECT_EQ(client.Fetch({.method = "POST", .fields = {{"content-length", "4"}}, .body = "four"}).status, 200);
}

// RFC 9113, sections 5.1, 5.1.1 and 6.3: frames that a client must not send after it has closed the stream.
struct LateFrame {
  std::string first, then;
  uint32_t code;
};

class LateFrames : public Sessions, public ::testing::WithParamInterface<LateFrame> {
 public:
  static std::string Headers(int32_t stream, uint8_t flags) {
    return Http2Frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | flags, stream,
                      "\x82\x84\x86\x41\x01"
                      "a");  // GET / http, :authority a
  }
  static std::string Whole(int32_t stream) { return Headers(stream, NGHTTP2_FLAG_END_STREAM); }
  static std::string Reset(int32_t stream) {
    return Headers(stream, 0) + Http2Frame(NGHTTP2_RST_STREAM, 0, stream, std::string("\0\0\0\x08", 4));
  }
};

TEST_P(LateFrames, EndTheConnection) {
  ByteStream client(OpenSession());
  ASSERT_TRUE(
      client.Send(std::string(kClientPreface) + Http2Frame(NGHTTP2_SETTINGS, 0, 0, "") + GetParam().first).ok());
  EXPECT_TRUE(WaitFor(
      [&] { return metrics_.Get(SessionCounter::kStreamsTotal) > 0 && metrics_.Get(SessionCounter::kStreams) == 0; }));
  ASSERT_TRUE(client.Send(GetParam().then).ok());
  EXPECT_TRUE(ended_.Wait());
  const absl::Status end = ReadToGoaway(client, GetParam().code);
  EXPECT_FALSE(absl::IsDeadlineExceeded(end)) << end;
}

INSTANTIATE_TEST_SUITE_P(
    , LateFrames,
    ::testing::Values(LateFrame{LateFrames::Whole(1), Http2Frame(NGHTTP2_DATA, 0, 1, "x"), NGHTTP2_STREAM_CLOSED},
                      LateFrame{LateFrames::Whole(1), LateFrames::Whole(1), NGHTTP2_STREAM_CLOSED},
                      LateFrame{LateFrames::Reset(1), Http2Frame(NGHTTP2_DATA, 0, 1, "x"), NGHTTP2_STREAM_CLOSED},
                      LateFrame{LateFrames::Reset(1), LateFrames::Whole(1), NGHTTP2_STREAM_CLOSED},
                      LateFrame{LateFrames::Whole(5), LateFrames::Whole(3), NGHTTP2_PROTOCOL_ERROR},
                      LateFrame{LateFrames::Whole(1),
                                Http2Frame(NGHTTP2_PRIORITY, 0, 0, std::string("\0\0\0\0\x10", 5)),
                                NGHTTP2_PROTOCOL_ERROR}));

TEST_F(Sessions, AHeaderListThatIsTooLongGets431) {
  Http2Client& client = Connect();
  EXPECT_EQ(client.Fetch({.fields = {{"x", std::string(15'000, 'a')}, {"y", std::string(15'000, 'b')}}}).status, 200);
  fixtures::Fields fields;
  for (int i = 0; i < 300; ++i) fields.emplace_back("x-" + std::to_string(i), "1");
  EXPECT_EQ(client.Fetch({.fields = fields}).status, 431);
  EXPECT_EQ(client.Fetch({.fields = {{"x", std::string(35'000, 'a')}, {"y", std::string(35'000, 'b')}}}).status, 431);
  EXPECT_EQ(client.Fetch({}).status, 200);
}

// ---- Abuse: each closes the connection with ENHANCE_YOUR_CALM.

class Abuses : public Sessions {
 protected:
  void ExpectCondemned(Http2Client& client, Abuse kind) {
    EXPECT_TRUE(client.Await([&] { return client.closed(); }, 30s));
    EXPECT_EQ(client.goaway(), uint32_t{NGHTTP2_ENHANCE_YOUR_CALM});
    EXPECT_TRUE(ended_.Wait());
    EXPECT_EQ(abuse_, kind);
    EXPECT_EQ(metrics_.Get(kind), 1);
  }
  // Repeats `frame` until the connection is closed; fails if that takes more than `max`.
  void Flood(Http2Client& client, const std::string& frame, int max) {
    ASSERT_TRUE(client.Await([&] { return client.settings_received(); }));
    for (int i = 0; i < max && !client.closed(); ++i) client.SendRaw(frame);
  }
};

TEST_F(Abuses, RapidReset) {
  serve_ = &Sessions::Hang;
  options_.max_concurrent_streams = 1000;
  Http2Client& client = Connect();
  for (int i = 0; i < 2000 && !client.closed(); ++i) {
    const int32_t stream = client.Send({.method = "POST", .ends = false});
    if (stream < 0) break;
    client.Reset(stream);
  }
  ExpectCondemned(client, Abuse::kRapidReset);
}

TEST_F(Abuses, AClientThatCancelsTwoHundredCallsASecondIsServed) {
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  for (int second = 0; second < 3; ++second) {
    const auto next = std::chrono::steady_clock::now() + 1s;
    for (int i = 0; i < 200; ++i) {
      const int32_t stream = client.Send({.method = "POST", .ends = false});
      ASSERT_GT(stream, 0);
      client.Reset(stream);
    }
    (void)client.Await([&] { return std::chrono::steady_clock::now() >= next; });
  }
  EXPECT_FALSE(client.closed());
  EXPECT_FALSE(client.goaway());
}

// The client never resets streams, but makes the server reset them (CVE-2025-8671).
TEST_F(Abuses, MadeYouReset) {
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  for (int i = 0; i < 200 && !client.closed(); ++i) {
    const int32_t stream = client.Send({.method = "POST", .ends = false});
    if (stream < 0) break;
    client.SendRaw(Http2Frame(NGHTTP2_WINDOW_UPDATE, 0, stream, "\x7f\xff\xff\xff"));  // overflows the window
  }
  ExpectCondemned(client, Abuse::kInvalidFrames);
}

// Raw frames: nghttp2's client rejects acknowledgements of SETTINGS that it has not sent.
TEST_F(Abuses, Settings) {
  ByteStream client(OpenSession());
  ASSERT_TRUE(client.Send(std::string(kClientPreface) + Repeat(Http2Frame(NGHTTP2_SETTINGS, 0, 0, ""), 100)).ok());
  const absl::Status end = ReadToGoaway(client, NGHTTP2_ENHANCE_YOUR_CALM);
  EXPECT_TRUE(absl::IsOutOfRange(end)) << end;
  client.Close();
  EXPECT_TRUE(ended_.Wait());
  EXPECT_EQ(abuse_, Abuse::kSettings);
}

TEST_F(Abuses, Ping) {
  Http2Client& client = Connect();
  Flood(client, Http2Frame(NGHTTP2_PING, 0, 0, "12345678"), 500);
  ExpectCondemned(client, Abuse::kPing);
}

TEST_F(Abuses, Priority) {
  Http2Client& client = Connect();
  Flood(client, Http2Frame(NGHTTP2_PRIORITY, 0, 1, std::string("\0\0\0\0\x10", 5)), 1000);
  ExpectCondemned(client, Abuse::kPriority);
}

TEST_F(Abuses, WindowUpdate) {
  Http2Client& client = Connect();
  Flood(client, Http2Frame(NGHTTP2_WINDOW_UPDATE, 0, 0, std::string("\0\0\0\x01", 4)), 1000);
  ExpectCondemned(client, Abuse::kWindowUpdate);
}

TEST_F(Abuses, EmptyData) {
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .ends = false});
  Flood(client, Http2Frame(NGHTTP2_DATA, 0, stream, ""), 500);
  ExpectCondemned(client, Abuse::kEmptyData);
}

TEST_F(Abuses, PaddingAlone) {
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .ends = false});
  Flood(client, Http2Frame(NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, stream, std::string("\x03\0\0\0", 4)), 500);
  ExpectCondemned(client, Abuse::kEmptyData);
}

TEST_F(Abuses, UnknownFrames) {
  Http2Client& client = Connect();
  Flood(client, Http2Frame(0xbe, 0, 0, "?"), 500);
  ExpectCondemned(client, Abuse::kUnknownFrames);
}

TEST_F(Abuses, Continuation) {
  Http2Client& client = Connect();
  ASSERT_TRUE(client.Await([&] { return client.settings_received(); }));
  client.SendRaw(Http2Frame(NGHTTP2_HEADERS, 0, 1, "\x82"));
  for (int i = 0; i < 100 && !client.closed(); ++i) client.SendRaw(Http2Frame(NGHTTP2_CONTINUATION, 0, 1, ""));
  ExpectCondemned(client, Abuse::kContinuation);
}

// One field in HPACK's dynamic table, and thousands of one-byte references to it.
TEST_F(Abuses, HpackBomb) {
  Http2Client& client = Connect();
  ASSERT_TRUE(client.Await([&] { return client.settings_received(); }));
  std::string block =
      "\x82\x84\x86\x41\x01"
      "a";                                           // GET / http, :authority a
  block += std::string("\x40\x01x\x7f\xa1\x1e", 6);  // x, with indexing, a value of 4,000 bytes
  block += std::string(4000, 'v');
  block += std::string(10'000, '\xbe');  // the first entry of the dynamic table
  client.SendRaw(Http2Frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, block));
  ExpectCondemned(client, Abuse::kHeaderList);
  EXPECT_LT(budget_.used(), 1u << 20);
}

// Output for a client that never reads is bounded.
TEST_F(Abuses, ControlFramesThatNobodyReads) {
  serve_ = &Sessions::Hang;
  send_buffer_ = 1;  // the kernel raises it to its minimum
  const int fd = OpenSession();
  std::string burst(kClientPreface);
  burst += Http2Frame(NGHTTP2_SETTINGS, 0, 0, "") + Http2Frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, "");
  burst += Http2Frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1,
                      "\x83\x84\x86\x41\x01"
                      "a");
  // Requests, so that this many PINGs are allowed.
  burst += Repeat(Http2Frame(NGHTTP2_DATA, 0, 1, "x") + Http2Frame(NGHTTP2_PING, 0, 0, "12345678"), 10'000);
  size_t sent = 0;
  while (sent < burst.size()) {
    const ssize_t n = send(fd, burst.data() + sent, burst.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) break;
    sent += static_cast<size_t>(n);
  }
  EXPECT_LT(sent, burst.size());
  close(fd);
  ASSERT_TRUE(ended_.Wait());
  EXPECT_EQ(abuse_, Abuse::kControlQueue);
}

// SETTINGS bind a client once it has acknowledged them: what it opens past the limit before that is refused, and the
// connection continues.
TEST_F(Sessions, StreamsPastTheLimitBeforeTheAcknowledgementAreRefused) {
  serve_ = &Sessions::Hang;
  options_.max_concurrent_streams = 3;
  const int fd = OpenSession();
  const timeval patience = {10, 0};
  ASSERT_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
  const auto write = [fd](const std::string& bytes) {
    ASSERT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  };
  std::string input;
  // The type, the flags and the payload of the next frame.
  const auto read = [&]() -> std::tuple<int, int, std::string> {
    for (;;) {
      const size_t size = input.size() < 9 ? 0 : static_cast<uint8_t>(input[1]) << 8 | static_cast<uint8_t>(input[2]);
      if (input.size() >= 9 && input.size() >= 9 + size) {
        std::tuple<int, int, std::string> frame = {input[3], input[4], input.substr(9, size)};
        input.erase(0, 9 + size);
        return frame;
      }
      std::array<char, 4096> chunk;
      const ssize_t n = recv(fd, chunk.data(), chunk.size(), 0);
      if (n <= 0) return {-1, 0, ""};
      input.append(chunk.data(), static_cast<size_t>(n));
    }
  };
  write(std::string(kClientPreface) + Http2Frame(NGHTTP2_SETTINGS, 0, 0, ""));
  std::tuple<int, int, std::string> frame = read();
  ASSERT_EQ(std::get<0>(frame), NGHTTP2_SETTINGS) << "the limit is known from here on";
  std::string burst;
  for (int32_t id = 1; id < 20; id += 2) {
    burst += Http2Frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id,
                        "\x83\x84\x86\x41\x01"
                        "a");
  }
  write(burst + Http2Frame(NGHTTP2_PING, 0, 0, "whoisit?"));
  int refused = 0;
  bool alive = false;
  while (!alive || refused < 7) {
    frame = read();
    const auto& [type, flags, payload] = frame;
    ASSERT_GE(type, 0) << "the connection ended; " << refused << " streams were refused";
    ASSERT_NE(type, NGHTTP2_GOAWAY);
    if (type == NGHTTP2_RST_STREAM && payload == std::string("\0\0\0\x07", 4)) ++refused;  // REFUSED_STREAM
    if (type == NGHTTP2_PING && (flags & NGHTTP2_FLAG_ACK) != 0) alive = true;
  }
  EXPECT_EQ(refused, 7);
  EXPECT_EQ(served_, 3);
  EXPECT_EQ(metrics_.Get(SessionCounter::kStreamsRefusedTotal), 7);
  close(fd);
}

// From a client that has not seen the server's SETTINGS yet.
TEST_F(Abuses, TooManyStreams) {
  serve_ = &Sessions::Hang;
  options_.max_concurrent_streams = 10;
  ByteStream client(OpenSession());
  std::string burst(kClientPreface);
  burst += Http2Frame(NGHTTP2_SETTINGS, 0, 0, "");
  for (int32_t id = 1; id < 100; id += 2) {
    burst += Http2Frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id,
                        "\x83\x84\x86\x41\x01"
                        "a");
  }
  ASSERT_TRUE(client.Send(burst).ok());
  const std::string refusal("\0\0\0\x07", 4);  // REFUSED_STREAM
  int refused = 0;
  const absl::Status end = ReadFrames(client, [&](uint8_t type, const std::string& payload) {
    if (type == NGHTTP2_RST_STREAM && payload == refusal) ++refused;
    return refused == 40;
  });
  ASSERT_TRUE(end.ok()) << end << ": " << refused << " streams were refused";
  EXPECT_EQ(served_, 10);
  EXPECT_EQ(metrics_.Get(SessionCounter::kStreamsRefusedTotal), 40);
  client.Close();
  EXPECT_TRUE(ended_.Wait());
}

// ---- Deadlines.

TEST_F(Sessions, AClientThatDoesNotAcknowledgeSettingsIsClosed) {
  options_.header_timeout = 100ms;
  Http2Client& client = Connect({.acknowledge_settings = false});
  EXPECT_TRUE(client.Await([&] { return client.closed(); }));
  EXPECT_EQ(client.goaway(), uint32_t{NGHTTP2_SETTINGS_TIMEOUT});
  EXPECT_EQ(end_, ServerSession::End::kClosed);
}

TEST_F(Sessions, AHeaderSectionThatNeverEndsIsClosed) {
  options_.header_timeout = 100ms;
  Http2Client& client = Connect();
  ASSERT_TRUE(client.Await([&] { return client.settings_received(); }));
  client.SendRaw(Http2Frame(NGHTTP2_HEADERS, 0, 1, "\x82"));
  EXPECT_TRUE(client.Await([&] { return client.closed(); }));
  EXPECT_EQ(metrics_.Get(SessionCounter::kTimeoutsTotal), 1);
}

TEST_F(Sessions, AnIdleConnectionIsClosedWhateverItPings) {
  options_.idle_timeout = 300ms;
  Http2Client& client = Connect();
  EXPECT_EQ(client.Fetch({}).status, 200);
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  while (!client.closed() && std::chrono::steady_clock::now() < deadline) {
    client.Ping();
    (void)client.Await([] { return false; }, 50ms);
  }
  EXPECT_TRUE(client.closed());
  EXPECT_EQ(client.goaway(), uint32_t{NGHTTP2_NO_ERROR});
}

TEST_F(Sessions, ASilentStreamIsKeptWhileTheClientAnswersPings) {
  options_.idle_timeout = 50ms;
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .ends = false});
  EXPECT_TRUE(client.Await([&] { return client.pings() >= 3; }));
  EXPECT_FALSE(client.closed());
  client.Reset(stream);
}

TEST_F(Sessions, PingsAreAnswered) {
  Http2Client& client = Connect();
  client.Ping();
  EXPECT_TRUE(client.Await([&] { return client.pongs() == 1; }));
}

// ---- Drain.

TEST_F(Sessions, ADrainLosesNoStream) {
  std::atomic<bool> release{false};
  serve_ = [&](Sessions& self, http::DownstreamStream& stream) -> Task<void> {
    while (!release) co_await Yield(&self.loop());
    co_await Describe(self, stream);
  };
  Http2Client& client = Connect();
  const int32_t before = client.Send({.path = "/before"});
  ASSERT_TRUE(client.Await([&] { return served_now_ == 1; }));
  OnLoop([&] { session_->Drain(); });
  ASSERT_TRUE(client.Await([&] { return client.goaways() >= 1; }));
  ASSERT_TRUE(client.Await([&] { return client.goaways() == 2; }));
  EXPECT_EQ(client.goaway_last_stream(), before);
  release = true;
  EXPECT_EQ(client.Finish(before).status, 200);
  EXPECT_TRUE(client.Await([&] { return client.closed(); }));
  EXPECT_EQ(client.goaway(), uint32_t{NGHTTP2_NO_ERROR});
}

TEST_F(Sessions, CutShortTellsThoseWhoWait) {
  serve_ = &Sessions::Hang;
  Http2Client& client = Connect();
  const int32_t stream = client.Send({.method = "POST", .ends = false});
  ASSERT_TRUE(client.Await([&] { return served_now_ == 1; }));
  OnLoop([&] { session_->CutShort(); });
  EXPECT_TRUE(client.Await([&] { return client.response(stream).over(); }));
  EXPECT_EQ(told_gone_, 1);
}

TEST(Preface, IsToldFromHttp1ByItsFirstBytes) {
  EXPECT_EQ(MatchPreface(""), Preface::kMore);
  EXPECT_EQ(MatchPreface("P"), Preface::kMore);
  EXPECT_EQ(MatchPreface("PR"), Preface::kMore);
  EXPECT_EQ(MatchPreface("PO"), Preface::kOther);
  EXPECT_EQ(MatchPreface("GET / HTTP/1.1\r\n"), Preface::kOther);
  EXPECT_EQ(MatchPreface("PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n"), Preface::kOther);
  EXPECT_EQ(MatchPreface(kClientPreface), Preface::kHttp2);
  EXPECT_EQ(MatchPreface(absl::StrCat(std::string(kClientPreface), "more")), Preface::kHttp2);
}

TEST(AbuseGuard, AllowsMoreWhereThereIsMoreWork) {
  const TimePoint start = std::chrono::steady_clock::now();
  AbuseGuard guard;
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(guard.Count(Abuse::kPing, start));
  EXPECT_TRUE(guard.Count(Abuse::kPing, start));
  EXPECT_FALSE(guard.Count(Abuse::kPing, start + AbuseGuard::kWindow)) << "a new window";
  for (int i = 0; i < 1000; ++i) {
    guard.OnData(start + 2 * AbuseGuard::kWindow);
    EXPECT_FALSE(guard.Count(Abuse::kPing, start + 2 * AbuseGuard::kWindow));
  }
}

TEST(AbuseGuard, ResetsOfMostOfManyRequestsAreTooMany) {
  const TimePoint now = std::chrono::steady_clock::now();
  AbuseGuard guard;
  for (int i = 0; i < 499; ++i) {
    guard.OnRequest(now);
    EXPECT_FALSE(guard.OnReset(now, false, now));
  }
  guard.OnRequest(now);
  EXPECT_TRUE(guard.OnReset(now, false, now));
  AbuseGuard half;
  for (int i = 0; i < 2000; ++i) {
    half.OnRequest(now);
    half.OnRequest(now);
    EXPECT_FALSE(half.OnReset(now, false, now)) << "half of them";
    EXPECT_FALSE(half.OnReset(now, true, now)) << "got a response";
    EXPECT_FALSE(half.OnReset(now - 2s, false, now)) << "was served for long";
  }
}

TEST(SessionMetrics, AreSummedOverWorkers) {
  SessionMetrics one;
  SessionMetrics two;
  one.Add(SessionCounter::kStreamsTotal, 2);
  two.Add(SessionCounter::kStreamsTotal, 3);
  two.CountAbuse(Abuse::kControlQueue);
  const SessionMetrics* const workers[] = {&one, &two};
  int seen = 0;
  for (const auto& family : SessionFamilies(workers)) {
    EXPECT_TRUE(family.name.starts_with("gateway_http2_")) << family.name;
    if (family.name == "gateway_http2_streams_total") seen += family.metric.at(0).counter.value == 5 ? 1 : 0;
    if (family.name != "gateway_http2_abuse_total") continue;
    ASSERT_EQ(family.metric.size(), kAbuseCount);
    EXPECT_EQ(family.metric.back().label.at(0).value, "control_queue");
    EXPECT_EQ(family.metric.back().counter.value, 1);
    ++seen;
  }
  EXPECT_EQ(seen, 2);
}

TEST(SessionMemory, RecyclesWithinItsBound) {
  SessionMemory memory;
  void* const first = memory.Allocate(100);
  memory.Free(first);
  EXPECT_EQ(memory.Allocate(90), first);
  void* block = memory.Allocate(10);
  static_cast<char*>(block)[9] = 'x';
  block = memory.Reallocate(block, 5000);
  EXPECT_EQ(static_cast<char*>(block)[9], 'x');
  memory.Free(block);
  memory.Free(first);
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i) blocks.push_back(memory.Allocate(16 * 1024));
  for (void* each : blocks) memory.Free(each);
  EXPECT_LE(memory.kept_bytes(), SessionMemory::kKeptBytesMax);
  EXPECT_GT(memory.kept_bytes(), SessionMemory::kKeptBytesMax / 2);
}

}  // namespace
}  // namespace gateway::dataplane::http2
