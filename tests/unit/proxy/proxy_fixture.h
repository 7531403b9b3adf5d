// What a worker lends to its exchanges, with policy, and a clock that the test moves.
#ifndef GATEWAY_TESTS_UNIT_PROXY_PROXY_FIXTURE_H_
#define GATEWAY_TESTS_UNIT_PROXY_PROXY_FIXTURE_H_

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/policy/builtin.h"
#include "common/policy/snapshot.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/proxy/stages/body.h"
#include "dataplane/proxy/stages/route.h"
#include "dataplane/state/runtime_state.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "tests/unit/proxy/scripted_streams.h"

namespace gateway::dataplane {

class ProxyTest : public ::testing::Test {
 protected:
  ProxyTest() {
    options_.via = "gateway (0000abcd)";
    EXPECT_TRUE(options_.trusted_proxies.Add("10.0.0.0/8").ok());
    options_.trusted_proxies.Seal();
  }
  ~ProxyTest() override {
    if (--state_->references == 0) delete state_;
  }

  // Serves from policy: each text is a Resource in protobuf's text form. The built-in ones are added.
  void Install(const std::vector<std::string>& texts) {
    std::vector<v1::Resource> resources = BuiltinResources(std::nullopt);
    for (const std::string& text : texts) {
      resources.emplace_back();
      ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &resources.back())) << text;
    }
    std::vector<const v1::Resource*> pointers;
    for (const v1::Resource& resource : resources) pointers.push_back(&resource);
    CompileResult result = CompileSnapshot(pointers, {.epoch = "e", .revision = 7});
    for (const v1::PolicyError& error : result.errors) ADD_FAILURE() << error.ShortDebugString();
    EndpointTable table;
    table.catalog_known = true;
    LocalState* const old =
        std::exchange(state_, new LocalState{runtime_.Bind(std::move(result.snapshot), table, true), 1});
    if (--old->references == 0) delete old;
  }

  // The request, routed as an exchange does it: with a target, a service and what of its body is there.
  std::unique_ptr<RequestContext> Route(ScriptedDownstream* client) {
    client->SetStarted(loop_.now());
    auto context = std::make_unique<RequestContext>(state_, client);
    const http::ConnectionInfo& connection = client->connection();
    context->facts.client_ip = connection.peer_ip;
    context->facts.client_address = connection.peer;
    context->facts.request_id = "id";
    context->body.complete_at = loop_.now();
    EXPECT_FALSE(TakeBufferedBody(context->header, client, &context->body));
    EXPECT_FALSE(NormalizeTarget(context->header, connection, false, &context->facts));
    EXPECT_FALSE(MatchRoute(*context->state, context->header, connection, context->facts, &context->target));
    ChooseService(*context->state, context->header, context->facts, &resources_.random, &context->target);
    return context;
  }

  // One turn of the loop, at `time` after the test's begin.
  void TurnAt(std::chrono::milliseconds time) { loop_.TurnAt(start_ + time); }

  EventLoop loop_;
  const TimePoint start_ = loop_.now();
  BufferBudget budget_{64 << 20};
  MetricsRegistry metrics_{1};
  WorkerShard& shard_ = *metrics_.shard(0);
  RuntimeState runtime_{&metrics_};
  BufferPool buffers_{&budget_, shard_.Cell(WorkerGauge::kBufferBytes)};
  SplicePipePool pipes_{&budget_, shard_.Cell(WorkerGauge::kBufferBytes)};
  bool draining_ = false;
  bool cut_short_ = false;
  const http::StreamResources streams_{.loop = &loop_,
                                       .buffers = &buffers_,
                                       .pipes = &pipes_,
                                       .draining = &draining_,
                                       .header_timeout = std::chrono::seconds(10),
                                       .header_bytes_max = 64 * 1024};
  UpstreamPool pool_{streams_, &shard_, nullptr};
  Authentication authentication_{PasswordPool::Options{}};
  ExchangeOptions options_;
  std::function<std::string()> metrics_page_;
  LocalState* state_ = new LocalState{runtime_.Bind(nullptr, EndpointTable(), false), 1};
  ExchangeResources resources_{.loop = &loop_,
                               .buffers = &buffers_,
                               .pool = &pool_,
                               .metrics = &shard_,
                               .log = nullptr,
                               .redis = nullptr,
                               .authentication = &authentication_,
                               .options = &options_,
                               .metrics_page = &metrics_page_,
                               .state = &state_,
                               .cut_short = &cut_short_,
                               .challenges = nullptr,
                               .worker = 0};
};

// The result of a task that has ended.
template <typename T>
T ResultOf(Task<T>& task) {
  EXPECT_TRUE(task.done());
  return task.Done().await_resume();
}

}  // namespace gateway::dataplane

#endif  // GATEWAY_TESTS_UNIT_PROXY_PROXY_FIXTURE_H_
