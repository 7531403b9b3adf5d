#include "dataplane/http/http2/client_session.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "dataplane/net/cancellable_timer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/http2_client.h"
#include "tests/fixtures/http2_server.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane::http2 {
namespace {

using namespace std::chrono_literals;
using fixtures::Event;
using fixtures::Fields;
using fixtures::Http2Frame;
using fixtures::Http2Request;
using fixtures::Http2Server;
using fixtures::WaitFor;
using ::testing::HasSubstr;

// The state of one request. Written on the loop; read once `over`.
struct Call {
  std::string method = "GET";
  std::string path = "/";
  std::string query = "";
  std::string lines = "";
  std::string body = "";
  bool sends_body = false;  // may be empty
  bool takes_trailers = false;
  Fields trailers = {};
  bool holds = false;    // does not read the response's body
  bool cancels = false;  // cancels once it is sent

  Io begun = Io::kError;
  int status = 0;
  Fields fields = {};
  std::vector<int> interim = {};
  std::string answer = "";
  Fields answer_trailers = {};
  std::optional<http::HeadRead> head = {};
  std::optional<http::BodyRead> end = {};
  std::string detail = "";
  bool stale = false;
  bool refused = false;
  bool sent = false;
  Event over = {};
};

// A worker's loop in its own thread, and one session on a socket pair; the test is the peer.
class ClientSessions : public ::testing::Test {
 protected:
  ~ClientSessions() override {
    peer_.reset();
    if (begun_) {
      EXPECT_TRUE(ended_.Wait()) << "the session never ended";
      EXPECT_EQ(metrics_.Get(ClientCounter::kStreams), 0);
    }
    loop_.Stop();
    if (thread_.joinable()) thread_.join();
    session_.reset();
    socket_.reset();
    EXPECT_EQ(metrics_.Get(ClientCounter::kConnections), 0);
  }

  Http2Server& Connect(Http2Server::Options options = {}) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    EXPECT_EQ(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    begun_ = true;
    loop_.Post([this, fd = ends[0]] { Run(fd); });
    thread_ = std::thread([this] { loop_.Run(); });
    peer_ = std::make_unique<Http2Server>(ends[1], std::move(options));
    return *peer_;
  }

  Detached Run(int fd) {
    socket_ = std::make_unique<Socket>(&loop_);
    socket_->Adopt(fd);
    session_ = std::make_unique<ClientSession>(
        &resources_, socket_.get(), [](void*) {}, nullptr);
    co_await session_->Serve();
    socket_->Close();
    ended_.Set();
  }

  void OnLoop(std::function<void()> work) {
    Event done;
    loop_.Post([&] {
      work();
      done.Set();
    });
    ASSERT_TRUE(done.Wait());
  }

  void Start(Call* call) {
    loop_.Post([this, call] { Make(call); });
  }

  Detached Make(Call* call) {
    {
      const std::unique_ptr<http::UpstreamStream> stream = session_->Open();
      co_await Converse(stream.get(), call);
      call->stale = stream->stale();
      call->refused = stream->refused();
      call->sent = stream->sent();
      call->detail = stream->detail();
    }
    call->over.Set();
  }

