// Fleet limits with real processes: one control plane that leases, ten data planes that count, and clients that send
// twice the limit. Also what data planes report about themselves.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

using ::testing::HasSubstr;
using SteadyClock = std::chrono::steady_clock;
using std::chrono::duration;
using std::chrono::milliseconds;
using namespace std::chrono_literals;

constexpr size_t kDataPlanes = 10;

std::string FleetPolicy(const std::string& limit, const std::string& more = "") {
  return Concat("kind: RateLimit\nname: shared\nkey: []\nlimit: ", limit, "\nscope: fleet\n", more,
                "---\nkind: Route\nname: limited\nmatch: { path: { exact: /limited } }\nrespond: { status: 200 }\n"
                "rate_limits: [shared]\n");
}

struct Sample {
  SteadyClock::time_point sent, answered;
  bool admitted = false;
};

// One client of one data plane, on a kept connection, at an even pace; late requests are still sent.
class PacedClient {
 public:
  PacedClient(uint16_t port, double rate)
      : thread_([this, port, rate] {
          RawClient client(port);
          const auto begin = SteadyClock::now();
          samples_.reserve(static_cast<size_t>(rate * 30));
          for (uint64_t n = 0; !stop_.is_set(); ++n) {
            const auto due = begin + std::chrono::duration_cast<SteadyClock::duration>(
                                         duration<double>(static_cast<double>(n) / rate));
            if (const auto now = SteadyClock::now(); due > now) {
              if (stop_.Wait(std::chrono::ceil<milliseconds>(due - now))) break;
            }
            Sample sample;
            sample.sent = SteadyClock::now();
            const auto response = client.Request("GET", "/limited");
            sample.answered = SteadyClock::now();
            if (!response.ok() || (response->status != 200 && response->status != 429)) {
              ++failures_;
              client = RawClient(port);
              continue;
            }
            sample.admitted = response->status == 200;
            samples_.push_back(sample);
          }
        }) {}
  ~PacedClient() { (void)Stop(); }
  const std::vector<Sample>& Stop() {
    stop_.Set();
    if (thread_.joinable()) thread_.join();
    return samples_;
  }
  int failures() const { return failures_; }

 private:
  Event stop_;
  std::vector<Sample> samples_;
  std::atomic<int> failures_{0};
  std::thread thread_;
};

// The requests certainly admitted within one window: sent after it began, finished before it ended.
size_t MostIn(std::vector<Sample> admitted, SteadyClock::duration window, SteadyClock::time_point* from = nullptr) {
  std::sort(admitted.begin(), admitted.end(), [](const Sample& a, const Sample& b) { return a.sent < b.sent; });
  size_t most = 0;
  for (size_t i = 0; i < admitted.size(); ++i) {
    size_t count = 0;
    const auto end = admitted[i].sent + window;
    for (size_t j = i; j < admitted.size() && admitted[j].sent < end; ++j) count += admitted[j].answered < end ? 1 : 0;
    if (count > most && from != nullptr) *from = admitted[i].sent;
    most = std::max(most, count);
  }
  return most;
}

// What one exact limiter would have admitted of the same requests.
size_t Exactly(std::vector<Sample> offered, size_t requests, SteadyClock::duration window) {
  std::sort(offered.begin(), offered.end(), [](const Sample& a, const Sample& b) { return a.sent < b.sent; });
  std::deque<SteadyClock::time_point> seen;
  size_t admitted = 0;
  for (const Sample& sample : offered) {
    while (!seen.empty() && sample.sent - seen.front() >= window) seen.pop_front();
    if (seen.size() >= requests) continue;
    seen.push_back(sample.sent);
    ++admitted;
  }
  return admitted;
}

