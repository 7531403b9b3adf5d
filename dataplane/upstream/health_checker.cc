#include "dataplane/upstream/health_checker.h"

#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "common/base/grpc_code.h"
#include "common/base/text.h"
#include "common/base/thread.h"
#include "dataplane/http/grpc.h"
#include "dataplane/http/http1/response_reader.h"
#include "dataplane/http/http2/client_session.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"
#include "dataplane/policy/health_tracker.h"
#include "grpc/health/v1/health.pb.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

using std::chrono::milliseconds;

namespace {

constexpr uint64_t kBufferBytesMax = 64 << 20;  // of kChecksMax connections, with some to spare
constexpr size_t kGrpcPrefixBytes = 5;
constexpr milliseconds kStall = std::chrono::hours(1);  // a check's deadline comes first

HealthTracker::Options ThresholdsOf(const HealthCheckPolicy& policy) { return {policy.healthy, policy.unhealthy}; }

}  // namespace

struct HealthChecker::Impl {
  // One target's. Lives until it is followed no longer and its check has ended.
  struct Check {
    Check(Impl* impl, HealthTarget target)
        : impl(impl),
          target(std::move(target)),
          tracker(ThresholdsOf(*this->target.policy)),
          timer(&impl->loop, OnDue, this) {}
    Impl* const impl;
    HealthTarget target;
    HealthTracker tracker;
    Timer timer;
    bool queued = false;  // in `waiting`
    bool running = false;
    bool dropped = false;  // followed no longer, while it runs
    Socket* socket = nullptr;
    int made = 0;  // up to 2
    std::string failure;
  };

  explicit Impl(std::function<void(TimePoint)> tick) : tick(std::move(tick)), tick_timer(&loop, OnTick, this) {}

  static void OnTick(void* self) {
    Impl& impl = *static_cast<Impl*>(self);
    impl.tick(impl.loop.now());
    impl.tick_timer.Arm(impl.loop.now() + kTickInterval);
  }

  static void OnDue(void* self) {
    Check* check = static_cast<Check*>(self);
    check->impl->Enqueue(check);
    check->impl->StartWaiting();
  }

  void Enqueue(Check* check) {
    if (check->queued || check->running) return;
    check->queued = true;
    waiting.push_back(check);
  }

  void StartWaiting() {
    while (!waiting.empty() && running < kChecksMax && !stopping) {
      Check* check = waiting.front();
      waiting.pop_front();
      check->queued = false;
      check->running = true;
      ++running;
      Run(check);
    }
  }

  // A check that is followed no longer ends in here, too.
  Detached Run(Check* check) {
    std::optional<std::string> failure;
    try {
      failure = co_await Probe(check);
    } catch (const std::exception& error) {
      failure = error.what();
    }
    --running;
    check->running = false;
    if (check->dropped || stopping) {
      ended.push_back(check);  // freed by who comes next: this frame may be in one of its callbacks
    } else {
      Record(check, failure);
      const auto interval = check->target.policy->interval;
      const double share = check->made == 1 ? absl::Uniform(random, 0.0, 1.0) : absl::Uniform(random, 0.9, 1.1);
      check->timer.Arm(loop.now() + std::chrono::duration_cast<TimePoint::duration>(interval * share));
    }
    loop.Defer([this] {
      FreeEnded();
      StartWaiting();
    });
  }

  void FreeEnded() {
    for (Check* each : std::exchange(ended, {})) {
      std::erase_if(dropped, [each](const auto& check) { return check.get() == each; });
    }
    if (stopping && running == 0) loop.Stop();
  }

