// Each stage by itself: what it refuses, with which reason, policy and Retry-After, and what it leaves for the next
// one.
#include <arpa/inet.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/digest.h"
#include "dataplane/proxy/stages/admission.h"
#include "dataplane/proxy/stages/authenticate.h"
#include "dataplane/proxy/stages/body.h"
#include "dataplane/proxy/stages/identify.h"
#include "dataplane/proxy/stages/limits.h"
#include "dataplane/proxy/stages/local_response.h"
#include "dataplane/proxy/stages/route.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/proxy/proxy_fixture.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr const char* kService = "service { name: 'svc' static { address: '127.0.0.1:9' } }";

Reason ReasonOf(const std::optional<Refusal>& refusal) { return refusal ? refusal->reason : Reason::kNone; }

class IdentifyTest : public ProxyTest {
 protected:
  void Identify(bool readable = true) {
    dataplane::Identify(client_.request(), client_.connection(), readable, options_.trusted_proxies, &ids_, &facts_);
  }

  absl::InsecureBitGen random_;
  RequestIds ids_{&random_};
  ScriptedDownstream client_;
  RequestFacts facts_;
};

TEST_F(IdentifyTest, APeerThatIsNotTrustedSaysNothingAboutItself) {
  client_.AddField("X-Forwarded-For", "203.0.113.9");
  client_.AddField("X-Request-Id", "chosen");
  Identify();
  EXPECT_EQ(facts_.client_ip, "192.0.2.1");
  EXPECT_EQ(facts_.request_id.size(), 32u);
}

TEST_F(IdentifyTest, BehindTrustedProxiesTheClientIsTheFirstAddressThatIsNotTheirs) {
  client_.info().peer_trusted = true;
  client_.AddField("X-Forwarded-For", "198.51.100.7, 203.0.113.9:4711");
  client_.AddField("X-Forwarded-For", " 10.1.2.3 ,10.0.0.1");
  client_.AddField("X-Request-Id", "chosen");
  Identify();
  EXPECT_EQ(facts_.client_ip, "203.0.113.9");
  EXPECT_EQ(facts_.request_id, "chosen");
}

TEST_F(IdentifyTest, ABrokenChainEndsAtItsLastGoodAddress) {
  client_.info().peer_trusted = true;
  client_.AddField("X-Forwarded-For", "203.0.113.9, unknown, 10.1.2.3");
  Identify();
  EXPECT_EQ(facts_.client_ip, "10.1.2.3");
}

TEST_F(IdentifyTest, AnIdThatALogOrAHeaderCouldNotHoldIsReplaced) {
  client_.info().peer_trusted = true;
  client_.AddField("X-Request-Id", "two words");
  Identify();
  EXPECT_EQ(facts_.request_id.size(), 32u);
}

TEST_F(IdentifyTest, OfARejectedHeaderNothingIsRead) {
  client_.info().peer_trusted = true;
  client_.AddField("X-Request-Id", "chosen");
  Identify(false);
  EXPECT_EQ(facts_.request_id.size(), 32u);
}

TEST_F(IdentifyTest, IdsDiffer) {
  Identify();
  const std::string first(facts_.request_id);
  Identify();
  EXPECT_NE(facts_.request_id, first);
}

// As many as every value of the last two digits and a carry into the third need.
TEST_F(IdentifyTest, IdsAreDigitsThatCountUp) {
  char text[RequestIds::kBytes];
  ids_.Next(text);
  const std::string prefix(text, 16);
  uint64_t number = std::stoull(std::string(text + 16, 16), nullptr, 16);
  for (int i = 0; i < 512; ++i) {
    ids_.Next(text);
    EXPECT_EQ(std::string(text, sizeof text), prefix + absl::StrFormat("%016x", ++number));
  }
  EXPECT_EQ(prefix.find_first_not_of("0123456789abcdef"), std::string::npos);
}

TEST_F(IdentifyTest, WhatAClientClaimsAboutItsIdentityIsRemoved) {
  const std::vector<std::string> forwarded = {"x-team"};
  client_.AddField("X-Consumer", "root");
  client_.AddField("Accept", "*/*");
  client_.AddField("X_Team", "admins");
  RemoveIdentityFields(IdentityFields(forwarded), &client_.request());
  EXPECT_EQ(TextOf(client_.request().field_views()), "Accept: */*\r\n");
  EXPECT_EQ(client_.request().kinds.size(), 1u);
}

