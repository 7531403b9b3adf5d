// Time of a match with few and many routes, hot (the same request repeatedly) and cold (requests over all routes), and
// time to compile such a set: routes that differ by path, routes of one path that differ by header or query parameter,
// and regexes.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "common/policy/snapshot.h"

namespace {

// CPU time of this thread, which a busy machine hardly disturbs.
double CpuMillis() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

struct Request {
  std::string path;
  std::string query = {};
  std::string tenant = {};
};

double NanosPerMatch(const gateway::Snapshot& snapshot, const std::vector<Request>& requests) {
  double best = 1e9;
  int matches = 1000;
  for (int round = 0; round < 5; ++round) {
    gateway::RouteMatch match;
    size_t missed = 0;
    const double begin = CpuMillis();
    for (int i = 0; i < matches; ++i) {
      const Request& request = requests[i % requests.size()];
      const gateway::FieldView fields[] = {
          {"Host", "api.example.com"}, {"Accept", "*/*"}, {"User-Agent", "bench"}, {"X-Tenant", request.tenant}};
      snapshot.Match(
          {.method = "GET", .host = "api.example.com", .path = request.path, .query = request.query, .fields = fields},
          &match);
      missed += static_cast<size_t>(match.route == nullptr);
    }
    const double millis = CpuMillis() - begin;
    if (missed != 0) std::printf("%zu requests matched nothing\n", missed);
    // The first round determines how many matches the others make.
    if (round > 0) best = std::min(best, millis * 1e6 / matches);
    if (round == 0) matches = std::clamp(static_cast<int>(matches * 100 / std::max(millis, 0.01)), 1000, 1'000'000);
  }
  return best;
}

Request AddPath(int i, gateway::v1::RouteMatch* match) {
  const std::string prefix = "/api/v1/service-" + std::to_string(i % 1000) + "/part-" + std::to_string(i);
  match->mutable_path()->set_prefix(prefix);
  return {.path = prefix + "/items/7"};
}

Request AddHeader(int i, gateway::v1::RouteMatch* match) {
  const std::string tenant = "tenant-" + std::to_string(i);
  match->mutable_path()->set_prefix("/api/v1");
  gateway::v1::HeaderMatch& header = *match->add_headers();
  header.set_name("X-Tenant");
  header.set_exact(tenant);
  return {.path = "/api/v1/items/7", .tenant = tenant};
}

Request AddQuery(int i, gateway::v1::RouteMatch* match) {
  const std::string tenant = "tenant-" + std::to_string(i);
  match->mutable_path()->set_prefix("/api/v1");
  gateway::v1::QueryMatch& query = *match->add_query();
  query.set_name("tenant");
  query.set_exact(tenant);
  return {.path = "/api/v1/items/7", .query = "page=7&tenant=" + tenant};
}

Request AddRegex(int i, gateway::v1::RouteMatch* match) {
  const std::string prefix = "/api/v1/service-" + std::to_string(i);
  match->mutable_path()->set_regex(prefix + "/items/[0-9]+");
  return {.path = prefix + "/items/7"};
}

struct Case {
  const char* name;
  Request (*add)(int i, gateway::v1::RouteMatch* match);
  std::vector<int> counts;
};

}  // namespace

int main() {
  std::mt19937 rng(1);
  for (const Case& each :
       {Case{"path", AddPath, {10, 1000, 10'000, 100'000}}, Case{"header", AddHeader, {2, 10, 1000, 20'000}},
        Case{"query", AddQuery, {2, 10, 1000, 5000}}, Case{"regex", AddRegex, {2, 10, 100, 1000}}}) {
    for (int count : each.counts) {
      std::vector<gateway::v1::Resource> resources(1);
      resources[0].mutable_service()->set_name("s");
      resources[0].mutable_service()->add_static_()->set_address("127.0.0.1:1");
      std::vector<Request> requests;
      for (int i = 0; i < count; ++i) {
        gateway::v1::Route& route = *resources.emplace_back().mutable_route();
        route.set_name("route-" + std::to_string(i));
        route.set_service("s");
        requests.push_back(each.add(i, route.mutable_match()));
      }
      std::shuffle(requests.begin(), requests.end(), rng);
      requests.resize(std::min<size_t>(requests.size(), 4096));
      std::vector<const gateway::v1::Resource*> pointers;
      pointers.reserve(resources.size());
      for (const gateway::v1::Resource& resource : resources) pointers.push_back(&resource);
      const double begin = CpuMillis();
      const gateway::CompileResult result = gateway::CompileSnapshot(pointers, {});
      const double compile_ms = (CpuMillis() - begin);
      if (result.snapshot == nullptr) return 1;
      std::printf("%-6s %6d routes: compiled in %7.1f ms; a match takes %8.1f ns hot, %8.1f ns over %zu requests\n",
                  each.name, count, compile_ms, NanosPerMatch(*result.snapshot, {requests[0]}),
                  NanosPerMatch(*result.snapshot, requests), requests.size());
    }
  }
  return 0;
}
