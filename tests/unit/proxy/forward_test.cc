// Attempts at an endpoint that follows a script, and forwarding over several, with a clock that the test moves.
#include "dataplane/proxy/forward.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/proxy/proxy_fixture.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

// One attempt.
class AttemptTest : public ProxyTest {
 protected:
  AttemptTest() {
    Install({"retry { name: 'again' attempts: 1 conditions: '503' per_try_timeout { seconds: 3 } }",
             "circuit_breaker { name: 'cb' timeout { seconds: 4 } }",
             "service { name: 'svc' static { address: '127.0.0.1:9' } timeouts { response { seconds: 10 } } }",
             "service { name: 'careful' static { address: '127.0.0.1:9' } static { address: '127.0.0.1:10' } "
             "retry: 'again' circuit_breaker: 'cb' }",
             "route { name: 'r' match { path { prefix: '/' } } service: 'svc' timeout { seconds: 20 } "
             "body { max_bytes: 10 } }",
             "route { name: 'careful' match { path { prefix: '/careful' } } service: 'careful' }",
             "route { name: 'ws' match { path { prefix: '/ws' } } service: 'svc' upgrades: WEBSOCKET "
             "upgrade_idle_timeout { seconds: 60 } max_duration { seconds: 3600 } }"});
  }

  void Start() {
    context_ = Route(&client_);
    const BoundService& service = *context_->target.service;
    const RetryPolicy* const retry = service.policy->retry.get();
    if (service.breaker != nullptr) {
      EXPECT_EQ(service.breaker->Acquire(loop_.now(), &permit_), BreakerVerdict::kAllowed);
    }
    forwarding_ = std::make_unique<Forwarding>(&resources_, context_.get(), retry, &permit_);
    ASSERT_TRUE(forwarding_->Begin(false));
    task_.emplace(forwarding_->TryEndpoint(&endpoint_));
    task_->Start();
  }
  AttemptEnd end() { return ResultOf(*task_); }
  // The clock moves, and the wait of `stream` whose deadline has passed ends.
  template <typename Stream>
  void Expire(Stream* stream, std::chrono::milliseconds at) {
    loop_.SetNow(start_ + at);
    ASSERT_TRUE(stream->waits());
    ASSERT_LE(stream->deadline(), loop_.now());
    stream->Resume(Wait::kTimeout);
  }
  void ExpectsBody() {
    client_.request().method = "PUT";
    client_.request().has_body = true;
  }

  ScriptedDownstream client_;
  ScriptedUpstream endpoint_;
  CircuitBreaker::Permit permit_;
  std::unique_ptr<RequestContext> context_;
  std::unique_ptr<Forwarding> forwarding_;
  std::optional<Task<AttemptEnd>> task_;
};

TEST_F(AttemptTest, RelaysARequestAndItsResponse) {
  client_.SetTarget("/a?b=c");
  client_.AddField("Accept", "*/*");
  client_.AddField("X-Forwarded-For", "forged");
  Start();
  EXPECT_EQ(endpoint_.request_line(), "GET /a?b=c");
  EXPECT_THAT(endpoint_.request_fields(), HasSubstr("Accept: */*\r\n"));
  EXPECT_THAT(endpoint_.request_fields(), HasSubstr("X-Forwarded-For: 192.0.2.1\r\n"));
  EXPECT_THAT(endpoint_.request_fields(), Not(HasSubstr("forged")));
  EXPECT_TRUE(endpoint_.ended());
  endpoint_.Respond(200, {{"X-One", "1"}});
  endpoint_.Give("hello ");
  endpoint_.Give("world", true);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kNone);
  EXPECT_TRUE(end().complete);
  EXPECT_EQ(client_.status(), 200);
  EXPECT_EQ(client_.text(), "hello world");
  EXPECT_TRUE(client_.ended());
  EXPECT_THAT(client_.fields(), HasSubstr("X-One: 1\r\n"));
  EXPECT_THAT(client_.fields(), HasSubstr("X-Request-Id: id\r\n"));
}