class RouteTest : public ProxyTest {
 protected:
  std::optional<Refusal> Normalize() {
    return NormalizeTarget(client_.request(), client_.connection(), options_.reject_encoded_slashes, &facts_);
  }
  std::optional<Refusal> Match() {
    EXPECT_FALSE(Normalize());
    return MatchRoute(*state_->state, client_.request(), client_.connection(), facts_, &target_);
  }

  ScriptedDownstream client_;
  RequestFacts facts_;
  Target target_;
};

TEST_F(RouteTest, HostAndPathComeIntoNormalForm) {
  client_.request().authority = "API.Example.:8080";
  client_.SetTarget("/a/./b/../c?d");
  EXPECT_FALSE(Normalize());
  EXPECT_EQ(facts_.host, "api.example");
  EXPECT_EQ(facts_.path, "/a/c");
}

TEST_F(RouteTest, APathAboveTheRootIsRefused) {
  client_.SetTarget("/../x");
  EXPECT_EQ(ReasonOf(Normalize()), Reason::kBadRequest);
  EXPECT_EQ(facts_.path, "");
}

TEST_F(RouteTest, OnlyATrustedProxyMayHaveHadTls) {
  client_.request().scheme = "https";
  const auto refusal = Normalize();
  ASSERT_EQ(ReasonOf(refusal), Reason::kBadRequest);
  EXPECT_STREQ(refusal->detail, "an https target without TLS");
  client_.info().peer_trusted = true;
  EXPECT_FALSE(Normalize());
}

TEST_F(RouteTest, WithoutARouteItIsRefused) {
  Install({kService, "route { name: 'r' match { path { prefix: '/a' } methods: 'GET' } service: 'svc' }"});
  client_.SetTarget("/b");
  EXPECT_EQ(ReasonOf(Match()), Reason::kNoRoute);
  client_.SetTarget("/a");
  client_.request().method = "PUT";
  EXPECT_EQ(ReasonOf(Match()), Reason::kMethodNotAllowed);
  std::string allow;
  AppendAllowedMethods(target_.match, &allow);
  EXPECT_THAT(allow, HasSubstr("GET"));
}

TEST_F(RouteTest, ChoosesTheServiceOfARoute) {
  Install({kService, "route { name: 'r' match { path { prefix: '/a' } } service: 'svc' }"});
  client_.SetTarget("/a/b");
  ASSERT_FALSE(Match());
  EXPECT_EQ(target_.policy().name, "r");
  ChooseService(*state_->state, client_.request(), facts_, &resources_.random, &target_);
  ASSERT_NE(target_.service, nullptr);
  EXPECT_EQ(target_.service->runtime->name, "svc");
  EXPECT_FALSE(CheckEndpoints(*state_->state, target_.service));
}

TEST_F(RouteTest, APathThatAServiceMayReadAsAProtectedOneIsRefused) {
  Install({kService, "ip_access { name: 'inside' allow: '10.0.0.0/8' }",
           "route { name: 'all' match { path { prefix: '/' } } service: 'svc' }",
           "route { name: 'admin' match { path { prefix: '/admin' } } service: 'svc' access: 'inside' }"});
  client_.SetTarget("/admin;x/users");
  const auto refusal = Match();
  ASSERT_EQ(ReasonOf(refusal), Reason::kBadRequest);
  EXPECT_THAT(refusal->detail, HasSubstr("another route protects"));
}

TEST_F(RouteTest, APreflightGoesWhereItsRequestWould) {
  Install({kService, "cors { name: 'web' origins: 'https://app.example' }",
           "route { name: 'put' match { path { prefix: '/a' } methods: 'PUT' } service: 'svc' cors: 'web' }"});
  client_.request().method = "OPTIONS";
  client_.SetTarget("/a");
  client_.AddField("Origin", "https://app.example");
  client_.AddField("Access-Control-Request-Method", "PUT");
  ASSERT_FALSE(Match());
  EXPECT_EQ(target_.policy().name, "put");
  ASSERT_TRUE(target_.preflight);
  std::string fields;
  const Refusal note = AppendPreflight(*target_.policy().cors, *target_.preflight, client_.request(), &fields);
  EXPECT_EQ(note.reason, Reason::kNone);
  EXPECT_THAT(fields, HasSubstr("https://app.example"));
}