  Task<void> Converse(http::UpstreamStream* stream, Call* call) {
    http::OutgoingRequest request;
    request.method = call->method;
    request.scheme = "http";
    request.authority = "svc.example:80";
    request.path = call->path;
    request.query = call->query;
    request.has_query = !call->query.empty();
    request.lines = call->lines;
    request.takes_trailers = call->takes_trailers;
    request.has_body = call->sends_body || !call->body.empty() || !call->trailers.empty();
    std::vector<FieldView> trailers;
    for (const auto& [name, value] : call->trailers) trailers.push_back({name, value});
    http::BodyPiece piece;
    piece.bytes = call->body;
    piece.payload = call->body.size();
    piece.last = true;
    piece.trailers = trailers;
    call->begun = stream->Begin(request, piece);
    if (call->begun == Io::kAgain) call->begun = co_await stream->Flush(20s, TimePoint::max());
    if (call->cancels) co_return;
    http::Response* response = nullptr;
    for (;;) {
      const http::HeadRead read = stream->ReadHead(&response);
      if (read == http::HeadRead::kWait) {
        (void)co_await stream->Readable(loop_.now() + 30s);
        continue;
      }
      if (read == http::HeadRead::kInterim) {
        call->interim.push_back(response->status);
        continue;
      }
      call->head = read;
      if (read != http::HeadRead::kFinal) co_return;
      break;
    }
    call->status = response->status;
    for (const FieldView& field : response->fields) {
      call->fields.emplace_back(std::string(field.name), std::string(field.value));
    }
    while (call->holds && !release_) {
      CancellableTimer pause(&loop_);
      (void)co_await pause.Until(loop_.now() + 20ms);
    }
    for (;;) {
      const http::BodyRead read = stream->Read({}, &piece);
      if (read == http::BodyRead::kWait) {
        (void)co_await stream->Readable(loop_.now() + 30s);
        continue;
      }
      call->end = read;
      if (read != http::BodyRead::kPiece) co_return;
      call->answer += piece.bytes;
      if (!piece.last) continue;
      for (const FieldView& field : piece.trailers) {
        call->answer_trailers.emplace_back(std::string(field.name), std::string(field.value));
      }
      stream->Finish();
      co_return;
    }
  }

  // Waits until the call has ended, while the peer serves.
  bool Finish(Call& call) {
    return peer_->Await([&] { return call.over.is_set(); });
  }

  EventLoop loop_;
  BufferBudget budget_{64 << 20};
  BufferPool buffers_{&budget_};
  ClientMetrics metrics_;
  ClientResources resources_{&loop_, &buffers_, &metrics_};
  std::unique_ptr<Socket> socket_;
  std::unique_ptr<ClientSession> session_;  // on the loop
  std::atomic<bool> release_{false};
  bool begun_ = false;
  Event ended_;
  std::thread thread_;
  std::unique_ptr<Http2Server> peer_;
};

TEST_F(ClientSessions, ARequestAndItsResponseArriveWhole) {
  Http2Server& peer = Connect();
  Call call{.method = "POST",
            .path = "/a",
            .query = "b=c",
            .lines = "X-One: 1\r\nKeep-Alive: 5\r\n",
            .body = "hello",
            .takes_trailers = true};
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  ASSERT_TRUE(peer.Await([&] { return request->ended; }));
  EXPECT_EQ(request->fields, (Fields{{":method", "POST"},
                                     {":scheme", "http"},
                                     {":authority", "svc.example:80"},
                                     {":path", "/a?b=c"},
                                     {"x-one", "1"},
                                     {"te", "trailers"}}));
  EXPECT_EQ(request->body, "hello");
  EXPECT_EQ(peer.Setting(NGHTTP2_SETTINGS_ENABLE_PUSH), 0u);
  EXPECT_EQ(peer.Setting(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE), ClientSession::kStreamWindow);
  peer.Respond(request->stream, 200, "world", {{"x-two", "2"}}, {{"grpc-status", "0"}, {"authorization", "x"}});
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.status, 200);
  EXPECT_EQ(call.fields, (Fields{{"x-two", "2"}}));
  EXPECT_EQ(call.answer, "world");
  EXPECT_EQ(call.answer_trailers, (Fields{{"grpc-status", "0"}})) << "credentials are not allowed in trailers";
  EXPECT_FALSE(request->reset);
}

TEST_F(ClientSessions, TrailersGoUp) {
  Http2Server& peer = Connect();
  Call call{.method = "POST", .body = "x", .trailers = {{"checksum", "1"}}};
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  ASSERT_TRUE(peer.Await([&] { return request->ended; }));
  EXPECT_EQ(request->trailers, (Fields{{"checksum", "1"}}));
  peer.Respond(request->stream, 204, "");
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.status, 204);
}

TEST_F(ClientSessions, InterimResponsesPassInOrder) {
  Http2Server& peer = Connect();
  Call call;
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  peer.SendInterim(request->stream, {{":status", "103"}, {"link", "</a>"}});
  peer.SendInterim(request->stream, {{":status", "102"}});
  peer.Respond(request->stream, 200, "x");
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.interim, (std::vector<int>{103, 102}));
  EXPECT_EQ(call.answer, "x");
}

