// Changes that are not final: their guard, whom they go to, and how they end. All of it in virtual time.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/change/guard.h"
#include "controlplane/change/pending_change.h"
#include "controlplane/change/selection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controlplane/testing.h"

namespace gateway::controlplane {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMilli = 1'000'000;

const absl::Time kNow = absl::FromUnixSeconds(1'700'000'000);

RouteFigures FiguresOf(uint64_t requests, uint64_t errors, int64_t latency_nanos = 10 * kMilli) {
  RouteFigures figures;
  figures.requests = requests;
  figures.errors = errors;
  figures.latency[LatencyBucketOf(latency_nanos)] = requests;
  return figures;
}

Guard GuardOf(const std::string& text) {
  absl::StatusOr<Guard> guard = ParseGuard(text);
  EXPECT_TRUE(guard.ok()) << guard.status();
  return guard.ok() ? *guard : Guard();
}

TEST(LatencyBuckets, APercentileIsWithinAFifthOfTheTrueOne) {
  for (const int64_t nanos : {kMilli / 2, 3 * kMilli, 99 * kMilli, 250 * kMilli, 1100 * kMilli, 9000 * kMilli}) {
    std::array<uint64_t, kLatencyBuckets> buckets{};
    buckets[LatencyBucketOf(nanos)] = 1000;
    EXPECT_NEAR(LatencyQuantile(buckets, 0.99), static_cast<double>(nanos), 0.2 * static_cast<double>(nanos));
  }
  std::array<uint64_t, kLatencyBuckets> two{};
  two[LatencyBucketOf(kMilli)] = 98;
  two[LatencyBucketOf(800 * kMilli)] = 2;
  EXPECT_LT(LatencyQuantile(two, 0.5), 2e6);
  EXPECT_GT(LatencyQuantile(two, 0.99), 600e6);
  EXPECT_EQ(LatencyQuantile({}, 0.99), 0);
  EXPECT_EQ(LatencyBucketOf(INT64_MAX), kLatencyBuckets - 1);
  EXPECT_EQ(LatencyBucketOf(-1), 0u);
}

TEST(Guard, ReadsConditionsVolumeAndWindow) {
  const Guard guard = GuardOf("error_rate<1%, p99 <= 250ms,requests>100,for=2m");
  ASSERT_EQ(guard.conditions.size(), 2u);
  EXPECT_EQ(guard.conditions[0].metric, Guard::Metric::kErrorRate);
  EXPECT_FALSE(guard.conditions[0].or_equal);
  EXPECT_EQ(guard.conditions[0].bound, 1);
  EXPECT_EQ(guard.conditions[1].metric, Guard::Metric::kP99);
  EXPECT_TRUE(guard.conditions[1].or_equal);
  EXPECT_EQ(guard.conditions[1].bound, 250e6);
  EXPECT_TRUE(guard.wants_requests);
  EXPECT_EQ(guard.requests_above, 100u);
  EXPECT_EQ(guard.window, absl::Minutes(2));
  EXPECT_EQ(GuardOf("p50<1s").window, kGuardWindowDefault);
}

TEST(Guard, SaysWhichPartIsWrongAndWhatItExpected) {
  for (const auto& [text, expected] : std::vector<std::pair<std::string, std::string>>{
           {"", "guard: '': expected error_rate"},
           {"for=60s", "expected at least one condition"},
           {"error_rate<1", "guard: 'error_rate<1': expected a percentage"},
           {"error_rate<101%", "a percentage of 0% to 100%"},
           {"error_rate<nan%", "a percentage"},
           {"error_rate>1%", "with < or <="},
           {"p98<1s", "guard: 'p98<1s': expected error_rate, p50, p90 or p99"},
           {"p99<fast", "a duration above 0, such as p99<250ms"},
           {"p99<0s", "a duration above 0"},
           {"p99<1s,p99<2s", "p99 once"},
           {"requests<5", "requests>N"},
           {"requests>-1", "requests>N"},
           {"error_rate<1%,for=0s", "1s to 24h"},
           {"error_rate<1%,for=25h", "1s to 24h"},
           {"error_rate<1%,for=5s,for=5s", "once"},
           {"error_rate<1%,,for=5s", "guard: ''"},
           {std::string(300, 'x'), "300 bytes; expected at most 256"}}) {
    const absl::StatusOr<Guard> guard = ParseGuard(text);
    ASSERT_FALSE(guard.ok()) << text;
    EXPECT_EQ(guard.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(guard.status().message()), HasSubstr(expected)) << text;
  }
}

TEST(Guard, NamesTheFigureTheRouteTheDataPlanesAndWhatOthersSee) {
  GuardFigures figures;
  figures.with["orders"]["dp-1"] = FiguresOf(500, 20);
  figures.with["orders"]["dp-2"] = FiguresOf(500, 21);
  figures.with["orders"]["dp-3"] = FiguresOf(10, 0);
  figures.with["shop"]["dp-1"] = FiguresOf(500, 0);
  figures.without["orders"] = FiguresOf(1000, 2);
  const GuardVerdict verdict = JudgeGuard(GuardOf("error_rate<1%"), figures, false);
  EXPECT_TRUE(verdict.broken);
  EXPECT_EQ(verdict.text,
            "error_rate 4.06 % is not below 1 % on route orders, data planes dp-1, dp-2 (without the change: 0.2 %)");
}

TEST(Guard, ALatencyBreaksItToo) {
  GuardFigures figures;
  figures.with["orders"]["dp-1"] = FiguresOf(100, 0, 400 * kMilli);
  EXPECT_FALSE(JudgeGuard(GuardOf("p99<1s"), figures, false).broken);
  const GuardVerdict verdict = JudgeGuard(GuardOf("p99<=250ms"), figures, false);
  EXPECT_TRUE(verdict.broken);
  EXPECT_THAT(verdict.text, HasSubstr("is not at most 250ms on route orders, data plane dp-1"));
}

TEST(Guard, AFewRequestsDecideNothingBeforeTheWindowIsOver) {
  GuardFigures figures;
  figures.with["orders"]["dp-1"] = FiguresOf(1, 1);
  const Guard guard = GuardOf("error_rate<1%");
  EXPECT_FALSE(JudgeGuard(guard, figures, false).broken);
  EXPECT_TRUE(JudgeGuard(guard, figures, true).broken);
  figures.with["orders"]["dp-1"] = FiguresOf(kEarlyRequestsMin, 1);
  EXPECT_TRUE(JudgeGuard(guard, figures, false).broken);
}

TEST(Guard, TheLeastVolumeIsWaitedForAndMissedAtTheEnd) {
  GuardFigures figures;
  figures.with["orders"]["dp-1"] = FiguresOf(100, 100);
  const Guard guard = GuardOf("error_rate<1%,requests>100,for=60s");
  EXPECT_FALSE(JudgeGuard(guard, figures, false).broken);
  figures.with["orders"]["dp-1"] = FiguresOf(100, 0);
  const GuardVerdict verdict = JudgeGuard(guard, figures, true);
  EXPECT_TRUE(verdict.broken);
  EXPECT_EQ(verdict.text, "requests 100 is not above 100 within 1m");
  figures.with["orders"]["dp-1"] = FiguresOf(101, 0);
  EXPECT_FALSE(JudgeGuard(guard, figures, true).broken);
}

TEST(Guard, WithoutTrafficItHoldsAndSaysSo) {
  const GuardVerdict verdict = JudgeGuard(GuardOf("error_rate<1%"), {}, true);
  EXPECT_FALSE(verdict.broken);
  EXPECT_TRUE(verdict.unseen);
  EXPECT_EQ(verdict.text, "saw no requests on the routes of the change");
}

TEST(Guard, SortsReportsByTheRevisionThatTheyAreOf) {
  v1::Report report;
  for (const uint64_t revision : {8, 9}) {
    v1::RouteReport* route = report.add_routes();
    route->set_route("orders");
    route->set_revision(revision);
    route->set_requests(revision);
    route->set_errors(1);
    for (int i = 0; i < 100; ++i) route->add_latency(1);  // more buckets than there are: the rest is ignored
  }
  GuardFigures figures;
  AddReport(report, "dp-1", 9, &figures);
  EXPECT_EQ(figures.with.at("orders").at("dp-1").requests, 9u);
  EXPECT_EQ(figures.without.at("orders").requests, 8u);
}

v1::DataPlaneState Plane(const std::string& name, const std::string& zone = "") {
  v1::DataPlaneState plane;
  plane.set_name(name);
  plane.set_zone(zone);
  return plane;
}

TEST(Selection, TakesByZoneAndLabel) {
  v1::DataPlaneState plane = Plane("dp-1", "a");
  (*plane.mutable_labels())["canary"] = "";
  (*plane.mutable_labels())["env"] = "test";
  const auto takes = [&plane](const std::string& text) { return Selection::Parse(text)->Takes(plane, ""); };
  EXPECT_TRUE(takes("zone=a"));
  EXPECT_FALSE(takes("zone=b"));
  EXPECT_TRUE(takes("label=canary"));
  EXPECT_FALSE(takes("label=blue"));
  EXPECT_TRUE(takes("label=env=test"));
  EXPECT_FALSE(takes("label=env=prod"));
}

TEST(Selection, APercentageIsThatPartOfManyNamesAndGrowsByAdding) {
  const Selection ten = *Selection::Parse("percent=10"), half = *Selection::Parse("percent=50%");
  int taken = 0;
  for (int i = 0; i < 10'000; ++i) {
    const v1::DataPlaneState plane = Plane(absl::StrCat("gateway-", i));
    if (!ten.Takes(plane, "")) continue;
    ++taken;
    EXPECT_TRUE(half.Takes(plane, "")) << "who has the change keeps it when there are more";
  }
  EXPECT_NEAR(taken, 1000, 150);
}

TEST(Selection, APercentageOfFewTakesAtLeastOne) {
  const Selection one = *Selection::Parse("percent=1");
  std::vector<v1::DataPlaneState> planes;
  for (const char* name : {"dp-1", "dp-2", "dp-3"}) planes.push_back(Plane(name));
  const std::string picked = one.Pick(planes);
  ASSERT_FALSE(picked.empty());
  int taken = 0;
  for (const auto& plane : planes) taken += one.Takes(plane, picked) ? 1 : 0;
  EXPECT_EQ(taken, 1);
  EXPECT_EQ(Selection::Parse("percent=100")->Pick(planes), "") << "one is taken without it";
  EXPECT_EQ(one.Pick({}), "");
}

TEST(Selection, RefusesWhatItCannotRead) {
  for (const char* text :
       {"", "zone", "zone=", "label=", "label==x", "percent=0", "percent=101", "percent=x", "dp-1"}) {
    EXPECT_EQ(Selection::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

v1::PendingChange Begin(const v1::ApplyRequest& request) {
  const absl::StatusOr<ChangeTerms> terms = TermsOf(request);
  EXPECT_TRUE(terms.ok()) << terms.status();
  return BeginChange(request, *terms, 9, 8, "ann", "", {"orders"}, kNow);
}

v1::ApplyRequest ConfirmWithin(int seconds) {
  v1::ApplyRequest request;
  request.mutable_confirm_within()->set_seconds(seconds);
  return request;
}

TEST(PendingChange, IsRevertedWithoutAConfirmationInTime) {
  v1::PendingChange change = Begin(ConfirmWithin(120));
  EXPECT_FALSE(Advance({}, kNow + absl::Seconds(119), &change).revert);
  const Progress progress = Advance({}, kNow + absl::Seconds(120), &change);
  EXPECT_EQ(progress.revert, RevertCause::kConfirmation);
  EXPECT_EQ(progress.reason, "reverted: not confirmed within 2m");
}

TEST(PendingChange, AConfirmationEndsIt) {
  v1::PendingChange change = Begin(ConfirmWithin(120));
  ASSERT_TRUE(Confirm("bob", kNow + absl::Seconds(60), &change).ok());
  EXPECT_EQ(change.outcome(), v1::PendingChange::KEPT);
  EXPECT_EQ(change.reason(), "confirmed by 'bob'");
  EXPECT_FALSE(Advance({}, kNow + absl::Hours(1), &change).revert);
}

TEST(PendingChange, AStagedOneStaysSoAfterItsConfirmationAndItsGuard) {
  v1::ApplyRequest request = ConfirmWithin(120);
  request.set_to("percent=10");
  request.set_guard("error_rate<1%,for=30s");
  v1::PendingChange change = Begin(request);
  GuardFigures figures;
  figures.with["orders"]["dp-1"] = FiguresOf(100, 0);
  EXPECT_FALSE(Advance(figures, kNow + absl::Seconds(29), &change).changed);
  const Progress progress = Advance(figures, kNow + absl::Seconds(30), &change);
  EXPECT_TRUE(progress.changed);
  EXPECT_FALSE(progress.revert);
  EXPECT_EQ(change.note(), "the guard saw 100 requests: error_rate 0 %");
  ASSERT_TRUE(Confirm("bob", kNow + absl::Seconds(60), &change).ok());
  EXPECT_TRUE(IsStaged(change));
  EXPECT_THAT(std::string(Confirm("bob", kNow, &change).message()), HasSubstr("promote or abandon"));
  ASSERT_TRUE(Promote("bob", kNow + absl::Seconds(90), &change).ok());
  EXPECT_EQ(change.outcome(), v1::PendingChange::KEPT);
  EXPECT_EQ(change.reason(), "promoted by 'bob'");
}

TEST(PendingChange, ABrokenGuardTakesItBackAtOnce) {
  v1::ApplyRequest request;
  request.set_guard("error_rate<1%,for=30s");
  v1::PendingChange change = Begin(request);
  GuardFigures figures;
  figures.with["orders"]["dp-1"] = FiguresOf(100, 50);
  const Progress progress = Advance(figures, kNow + absl::Seconds(2), &change);
  EXPECT_EQ(progress.revert, RevertCause::kGuard);
  EXPECT_EQ(progress.reason, "reverted: error_rate 50 % is not below 1 % on route orders, data plane dp-1");
}

TEST(PendingChange, AGuardAloneEndsItWhenItHolds) {
  v1::ApplyRequest request;
  request.set_guard("error_rate<1%,for=30s");
  v1::PendingChange change = Begin(request);
  EXPECT_TRUE(Advance({}, kNow + absl::Seconds(30), &change).changed);
  EXPECT_EQ(change.outcome(), v1::PendingChange::KEPT);
  EXPECT_EQ(change.note(), "warning: the guard saw no requests on the routes of the change");
}

TEST(PendingChange, RefusesTermsThatItCannotKeep) {
  for (const int seconds : {0, -5, 8 * 24 * 3600}) {
    EXPECT_THAT(std::string(TermsOf(ConfirmWithin(seconds)).status().message()), HasSubstr("1s to 168h"));
  }
  EXPECT_TRUE(TermsOf(v1::ApplyRequest())->final());
}

TEST(PendingChange, ConcernsRoutesByWhatTheyReferTo) {
  ResourceSet set;
  const auto add = [&set](v1::Resource resource) {
    const ResourceKey key = KeyOf(resource);
    set[key].resource = std::make_shared<const v1::Resource>(std::move(resource));
  };
  v1::Resource service = StaticService("orders");
  service.mutable_service()->set_circuit_breaker("hystrix");
  add(service);
  add(StaticService("shop"));
  add(PrefixRoute("orders", "orders"));
  v1::Resource shop = PrefixRoute("shop", "shop");
  shop.mutable_route()->set_auth("partners");
  add(shop);
  EXPECT_THAT(RoutesConcerned(set, {{"CircuitBreaker", "hystrix"}}), ElementsAre("orders"));
  EXPECT_THAT(RoutesConcerned(set, {{"Service", "shop"}, {"Route", "shop"}}), ElementsAre("shop"));
  EXPECT_THAT(RoutesConcerned(set, {{"Defaults", "default"}}), ElementsAre("orders", "shop"));
  EXPECT_THAT(RoutesConcerned(set, {{"Cors", "web"}}), IsEmpty());
  v1::Resource auth;
  auth.mutable_auth()->set_name("partners");
  add(auth);
  EXPECT_THAT(RoutesConcerned(set, {{"Consumer", "acme"}}), ElementsAre("shop"));
}

}  // namespace
}  // namespace gateway::controlplane
