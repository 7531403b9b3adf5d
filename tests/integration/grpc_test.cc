// gRPC calls through a data plane, between gRPC's own client and server: what arrives, how calls end, and how
// breakers, retries and health checks treat them.
#include <atomic>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/base64.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/grpc_echo.h"
#include "tests/fixtures/http2_client.h"
#include "tests/fixtures/http2_server.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

class Grpc : public ::testing::Test {
 protected:
  // `service` and `route`: further fields in YAML. `more`: further documents.
  void Serve(const std::vector<std::string>& addresses, const std::string& service = "", const std::string& route = "",
             const std::string& more = "", const std::string& protocol = "http2", std::vector<std::string> sets = {}) {
    std::string policy = Concat("kind: Service\nname: svc\nprotocol: ", protocol, "\nstatic:\n");
    for (const std::string& address : addresses) Append(&policy, "  - { address: \"", address, "\" }\n");
    Append(&policy, service, "\n---\nkind: Route\nname: echo\nmatch: { grpc: { service: test.Echo } }\nservice: svc\n",
           route, "\n", more);
    DataPlane::Options options;
    options.policy = policy;
    options.workers = 1;
    options.sets = std::move(sets);
    options.listener = listener_;
    gateway_ = std::make_unique<DataPlane>(std::move(options));
    channel_ = GrpcChannel(gateway_->port());
  }
  void Start(GrpcEcho::Options options = {}, const std::string& service = "", const std::string& route = "",
             const std::string& more = "") {
    echo_ = std::make_unique<GrpcEcho>(std::move(options));
    Serve({echo_->address()}, service, route, more);
  }
  grpc::Status Call(const std::string& method, const std::string& message, std::string* answer = nullptr,
                    std::chrono::milliseconds deadline = kSoon) {
    GrpcCall call(channel_, method);
    call.context().set_deadline(std::chrono::system_clock::now() + deadline);
    grpc::Status status;
    const std::string last = call.Unary(message, &status);
    if (answer != nullptr) *answer = last;
    return status;
  }
  nlohmann::json LastLine(size_t count) {
    const auto lines = gateway_->LogLines(count);
    return lines.empty() ? nlohmann::json::object() : lines.back();
  }

  std::string listener_ = "protocols: [h2, http/1.1]";
  std::unique_ptr<GrpcEcho> echo_;
  std::unique_ptr<DataPlane> gateway_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(Grpc, AUnaryCallAndItsMetadataPass) {
  Start();
  GrpcCall call(channel_, "Chat");
  call.context().AddMetadata("x-echo", "kept");
  grpc::Status status;
  EXPECT_EQ(call.Unary("hello", &status), "hello");
  EXPECT_TRUE(status.ok()) << status.error_message();
  const auto& trailers = call.context().GetServerTrailingMetadata();
  ASSERT_EQ(trailers.count("x-echoed"), 1u);
  EXPECT_EQ(trailers.find("x-echoed")->second, "kept");
  const nlohmann::json line = LastLine(1);
  EXPECT_EQ(line["grpc_status"], 0);
  EXPECT_EQ(line["status"], 200);
  EXPECT_EQ(line["protocol"], "HTTP/2");
  EXPECT_EQ(gateway_->Metric("api_grpc_calls_total{service=\"svc\",grpc_status=\"0\"}"), 1);
}

TEST_F(Grpc, StreamsOfEitherSidePass) {
  Start();
  {
    GrpcCall call(channel_, "Collect");
    ASSERT_TRUE(call.Start());
    std::string all;
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(call.Write(std::to_string(i)));
      all += std::to_string(i);
    }
    ASSERT_TRUE(call.WritesDone());
    EXPECT_EQ(call.Read(), all);
    EXPECT_FALSE(call.Read());
    EXPECT_TRUE(call.Finish().ok());
  }
  GrpcCall call(channel_, "Repeat");
  ASSERT_TRUE(call.Start());
  ASSERT_TRUE(call.Write("500"));
  ASSERT_TRUE(call.WritesDone());
  for (int i = 1; i <= 500; ++i) ASSERT_EQ(call.Read(), std::to_string(i));
  EXPECT_FALSE(call.Read());
  EXPECT_TRUE(call.Finish().ok());
}