  void Record(Check* check, const std::optional<std::string>& failure) {
    const HealthTarget& target = check->target;
    check->made = std::min(check->made + 1, 2);
    const bool changed = check->tracker.Record(!failure);
    const bool healthy = check->tracker.healthy();
    if (changed && healthy) target.state->Include(Exclusion::kUnhealthy, loop.now());
    if (changed && !healthy) target.state->Exclude(Exclusion::kUnhealthy);
    if (changed) {
      if (healthy) {
        spdlog::info("service '{}': endpoint {} is healthy again", target.service, target.endpoint);
      } else {
        spdlog::warn("service '{}': endpoint {} is unhealthy: {}", target.service, target.endpoint, *failure);
      }
    }
    absl::MutexLock lock(&mutex);
    if (failure) check->failure = *failure;
    Count& count = counts[target.service];
    ++(failure ? count.failed : count.passed);
    if (healthy) {
      unhealthy.erase(target.state.get());
    } else {
      unhealthy[target.state.get()] = {target.service, target.endpoint, check->failure};
    }
  }

  // Nothing: it passed; else why not.
  Task<std::optional<std::string>> Probe(Check* check) {
    // By value: a new set may change the check while this waits.
    const std::shared_ptr<const HealthCheckPolicy> policy = check->target.policy;
    const TimePoint deadline = loop.now() + policy->timeout;
    sockaddr_storage address = check->target.address;
    if (policy->port != 0) {
      auto& port = address.ss_family == AF_INET ? reinterpret_cast<sockaddr_in&>(address).sin_port
                                                : reinterpret_cast<sockaddr_in6&>(address).sin6_port;
      port = htons(policy->port);
    }
    Socket socket(&loop);
    if (!socket.StartConnect(reinterpret_cast<const sockaddr*>(&address), check->target.address_length)) {
      co_return std::string(errno == ECONNREFUSED ? "connection refused" : strerror(errno));
    }
    check->socket = &socket;
    const struct Forget {
      Check* check;
      ~Forget() { check->socket = nullptr; }
    } forget{check};
    const Wait connected = co_await socket.Writable(deadline);
    if (connected == Wait::kTimeout) co_return std::string("no connection in time");
    if (const int error = socket.ConnectError(); error != 0) {
      co_return std::string(error == ECONNREFUSED ? "connection refused" : strerror(error));
    }
    if (connected != Wait::kReady) co_return std::string("connection refused");
    if (policy->tcp) co_return std::nullopt;
    if (const std::shared_ptr<tls::EndpointTls> endpoint = check->target.tls; endpoint != nullptr) {
      SslPtr ssl = policy->grpc ? endpoint->NewSsl(tls::kAlpnHttp2) : endpoint->NewSsl();
      if (ssl == nullptr) co_return std::string("TLS: out of memory, or a setting that OpenSSL rejects");
      socket.UseTls(std::move(ssl), "", endpoint);
      const tls::HandshakeError error = co_await socket.Handshake(deadline);
      if (error != tls::HandshakeError::kNone) {
        const std::string& text = socket.tls()->error_text();
        co_return Concat("TLS: ", tls::HandshakeErrorName(error), text.empty() ? "" : ": ", text);
      }
    }
    // A gRPC check is of HTTP/2 also where requests are not.
    if (policy->grpc || check->target.protocol != UpstreamProtocol::kHttp1) {
      const bool agreed = socket.tls() == nullptr || socket.tls()->protocol() == "h2";
      if (!agreed && (policy->grpc || check->target.protocol == UpstreamProtocol::kHttp2)) {
        co_return std::string("the endpoint did not select HTTP/2 (ALPN h2)");
      }
      if (agreed) co_return co_await ProbeHttp2(&socket, check->target.endpoint, *policy, deadline);
    }

    const std::string request = Concat(
        "GET ", policy->path, " HTTP/1.1\r\nHost: ", policy->host.empty() ? check->target.endpoint : policy->host,
        "\r\nUser-Agent: gateway-health-check\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    std::array<iovec, 1> parts = {{{const_cast<char*>(request.data()), request.size()}}};
    uint64_t sent = 0;
    const Io written = co_await socket.WriteRest(parts, policy->timeout, &sent, deadline);
    if (written == Io::kAgain) co_return std::string("no response in time");
    std::string answer;
    http1::ResponseReader reader;
    for (;;) {
      const size_t before = answer.size();
      answer.resize(std::min(before + 4096, kAnswerBytesMax));
      if (answer.size() == before) co_return std::string("the response header is too large");
      size_t moved = 0;
      const Io io = socket.Read(answer.data() + before, answer.size() - before, &moved);
      answer.resize(before + moved);
      if (io == Io::kAgain) {
        const Wait wait = co_await socket.Readable(deadline);
        if (wait == Wait::kTimeout) co_return std::string("no response in time");
        if (wait == Wait::kCancelled && moved == 0 && socket.cancelled()) {
          co_return std::string("the connection ended before a response");
        }
        continue;
      }
      if (io != Io::kDone) co_return std::string("the connection ended before a response");
      http1::ResponseHead head;
      using Result = http1::ResponseReader::Result;
      Result result = reader.Read(answer.data(), answer.size(), &head);
      while (result == Result::kInterim) {
        answer.erase(0, reader.head_bytes());
        result = reader.Read(answer.data(), answer.size(), &head);
      }
      if (result == Result::kMore) continue;
      if (result == Result::kRejected) co_return std::string("the response is not HTTP");
      if (Passes(*policy, head.status)) co_return std::nullopt;
      co_return Concat("status ", head.status);
    }
  }

  // The same, over HTTP/2, on a connection that is there.
  Task<std::optional<std::string>> ProbeHttp2(Socket* socket, const std::string& name, const HealthCheckPolicy& policy,
                                              TimePoint deadline) {
    const std::string endpoint = name;  // a new set may change the check while this waits
    http2::ClientSession session(
        &http2, socket, [](void*) {}, nullptr);
    Task<void> serving = session.Serve();
    serving.Start();
    std::optional<std::string> failure;
    try {
      const std::unique_ptr<http::UpstreamStream> stream = session.Open();
      const std::string_view host = policy.host.empty() ? endpoint : policy.host;
      if (policy.grpc) {
        failure = co_await AskGrpc(stream.get(), *socket, host, policy, deadline);
      } else {
        failure = co_await AskHttp(stream.get(), *socket, host, policy, deadline);
      }
    } catch (const std::exception& error) {
      failure = error.what();
    }
    session.Retire();
    co_await serving.Done();
    co_return failure;
  }

  static std::string_view SchemeOf(const Socket& socket) { return socket.tls() != nullptr ? "https" : "http"; }

  // Sends a request and waits for the response's header. Nothing: it is in `*response`.
  static Task<std::optional<std::string>> Exchange(http::UpstreamStream* stream, const http::OutgoingRequest& request,
                                                   http::BodyPiece body, TimePoint deadline,
                                                   http::Response** response) {
    Io io = stream->Begin(request, body);
    if (io == Io::kAgain) io = co_await stream->Flush(kStall, deadline);
    if (io == Io::kAgain) co_return std::string("no response in time");
    if (io == Io::kEnd) co_return std::string("out of memory");
    for (;;) {
      switch (stream->ReadHead(response)) {
        case http::HeadRead::kFinal:
          co_return std::nullopt;
        case http::HeadRead::kInterim:
          break;
        case http::HeadRead::kWait:
          if (co_await stream->Readable(deadline) == Wait::kTimeout) co_return std::string("no response in time");
          break;
        case http::HeadRead::kOverloaded:
          co_return std::string("out of memory");
        case http::HeadRead::kCutShort:
        case http::HeadRead::kInvalid:
          co_return std::string(stream->detail());
      }
    }
  }

  static Task<std::optional<std::string>> AskHttp(http::UpstreamStream* stream, const Socket& socket,
                                                  std::string_view host, const HealthCheckPolicy& policy,
                                                  TimePoint deadline) {
    http::OutgoingRequest request;
    request.method = "GET";
    request.scheme = SchemeOf(socket);
    request.authority = host;
    request.path = policy.path;
    request.lines = "user-agent: gateway-health-check\r\naccept: */*\r\n";
    http::Response* response = nullptr;
    auto failure = co_await Exchange(stream, request, {.last = true}, deadline, &response);
    if (failure) co_return failure;
    if (Passes(policy, response->status)) co_return std::nullopt;
    co_return Concat("status ", response->status);
  }

  // grpc/doc/health-checking.md.
  static Task<std::optional<std::string>> AskGrpc(http::UpstreamStream* stream, const Socket& socket,
                                                  std::string_view host, const HealthCheckPolicy& policy,
                                                  TimePoint deadline) {
    grpc::health::v1::HealthCheckRequest question;
    question.set_service(policy.grpc_service);
    const std::string message = question.SerializeAsString();
    std::string body(kGrpcPrefixBytes, '\0');  // not compressed; the length, which needs one or two bytes
    body[3] = static_cast<char>(message.size() >> 8);
    body[4] = static_cast<char>(message.size());
    body += message;
    http::OutgoingRequest request;
    request.method = "POST";
    request.scheme = SchemeOf(socket);
    request.authority = host;
    request.path = "/grpc.health.v1.Health/Check";
    request.lines = "content-type: application/grpc\r\nuser-agent: gateway-health-check\r\n";
    request.has_body = true;
    request.takes_trailers = true;
    http::Response* response = nullptr;
    auto failure =
        co_await Exchange(stream, request, {.bytes = body, .payload = body.size(), .last = true}, deadline, &response);
    if (failure) co_return failure;
    if (response->status != 200) co_return Concat("status ", response->status);
    int code = http::FindGrpcStatus(response->field_views());
    std::string answer;
    for (http::BodyPiece piece; !piece.last;) {
      switch (stream->Read({}, &piece)) {
        case http::BodyRead::kPiece:
          answer += piece.bytes;
          if (answer.size() > kAnswerBytesMax) co_return std::string("the response is too large");
          if (piece.last && !piece.trailers.empty()) code = http::FindGrpcStatus(piece.trailers);
          break;
        case http::BodyRead::kWait:
          if (co_await stream->Readable(deadline) == Wait::kTimeout) co_return std::string("no response in time");
          break;
        default:
          co_return Concat("the response ended early: ", stream->detail());
      }
    }
    if (code != kGrpcOk) co_return Concat("grpc-status ", code < 0 ? "is missing" : GrpcCodeName(code));
    grpc::health::v1::HealthCheckResponse health;
    if (answer.size() < kGrpcPrefixBytes || answer[0] != '\0' ||
        !health.ParseFromString(answer.substr(kGrpcPrefixBytes))) {
      co_return std::string("the response is no HealthCheckResponse");
    }
    if (health.status() == grpc::health::v1::HealthCheckResponse::SERVING) co_return std::nullopt;
    co_return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(health.status());
  }

  static bool Passes(const HealthCheckPolicy& policy, int status) {
    const std::vector<uint32_t>& expected = policy.statuses;
    if (expected.empty()) return status >= 200 && status < 300;
    return std::find(expected.begin(), expected.end(), static_cast<uint32_t>(status)) != expected.end();
  }

  void Follow(HealthTargets targets) {
    absl::flat_hash_map<const EndpointState*, std::unique_ptr<Check>> next;
    next.reserve(targets.size());
    std::vector<Check*> fresh;
    for (HealthTarget& target : targets) {
      const EndpointState* key = target.state.get();
      if (next.contains(key)) continue;
      if (const auto found = checks.find(key); found != checks.end()) {
        std::unique_ptr<Check> check = std::move(found->second);
        checks.erase(found);
        if (!(*check->target.policy == *target.policy)) {
          check->tracker.Reconfigure(ThresholdsOf(*target.policy));
          check->target = std::move(target);
          if (!check->running) check->timer.Arm(loop.now());  // what it asks may be something else
        }
        next.emplace(key, std::move(check));
        continue;
      }
      auto check = std::make_unique<Check>(this, std::move(target));
      fresh.push_back(check.get());
      next.emplace(key, std::move(check));
    }
    for (auto& [key, check] : checks) Drop(std::move(check));
    checks = std::move(next);
    {
      absl::MutexLock lock(&mutex);
      std::map<std::string, Count> followed;
      for (const auto& [key, check] : checks) {
        const std::string& service = check->target.service;
        if (const auto found = counts.find(service); found != counts.end()) followed[service] = found->second;
      }
      counts = std::move(followed);
    }
    for (Check* check : fresh) Enqueue(check);
    StartWaiting();
  }

  void Drop(std::unique_ptr<Check> check) {
    check->timer.Disarm();
    std::erase(waiting, check.get());
    check->target.state->Include(Exclusion::kUnhealthy, loop.now());
    {
      absl::MutexLock lock(&mutex);
      unhealthy.erase(check->target.state.get());
    }
    if (!check->running) return;
    check->dropped = true;
    Socket* socket = check->socket;
    dropped.push_back(std::move(check));
    if (socket != nullptr) socket->Cancel();
  }

  void Stop() {
    stopping = true;
    for (auto& [key, check] : checks) {
      check->timer.Disarm();
      if (check->running && check->socket != nullptr) check->socket->Cancel();
    }
    if (running == 0) loop.Stop();
  }

  const std::function<void(TimePoint)> tick;
  EventLoop loop;
  BufferBudget budget{kBufferBytesMax};
  BufferPool buffers{&budget};
  http2::ClientMetrics http2_metrics;
  http2::ClientResources http2{&loop, &buffers, &http2_metrics};
  Timer tick_timer;
  absl::InsecureBitGen random;
  absl::flat_hash_map<const EndpointState*, std::unique_ptr<Check>> checks;
  std::vector<std::unique_ptr<Check>> dropped;  // while they run
  std::vector<Check*> ended;
  std::deque<Check*> waiting;
  int running = 0;
  bool stopping = false;

  mutable absl::Mutex mutex;
  absl::flat_hash_map<const EndpointState*, Row> unhealthy ABSL_GUARDED_BY(mutex);
  std::map<std::string, Count> counts ABSL_GUARDED_BY(mutex);
  std::thread thread;
};

HealthChecker::HealthChecker(std::function<void(TimePoint)> tick) : impl_(std::make_unique<Impl>(std::move(tick))) {
  if (impl_->tick) {
    impl_->loop.Post([impl = impl_.get()] { Impl::OnTick(impl); });
  }
  impl_->thread = StartThread("health-checks", ThreadPriority::kBackground, [impl = impl_.get()] { impl->loop.Run(); });
}

HealthChecker::~HealthChecker() {
  impl_->loop.Post([impl = impl_.get()] { impl->Stop(); });
  impl_->thread.join();
}

void HealthChecker::Follow(HealthTargets targets) {
  auto shared = std::make_shared<HealthTargets>(std::move(targets));
  impl_->loop.Post([impl = impl_.get(), shared] {
    if (!impl->stopping) impl->Follow(std::move(*shared));
  });
}

std::vector<HealthChecker::Row> HealthChecker::Unhealthy() const {
  std::vector<Row> rows;
  {
    absl::MutexLock lock(&impl_->mutex);
    for (const auto& [state, row] : impl_->unhealthy) rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return a.service != b.service ? a.service < b.service : a.endpoint < b.endpoint;
  });
  return rows;
}

std::vector<HealthChecker::Count> HealthChecker::Counts() const {
  absl::MutexLock lock(&impl_->mutex);
  std::vector<Count> rows;
  for (const auto& [service, count] : impl_->counts) {
    rows.push_back(count);
    rows.back().service = service;
  }
  return rows;
}

}  // namespace gateway::dataplane