TEST_F(AttemptTest, InterimResponsesPassBeforeTheFinalOne) {
  endpoint_.Respond(103, {{"Link", "</a>"}});
  endpoint_.Respond(200, {}, false);
  Start();
  EXPECT_EQ(end().reason, Reason::kNone);
  EXPECT_EQ(client_.interim(), std::vector<int>{103});
  EXPECT_EQ(client_.status(), 200);
}

TEST_F(AttemptTest, ABodyFlowsWhileTheResponseIsAwaited) {
  ExpectsBody();
  client_.Give("one ");
  Start();
  EXPECT_EQ(endpoint_.text(), "one ");
  client_.Give("two", true);
  client_.Resume(Wait::kReady);
  EXPECT_EQ(endpoint_.text(), "one two");
  EXPECT_TRUE(endpoint_.ended());
  endpoint_.Respond(204);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kNone);
  EXPECT_TRUE(end().complete);
}

TEST_F(AttemptTest, AnEarlyResponseEndsTheUpload) {
  ExpectsBody();
  Start();
  ASSERT_TRUE(client_.waits());
  endpoint_.Respond(401, {}, false);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kNone);
  EXPECT_EQ(client_.status(), 401);
  EXPECT_FALSE(end().complete) << "the request was not sent to its end: the connection is not used again";
  EXPECT_FALSE(client_.waits());
}

TEST_F(AttemptTest, AClientThatAwaitsA100DoesNotStall) {
  ExpectsBody();
  client_.request().expect_continue = true;
  client_.AddField("Expect", "100-continue");
  Start();
  EXPECT_EQ(client_.deadline(), TimePoint::max());
  EXPECT_EQ(endpoint_.deadline(), start_ + 10s) << "the clock runs against the endpoint";
  endpoint_.Respond(100);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(client_.interim(), std::vector<int>{100});
  EXPECT_EQ(client_.deadline(), start_ + 30s);
  client_.Give("x", true);
  client_.Resume(Wait::kReady);
  endpoint_.Respond(200, {}, false);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kNone);
}

TEST_F(AttemptTest, AnEndpointThatSaysNothingTimesOut) {
  Start();
  Expire(&endpoint_, 10s);
  EXPECT_EQ(end().reason, Reason::kUpstreamTimeout);
  EXPECT_STREQ(end().detail, "no response in time");
  EXPECT_FALSE(end().responded);
}

TEST_F(AttemptTest, TheRoutesTimeoutIsTheRequestsDeadline) {
  Start();
  context_->body.complete_at = start_ - 15s;  // an earlier attempt has taken as long
  Expire(&endpoint_, 10s);
  EXPECT_EQ(end().reason, Reason::kRequestDeadline);
}

TEST_F(AttemptTest, ATryHasItsOwnBounds) {
  client_.SetTarget("/careful");
  Start();
  EXPECT_EQ(endpoint_.deadline(), start_ + 3s) << "per_try_timeout";
  Expire(&endpoint_, 3s);
  EXPECT_EQ(end().reason, Reason::kUpstreamTimeout);
}

TEST_F(AttemptTest, AClientThatLeavesCancelsTheRequest) {
  Start();
  client_.Leave();
  EXPECT_EQ(end().reason, Reason::kClientClosed);
  EXPECT_TRUE(endpoint_.cancelled());
}

TEST_F(AttemptTest, AWorkerThatDrainsIsNotTheClientsFault) {
  Start();
  cut_short_ = true;
  endpoint_.Cancel();
  EXPECT_EQ(end().reason, Reason::kDraining);
}

TEST_F(AttemptTest, AClientWhoseBodyStallsIsToBlame) {
  ExpectsBody();
  Start();
  Expire(&client_, 30s);
  EXPECT_EQ(end().reason, Reason::kRequestTimeout);
  EXPECT_STREQ(end().detail, "the body stopped arriving");
}

TEST_F(AttemptTest, ABodyThatBreaksOffEndsTheRequest) {
  ExpectsBody();
  Start();
  client_.End(http::BodyRead::kCutShort);
  client_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kClientClosed);
}

TEST_F(AttemptTest, AnInvalidBodyIsABadRequest) {
  ExpectsBody();
  Start();
  client_.End(http::BodyRead::kInvalid);
  client_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kBadRequest);
  EXPECT_STREQ(end().detail, "a scripted error");
}