// Each message gets its response before the next one is sent: the gateway may not wait for more data.
TEST_F(Grpc, AConversationIsNotHeldUp) {
  Start();
  GrpcCall call(channel_, "Chat");
  ASSERT_TRUE(call.Start());
  const auto begun = std::chrono::steady_clock::now();
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(call.Write(std::to_string(i)));
    ASSERT_EQ(call.Read(), std::to_string(i));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 5s) << "a round trip that waits for a timer takes 40 ms";
  ASSERT_TRUE(call.WritesDone());
  EXPECT_FALSE(call.Read());
  EXPECT_TRUE(call.Finish().ok());
}

TEST_F(Grpc, LargeMessagesPassBothWays) {
  Start();
  const std::string large(12 << 20, 'x');
  std::string answer;
  const grpc::Status status = Call("Chat", large, &answer, 60s);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(answer, large);
}

TEST_F(Grpc, AStatusArrivesAsItWasSaid) {
  Start();
  const grpc::Status status = Call("Fail", "5 it's not there");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "it's not there");
  EXPECT_EQ(LastLine(1)["grpc_status"], 5);
}

// Neither the client nor the service enforces the deadline itself.
TEST_F(Grpc, TheDeadlineOfACallEndsIt) {
  std::atomic<int> resets{0};
  Http2Upstream upstream([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (request.reset && !std::exchange(request.answered, true)) ++resets;
    }
  });
  Serve({upstream.address()});
  const auto client = Http2Client::To(gateway_->port());
  const Http2Response& response =
      client->Fetch({.method = "POST",
                     .path = "/test.Echo/Hang",
                     .fields = {{"content-type", "application/grpc"}, {"te", "trailers"}, {"grpc-timeout", "300m"}},
                     .body = std::string(5, '\0')});
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Field("grpc-status"), "4");
  EXPECT_TRUE(WaitFor([&] { return resets == 1; }));
  const nlohmann::json line = LastLine(1);
  EXPECT_EQ(line["reason"], "request_deadline");
  EXPECT_EQ(line["detail"], "grpc-timeout is over");
  EXPECT_EQ(line["grpc_status"], 4);
}

TEST_F(Grpc, ACancelledCallEndsAtTheServiceAtOnce) {
  Start();
  GrpcCall call(channel_, "Hang");
  ASSERT_TRUE(call.Start());
  ASSERT_TRUE(call.Write("x"));
  ASSERT_TRUE(WaitFor([&] { return echo_->calls() == 1; }));
  call.context().TryCancel();
  EXPECT_EQ(call.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(WaitFor([&] { return echo_->cancelled() == 1; }));
  EXPECT_EQ(LastLine(1)["reason"], "client_closed");
}

TEST_F(Grpc, RefusalsAreStatusesOfGrpc) {
  Start({}, "", "rate_limits: [two]", "---\nkind: RateLimit\nname: two\nkey: []\nlimit: { requests: 2, window: 1h }\n");
  EXPECT_TRUE(Call("Chat", "a").ok());
  EXPECT_TRUE(Call("Chat", "b").ok());
  grpc::Status status = Call("Chat", "c");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "Rate limit exceeded (rate_limited)");
  const nlohmann::json line = LastLine(3);
  EXPECT_EQ(line["status"], 200);
  EXPECT_EQ(line["reason"], "rate_limited");
  EXPECT_EQ(line["grpc_status"], 8);

  const auto client = Http2Client::To(gateway_->port());
  const Http2Response& unrouted = client->Fetch(
      {.method = "POST", .path = "/other.Service/Get", .fields = {{"content-type", "application/grpc+proto"}}});
  EXPECT_EQ(unrouted.status, 200);
  EXPECT_EQ(unrouted.Field("grpc-status"), "12");
  EXPECT_EQ(unrouted.Field("content-type"), "application/grpc");
  EXPECT_EQ(unrouted.body, "");
  const Http2Response& invalid =
      client->Fetch({.method = "POST",
                     .path = "/test.Echo/Chat",
                     .fields = {{"content-type", "application/grpc"}, {"host", "other.example"}}});
  EXPECT_EQ(invalid.status, 200) << "rejected before a route is known";
  EXPECT_EQ(invalid.Field("grpc-status"), "13");
  const Http2Response& plain = client->Fetch({.method = "POST", .path = "/test.Echo/Chat"});
  EXPECT_EQ(plain.status, 404) << "not a gRPC call";
}