TEST_F(RouteTest, ARequestThatWasHereBeforeIsALoop) {
  client_.AddField("Via", "1.1 other, 1.1 gateway (0000abcd)");
  EXPECT_EQ(ReasonOf(CheckForLoop(client_.request(), options_.via)), Reason::kLoopDetected);
}

TEST_F(RouteTest, SixteenGatewaysAreALoop) {
  for (int i = 0; i < 15; ++i) client_.AddField("Via", "1.1 gateway (ffff0000)");
  EXPECT_FALSE(CheckForLoop(client_.request(), options_.via));
  client_.AddField("Via", "1.1 gateway (ffff0001)");
  EXPECT_EQ(ReasonOf(CheckForLoop(client_.request(), options_.via)), Reason::kLoopDetected);
}

TEST_F(RouteTest, WithoutEndpointsTheReasonSaysWhatIsMissing) {
  Install({kService, "service { name: 'consul' consul { service: 'unlisted' } }",
           "route { name: 'r' match { path { prefix: '/' } } service: 'consul' }"});
  ASSERT_FALSE(Match());
  ChooseService(*state_->state, client_.request(), facts_, &resources_.random, &target_);
  EXPECT_EQ(ReasonOf(CheckEndpoints(*state_->state, target_.service)), Reason::kDiscoveryUnavailable);
  EXPECT_EQ(ReasonOf(CheckEndpoints(*state_->state, nullptr)), Reason::kUnknownService);
  EXPECT_EQ(ReasonOf(CheckEndpoints(ServingState(), nullptr)), Reason::kDiscoveryUnavailable);
}

TEST_F(RouteTest, AddressesAreAllowedAndDenied) {
  Install({"ip_access { name: 'inside' allow: '10.0.0.0/8' deny: '10.9.0.0/16' }", kService,
           "route { name: 'r' match { path { prefix: '/' } } service: 'svc' access: 'inside' }"});
  ASSERT_FALSE(Match());
  const AccessPolicy& access = *target_.policy().access;
  const auto check = [&](const char* text) {
    in6_addr address;
    EXPECT_TRUE(ParseIp(text, &address));
    return CheckAccess(access, address);
  };
  EXPECT_FALSE(check("10.1.2.3"));
  EXPECT_EQ(ReasonOf(check("10.9.2.3")), Reason::kForbidden);
  const auto refusal = check("192.0.2.1");
  ASSERT_EQ(ReasonOf(refusal), Reason::kForbidden);
  EXPECT_EQ(refusal->policy.kind, "IpAccess");
  EXPECT_EQ(refusal->policy.name, "inside");
}

TEST_F(RouteTest, ARedirectIsMadeOfTheRequestsParts) {
  Install({"route { name: 'r' match { path { prefix: '/old' } } redirect { scheme: 'https' prefix: '/new' } }"});
  client_.SetTarget("/old/x?y=1");
  client_.request().authority = "api.example:8080";
  const auto context = Route(&client_);
  std::string fields;
  EXPECT_FALSE(AppendRedirect(*context->target.policy().redirect, *context, &fields));
  EXPECT_EQ(fields, "Location: https://api.example/new/x?y=1\r\n");
  client_.request().authority = {};
  const auto refusal = AppendRedirect(*context->target.policy().redirect, *context, &fields);
  EXPECT_EQ(ReasonOf(refusal), Reason::kBadRequest);
}

class LimitsTest : public ProxyTest {
 protected:
  std::optional<Refusal> Admit() {
    const auto context = Route(&client_);
    const LimitInput in{*state_->state, context->header, context->facts, context->target, context->caller, loop_};
    return AdmitByLimits(in, context->target.policy().rate_limits, &resources_.scratch.text, &tally_);
  }
  std::optional<Refusal> AdmitWithoutRedis() {
    const auto context = Route(&client_);
    const LimitInput in{*state_->state, context->header, context->facts, context->target, context->caller, loop_};
    Task<std::optional<Refusal>> task = AdmitWithRedis(in, context->target.policy().rate_limits, nullptr, &tally_);
    task.Start();
    return ResultOf(task);
  }
  void InstallLimits(const std::string& limits, const std::string& names) {
    std::vector<std::string> texts = {kService};
    size_t begin = 0;
    while (begin < limits.size()) {
      const size_t end = limits.find('\n', begin);
      texts.push_back(limits.substr(begin, end - begin));
      begin = end == std::string::npos ? limits.size() : end + 1;
    }
    texts.push_back("route { name: 'r' match { path { prefix: '/' } } service: 'svc' " + names + " }");
    Install(texts);
  }