TEST_F(AttemptTest, ABodyPastTheRoutesBoundIsTooLarge) {
  ExpectsBody();
  Start();
  client_.Give("12345678901", true);
  client_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kBodyTooLarge);
  EXPECT_EQ(endpoint_.text(), "");
}

TEST_F(AttemptTest, AnEndpointThatStopsReadingTimesOut) {
  ExpectsBody();
  Start();
  endpoint_.Block();
  client_.Give("x");
  client_.Resume(Wait::kReady);
  ASSERT_TRUE(endpoint_.flushes());
  endpoint_.ResumeFlush(Io::kAgain);
  EXPECT_EQ(end().reason, Reason::kUpstreamTimeout);
  EXPECT_STREQ(end().detail, "the endpoint did not take the body in time");
}

TEST_F(AttemptTest, AnEndpointThatTakesNoMoreMayStillRespond) {
  ExpectsBody();
  Start();
  endpoint_.Break();
  client_.Give("x");
  client_.Resume(Wait::kReady);
  EXPECT_FALSE(task_->done());
  endpoint_.Respond(413, {}, false);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kNone);
  EXPECT_EQ(client_.status(), 413);
  EXPECT_FALSE(end().complete);
}

TEST_F(AttemptTest, AResetBeforeTheHeaderSaysWhetherTheRequestMayBeRepeated) {
  endpoint_.FailHead(http::HeadRead::kCutShort);
  endpoint_.set_stale(true);
  endpoint_.set_refused(true);
  Start();
  EXPECT_EQ(end().reason, Reason::kUpstreamReset);
  EXPECT_TRUE(end().stale);
  EXPECT_TRUE(end().refused);
  EXPECT_FALSE(end().responded);
}

TEST_F(AttemptTest, AStaleConnectionThatTookNothing) {
  endpoint_.Break();
  endpoint_.set_sent(false);
  endpoint_.set_stale(true);
  Start();
  EXPECT_EQ(end().reason, Reason::kUpstreamReset);
  EXPECT_TRUE(end().stale);
  EXPECT_FALSE(end().sent);
}

TEST_F(AttemptTest, AnInvalidHeaderIsNoResponse) {
  endpoint_.FailHead(http::HeadRead::kInvalid);
  Start();
  EXPECT_EQ(end().reason, Reason::kUpstreamInvalid);
  EXPECT_STREQ(end().detail, "a scripted error");
}

TEST_F(AttemptTest, AResponseThatBreaksOffHasBegun) {
  endpoint_.Respond(200);
  endpoint_.Give("some");
  Start();
  endpoint_.End(http::BodyRead::kCutShort);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kUpstreamReset);
  EXPECT_STREQ(end().detail, "the response was cut off");
  EXPECT_TRUE(end().responded);
  EXPECT_FALSE(end().complete);
}

TEST_F(AttemptTest, AResponseThatStallsTimesOut) {
  endpoint_.Respond(200);
  endpoint_.Give("some");
  Start();
  Expire(&endpoint_, 10s);
  EXPECT_EQ(end().reason, Reason::kUpstreamTimeout);
  EXPECT_STREQ(end().detail, "the response stalled");
}

TEST_F(AttemptTest, AClientThatStopsReadingEndsTheResponse) {
  client_.Block();
  endpoint_.Respond(200);
  endpoint_.Give("some");
  Start();
  ASSERT_TRUE(client_.flushes());
  client_.ResumeFlush(Io::kAgain);
  EXPECT_EQ(end().reason, Reason::kClientClosed);
  EXPECT_STREQ(end().detail, "the client stopped reading");
}

TEST_F(AttemptTest, AStatusThatIsRetriedDoesNotReachTheClient) {
  client_.SetTarget("/careful");
  endpoint_.Respond(503, {}, false);
  Start();
  EXPECT_TRUE(end().retried);
  EXPECT_FALSE(end().responded);
  EXPECT_TRUE(end().complete) << "all of it was here: its connection is good for the next request";
  EXPECT_EQ(client_.status(), 0);
}