TEST_F(Grpc, AServiceThatIsAwayIsUnavailable) {
  Serve({Concat("127.0.0.1:", FreePort())});
  const grpc::Status status = Call("Chat", "a");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("upstream_connect_failed"));
}

TEST_F(Grpc, AnEndpointOfHttp1GetsNoCall) {
  ScriptedUpstream upstream(Ok("x"));
  Serve({upstream.address()}, "", "", "", "http1");
  const grpc::Status status = Call("Chat", "a");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNKNOWN);
  EXPECT_THAT(LastLine(1)["detail"], HasSubstr("gRPC needs protocol http2"));
  EXPECT_EQ(upstream.request_count(), 0);
}

TEST_F(Grpc, AnEndpointThatSpeaksNoHttp2IsNamed) {
  ScriptedUpstream upstream(Ok("x"));
  Serve({upstream.address()});
  EXPECT_EQ(Call("Chat", "a").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(LastLine(1)["detail"], "the endpoint does not speak HTTP/2");
}

TEST_F(Grpc, ResponsesWithoutAMessageAreRetriedByTheirStatus) {
  Start({.flaky = 2}, "retry: grpc", "",
        "---\nkind: Retry\nname: grpc\nattempts: 3\nconditions: [\"grpc:unavailable\"]\nbackoff: { base: 1ms }\n");
  std::string answer;
  EXPECT_TRUE(Call("Flaky", "hello", &answer).ok());
  EXPECT_EQ(answer, "hello");
  EXPECT_EQ(echo_->calls(), 3);
  EXPECT_EQ(LastLine(1)["attempts"], 3);
  EXPECT_EQ(Call("Fail", "13 no").error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(echo_->calls(), 4) << "another status";
}

TEST_F(Grpc, StatusesOpenTheBreaker) {
  Start({}, "circuit_breaker: strict", "",
        "---\nkind: CircuitBreaker\nname: strict\nrequest_volume_threshold: 4\nerror_percent_threshold: 50\n"
        "sleep_window: 60s\ntimeout: 5s\n");
  for (int i = 0; i < 8; ++i) (void)Call("Fail", "5 not there");
  EXPECT_EQ(echo_->calls(), 8) << "a client error is not a failure";
  grpc::Status status;
  for (int i = 0; i < 20 && status.error_message().find("breaker_open") == std::string::npos; ++i) {
    status = Call("Fail", "13 broken");
  }
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("breaker_open"));
}

TEST_F(Grpc, HealthIsAskedByGrpc) {
  GrpcEcho good, bad;
  Serve({good.address(), bad.address()},
        "health_check: { type: grpc, service: test.Echo, interval: 100ms, healthy: 1, unhealthy: 1 }\n"
        "load_balancer: { panic_percent: 0 }");
  ASSERT_TRUE(Call("Chat", "x").ok());
  bad.SetServing(false);
  ASSERT_TRUE(WaitFor([&] { return gateway_->process().output().find("NOT_SERVING") != std::string::npos; }));
  const int before = bad.calls();
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(Call("Chat", "x").ok());
  EXPECT_EQ(bad.calls(), before);
  bad.SetServing(true);
  EXPECT_TRUE(WaitFor([&] {
    (void)Call("Chat", "x");
    return bad.calls() > before;
  }));
}

// A server that shuts down reports which calls it has seen. The others move to another connection, or to the remaining
// server. (gRPC's own server cancels some calls that arrive during shutdown, and reports that.)
TEST_F(Grpc, AServerThatLeavesUnderLoadLosesNoCall) {
  auto leaving = std::make_unique<GrpcEcho>();
  GrpcEcho staying;
  Serve({leaving->address(), staying.address()}, "retry: grpc", "",
        "---\nkind: Retry\nname: grpc\nattempts: 3\nconditions: [connect_failure, \"grpc:cancelled\"]\n"
        "budget: { percent: 100 }\n");
  std::atomic<bool> stop{false};
  std::atomic<int> failed{0}, made{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      const auto channel = GrpcChannel(gateway_->port());
      while (!stop) {
        GrpcCall call(channel, "Chat");
        grpc::Status status;
        const bool right = call.Unary("hello", &status) == "hello" && status.ok();
        if (!right) {
          ++failed;
          ADD_FAILURE() << status.error_code() << " " << status.error_message();
        }
        ++made;
      }
    });
  }
  ASSERT_TRUE(WaitFor([&] { return made > 200; }, 30s));
  leaving->Shutdown(5s);
  const int at = made;
  EXPECT_TRUE(WaitFor([&] { return made > at + 200; }, 30s));
  stop = true;
  for (std::thread& each : clients) each.join();
  EXPECT_EQ(failed, 0);
  for (const nlohmann::json& line : gateway_->LogLines(static_cast<size_t>(made))) {
    EXPECT_EQ(line["grpc_status"], 0) << line;
  }
}

