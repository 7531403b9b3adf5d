// A warm request allocates no memory on a worker. Counted in a real data plane by a preloaded library
// (library/count_allocations.cc), on worker threads only: the log writer, the metrics scraper and the configuration
// threads are not on the request path.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "common/base/digest.h"
#include "common/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "spdlog/fmt/fmt.h"
#include "tests/allocation/counts.h"
#include "tests/fixtures/http2_server.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/token_signer.h"
#include "tests/fixtures/wait_for.h"
#include "tests/integration/programs.h"

namespace gateway::fixtures {
namespace {

// The page that the library writes. Owns the mapping; the file is in `directory`.
class CountsPage {
 public:
  explicit CountsPage(const TempDir& directory)
      : path_(directory.Write("counts", std::string(sizeof(AllocationCounts), '\0'))) {
    const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
    void* page =
        fd < 0 ? MAP_FAILED : mmap(nullptr, sizeof(AllocationCounts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const int error = errno;
    if (fd >= 0) close(fd);
    if (page == MAP_FAILED) throw std::system_error(error, std::generic_category(), path_);
    counts_ = static_cast<AllocationCounts*>(page);
  }
  CountsPage(const CountsPage&) = delete;
  CountsPage& operator=(const CountsPage&) = delete;
  ~CountsPage() { munmap(counts_, sizeof(AllocationCounts)); }

  const std::string& path() const { return path_; }
  AllocationCounts& operator*() const { return *counts_; }
  AllocationCounts* operator->() const { return counts_; }

 private:
  std::string path_;
  AllocationCounts* counts_;
};

// A data plane with one worker and every feature that a request can use: four limits (one in shadow mode, exceeded), a
// breaker, a split over two services with two endpoints each, error details, metrics, a JSON log to a file. The
// windows are long. A limit remembers the times of a key's first requests one by one, and for a new key that memory
// doubles now and then; after 64 requests it is warm too.
class WarmPath : public ::testing::Test {
 protected:
  static constexpr int kWarmUp = 200;
  static constexpr int kCounted = 1000;
  // The log writer keeps up with this many lines at once (they fit into one buffer). A writer that falls behind costs
  // the worker a buffer.
  static constexpr int kLinesAhead = 100;

  WarmPath() : counts_(directory_) {
    std::string policy;
    for (const char* service : {"one", "two"}) {
      Append(&policy, "kind: Service\nname: ", service, "\nstatic:\n");
      for (int i = 0; i < 2; ++i) {
        upstreams_.push_back(std::make_unique<ScriptedUpstream>(Respond(&Answer)));
        Append(&policy, "  - { address: \"", upstreams_.back()->address(), "\" }\n");
      }
      Append(&policy, "load_balancer: { policy: weighted }\ncircuit_breaker: guard\n---\n");
    }
    Append(&policy, "kind: Service\nname: http2\nprotocol: http2\nstatic: [{ address: \"", http2_.address(),
           "\" }]\ncircuit_breaker: guard\n---\n");
    policy +=
        "kind: CircuitBreaker\nname: guard\ntimeout: 10s\nmax_concurrent_requests: 100\n---\n"
        "kind: RateLimit\nname: by-client\nkey: [client_ip]\nlimit: { requests: 1000000, window: 1h }\n---\n"
        "kind: RateLimit\nname: by-path\nkey: [path]\nlimit: { requests: 1000000, window: 1h }\n---\n"
        "kind: RateLimit\nname: by-route\nkey: [route, service, host]\nalgorithm: token_bucket\n"
        "limit: { requests: 1000000, window: 1h, burst: 2000000 }\n---\n"
        "kind: RateLimit\nname: by-header-tried\nkey: [\"header:User-Agent\"]\nalgorithm: fixed_window\nmode: shadow\n"
        "limit: { requests: 1, window: 1h }\n---\n"
        "kind: RateLimit\nname: tight\nkey: [client_ip]\nlimit: { requests: 1, window: 1h }\n---\n"
        "kind: Route\nname: svc\nmatch: { path: { prefix: /svc } }\nrate_limits: [by-client, by-path, by-route, "
        "by-header-tried]\n"
        "split: [{ service: one, weight: 1 }, { service: two, weight: 1 }]\n---\n"
        "kind: Route\nname: template\nmatch: { path: { template: \"/orders/{id}/items\" } }\nservice: one\n"
        "rate_limits: [by-client]\n---\n"
        "kind: IpAccess\nname: here\nallow: [127.0.0.0/8]\ndeny: [127.0.0.2]\n---\n"
        "kind: Cors\nname: web\norigins: [\"https://app.example\"]\ncredentials: true\n---\n"
        "kind: Route\nname: edge\nmatch: { path: { template: \"/edge/{tenant}/**\" } }\n"
        "split: [{ service: one, weight: 1 }, { service: two, weight: 1 }]\nsplit_on: { cookie: sid }\n"
        "access: here\ncors: web\nbody: { max_bytes: 1KiB }\n"
        "request_headers: { remove: [X-Debug], set: { X-Tenant: \"${path.tenant} of ${host} at ${client_ip}\" } }\n"
        "request_query: { remove: [debug], set: { tenant: \"${path.tenant}\" } }\n"
        "response_headers: { remove: [Server], set: { X-Route: \"${route} for ${request_id}\" } }\n---\n"
        "kind: Route\nname: http2\nmatch: { path: { prefix: /http2 } }\nservice: http2\nrate_limits: [by-client]\n---\n"
        "kind: Route\nname: tight\nmatch: { path: { prefix: /tight } }\nservice: one\nrate_limits: [tight]\n---\n"
        "kind: Route\nname: partners\nmatch: { path: { prefix: /partners } }\nservice: one\nauth: partners\n"
        "rate_limits: [by-client, by-consumer]\n---\n"
        "kind: RateLimit\nname: by-consumer\nkey: [consumer, claim:sub]\nlimit: { requests: 1000000, window: 1h "
        "}\n---\n"
        "kind: Auth\nname: partners\nforward: { consumer: X-Consumer, groups: X-Groups, claims: { X-Sub: sub } }\n"
        "allow: { groups: [partners] }\n";
    Append(&policy, "methods: [{ api_key: {} }, { jwt: { issuer: \"https://id.example.com\", jwks: { inline: ",
           nlohmann::json(signer_.Jwks()).dump(), " } } }]\n---\nkind: Consumer\nname: acme\ngroups: [partners]\n",
           "credentials: [{ api_key_sha256: \"", Hex(Sha256("key-of-acme")),
           "\" }, { jwt: { issuer: \"https://id.example.com\", subject: acme-7 } }]\n");
    DataPlane::Options options;
    options.policy = policy;
    options.workers = 1;
    options.sets = {"server.error_details=true", "logging.level=info", "logging.format=json",
                    Concat("access_log.path=", directory_.File("access.log"))};
    options.env = {{"LD_PRELOAD", GATEWAY_COUNT_ALLOCATIONS}, {kAllocationCountsVariable, counts_.path()}};
    gateway_ = std::make_unique<DataPlane>(std::move(options));
    client_ = std::make_unique<RawClient>(gateway_->port());
  }

  static std::string Answer(const UpstreamRequest& request) {
    if (request.target.ends_with("/chunked")) {
      return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + Chunk("some of it, ") + Chunk("and the rest") +
             Chunk("");
    }
    return MakeResponse(200, R"({"message": "a small answer of a service, as many of them are"})",
                        "Content-Type: application/json\r\n");
  }

  // Sends `request` this many times on one connection, each after the response to the previous one, and expects
  // `status`. Waits for their lines in the log.
  void Send(const std::string& request, int times, int status) {
    const int lines_before = LogLines();
    for (int i = 0; i < times; ++i) {
      ASSERT_TRUE(client_->Send(request).ok());
      const auto response = client_->ReadResponse();
      ASSERT_TRUE(response.ok()) << response.status();
      ASSERT_EQ(response->status, status) << response->head << response->body;
      if (i % kLinesAhead == kLinesAhead - 1 || i == times - 1) {
        ASSERT_TRUE(WaitFor([&] { return LogLines() >= lines_before + i + 1; }));
      }
    }
  }

  // The number of allocations by the worker for kCounted warm `request`s.
  // A response may arrive in other pieces than all before it; pools then grow for the first time. So the request is
  // counted again: what allocates each time does so the third time, too.
  uint64_t AllocationsOf(const std::string& request, int status = 200) {
    Send(request, kWarmUp, status);
    uint64_t count = 1;
    for (int i = 0; i < 3 && count > 0 && !HasFatalFailure(); ++i) {
      const uint64_t before = counts_->of_workers.load();
      counts_->stacks_taken.store(0);
      counts_->take_stacks.store(1);
      Send(request, kCounted, status);
      counts_->take_stacks.store(0);
      count = counts_->of_workers.load() - before;
    }
    return count;
  }

  int LogLines() {
    std::ifstream log(directory_.File("access.log"));
    log.seekg(log_read_);
    for (std::string line; std::getline(log, line) && !log.eof();) {
      log_read_ = log.tellg();
      ++log_lines_;
    }
    return log_lines_;
  }

  // The callers that allocated, for failure messages: `addr2line -Cfie gateway-dataplane` turns the addresses into
  // lines.
  std::string Stacks() const {
    std::string text = Concat("addr2line -Cfie ", BinaryPath("gateway-dataplane"));
    const uint32_t taken = std::min(counts_->stacks_taken.load(), AllocationCounts::kStacksMax);
    for (uint32_t i = 0; i < taken; ++i) {
      text += "\n ";
      for (const uintptr_t frame : counts_->stacks[i]) {
        if (frame != 0) Append(&text, fmt::format(" {:#x}", frame - counts_->program_base.load()));
      }
    }
    return text;
  }

  const TokenSigner signer_{JwsAlgorithm::kEs256};
  TempDir directory_;
  CountsPage counts_;
  std::vector<std::unique_ptr<ScriptedUpstream>> upstreams_;
  Http2Upstream http2_{&EchoHttp2};
  std::unique_ptr<DataPlane> gateway_;
  std::unique_ptr<RawClient> client_;
  std::streamoff log_read_ = 0;
  int log_lines_ = 0;
};

TEST_F(WarmPath, LibraryCountsWhatAWorkerAllocates) {
  // Otherwise the zeros below would prove nothing.
  ASSERT_EQ(counts_->loaded.load(), 1u);
  EXPECT_GT(counts_->of_others.load(), 0u);
  const uint64_t before = counts_->of_workers.load();
  RawClient fresh(gateway_->port());
  const auto response = fresh.Request("GET", "/svc");
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_GT(counts_->of_workers.load(), before) << "a new connection takes memory";
}

TEST_F(WarmPath, SmallGetAllocatesNothing) {
  EXPECT_EQ(AllocationsOf("GET /svc/small?id=17 HTTP/1.1\r\nHost: api.example\r\nUser-Agent: test\r\n\r\n"), 0u)
      << Stacks();
}

TEST_F(WarmPath, SmallPostAllocatesNothing) {
  EXPECT_EQ(AllocationsOf("POST /svc/small HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n"
                          "Content-Length: 26\r\n\r\n{\"order\": 17, \"items\": []}"),
            0u)
      << Stacks();
}

TEST_F(WarmPath, TwentyFieldsAllocateNothing) {
  std::string request = "GET /svc/small HTTP/1.1\r\nHost: api.example\r\n";
  for (int i = 1; i < 20; ++i) Append(&request, "X-Field-", i, ": a value as long as such values are, ", i, "\r\n");
  EXPECT_EQ(AllocationsOf(request + "\r\n"), 0u) << Stacks();
}

// All at once: access by address, CORS, a body limit, a sticky split, header and query edits.
TEST_F(WarmPath, EdgePolicyAllocatesNothing) {
  EXPECT_EQ(AllocationsOf("POST /edge/acme/orders?id=17&debug=1 HTTP/1.1\r\nHost: api.example\r\nX-Debug: 1\r\n"
                          "Origin: https://app.example\r\nCookie: theme=dark; sid=a-session-of-some-length\r\n"
                          "Content-Length: 13\r\n\r\n{\"order\": 17}"),
            0u)
      << Stacks();
}

TEST_F(WarmPath, ChunkedAnswerAllocatesNothing) {
  EXPECT_EQ(AllocationsOf("GET /svc/chunked HTTP/1.1\r\nHost: api.example\r\n\r\n"), 0u) << Stacks();
}

TEST_F(WarmPath, HttpToAnEndpointOfHttp2AllocatesNothing) {
  EXPECT_EQ(AllocationsOf("GET /http2/small?id=17 HTTP/1.1\r\nHost: api.example\r\nUser-Agent: test\r\n\r\n"), 0u)
      << Stacks();
  EXPECT_EQ(AllocationsOf("POST /http2/small HTTP/1.1\r\nHost: api.example\r\nContent-Type: application/json\r\n"
                          "Content-Length: 26\r\n\r\n{\"order\": 17, \"items\": []}"),
            0u)
      << Stacks();
}

TEST_F(WarmPath, AnApiKeyAllocatesNothing) {
  EXPECT_EQ(AllocationsOf("GET /partners HTTP/1.1\r\nHost: api.example\r\nX-API-Key: key-of-acme\r\n\r\n"), 0u)
      << Stacks();
}

TEST_F(WarmPath, AKnownTokenAllocatesNothing) {
  const std::string token =
      signer_.Sign(R"({"iss":"https://id.example.com","sub":"acme-7","exp":4102444800,"scope":"a b c"})");
  EXPECT_EQ(
      AllocationsOf(Concat("GET /partners HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bearer ", token, "\r\n\r\n")),
      0u)
      << Stacks();
}

// The cost of less usual requests, which do allocate: reported, not bounded.
TEST_F(WarmPath, RareRequestsAreReported) {
  const auto report = [&](const char* name, const std::string& request, int status) {
    const uint64_t count = AllocationsOf(request, status);
    RecordProperty(name, std::to_string(count));
    std::printf("%-28s %llu allocations in %d requests\n", name, static_cast<unsigned long long>(count), kCounted);
  };
  report("template_route", "GET /orders/17/items HTTP/1.1\r\nHost: a\r\n\r\n", 200);
  report("path_to_normalise", "GET /svc/./a//b/%7Esmall HTTP/1.1\r\nHost: a\r\n\r\n", 200);
  report("no_route", "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404);
  ASSERT_TRUE(Fetch(gateway_->port(), "GET", "/tight").ok());  // takes the only token
  report("rate_limited", "GET /tight HTTP/1.1\r\nHost: a\r\n\r\n", 429);
}

}  // namespace
}  // namespace gateway::fixtures