TEST_F(AttemptTest, AfterTheBreakersTimeoutAResponseThatFlowsIsASuccess) {
  client_.SetTarget("/careful");
  endpoint_.Respond(200);
  endpoint_.Give("some");
  Start();
  EXPECT_FALSE(permit_.reported());
  loop_.SetNow(start_ + 4s);
  endpoint_.Give("more");
  endpoint_.Resume(Wait::kReady);
  EXPECT_TRUE(permit_.reported());
  endpoint_.Cancel();
  EXPECT_TRUE(task_->done());
}

TEST_F(AttemptTest, A5xxIsReportedAtItsHeader) {
  client_.SetTarget("/careful");
  endpoint_.Respond(500);
  endpoint_.Give("some");
  Start();
  EXPECT_TRUE(permit_.reported());
  endpoint_.Cancel();
  EXPECT_TRUE(task_->done());
}

TEST_F(AttemptTest, ATunnelPassesBothDirectionsUntilBothHaveEnded) {
  client_.SetTarget("/ws");
  client_.request().protocol = "websocket";
  endpoint_.Respond(101);
  endpoint_.Give("hello");
  Start();
  EXPECT_EQ(client_.status(), 101);
  EXPECT_EQ(client_.text(), "hello");
  EXPECT_TRUE(client_.released());
  client_.Give("ping", true);
  client_.Resume(Wait::kReady);
  EXPECT_EQ(endpoint_.text(), "ping");
  EXPECT_TRUE(endpoint_.ended());
  EXPECT_FALSE(task_->done()) << "half closed";
  endpoint_.Give("pong", true);
  endpoint_.Resume(Wait::kReady);
  EXPECT_EQ(end().reason, Reason::kNone);
  EXPECT_EQ(client_.text(), "hellopong");
}

TEST_F(AttemptTest, ASilentTunnelEnds) {
  client_.SetTarget("/ws");
  client_.request().protocol = "websocket";
  endpoint_.Respond(101);
  endpoint_.Give("hello");
  Start();
  Expire(&client_, 60s);
  EXPECT_EQ(end().reason, Reason::kNone);
  EXPECT_STREQ(context_->result.refusal.detail, "idle for upgrade_idle_timeout");
  EXPECT_TRUE(endpoint_.cancelled());
}

// Endpoints on loopback, whose ends of the connections the test has. The loop runs on the test's clock.
class ForwardingTest : public ProxyTest {
 protected:
  // A socket on a port of its own. `listens`: else connections to it are refused.
  struct Endpoint {
    explicit Endpoint(bool listens) {
      fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      socklen_t length = sizeof address;
      EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
      EXPECT_TRUE(!listens || listen(fd, 16) == 0);
      EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
      port = ntohs(address.sin_port);
    }
    ~Endpoint() {
      if (connection >= 0) close(connection);
      close(fd);
    }
    Endpoint(const Endpoint&) = delete;
    Endpoint& operator=(const Endpoint&) = delete;