TEST_F(Grpc, MoreCallsThanAConnectionTakesUseAnother) {
  Start({.max_concurrent_streams = 2});
  ASSERT_TRUE(Call("Chat", "warm").ok());
  std::vector<std::unique_ptr<GrpcCall>> calls;
  for (int i = 0; i < 7; ++i) {
    auto& call = calls.emplace_back(std::make_unique<GrpcCall>(channel_, "Chat"));
    ASSERT_TRUE(call->Start());
    ASSERT_TRUE(call->Write(std::to_string(i)));
    ASSERT_EQ(call->Read(), std::to_string(i));
  }
  EXPECT_GE(gateway_->Metric("gateway_http2_upstream_connections"), 4);
  for (const auto& call : calls) {
    ASSERT_TRUE(call->WritesDone());
    EXPECT_TRUE(call->Finish().ok());
  }
}

TEST_F(Grpc, CallsPassOverTls) {
  LabCa ca;
  const LabCa::Files files = ca.IssueFor({"IP:127.0.0.1"});
  echo_ =
      std::make_unique<GrpcEcho>(GrpcEcho::Options{.certificate = ReadFile(files.cert), .key = ReadFile(files.key)});
  for (const std::string protocol : {"http2", "auto"}) {
    SCOPED_TRACE(protocol);
    Serve({echo_->address()}, Concat("tls: { ca: { file: \"", ca.file(), "\" } }"), "", "", protocol);
    for (int i = 0; i < 3; ++i) {
      std::string answer;
      const grpc::Status status = Call("Chat", "hello", &answer);
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(answer, "hello");
    }
    EXPECT_EQ(gateway_->Metric("gateway_http2_upstream_connections"), 1);
  }
}

TEST_F(Grpc, ClientsMayUseTls) {
  LabCa ca;
  const LabCa::Files files = ca.IssueFor({"DNS:gateway.test"});
  listener_ = Concat("tls: { certificates: [{ cert: \"", files.cert, "\", key: \"", files.key, "\" }] }");
  Start();
  channel_ = GrpcChannel(gateway_->port(), ReadFile(ca.file()), "gateway.test");
  std::string answer;
  const grpc::Status status = Call("Chat", "hello", &answer);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(answer, "hello");
  EXPECT_EQ(LastLine(1)["tls_server_name"], "gateway.test");
}

