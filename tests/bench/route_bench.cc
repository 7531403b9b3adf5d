// How long a match takes with 10, 1,000, 10,000 and 100,000 routes, hot (one request again and again) and cold
// (requests over all routes), and how long such a set takes to compile.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "common/snapshot.h"

namespace {

// CPU time of this thread: a busy machine disturbs it little.
double CpuMillis() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

double NanosPerMatch(const gateway::Snapshot& snapshot, const std::vector<std::string>& paths) {
  constexpr int kMatches = 1'000'000;
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    gateway::RouteMatch match;
    size_t missed = 0;
    const double begin = CpuMillis();
    for (int i = 0; i < kMatches; ++i) {
      snapshot.Match(
          {.method = "GET", .host = "api.example.com", .path = paths[i % paths.size()], .query = {}, .fields = {}},
          &match);
      missed += static_cast<size_t>(match.route == nullptr);
    }
    best = std::min(best, (CpuMillis() - begin) * 1e6 / kMatches);
    if (missed != 0) std::printf("%zu requests matched nothing\n", missed);
  }
  return best;
}

}  // namespace

int main() {
  std::mt19937 rng(1);
  for (int count : {10, 1000, 10'000, 100'000}) {
    std::vector<gateway::v1::Resource> resources(1);
    resources[0].mutable_service()->set_name("s");
    resources[0].mutable_service()->add_static_()->set_address("127.0.0.1:1");
    std::vector<std::string> paths;
    for (int i = 0; i < count; ++i) {
      gateway::v1::Route& route = *resources.emplace_back().mutable_route();
      route.set_name("route-" + std::to_string(i));
      route.set_service("s");
      const std::string prefix = "/api/v1/service-" + std::to_string(i % 1000) + "/part-" + std::to_string(i);
      route.mutable_match()->mutable_path()->set_prefix(prefix);
      if (paths.size() < 4096) paths.push_back(prefix + "/items/7");
    }
    std::shuffle(paths.begin(), paths.end(), rng);
    std::vector<const gateway::v1::Resource*> pointers;
    for (const gateway::v1::Resource& resource : resources) pointers.push_back(&resource);
    const double begin = CpuMillis();
    const gateway::CompileResult result = gateway::CompileSnapshot(pointers, {});
    const double compile_ms = (CpuMillis() - begin);
    if (result.snapshot == nullptr) return 1;
    std::printf("%6d routes: compiled in %7.1f ms; a match takes %5.1f ns hot, %5.1f ns over %zu paths\n", count,
                compile_ms, NanosPerMatch(*result.snapshot, {paths[0]}), NanosPerMatch(*result.snapshot, paths),
                paths.size());
  }
  return 0;
}