class FleetQuota : public ::testing::Test {
 protected:
  void StartDataPlanes(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      planes_.push_back(std::make_unique<DataPlane>(DataPlane::Options{.control_planes = {control_.stream_port()},
                                                                       .name = Concat("dp-", i),
                                                                       .workers = 1,
                                                                       .sets = {"access_log.path=/dev/null"}}));
    }
  }

  // Every data plane has its lease stream and counts all the others.
  bool AllLease() {
    return WaitFor([this] {
      return std::all_of(planes_.begin(), planes_.end(), [this](const auto& plane) {
        return plane->Metric("gateway_quota_connected") == 1 &&
               plane->Metric("gateway_quota_data_planes") == static_cast<double>(planes_.size());
      });
    });
  }

  // A share for each data plane, by Zipf's law: the first has about a third of the total.
  std::vector<double> Skewed(double rate) const {
    std::vector<double> rates;
    for (size_t i = 0; i < planes_.size(); ++i) rates.push_back(1.0 / static_cast<double>(i + 1));
    const double sum = std::accumulate(rates.begin(), rates.end(), 0.0);
    for (double& each : rates) each *= rate / sum;
    return rates;
  }

  struct Outcome {
    std::vector<Sample> offered, admitted;
  };
  // Offers `rate` requests a second until `until` returns.
  Outcome Offer(double rate, const std::function<void()>& until) {
    std::vector<std::unique_ptr<PacedClient>> clients;
    const std::vector<double> rates = Skewed(rate);
    // Several connections for busy data planes, since each waits for its responses.
    for (size_t i = 0; i < planes_.size(); ++i) {
      const int connections = rates[i] > 200 ? 4 : 1;
      for (int c = 0; c < connections; ++c) {
        clients.push_back(std::make_unique<PacedClient>(planes_[i]->port(), rates[i] / connections));
      }
    }
    until();
    Outcome outcome;
    for (auto& client : clients) {
      for (const Sample& sample : client->Stop()) {
        outcome.offered.push_back(sample);
        if (sample.admitted) outcome.admitted.push_back(sample);
      }
      EXPECT_EQ(client->failures(), 0);
    }
    return outcome;
  }

  static std::function<void()> For(milliseconds time) {
    // Never set: waits for the duration of the load.
    return [time] { (void)Event().Wait(time); };
  }

  ControlPlane control_;
  std::vector<std::unique_ptr<DataPlane>> planes_;
};

TEST_F(FleetQuota, AThousandASecondOverTenDataPlanesIsAThousandASecond) {
  StartDataPlanes(kDataPlanes);
  ASSERT_EQ(control_.Apply(FleetPolicy("{ requests: 1000, window: 1s }"), {"--wait"}).exit.code, 0);
  ASSERT_TRUE(AllLease());
  for (const double load : {2.0, 0.8}) {
    const Outcome outcome = Offer(1000 * load, For(6s));
    const size_t most = MostIn(outcome.admitted, 1s);
    const size_t exactly = Exactly(outcome.offered, 1000, 1s);
    const double wrongly = (static_cast<double>(exactly) - static_cast<double>(outcome.admitted.size())) /
                           static_cast<double>(outcome.offered.size());
    printf("load %.1f: offered %zu, let through %zu (exactly: %zu), at most %zu in a second, wrongly refused %.2f %%\n",
           load, outcome.offered.size(), outcome.admitted.size(), exactly, most, 100 * wrongly);
    EXPECT_LE(most, 1070u);
    EXPECT_LE(wrongly, load > 1 ? 0.01 : 0.07);
  }
}

TEST_F(FleetQuota, WithoutTheControlPlaneEachGoesOnAtItsShareAndItsReturnIsNoBurst) {
  StartDataPlanes(kDataPlanes);
  ASSERT_EQ(control_.Apply(FleetPolicy("{ requests: 1000, window: 1s }"), {"--wait"}).exit.code, 0);
  ASSERT_TRUE(AllLease());
  SteadyClock::time_point killed, started;
  const Outcome outcome = Offer(2000, [&] {
    For(2s)();
    control_.Kill();
    killed = SteadyClock::now();
    For(4s)();
    control_.Start();
    started = SteadyClock::now();
    For(4s)();
  });
  const size_t away =
      static_cast<size_t>(std::count_if(outcome.admitted.begin(), outcome.admitted.end(),
                                        [&](const Sample& s) { return s.sent >= killed && s.answered < started; }));
  const double seconds = duration<double>(started - killed).count();
  SteadyClock::time_point from;
  const size_t most = MostIn(outcome.admitted, 1s, &from);
  printf("away %.1f s: %.0f a second; at most %zu in any second, %.1f s after it went\n", seconds,
         static_cast<double>(away) / seconds, most, duration<double>(from - killed).count());
  EXPECT_NEAR(static_cast<double>(away) / seconds, 1000, 150);
  // The window of the failure is the worst: each data plane knows only its own part of it.
  EXPECT_LE(most, 1120u);
  EXPECT_TRUE(AllLease());
}