  ScriptedDownstream client_;
  LimitTally tally_;
};

TEST_F(LimitsTest, ARefusalNamesTheLimitAndWhenToComeBack) {
  InstallLimits("rate_limit { name: 'two' key: 'client_ip' limit { requests: 2 window { seconds: 60 } } }",
                "rate_limits: 'two'");
  EXPECT_FALSE(Admit());
  EXPECT_EQ(tally_.decision.remaining, 1u);
  EXPECT_FALSE(Admit());
  const auto refusal = Admit();
  ASSERT_EQ(ReasonOf(refusal), Reason::kRateLimited);
  EXPECT_EQ(refusal->policy.kind, "RateLimit");
  EXPECT_EQ(refusal->policy.name, "two");
  EXPECT_GT(refusal->retry_after, 55s);
  std::string fields;
  AppendLimitFields(tally_, &fields);
  EXPECT_THAT(fields, HasSubstr("RateLimit-Limit: 2\r\nRateLimit-Remaining: 0\r\n"));
}

TEST_F(LimitsTest, TimeGivesRequestsBack) {
  InstallLimits("rate_limit { name: 'one' key: 'client_ip' limit { requests: 1 window { seconds: 60 } } }",
                "rate_limits: 'one'");
  EXPECT_FALSE(Admit());
  EXPECT_TRUE(Admit());
  loop_.SetNow(start_ + 61s);
  EXPECT_FALSE(Admit());
}

TEST_F(LimitsTest, AShadowOnlyNotesWhatItWouldRefuse) {
  InstallLimits("rate_limit { name: 'try' key: 'client_ip' limit { requests: 1 window { seconds: 60 } } mode: SHADOW }",
                "rate_limits: 'try'");
  EXPECT_FALSE(Admit());
  EXPECT_FALSE(Admit());
  ASSERT_EQ(tally_.shadow_refusals.size(), 1u);
  EXPECT_EQ(tally_.shadow_refusals[0]->name, "try");
  EXPECT_EQ(tally_.tightest, nullptr);
}

TEST_F(LimitsTest, ARefusedRequestCountsInNoOtherLimit) {
  InstallLimits(
      "rate_limit { name: 'all' key: 'path' limit { requests: 2 window { seconds: 60 } } }\n"
      "rate_limit { name: 'one' key: 'header:X-User' limit { requests: 1 window { seconds: 60 } } }",
      "rate_limits: ['all', 'one']");
  client_.AddField("X-User", "ann");
  EXPECT_FALSE(Admit());
  EXPECT_TRUE(Admit());
  EXPECT_TRUE(Admit());
  client_.request().fields[0].value = "ben";
  EXPECT_FALSE(Admit());
}

TEST_F(LimitsTest, WithoutRedisTheLimitsOwnWordCounts) {
  InstallLimits(
      "rate_limit { name: 'deny' key: 'client_ip' limit { requests: 5 window { seconds: 60 } } scope: REDIS "
      "on_unavailable: DENY }",
      "rate_limits: 'deny'");
  const auto refusal = AdmitWithoutRedis();
  ASSERT_EQ(ReasonOf(refusal), Reason::kRateLimited);
  EXPECT_EQ(refusal->policy.name, "deny");
  EXPECT_EQ(refusal->retry_after, 1s);
  InstallLimits(
      "rate_limit { name: 'allow' key: 'client_ip' limit { requests: 5 window { seconds: 60 } } scope: REDIS "
      "on_unavailable: ALLOW }",
      "rate_limits: 'allow'");
  tally_.tightest = nullptr;
  EXPECT_FALSE(AdmitWithoutRedis());
}