TEST_F(Grpc, AResponseThatBreaksOffEndsWithAStatus) {
  Http2Upstream upstream([](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || std::exchange(request.answered, true)) continue;
      const bool call = request.Field(":path") == "/test.Echo/Chat";
      connection.SendHead(stream, {{":status", "200"}, {"content-type", call ? "application/grpc" : "text/plain"}});
      connection.SendData(stream, "half");
      connection.Reset(stream, NGHTTP2_INTERNAL_ERROR);
    }
  });
  Serve({upstream.address()});
  const auto client = Http2Client::To(gateway_->port());
  const auto fetch = [&](const std::string& path) -> const Http2Response& {
    return client->Fetch({.method = "POST",
                          .path = path,
                          .fields = {{"content-type", "application/grpc"}, {"te", "trailers"}},
                          .body = std::string(5, '\0')});
  };
  const Http2Response& call = fetch("/test.Echo/Chat");
  EXPECT_EQ(call.status, 200);
  EXPECT_EQ(call.body, "half");
  EXPECT_TRUE(call.ended);
  EXPECT_EQ(call.Trailer("grpc-status"), "14");
  EXPECT_EQ(call.Trailer("grpc-message"), "Bad gateway (upstream_reset)");
  const nlohmann::json line = LastLine(1);
  EXPECT_EQ(line["grpc_status"], 14);
  EXPECT_EQ(line["aborted"], true);
  const Http2Response& other = fetch("/test.Echo/Page");
  EXPECT_TRUE(other.reset) << "only a gRPC call has a grpc-status";
}

// As grpc-go's clients would see it (internal/transport/http2_client.go): no trailers are INTERNAL, trailers without
// grpc-status UNKNOWN.
TEST_F(Grpc, ACallThatEndsWithoutAStatusDoesNotPassAsASuccess) {
  Http2Upstream upstream([](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || std::exchange(request.answered, true)) continue;
      const std::string path = request.Field(":path");
      connection.SendHead(stream, {{":status", "200"}, {"content-type", "application/grpc"}},
                          path == "/test.Echo/Head");
      if (path == "/test.Echo/Head") continue;
      connection.SendData(stream, std::string(5, '\0'), true,
                          path == "/test.Echo/Trailers" ? Fields{{"x-checksum", "1"}} : Fields{});
    }
  });
  Serve({upstream.address()});
  const auto client = Http2Client::To(gateway_->port());
  const auto fetch = [&](const std::string& path) -> const Http2Response& {
    return client->Fetch({.method = "POST",
                          .path = path,
                          .fields = {{"content-type", "application/grpc"}, {"te", "trailers"}},
                          .body = std::string(5, '\0')});
  };
  const Http2Response& none = fetch("/test.Echo/None");
  EXPECT_TRUE(none.ended);
  EXPECT_EQ(none.body, std::string(5, '\0'));
  EXPECT_EQ(none.Trailer("grpc-status"), "13");
  EXPECT_EQ(none.Trailer("grpc-message"), "the service ended the call without grpc-status");
  const nlohmann::json line = LastLine(1);
  EXPECT_EQ(line["grpc_status"], 13);
  EXPECT_EQ(line["detail"], "the service ended the call without grpc-status");
  const Http2Response& trailers = fetch("/test.Echo/Trailers");
  EXPECT_EQ(trailers.Trailer("grpc-status"), "2");
  EXPECT_EQ(trailers.Trailer("x-checksum"), "1");
  const Http2Response& head = fetch("/test.Echo/Head");
  EXPECT_TRUE(head.ended);
  EXPECT_EQ(head.Field("grpc-status"), "2");
}