TEST_F(FleetQuota, DenyAndAllowHoldOnceTheLeaseIsVoid) {
  StartDataPlanes(2);
  for (const auto& [policy, status] : {std::pair{"deny", 429}, std::pair{"allow", 200}}) {
    ASSERT_EQ(
        control_.Apply(FleetPolicy("{ requests: 2, window: 1h }", Concat("on_unavailable: ", policy, "\n")), {"--wait"})
            .exit.code,
        0);
    ASSERT_TRUE(AllLease());
    ASSERT_TRUE(WaitFor([&] { return Fetch(planes_[0]->port(), "GET", "/limited")->status == 429; }));
    control_.Kill();
    // A lease expires after two seconds of silence.
    for (const auto& plane : planes_) {
      ASSERT_TRUE(WaitFor([&] { return plane->Metric("gateway_quota_unavailable{limit=\"shared\"}") == 1; }));
      for (int i = 0; i < 5; ++i) EXPECT_EQ(Fetch(plane->port(), "GET", "/limited")->status, status) << policy;
    }
    control_.Start();
    ASSERT_TRUE(AllLease());
  }
}

// Small limits are exact while one data plane uses them, and exceeded by at most a few requests for each data plane.
TEST_F(FleetQuota, SmallLimitsAreOverByAFewRequestsADataPlaneAtMost) {
  StartDataPlanes(kDataPlanes);
  ASSERT_EQ(control_.Apply(FleetPolicy("{ requests: 10, window: 1h }"), {"--wait"}).exit.code, 0);
  ASSERT_TRUE(AllLease());
  int admitted = 0;
  for (int round = 0; round < 20; ++round) {
    for (const auto& plane : planes_) admitted += Fetch(plane->port(), "GET", "/limited")->status == 200 ? 1 : 0;
  }
  printf("10 an hour over %zu data planes: %d of 200 let through\n", planes_.size(), admitted);
  EXPECT_GE(admitted, 10);
  EXPECT_LE(admitted, 20);
}

TEST_F(FleetQuota, ARefusalHasRetryAfter) {
  StartDataPlanes(1);
  ASSERT_EQ(control_.Apply(FleetPolicy("{ requests: 3, window: 1h }"), {"--wait"}).exit.code, 0);
  ASSERT_TRUE(AllLease());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Fetch(planes_[0]->port(), "GET", "/limited")->status, 200) << i;
  std::string wait;
  EXPECT_TRUE(WaitFor([&] {
    const auto refused = Fetch(planes_[0]->port(), "GET", "/limited");
    EXPECT_EQ(refused->status, 429);
    wait = refused->Field("Retry-After").value_or("0");
    return std::stoi(wait) > 3000;
  })) << wait;
  EXPECT_LE(std::stoi(wait), 3630);
}