class AuthTest : public ProxyTest {
 protected:
  AuthTest() {
    Install(
        {kService, "auth { name: 'team' methods { api_key { header: 'X-Api-Key' } } allow { groups: 'dev' } }",
         "consumer { name: 'ann' groups: 'dev' credentials { api_key_sha256: '" + Hex(Sha256("ann's key")) + "' } }",
         "consumer { name: 'ben' credentials { api_key_sha256: '" + Hex(Sha256("ben's key")) + "' } }",
         "route { name: 'r' match { path { prefix: '/' } } service: 'svc' auth: 'team' }"});
  }

  std::optional<Refusal> Authenticate() {
    const auto context = Route(&client_);
    auth_ = context->target.route->auth;
    const AuthInput in{*auth_,
                       *state_->state->snapshot->consumers(),
                       context->header,
                       nullptr,
                       context->facts.client_address,
                       loop_,
                       resources_.tokens,
                       authentication_,
                       resources_.scratch.text,
                       0};
    Task<std::optional<Refusal>> task = dataplane::Authenticate(in, &caller_);
    task.Start();
    return ResultOf(task);
  }

  ScriptedDownstream client_;
  const BoundAuth* auth_ = nullptr;
  Caller caller_;
};

TEST_F(AuthTest, AKeyNamesItsConsumer) {
  client_.AddField("X-Api-Key", "ann's key");
  EXPECT_FALSE(Authenticate());
  EXPECT_EQ(caller_.consumer, "ann");
  EXPECT_TRUE(IsSpentCredential(*auth_, client_.request().fields[0]));
}

TEST_F(AuthTest, WithoutCredentialsTheyAreAskedFor) {
  const auto refusal = Authenticate();
  ASSERT_EQ(ReasonOf(refusal), Reason::kUnauthenticated);
  EXPECT_STREQ(refusal->detail, "no credentials");
  EXPECT_EQ(refusal->policy.kind, "Auth");
  EXPECT_EQ(refusal->policy.name, "team");
  std::string fields;
  AppendChallenges(*auth_, caller_.token_refusal, &fields);
  EXPECT_EQ(fields, "WWW-Authenticate: ApiKey realm=\"gateway\", header=\"X-Api-Key\"\r\n");
}

TEST_F(AuthTest, AKnownCallerThatIsNotAllowedIsForbidden) {
  client_.AddField("X-Api-Key", "ben's key");
  const auto refusal = Authenticate();
  ASSERT_EQ(ReasonOf(refusal), Reason::kForbidden);
  EXPECT_THAT(refusal->detail, HasSubstr("allow names neither"));
  EXPECT_EQ(caller_.consumer, "ben");
}

TEST_F(AuthTest, AnUnknownKeyIsNotAnError) {
  client_.AddField("X-Api-Key", "guessed");
  const auto refusal = Authenticate();
  ASSERT_EQ(ReasonOf(refusal), Reason::kUnauthenticated);
  EXPECT_STREQ(refusal->detail, "the API key is unknown");
}

TEST_F(AuthTest, TwoKeysAreNone) {
  client_.AddField("X-Api-Key", "ann's key");
  client_.AddField("X-Api-Key", "ann's key");
  EXPECT_EQ(ReasonOf(Authenticate()), Reason::kUnauthenticated);
}

TEST_F(AuthTest, AHostOfAnotherConnectionIsMisdirected) {
  BoundAuth auth;
  http::TlsInfo tls;
  tls.asks_certificate = true;
  tls.server_name = "a.example";
  EXPECT_FALSE(CheckDirection(auth, &tls, "b.example")) << "no certificate is looked at";
  auth.takes_certificate = true;
  EXPECT_EQ(ReasonOf(CheckDirection(auth, &tls, "b.example")), Reason::kMisdirectedRequest);
  EXPECT_FALSE(CheckDirection(auth, &tls, "a.example"));
  EXPECT_FALSE(CheckDirection(auth, nullptr, "b.example"));
}

class AdmissionTest : public ProxyTest {
 protected:
  AdmissionTest() {
    Install(
        {"service { name: 'svc' static { address: '127.0.0.1:9' } circuit_breaker: 'cb' "
         "limits { connections: 1 pending: 1 pending_timeout { seconds: 1 } } }",
         "circuit_breaker { name: 'cb' force: OPEN sleep_window { seconds: 5 } }",
         "route { name: 'r' match { path { prefix: '/' } } service: 'svc' }"});
    service_ = Route(&client_)->target.service;
  }

