#include "dataplane/telemetry/metrics.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

std::string TextOf(const std::vector<prometheus::MetricFamily>& families) {
  return prometheus::TextSerializer().Serialize(families);
}

std::optional<prometheus::MetricFamily> FamilyNamed(const std::vector<prometheus::MetricFamily>& families,
                                                    const std::string& name) {
  for (const auto& family : families) {
    if (family.name == name) return family;
  }
  return std::nullopt;
}

TEST(Metrics, MethodsOutsideTheListAreClamped) {
  for (const char* name : {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    EXPECT_EQ(MethodName(MethodOf(name)), name);
  }
  for (const char* name : {"", "get", "BREW", "OPTIONSX", "TRACE"}) EXPECT_EQ(MethodName(MethodOf(name)), "OTHER");
}

TEST(Metrics, CountsOfAllWorkersAreOneSeries) {
  MetricsRegistry registry(2);
  const uint32_t service = registry.RegisterService("orders");
  const uint32_t series = registry.RegisterSeries("orders", "/users/{id}");
  registry.shard(0)->Record(service, series, Method::kGet, 200, Reason::kNone, 1ms);
  registry.shard(1)->Record(service, series, Method::kGet, 404, Reason::kNone, 1ms);
  registry.shard(1)->Record(service, series, Method::kPost, 429, Reason::kRateLimited, 1ms);

  const std::string text = TextOf(registry.Collect());
  EXPECT_THAT(text, HasSubstr("api_requests_total{service=\"orders\",method=\"GET\",path=\"/users/{id}\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("api_requests_total{service=\"orders\",method=\"POST\",path=\"/users/{id}\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("api_successes_total{service=\"orders\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("api_errors_total{service=\"orders\",error_type=\"rate_limited\"} 1\n"));
}

TEST(Metrics, AServersErrorOfTheServiceIsNoSuccessAndHasItsOwnType) {
  MetricsRegistry registry(1);
  const uint32_t service = registry.RegisterService("orders");
  registry.shard(0)->Record(service, registry.RegisterSeries("orders", "/"), Method::kGet, 500, Reason::kNone, 1ms);
  const std::string text = TextOf(registry.Collect());
  EXPECT_THAT(text, HasSubstr("api_errors_total{service=\"orders\",error_type=\"upstream_5xx\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("api_successes_total{service=\"orders\"} 0\n"));
}

TEST(Metrics, EveryReasonHasItsOwnErrorType) {
  MetricsRegistry registry(1);
  const uint32_t service = registry.RegisterService("orders");
  for (int reason = 1; reason < kReasonCount; ++reason) {
    registry.shard(0)->Record(service, 0, Method::kGet, 500, static_cast<Reason>(reason), 1ms);
  }
  const std::string text = TextOf(registry.Collect());
  for (int reason = 1; reason < kReasonCount; ++reason) {
    const std::string word(InfoOf(static_cast<Reason>(reason)).word);
    EXPECT_THAT(text, HasSubstr("api_errors_total{service=\"orders\",error_type=\"" + word + "\"} 1\n"));
  }
}

TEST(Metrics, HistogramHasPrometheusDefaultBucketsWithInclusiveBounds) {
  MetricsRegistry registry(2);
  const uint32_t service = registry.RegisterService("orders");
  registry.shard(0)->Record(service, 0, Method::kGet, 200, Reason::kNone, 5ms);  // equal to the first bound: inside it
  registry.shard(0)->Record(service, 0, Method::kGet, 200, Reason::kNone, 5ms + 1ns);
  registry.shard(1)->Record(service, 0, Method::kGet, 200, Reason::kNone, 2s);
  registry.shard(1)->Record(service, 0, Method::kGet, 200, Reason::kNone, 11s);
  registry.shard(1)->Record(service, 0, Method::kGet, 200, Reason::kNone, -1s);  // a clock that went back: 0

  const auto family = FamilyNamed(registry.Collect(), "api_response_time_seconds");
  ASSERT_TRUE(family);
  ASSERT_EQ(family->metric.size(), 1u);
  const auto& histogram = family->metric[0].histogram;
  std::vector<double> bounds;
  std::vector<uint64_t> counts;
  for (const auto& bucket : histogram.bucket) {
    bounds.push_back(bucket.upper_bound);
    counts.push_back(bucket.cumulative_count);
  }
  EXPECT_THAT(bounds, testing::ElementsAre(.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10,
                                           std::numeric_limits<double>::infinity()));
  EXPECT_THAT(counts, testing::ElementsAre(2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5));
  EXPECT_EQ(histogram.sample_count, 5u);
  EXPECT_NEAR(histogram.sample_sum, 13.010000001, 1e-9);
}

TEST(Metrics, ANameKeepsItsId) {
  MetricsRegistry registry(1);
  EXPECT_EQ(registry.RegisterService("unknown"), MetricsRegistry::kUnknownService);
  EXPECT_EQ(registry.RegisterService("gateway"), MetricsRegistry::kBuiltinService);
  EXPECT_EQ(registry.RegisterSeries("unknown", "unmatched"), MetricsRegistry::kNoRouteSeries);
  EXPECT_EQ(registry.RegisterSeries("gateway", "/health"), MetricsRegistry::kHealthSeries);
  EXPECT_EQ(registry.RegisterSeries("gateway", "/test-rate-limit"), MetricsRegistry::kTestRateLimitSeries);
  EXPECT_EQ(registry.RegisterSeries("gateway", "/metrics"), MetricsRegistry::kMetricsSeries);
  const uint32_t service = registry.RegisterService("orders");
  const uint32_t series = registry.RegisterSeries("orders", "/a");
  EXPECT_NE(registry.RegisterSeries("orders", "/b"), series);
  EXPECT_NE(registry.RegisterSeries("other-orders", "/a"), series);
  EXPECT_EQ(registry.RegisterService("orders"), service);
  EXPECT_EQ(registry.RegisterSeries("orders", "/a"), series);
}

TEST(Metrics, PastTheLimitsNewNamesShareOneSeries) {
  MetricsRegistry registry(1);
  uint32_t service = 0, series = 0;
  for (uint32_t i = 0; i <= MetricsRegistry::kServicesMax; ++i) {
    service = registry.RegisterService("s" + std::to_string(i));
  }
  for (uint32_t i = 0; i <= MetricsRegistry::kSeriesMax; ++i) {
    series = registry.RegisterSeries("s", std::to_string(i));
  }
  EXPECT_EQ(registry.RegisterService("one-more"), service);
  EXPECT_EQ(registry.RegisterSeries("one-more", "/"), series);
  EXPECT_EQ(registry.RegisterService("s7"), registry.RegisterService("s7"));
  EXPECT_NE(registry.RegisterService("s7"), service);

  registry.shard(0)->Record(service, series, Method::kGet, 200, Reason::kNone, 1ms);
  const std::string text = TextOf(registry.Collect());
  EXPECT_THAT(text, HasSubstr("api_requests_total{service=\"other\",method=\"GET\",path=\"other\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("api_successes_total{service=\"other\"} 1\n"));
}

struct Churn {
  std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now();
  MetricsRegistry registry{2, {.keep_removed_for = 10min, .clock = [this] { return now; }}};
  std::string Page() { return TextOf(registry.Collect()); }
};

TEST(Metrics, SeriesOfWhatHasLeftStayForAWhileAndThenGo) {
  Churn churn;
  {
    const MetricId service = churn.registry.RegisterService("gone");
    const MetricId series = churn.registry.RegisterSeries("gone", "/a");
    churn.registry.shard(0)->Record(service, series, Method::kGet, 200, Reason::kNone, 1ms);
    churn.now += 1h;  // it stays as long as it is held
    EXPECT_THAT(churn.Page(), HasSubstr("service=\"gone\""));
  }
  EXPECT_THAT(churn.Page(), HasSubstr("api_requests_total{service=\"gone\",method=\"GET\",path=\"/a\"} 1\n"));
  churn.now += 9min + 59s;
  EXPECT_THAT(churn.Page(), HasSubstr("api_successes_total{service=\"gone\"} 1\n"));
  churn.now += 2s;
  EXPECT_THAT(churn.Page(), Not(HasSubstr("gone")));
}

TEST(Metrics, WhatReturnsBeforeItIsDroppedGoesOnCounting) {
  Churn churn;
  const auto count = [&churn] {
    const MetricId service = churn.registry.RegisterService("back");
    const MetricId series = churn.registry.RegisterSeries("back", "/a");
    churn.registry.shard(1)->Record(service, series, Method::kGet, 200, Reason::kNone, 1ms);
  };
  for (int i = 1; i <= 5; ++i) {
    count();
    EXPECT_THAT(churn.Page(), HasSubstr("path=\"/a\"} " + std::to_string(i) + "\n"));
    churn.now += 9min;  // a return restarts the wait
  }
  churn.now += 2min;
  EXPECT_THAT(churn.Page(), Not(HasSubstr("back")));
  count();
  EXPECT_THAT(churn.Page(), HasSubstr("path=\"/a\"} 1\n"));
}

TEST(Metrics, FreedSlotsAreReusedFromZero) {
  Churn churn;
  const MetricId living = churn.registry.RegisterService("living");
  const MetricId living_series = churn.registry.RegisterSeries("living", "/");
  uint64_t asked = 0;
  size_t page_bytes = 0;
  for (int round = 0; round < 12; ++round) {  // four times as many names in total as there are slots
    std::vector<MetricId> held;
    for (uint32_t i = 0; i < MetricsRegistry::kServicesMax / 3; ++i) {
      const std::string name = "s" + std::to_string(round) + "-" + std::to_string(i);
      held.push_back(churn.registry.RegisterService(name));
      held.push_back(churn.registry.RegisterSeries(name, "/"));
      ASSERT_LT(static_cast<uint32_t>(held[held.size() - 2]), MetricsRegistry::kServicesMax) << name;
      if (i % 100 == 0) {
        churn.registry.shard(0)->Record(held[held.size() - 2], held.back(), Method::kGet, 200, Reason::kNone, 1ms);
      }
    }
    churn.registry.shard(0)->Record(living, living_series, Method::kGet, 200, Reason::kNone, 1ms);
    ++asked;
    const std::string page = churn.Page();
    EXPECT_THAT(page, HasSubstr("api_successes_total{service=\"living\"} " + std::to_string(asked) + "\n"));
    EXPECT_THAT(page, HasSubstr("api_successes_total{service=\"s" + std::to_string(round) + "-100\"} 1\n"));
    EXPECT_THAT(page, Not(HasSubstr("service=\"other\"")));
    if (round == 0) page_bytes = page.size();
    EXPECT_LE(page.size(), 2 * page_bytes + 10'000) << round;
    held.clear();
    churn.registry.DropRemoved();
    churn.now += 11min;
    churn.registry.DropRemoved();
  }
  EXPECT_LE(churn.Page().size(), 10'000u);
}

TEST(Metrics, AnIdThatWasNeverGivenOutIsCountedAsOther) {
  MetricsRegistry registry(1);
  registry.shard(0)->Record(5000, 50'000, Method::kGet, 200, Reason::kNone, 1ms);
  registry.shard(0)->Record(~0u, ~0u, Method::kGet, 200, Reason::kNone, 1ms);
  EXPECT_THAT(TextOf(registry.Collect()),
              HasSubstr("api_requests_total{service=\"other\",method=\"GET\",path=\"other\"} 2\n"));
}

TEST(Metrics, GaugesOfAllWorkersAreSummed) {
  MetricsRegistry registry(2);
  registry.shard(0)->Add(WorkerGauge::kClientConnections, 3);
  registry.shard(1)->Add(WorkerGauge::kClientConnections, 2);
  registry.shard(1)->Add(WorkerGauge::kClientConnections, -1);
  registry.shard(1)->Add(WorkerGauge::kBytesSent, 5'000'000'000);
  EXPECT_EQ(registry.shard(1)->Get(WorkerGauge::kClientConnections), 1);

  const std::string text = TextOf(registry.Collect());
  EXPECT_THAT(text, HasSubstr("# TYPE gateway_connections gauge\ngateway_connections 4\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE gateway_sent_bytes_total counter\ngateway_sent_bytes_total 5000000000\n"));
  for (const char* name :
       {"gateway_connections_total", "gateway_upstream_connections", "gateway_upstream_idle_connections",
        "gateway_upstream_connects_total", "gateway_upstream_reuses_total", "gateway_requests_in_flight",
        "gateway_received_bytes_total", "gateway_buffer_bytes", "gateway_accept_errors_total",
        "gateway_bad_requests_total", "gateway_retries_total"}) {
    EXPECT_THAT(text, HasSubstr(std::string(name) + " 0\n"));
  }
}

TEST(Metrics, SourcesAreAskedAtEachScrape) {
  MetricsRegistry registry(1);
  int scrapes = 0;
  registry.AddSource([&scrapes, &registry] {
    registry.RegisterService("made-by-a-source");  // must not hold the registry's lock
    prometheus::MetricFamily family;
    family.name = "gateway_scrapes";
    family.type = prometheus::MetricType::Gauge;
    family.metric.resize(1);
    family.metric[0].gauge.value = ++scrapes;
    return std::vector<prometheus::MetricFamily>{family};
  });
  EXPECT_THAT(TextOf(registry.Collect()), HasSubstr("gateway_scrapes 1\n"));
  EXPECT_THAT(TextOf(registry.Collect()), HasSubstr("gateway_scrapes 2\n"));
}

// Two workers count, one thread registers new series (new chunks) and one scrapes: nothing is lost, and scraped values
// never decrease. Most useful under ThreadSanitizer.
TEST(Metrics, WorkersCountWhileSeriesAreRegisteredAndScraped) {
  constexpr int kRequests = 20'000;
  MetricsRegistry registry(2);
  const uint32_t service = registry.RegisterService("orders");
  std::atomic<uint32_t> newest{registry.RegisterSeries("orders", "/0")};
  std::atomic<bool> counted{false};

  std::thread registrar([&] {
    for (int i = 1; i < 3000; ++i) newest = registry.RegisterSeries("orders", "/" + std::to_string(i));
  });
  std::vector<std::thread> workers;
  for (int worker = 0; worker < 2; ++worker) {
    workers.emplace_back([&, worker] {
      for (int i = 0; i < kRequests; ++i) {
        registry.shard(worker)->Record(service, newest, Method::kGet, 200, Reason::kNone, 1ms);
      }
    });
  }
  std::thread scraper([&] {
    double before = 0;
    while (!counted) {
      const auto successes = FamilyNamed(registry.Collect(), "api_successes_total");
      const double now = successes->metric.empty() ? 0 : successes->metric[0].counter.value;
      EXPECT_GE(now, before);
      before = now;
    }
  });
  registrar.join();
  for (auto& worker : workers) worker.join();
  counted = true;
  scraper.join();

  double sum = 0;
  const auto requests = FamilyNamed(registry.Collect(), "api_requests_total");
  ASSERT_TRUE(requests);
  for (const auto& metric : requests->metric) sum += metric.counter.value;
  EXPECT_EQ(sum, 2 * kRequests);
}

TEST(Metrics, ProcessFamiliesTellOfThisProcess) {
  const auto families = ProcessFamilies("gateway-dataplane");
  std::map<std::string, double> values;
  for (const auto& family : families) {
    ASSERT_EQ(family.metric.size(), 1u);
    values[family.name] =
        family.type == prometheus::MetricType::Counter ? family.metric[0].counter.value : family.metric[0].gauge.value;
  }
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_GE(values["process_open_fds"], 3);
  EXPECT_EQ(values["process_max_fds"], sysconf(_SC_OPEN_MAX));
  EXPECT_GT(values["process_resident_memory_bytes"], 1e6);
  EXPECT_GT(values["process_virtual_memory_bytes"], values["process_resident_memory_bytes"]);
  EXPECT_GE(values["process_threads"], 1);
  EXPECT_LE(values["process_start_time_seconds"], now + 1);
  EXPECT_GT(values["process_start_time_seconds"], now - 3600);
  EXPECT_EQ(values.count("process_cpu_seconds_total"), 1u);
  EXPECT_THAT(TextOf(families), HasSubstr("gateway_build_info{version=\"" + std::string(kVersion) +
                                          "\",component=\"gateway-dataplane\"} 1\n"));
}

}  // namespace
}  // namespace gateway::dataplane