TEST_F(FleetQuota, BreakersAndLimitsOfTheFleetAreTold) {
  ScriptedUpstream upstream(Respond([](const UpstreamRequest&) { return MakeResponse(500, "no"); }));
  StartDataPlanes(2);
  ASSERT_EQ(control_
                .Apply(Concat(ServicePolicyYaml({upstream.address()}, "circuit_breaker: quick"),
                              "---\nkind: CircuitBreaker\nname: quick\nrequest_volume_threshold: 2\n---\n",
                              FleetPolicy("{ requests: 1, window: 1h }")),
                       {"--wait"})
                .exit.code,
            0);
  ASSERT_TRUE(AllLease());
  ASSERT_TRUE(WaitFor([&] { return Fetch(planes_[0]->port(), "GET", "/svc")->status == 503; }));
  ASSERT_TRUE(WaitFor([&] { return Fetch(planes_[1]->port(), "GET", "/limited")->status == 429; }));
  const auto told = [&](const char* what, auto holds) {
    std::string out;
    EXPECT_TRUE(WaitFor([&] {
      out = control_.Ctl({what, "-o", "json"}).out;
      return holds(nlohmann::json::parse(out));
    })) << out;
  };
  told("breakers", [](const nlohmann::json& json) {
    int open = 0, closed = 0;
    for (const auto& row : json["items"]) {
      EXPECT_EQ(row["breaker"]["service"], "svc");
      EXPECT_EQ(row["breaker"]["breaker"], "quick");
      (row["data_plane"] == "dp-0" && row["breaker"]["state"] == "open" ? open : closed) += 1;
    }
    return open == 1 && closed == 1;
  });
  EXPECT_THAT(control_.Ctl({"breakers", "svc"}).out, HasSubstr("svc       dp-0         quick     open"));
  told("limits", [](const nlohmann::json& json) {
    for (const auto& row : json["items"]) {
      if (row["data_plane"] == "dp-1" && row["limit"]["name"] == "shared") {
        return row["limit"].value("allowed", 0) >= 1 && row["limit"].value("refused", 0) >= 1;
      }
    }
    return false;
  });
  EXPECT_THAT(control_.Ctl({"limits", "shared"}).out, HasSubstr("dp-1"));
  // A data plane's report is removed with it.
  planes_.pop_back();
  EXPECT_TRUE(WaitFor([&] { return control_.Ctl({"limits", "shared"}).out.find("dp-1") == std::string::npos; }));
}

TEST_F(FleetQuota, DescribeEffectiveShowsEveryPolicyInOrderWithItsSource) {
  ASSERT_EQ(control_
                .Apply(Concat(ServicePolicyYaml({"127.0.0.1:1"}, "load_balancer: { policy: random }",
                                                "rate_limits: [mine]\nbody: { max_bytes: 10MiB }"),
                              "---\nkind: RateLimit\nname: mine\nkey: [client_ip]\nlimit: { requests: 5, window: 1m }\n"
                              "---\nkind: IpAccess\nname: office\nallow: [192.0.2.0/24]\n"
                              "---\nkind: Defaults\nname: default\ncircuit_breaker: hystrix\naccess: office\n"))
                .exit.code,
            0);
  const auto described = control_.Ctl({"describe", "route", "svc", "--effective", "-o", "json"});
  ASSERT_EQ(described.exit.code, 0) << described.err;
  std::vector<std::string> rows;
  const auto json = nlohmann::json::parse(described.out);
  for (const auto& row : json["items"]) {
    rows.push_back(Concat(row["stage"].get<std::string>(), " | ", row["policy"].get<std::string>(), " | ",
                          row["source"].get<std::string>()));
  }
  EXPECT_THAT(rows, ::testing::ElementsAre("access | IpAccess/office | Defaults/default", "cors | none | built-in",
                                           "limits before auth | RateLimit/mine | route", "auth | none | built-in",
                                           "limits after auth | none | route", "body | max_bytes | route",
                                           "breaker | CircuitBreaker/hystrix | Defaults/default",
                                           "balance | load_balancer | Service/svc", "forward | none | built-in",
                                           "forward | timeouts | built-in", "forward | timeout | built-in"));
  EXPECT_THAT(control_.Ctl({"describe", "service", "svc", "--effective"}).out,
              HasSubstr("CircuitBreaker/hystrix   Defaults/default"));
  EXPECT_EQ(control_.Ctl({"describe", "ratelimit", "mine", "--effective"}).exit.code, 2);
}

}  // namespace
}  // namespace gateway::fixtures