TEST_F(ClientSessions, ManyRequestsShareAConnection) {
  Http2Server& peer = Connect();
  std::vector<std::unique_ptr<Call>> calls;
  for (int i = 0; i < 100; ++i) {
    auto& call = calls.emplace_back(std::make_unique<Call>());
    call->path = "/" + std::to_string(i);
    Start(call.get());
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    Http2Request* const request = peer.AwaitRequest(i);
    ASSERT_NE(request, nullptr);
    peer.Respond(request->stream, 200, request->Field(":path"));
  }
  for (const auto& call : calls) {
    ASSERT_TRUE(Finish(*call));
    EXPECT_EQ(call->answer, call->path);
  }
}

TEST_F(ClientSessions, BodiesLongerThanAnyWindowPassBothWays) {
  std::string large(3 << 20, '\0');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>('a' + i * 7 % 26);
  Http2Server& peer = Connect();
  Call call{.method = "PUT", .body = large};
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  ASSERT_TRUE(peer.Await([&] { return request->ended; }, 60s));
  EXPECT_EQ(request->body, large);
  peer.Respond(request->stream, 200, large);
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.answer, large);
}

// An unread response fills only its own window.
TEST_F(ClientSessions, AnUnreadResponseStallsNoOther) {
  Http2Server& peer = Connect();
  std::vector<std::unique_ptr<Call>> held;
  for (int i = 0; i < 30; ++i) {
    held.push_back(std::make_unique<Call>());
    held.back()->holds = true;
    Start(held.back().get());
  }
  const std::string large(1 << 20, 'x');
  for (size_t i = 0; i < held.size(); ++i) {
    Http2Request* const request = peer.AwaitRequest(i);
    ASSERT_NE(request, nullptr);
    peer.Respond(request->stream, 200, large);
  }
  Call call;
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(held.size());
  ASSERT_NE(request, nullptr);
  peer.Respond(request->stream, 200, large);
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.answer.size(), large.size());
  EXPECT_LT(budget_.used(), 30u * 2 * ClientSession::kStreamWindow + (2 << 20));
  release_ = true;
  for (const auto& each : held) {
    ASSERT_TRUE(Finish(*each));
    EXPECT_EQ(each->answer.size(), large.size());
  }
}

TEST_F(ClientSessions, ResponsesWithoutABodyEndWithTheirHead) {
  Http2Server& peer = Connect();
  Call head{.method = "HEAD"};
  Start(&head);
  Http2Request* request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  peer.SendHead(request->stream, {{":status", "200"}, {"content-length", "5"}});  // no END_STREAM yet
  ASSERT_TRUE(Finish(head));
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.end, http::BodyRead::kPiece);
  EXPECT_EQ(head.answer, "");
}

TEST_F(ClientSessions, InvalidResponsesAreRejected) {
  Http2Server& peer = Connect();
  const std::vector<Fields> kResponses = {
      {{":status", "20"}},
      {{":status", "101"}},
      {{"x-one", "1"}},
      {{":status", "200"}, {"x one", "1"}},
      {{":status", "200"}, {"x-one", "a\x01z"}},
      {{":status", "200"}, {"content-length", "1"}, {"content-length", "1"}},
      {{":status", "200"}, {"content-length", "five"}},
      {{":status", "200"}, {"connection", "close"}},
      {{":status", "200"}, {"transfer-encoding", "chunked"}},
      {{"x-one", "1"}, {":status", "200"}},
  };
  size_t n = 0;
  for (const Fields& fields : kResponses) {
    Call call;
    Start(&call);
    Http2Request* const request = peer.AwaitRequest(n++);
    ASSERT_NE(request, nullptr);
    peer.SendHead(request->stream, fields);
    ASSERT_TRUE(Finish(call)) << n;
    EXPECT_EQ(call.head, http::HeadRead::kInvalid) << n;
    EXPECT_NE(call.detail, "") << n;
    ASSERT_TRUE(peer.Await([&] { return request->reset.has_value(); })) << n;
  }
  EXPECT_FALSE(peer.goaway()) << "one bad response does not close the connection";
}