  Task<std::optional<Refusal>> Enter(Bulkhead::Place* place) {
    return EnterBulkhead(*service_, &client_, &loop_, start_ + 30s, &cut_short_, place);
  }

  ScriptedDownstream client_;
  const BoundService* service_ = nullptr;
};

TEST_F(AdmissionTest, WaitsForAPlaceUntilItsPatienceEnds) {
  Bulkhead::Place first, second;
  Task<std::optional<Refusal>> entered = Enter(&first);
  entered.Start();
  EXPECT_FALSE(ResultOf(entered));
  Task<std::optional<Refusal>> waits = Enter(&second);
  waits.Start();
  TurnAt(990ms);
  EXPECT_FALSE(waits.done());
  TurnAt(1020ms);
  const auto refusal = ResultOf(waits);
  ASSERT_EQ(ReasonOf(refusal), Reason::kOverloaded);
  EXPECT_STREQ(refusal->detail, "no connection was free in time");
  EXPECT_EQ(refusal->policy.kind, "Service");
  EXPECT_EQ(refusal->policy.name, "svc");
}

TEST_F(AdmissionTest, APlaceThatIsFreedIsGranted) {
  Bulkhead::Place first, second;
  Task<std::optional<Refusal>> entered = Enter(&first);
  entered.Start();
  Task<std::optional<Refusal>> waits = Enter(&second);
  waits.Start();
  first.Leave();
  TurnAt(4ms);
  EXPECT_FALSE(ResultOf(waits));
  EXPECT_TRUE(second.entered());
}

TEST_F(AdmissionTest, PastItsQueueItIsRefusedAtOnce) {
  Bulkhead::Place first, second, third;
  Task<std::optional<Refusal>> entered = Enter(&first);
  entered.Start();
  Task<std::optional<Refusal>> waits = Enter(&second);
  waits.Start();
  Task<std::optional<Refusal>> refused = Enter(&third);
  refused.Start();
  const auto refusal = ResultOf(refused);
  ASSERT_EQ(ReasonOf(refusal), Reason::kOverloaded);
  EXPECT_STREQ(refusal->detail, "too many wait for a connection");
  TurnAt(1020ms);
  EXPECT_TRUE(waits.done());
}

TEST_F(AdmissionTest, AClientThatLeavesEndsTheWait) {
  for (const bool draining : {false, true}) {
    ScriptedDownstream client;
    cut_short_ = draining;
    Bulkhead::Place first, second;
    Task<std::optional<Refusal>> entered = Enter(&first);
    entered.Start();
    Task<std::optional<Refusal>> waits = EnterBulkhead(*service_, &client, &loop_, start_ + 30s, &cut_short_, &second);
    waits.Start();
    if (draining) {
      TurnAt(3000ms);
    } else {
      client.Leave();
    }
    EXPECT_EQ(ReasonOf(ResultOf(waits)), draining ? Reason::kDraining : Reason::kClientClosed);
  }
}

TEST_F(AdmissionTest, AnOpenBreakerSaysWhenToComeBack) {
  CircuitBreaker::Permit permit;
  const auto refusal = AcquirePermit(*service_, loop_.now(), &permit);
  ASSERT_EQ(ReasonOf(refusal), Reason::kBreakerOpen);
  EXPECT_EQ(refusal->policy.kind, "CircuitBreaker");
  EXPECT_EQ(refusal->policy.name, "cb");
  EXPECT_EQ(refusal->retry_after, 5s);
  EXPECT_FALSE(permit);
}

class BodyTest : public ProxyTest {
 protected:
  BodyTest() {
    Install({kService, "route { name: 'r' match { path { prefix: '/' } } service: 'svc' body { max_bytes: 10 } }"});
    client_.request().method = "PUT";
    client_.request().has_body = true;
  }
  void Begin() { context_ = Route(&client_); }
  // Buffers what comes, as for retries of bodies up to `bytes_max`.
  void Buffer(uint64_t bytes_max = 8) {
    in_.emplace(BufferInput{&loop_, &buffers_, context_->target.policy(), 30s, TimePoint::max(), bytes_max});
    task_.emplace(BufferBody(*in_, context_->header, &client_, &context_->body));
    task_->Start();
  }