// Servers of gRPC respond to no expectation: a client that waits for leave gets it from the gateway.
TEST_F(Grpc, AClientThatExpectsLeaveIsGivenIt) {
  absl::Mutex mutex;
  std::string expected = "not seen";
  Http2Upstream upstream([&](Http2Server& connection) {
    for (auto& [stream, request] : connection.requests()) {
      if (!request.ended || std::exchange(request.answered, true)) continue;
      absl::MutexLock lock(&mutex);
      expected = request.Field("expect");
      connection.SendHead(stream, {{":status", "200"}, {"content-type", "application/grpc"}});
      connection.SendData(stream, request.body, true, {{"grpc-status", "0"}});
    }
  });
  Serve({upstream.address()});
  const auto client = Http2Client::To(gateway_->port());
  const int32_t stream =
      client->Send({.method = "POST",
                    .path = "/test.Echo/Chat",
                    .fields = {{"content-type", "application/grpc"}, {"te", "trailers"}, {"expect", "100-continue"}},
                    .ends = false});
  ASSERT_TRUE(client->Await([&] { return client->response(stream).status == 100; })) << "no 100";
  client->SendData(stream, std::string(5, '\0'), true);
  ASSERT_TRUE(client->Await([&] { return client->response(stream).ended; }));
  EXPECT_THAT(client->response(stream).interim, testing::ElementsAre(100));
  EXPECT_EQ(client->response(stream).status, 200);
  EXPECT_EQ(client->response(stream).Trailer("grpc-status"), "0");
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(expected, "");
}

// A gRPC-Web message, as browsers send and receive it.
std::string WebMessage(std::string_view text) {
  std::string message = std::string(4, '\0') + static_cast<char>(text.size());
  return message.append(text);
}
std::string Base64Text(std::string_view bytes) {
  std::string text = EncodeBase64(Base64::kStandard, bytes);
  text.resize((text.size() + 3) / 4 * 4, '=');
  return text;
}

TEST_F(Grpc, CallsOfGrpcWebBecomeCalls) {
  Start({}, "", "grpc_web: true");
  const std::string message = WebMessage("hello");
  const auto binary = Fetch(gateway_->port(), "POST", "/test.Echo/Chat",
                            "Content-Type: application/grpc-web+proto\r\nX-Echo: kept\r\n", message);
  ASSERT_TRUE(binary.ok()) << binary.status();
  EXPECT_EQ(binary->status, 200);
  EXPECT_EQ(binary->Field("Content-Type"), "application/grpc-web+proto");
  EXPECT_TRUE(binary->body.starts_with(message));
  EXPECT_THAT(binary->body, HasSubstr("grpc-status:0\r\n"));
  EXPECT_THAT(binary->body, HasSubstr("x-echoed:kept\r\n"));
  EXPECT_EQ(binary->body[message.size()], '\x80');

  const auto text = Fetch(gateway_->port(), "POST", "/test.Echo/Chat", "Content-Type: application/grpc-web-text\r\n",
                          Base64Text(message));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->Field("Content-Type"), "application/grpc-web-text");
  EXPECT_TRUE(text->body.starts_with(Base64Text(message).substr(0, 12))) << text->body;

  const auto failed =
      Fetch(gateway_->port(), "POST", "/test.Echo/Fail", "Content-Type: application/grpc-web\r\n", WebMessage("5 no"));
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_EQ(failed->status, 200);
  EXPECT_EQ(failed->Field("grpc-status").value_or(""), "5") << "without a message the status is in the header";

  const auto wrong =
      Fetch(gateway_->port(), "POST", "/test.Echo/Chat", "Content-Type: application/grpc-web-text\r\n", "!");
  ASSERT_TRUE(wrong.ok()) << wrong.status();
  EXPECT_EQ(wrong->Field("grpc-status").value_or(""), "13");
  EXPECT_EQ(LastLine(4)["detail"], "a gRPC-Web body that is not base64");
}

}  // namespace
}  // namespace gateway::fixtures