    std::string text() const { return "static { address: '127.0.0.1:" + std::to_string(port) + "' } "; }
    // Accepts what waits, and reads what was sent.
    void Turn() {
      if (const int accepted = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); accepted >= 0) {
        if (connection >= 0) close(connection);
        connection = accepted;
        ++connections;
      }
      char bytes[4096];
      for (ssize_t n; connection >= 0 && (n = recv(connection, bytes, sizeof bytes, 0)) > 0;) {
        received.append(bytes, static_cast<size_t>(n));
      }
    }
    void Send(const std::string& bytes) {
      EXPECT_EQ(send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    }
    void Reset() {
      const linger at_once{1, 0};
      EXPECT_EQ(setsockopt(connection, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
      close(std::exchange(connection, -1));
    }

    int fd = -1;
    uint16_t port = 0;
    int connection = -1;
    int connections = 0;
    std::string received;
  };

  void Serve(const std::vector<const Endpoint*>& endpoints, const std::string& retry = "") {
    std::string service = "service { name: 'svc' " + std::string(retry.empty() ? "" : "retry: 'again' ");
    for (const Endpoint* each : endpoints) service += each->text();
    Install({service + "}", retry.empty() ? "retry { name: 'unused' }" : retry,
             "route { name: 'r' match { path { prefix: '/' } } service: 'svc' timeout { seconds: 20 } }"});
  }
  void Start() {
    context_ = Route(&client_);
    forwarding_ = std::make_unique<Forwarding>(&resources_, context_.get(),
                                               context_->target.service->policy->retry.get(), &permit_);
    task_.emplace(forwarding_->Run());
    task_->Start();
  }
  // Turns loop and endpoints, without moving the clock, until `done`.
  template <typename Done>
  [[nodiscard]] bool Until(const std::vector<Endpoint*>& endpoints, Done done) {
    const auto patience = std::chrono::steady_clock::now() + 10s;
    while (!done() && std::chrono::steady_clock::now() < patience) {
      loop_.TurnAt(loop_.now());
      for (Endpoint* each : endpoints) each->Turn();
    }
    return done();
  }
  bool done() const { return task_->done(); }

  static constexpr const char* kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

  ScriptedDownstream client_;
  CircuitBreaker::Permit permit_;
  std::unique_ptr<RequestContext> context_;
  std::unique_ptr<Forwarding> forwarding_;
  std::optional<Task<AttemptEnd>> task_;
};

TEST_F(ForwardingTest, AConnectionIsKeptForTheNextRequest) {
  Endpoint endpoint(true);
  Serve({&endpoint});
  for (int i = 1; i <= 3; ++i) {
    Start();
    const std::string sent = "GET / HTTP/1.1\r\n";
    ASSERT_TRUE(Until({&endpoint}, [&] { return endpoint.received.ends_with("\r\n\r\n"); }));
    EXPECT_EQ(endpoint.received.substr(0, sent.size()), sent);
    endpoint.received.clear();
    endpoint.Send(kOk);
    ASSERT_TRUE(Until({&endpoint}, [&] { return done(); }));
    EXPECT_EQ(ResultOf(*task_).reason, Reason::kNone);
    EXPECT_EQ(context_->result.attempts, 1u);
  }
  EXPECT_EQ(endpoint.connections, 1);
  EXPECT_EQ(client_.text(), "okokok");
}

TEST_F(ForwardingTest, ARefusedConnectionMovesToAnotherEndpointAtOnce) {
  Endpoint refuses(false), serves(true);
  Serve({&refuses, &serves});
  for (int i = 0; i < 2; ++i) {  // whichever is first in turn
    Start();
    ASSERT_TRUE(Until({&serves}, [&] { return serves.received.ends_with("\r\n\r\n"); }));
    serves.received.clear();
    serves.Send(kOk);
    ASSERT_TRUE(Until({&serves}, [&] { return done(); }));
    EXPECT_EQ(ResultOf(*task_).reason, Reason::kNone);
  }
  EXPECT_GE(shard_.Get(WorkerGauge::kRetriesTotal), 1);
}

TEST_F(ForwardingTest, WithoutAnEndpointThatAcceptsTheReasonIsTheConnection) {
  Endpoint one(false), two(false);
  Serve({&one, &two});
  Start();
  ASSERT_TRUE(Until({}, [&] { return done(); }));
  EXPECT_EQ(ResultOf(*task_).reason, Reason::kUpstreamConnectFailed);
  EXPECT_FALSE(ResultOf(*task_).responded);
  EXPECT_EQ(context_->result.attempts, 2u);
}

TEST_F(ForwardingTest, AKeptConnectionThatHasEndedIsReplacedOnce) {
  Endpoint endpoint(true);
  Serve({&endpoint});
  Start();
  ASSERT_TRUE(Until({&endpoint}, [&] { return endpoint.received.ends_with("\r\n\r\n"); }));
  endpoint.received.clear();
  endpoint.Send(kOk);
  ASSERT_TRUE(Until({&endpoint}, [&] { return done(); }));
  Start();  // the connection is taken before its end is seen
  endpoint.Reset();
  ASSERT_TRUE(Until({&endpoint}, [&] { return endpoint.received.ends_with("\r\n\r\n"); }));
  endpoint.Send(kOk);
  ASSERT_TRUE(Until({&endpoint}, [&] { return done(); }));
  EXPECT_EQ(ResultOf(*task_).reason, Reason::kNone);
  EXPECT_EQ(context_->result.attempts, 2u);
  EXPECT_EQ(endpoint.connections, 2);
}

TEST_F(ForwardingTest, ARequestThatMustNotBeSentTwiceIsNotRepeated) {
  Endpoint endpoint(true);
  Serve({&endpoint});
  client_.request().method = "POST";
  Start();
  ASSERT_TRUE(Until({&endpoint}, [&] { return endpoint.received.ends_with("\r\n\r\n"); }));
  endpoint.Reset();
  ASSERT_TRUE(Until({&endpoint}, [&] { return done(); }));
  EXPECT_EQ(ResultOf(*task_).reason, Reason::kUpstreamReset);
  EXPECT_EQ(endpoint.connections, 1);
}

TEST_F(ForwardingTest, ARetryWaitsForItsBackoffAndGoesToAnotherEndpoint) {
  Endpoint one(true), two(true);
  Serve({&one, &two},
        "retry { name: 'again' attempts: 1 conditions: '503' backoff { base { seconds: 10 } max { seconds: "
        "10 } } }");
  Start();
  ASSERT_TRUE(Until({&one, &two}, [&] { return one.received.size() + two.received.size() > 0; }));
  Endpoint& first = one.received.empty() ? two : one;
  Endpoint& second = one.received.empty() ? one : two;
  first.Send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
  // The response is retried: nothing is sent before the delay is over.
  const TimePoint before = loop_.now();
  EXPECT_FALSE(second.connections > 0);
  while (second.connections == 0 && loop_.now() < before + 11s) {
    loop_.TurnAt(loop_.now() + 50ms);
    first.Turn();
    second.Turn();
  }
  ASSERT_TRUE(Until({&second}, [&] { return second.received.ends_with("\r\n\r\n"); }));
  EXPECT_THAT(second.received, HasSubstr("X-Gateway-Attempt: 2\r\n"));
  second.Send(kOk);
  ASSERT_TRUE(Until({&second}, [&] { return done(); }));
  EXPECT_EQ(ResultOf(*task_).reason, Reason::kNone);
  EXPECT_EQ(client_.status(), 200);
}

TEST_F(ForwardingTest, AClientThatLeavesDuringABackoffEndsIt) {
  Endpoint endpoint(true);
  Serve({&endpoint},
        "retry { name: 'again' attempts: 9 conditions: '503' backoff { base { seconds: 15 } max { seconds: "
        "15 } } }");
  Start();
  ASSERT_TRUE(Until({&endpoint}, [&] { return endpoint.received.ends_with("\r\n\r\n"); }));
  endpoint.Send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
  ASSERT_TRUE(Until({&endpoint}, [&] { return shard_.Get(WorkerGauge::kUpstreamIdle) == 1 || done(); }));
  client_.Leave();
  ASSERT_TRUE(Until({&endpoint}, [&] { return done(); }));
  EXPECT_EQ(ResultOf(*task_).reason, Reason::kClientClosed);
}

TEST_F(ForwardingTest, AConnectionThatIsNotEstablishedInTimeTimesOut) {
  // A listener whose queue is full takes no more connections.
  Endpoint full(false);
  ASSERT_EQ(listen(full.fd, 0), 0);
  std::vector<int> fillers;
  for (int i = 0; i < 4; ++i) {
    fillers.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(full.port);
    (void)connect(fillers.back(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  }
  Serve({&full});
  Start();
  loop_.TurnAt(loop_.now());
  ASSERT_FALSE(done());
  TurnAt(1990ms);
  ASSERT_FALSE(done());
  TurnAt(2020ms);
  ASSERT_TRUE(done());
  EXPECT_EQ(ResultOf(*task_).reason, Reason::kUpstreamTimeout);
  EXPECT_STREQ(ResultOf(*task_).detail, "the connection was not established in time");
  for (const int fd : fillers) close(fd);
}

}  // namespace
}  // namespace gateway::dataplane