TEST_F(ClientSessions, ABodyOfAnotherLengthThanAnnouncedIsInvalid) {
  Http2Server& peer = Connect();
  for (const std::string& body : {std::string("123"), std::string("1234567")}) {
    Call call;
    Start(&call);
    Http2Request* const request = peer.AwaitRequest(body.size() == 3 ? 0 : 1);
    ASSERT_NE(request, nullptr);
    peer.Respond(request->stream, 200, body, {{"content-length", "5"}});
    ASSERT_TRUE(Finish(call));
    EXPECT_TRUE(call.head == http::HeadRead::kInvalid || call.end == http::BodyRead::kInvalid) << body;
  }
}

TEST_F(ClientSessions, AResetBreaksTheResponseOff) {
  Http2Server& peer = Connect();
  Call call;
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  peer.SendHead(request->stream, {{":status", "200"}});
  peer.SendData(request->stream, "half");
  peer.Reset(request->stream, NGHTTP2_INTERNAL_ERROR);
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.end, http::BodyRead::kCutShort);
  EXPECT_THAT(call.detail, HasSubstr("INTERNAL_ERROR"));
  EXPECT_FALSE(call.refused);
  EXPECT_FALSE(call.stale);
}

TEST_F(ClientSessions, AResetAfterACompleteResponseIsNothing) {
  Http2Server& peer = Connect();
  Call call{.method = "POST", .body = std::string(1 << 20, 'x')};
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  peer.Respond(request->stream, 413, "no");
  peer.Reset(request->stream, NGHTTP2_NO_ERROR);
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.status, 413);
  EXPECT_EQ(call.answer, "no");
}

TEST_F(ClientSessions, ARefusedStreamHasNotBeenLookedAt) {
  Http2Server& peer = Connect();
  Call call;
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  peer.Reset(request->stream, NGHTTP2_REFUSED_STREAM);
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.head, http::HeadRead::kCutShort);
  EXPECT_TRUE(call.refused);
  EXPECT_TRUE(call.sent);
}

TEST_F(ClientSessions, StreamsBehindAGoAwayAreRefusedAndTheOthersEnd) {
  Http2Server& peer = Connect();
  Call first, second;
  Start(&first);
  ASSERT_NE(peer.AwaitRequest(0), nullptr);
  Start(&second);
  ASSERT_NE(peer.AwaitRequest(1), nullptr);
  peer.GoAway(1);
  ASSERT_TRUE(Finish(second));
  EXPECT_TRUE(second.refused);
  bool room = true;
  OnLoop([&] { room = session_->HasRoom(); });
  EXPECT_FALSE(room);
  peer.Respond(1, 200, "served");
  ASSERT_TRUE(Finish(first));
  EXPECT_EQ(first.answer, "served");
  EXPECT_TRUE(peer.Await([&] { return peer.closed(); })) << "it closes after its last stream";
}

TEST_F(ClientSessions, ADestroyedStreamIsResetAtOnce) {
  Http2Server& peer = Connect();
  Call call{.cancels = true};
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  ASSERT_TRUE(peer.Await([&] { return request->reset.has_value(); }));
  EXPECT_EQ(*request->reset, static_cast<uint32_t>(NGHTTP2_CANCEL));
  Call next;
  Start(&next);
  Http2Request* const second = peer.AwaitRequest(1);
  ASSERT_NE(second, nullptr);
  peer.Respond(second->stream, 200, "x");
  ASSERT_TRUE(Finish(next));
  EXPECT_EQ(next.answer, "x");
}

TEST_F(ClientSessions, TheEndpointsLimitOfStreamsHolds) {
  Http2Server& peer = Connect({.settings = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 2}}});
  Call warm;
  Start(&warm);
  ASSERT_NE(peer.AwaitRequest(0), nullptr);
  peer.Respond(1, 200, "x");
  ASSERT_TRUE(Finish(warm));
  Call first, second;
  Start(&first);
  Start(&second);
  ASSERT_NE(peer.AwaitRequest(2), nullptr);
  bool room = true;
  OnLoop([&] { room = session_->HasRoom(); });
  EXPECT_FALSE(room);
  peer.Respond(3, 200, "x");
  peer.Respond(5, 200, "x");
  ASSERT_TRUE(Finish(first));
  ASSERT_TRUE(Finish(second));
  OnLoop([&] { room = session_->HasRoom(); });
  EXPECT_TRUE(room);
}