  ScriptedDownstream client_;
  std::unique_ptr<RequestContext> context_;
  std::optional<BufferInput> in_;
  std::optional<Task<std::optional<Refusal>>> task_;
};

TEST_F(BodyTest, WhatCameWithTheHeaderIsThere) {
  client_.Give("all", true);
  Begin();
  EXPECT_EQ(context_->body.buffered, "all");
  EXPECT_TRUE(context_->body.complete);
  EXPECT_TRUE(context_->body.replayable);
}

TEST_F(BodyTest, InvalidFramingIsRefused) {
  client_.End(http::BodyRead::kInvalid);
  RequestBody body;
  const auto refusal = TakeBufferedBody(client_.request(), &client_, &body);
  ASSERT_EQ(ReasonOf(refusal), Reason::kBadRequest);
  EXPECT_STREQ(refusal->detail, "a scripted error");
}

TEST_F(BodyTest, AnAnnouncedLengthIsCheckedBeforeItComes) {
  Begin();
  EXPECT_FALSE(CheckBodySize(context_->target.policy(), context_->header, context_->body));
  client_.request().length = 11;
  EXPECT_EQ(ReasonOf(CheckBodySize(context_->target.policy(), context_->header, context_->body)),
            Reason::kBodyTooLarge);
}

TEST_F(BodyTest, AShortBodyIsBufferedWhole) {
  client_.Give("one ");
  Begin();
  client_.Give("two", true);
  Buffer();
  EXPECT_FALSE(ResultOf(*task_));
  EXPECT_EQ(context_->body.buffered, "one two");
  EXPECT_TRUE(context_->body.replayable);
}

TEST_F(BodyTest, ALongerOneFlowsAsItComes) {
  Begin();
  client_.Give("123456789");
  Buffer();
  EXPECT_FALSE(ResultOf(*task_));
  EXPECT_EQ(context_->body.buffered, "123456789");
  EXPECT_FALSE(context_->body.replayable);
  EXPECT_FALSE(context_->body.complete);
}

TEST_F(BodyTest, PastTheRoutesBoundItIsRefused) {
  Begin();
  client_.Give("12345678901");
  Buffer(100);
  EXPECT_EQ(ReasonOf(ResultOf(*task_)), Reason::kBodyTooLarge);
}

TEST_F(BodyTest, AClientThatStallsIsRefused) {
  Begin();
  Buffer();
  ASSERT_TRUE(client_.waits());
  EXPECT_EQ(client_.deadline(), start_ + 30s);
  loop_.SetNow(start_ + 30s);
  client_.Resume(Wait::kTimeout);
  EXPECT_EQ(ReasonOf(ResultOf(*task_)), Reason::kRequestTimeout);
}

TEST_F(BodyTest, OfACutOffBodyThereIsNoClientLeft) {
  Begin();
  client_.End(http::BodyRead::kCutShort);
  Buffer();
  EXPECT_EQ(ReasonOf(ResultOf(*task_)), Reason::kClientClosed);
}

TEST_F(BodyTest, PiecesAreKeptWhileTheyFit) {
  RequestBody body;
  body.keeps = true;
  body.buffered = "ab";
  KeepForRetry({.bytes = "cd", .payload = 2}, &buffers_, 8, &body);
  EXPECT_TRUE(body.keeps);
  KeepForRetry({.bytes = "ef", .payload = 2, .last = true}, &buffers_, 8, &body);
  EXPECT_EQ(body.buffered, "abcdef");
  EXPECT_TRUE(body.replayable);
  EXPECT_FALSE(body.keeps);
}

TEST_F(BodyTest, PiecesThatDoNotFitEndTheKeeping) {
  RequestBody body;
  body.keeps = true;
  KeepForRetry({.bytes = "12345", .payload = 5}, &buffers_, 8, &body);
  KeepForRetry({.bytes = "6789", .payload = 4, .last = true}, &buffers_, 8, &body);
  EXPECT_FALSE(body.keeps);
  EXPECT_FALSE(body.replayable);
  EXPECT_FALSE(body.storage);
}

}  // namespace
}  // namespace gateway::dataplane
