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
#include "common/base/text.h"
#include "common/base/thread.h"
#include "dataplane/http/http1/response_reader.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"
#include "dataplane/policy/health_tracker.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

using std::chrono::milliseconds;

namespace {

HealthTracker::Options ThresholdsOf(const HealthCheckPolicy& policy) { return {policy.healthy, policy.unhealthy}; }

}  // namespace

struct HealthChecker::Impl {
  // For one target. Lives until it is no longer followed and its check has ended.
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
    bool dropped = false;  // no longer followed, while it runs
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

  // Checks of targets that are no longer followed end here, too.
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
      ended.push_back(check);  // freed by the next one: this frame may be in one of its callbacks
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

  // Empty: passed; otherwise the reason.
  Task<std::optional<std::string>> Probe(Check* check) {
    // By value: a new set may change the check during the wait.
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
    if (const std::shared_ptr<tls::EndpointTls> tls = check->target.tls; tls != nullptr) {
      SslPtr ssl = tls->NewSsl();
      if (ssl == nullptr) co_return std::string("TLS: out of memory, or a setting that OpenSSL rejects");
      socket.UseTls(std::move(ssl), "", tls);
      const tls::HandshakeError error = co_await socket.Handshake(deadline);
      if (error != tls::HandshakeError::kNone) {
        const std::string& text = socket.tls()->error_text();
        co_return Concat("TLS: ", tls::HandshakeErrorName(error), text.empty() ? "" : ": ", text);
      }
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
      const auto status = static_cast<uint32_t>(head.status);
      const auto& expected = policy->statuses;
      const bool passes =
          expected.empty() ? status < 300 : std::find(expected.begin(), expected.end(), status) != expected.end();
      if (passes && status >= 200) co_return std::nullopt;
      co_return Concat("status ", status);
    }
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
          if (!check->running) check->timer.Arm(loop.now());  // its settings may have changed
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