TEST_F(ClientSessions, AnEndpointOfHttp1IsTold) {
  Http2Server& peer = Connect({.speaks = false});
  Call call;
  Start(&call);
  ASSERT_NE(peer.AwaitRequest(0), nullptr);
  peer.SendRaw("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.head, http::HeadRead::kInvalid);
  EXPECT_EQ(call.detail, "the endpoint does not speak HTTP/2");
}

TEST_F(ClientSessions, AnEndOfTheConnectionEndsItsStreams) {
  Http2Server& peer = Connect();
  Call warm;
  Start(&warm);
  ASSERT_NE(peer.AwaitRequest(0), nullptr);
  peer.Respond(1, 200, "x");
  ASSERT_TRUE(Finish(warm));
  Call call;
  Start(&call);
  ASSERT_NE(peer.AwaitRequest(1), nullptr);
  peer.Close();
  ASSERT_TRUE(call.over.Wait());
  EXPECT_EQ(call.head, http::HeadRead::kCutShort);
  EXPECT_TRUE(call.stale) << "the connection was reused";
}

TEST_F(ClientSessions, ASilentEndpointIsPinged) {
  Http2Server& peer = Connect({.answer_pings = false});
  Call call;
  Start(&call);
  ASSERT_NE(peer.AwaitRequest(0), nullptr);
  ASSERT_TRUE(peer.Await([&] { return peer.pings() == 1; }, 20s));
  ASSERT_TRUE(peer.Await([&] { return call.over.is_set(); }, 20s));
  EXPECT_EQ(call.head, http::HeadRead::kCutShort);
  EXPECT_EQ(call.detail, "the endpoint does not answer a PING");
  EXPECT_EQ(metrics_.Get(ClientCounter::kTimeoutsTotal), 1);
}

// Frames that cost the receiver more than the sender.
class Floods : public ClientSessions, public ::testing::WithParamInterface<std::string> {};

TEST_P(Floods, EndTheConnection) {
  Http2Server& peer = Connect();
  Call call;
  Start(&call);
  ASSERT_NE(peer.AwaitRequest(0), nullptr);
  peer.SendHead(1, {{":status", "200"}});
  std::string many;
  for (int i = 0; i < 5000; ++i) many += GetParam();
  peer.SendRaw(many);
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.end, http::BodyRead::kCutShort);
  EXPECT_TRUE(peer.Await([&] { return peer.closed(); }));
  ASSERT_TRUE(ended_.Wait());
  EXPECT_NE(session_->abuse(), Abuse::kNone);
}

INSTANTIATE_TEST_SUITE_P(Http2, Floods,
                         ::testing::Values(Http2Frame(NGHTTP2_DATA, 0, 1, ""),
                                           Http2Frame(NGHTTP2_PING, 0, 0, "12345678"),
                                           Http2Frame(NGHTTP2_SETTINGS, 0, 0, ""), Http2Frame(0x77, 0, 0, "x")),
                         [](const auto& frame) { return "Frame" + std::to_string(frame.param[3]); });

TEST_F(ClientSessions, TooManyInterimResponsesAreInvalid) {
  Http2Server& peer = Connect();
  Call call;
  Start(&call);
  Http2Request* const request = peer.AwaitRequest(0);
  ASSERT_NE(request, nullptr);
  const Fields large = {{":status", "103"}, {"link", std::string(4000, 'x')}};
  for (int i = 0; i < 40; ++i) peer.SendInterim(request->stream, large);
  ASSERT_TRUE(Finish(call));
  EXPECT_EQ(call.head, http::HeadRead::kInvalid);
  EXPECT_THAT(call.detail, HasSubstr("interim responses"));
}

}  // namespace
}  // namespace gateway::dataplane::http2
