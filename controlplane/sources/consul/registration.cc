#include "controlplane/sources/consul/registration.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "controlplane/sources/consul/decoder.h"
#include "controlplane/sources/consul/http_client.h"
#include "controlplane/sources/consul/pace.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Json = nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kCompareInterval{5000};
constexpr milliseconds kRequestTimeout{5000};
constexpr milliseconds kProbeTimeoutMax{2000};
constexpr const char* kDeregisterAfter = "10m";
constexpr const char* kDrainCheckTtl = "8760h";
constexpr size_t kInstancesRegisteredMax = 10'000;
constexpr size_t kRegistrationsAtOnce = 16;  // connections to the agent and probes
// What Consul allows of a service's meta.
constexpr size_t kMetaMax = 64;
constexpr size_t kMetaKeyBytesMax = 128;
constexpr size_t kMetaValueBytesMax = 512;
constexpr const char* kFingerprint = "registration";

std::string BracketV6(const std::string& host) {
  return host.find(':') == std::string::npos ? host : absl::StrCat("[", host, "]");
}

std::string MetaKey(std::string_view key) {
  std::string clean = "label-";
  for (const unsigned char c : key)
    clean += absl::ascii_isalnum(c) || c == '-' || c == '_' ? static_cast<char>(c) : '_';
  return clean.substr(0, kMetaKeyBytesMax);
}

// FNV-1a: the same in every process, unlike absl::Hash.
std::string Fingerprint(std::string_view text) {
  uint64_t hash = 14695981039346656037u;
  for (const unsigned char c : text) hash = (hash ^ c) * 1099511628211u;
  return absl::StrFormat("%016x", hash);
}

// What one instance shall look like in Consul.
struct Wanted {
  RegisteredInstance instance;
  std::string id;
  Json body;           // of /v1/agent/service/register, without the check's first status
  AgentService shape;  // what /v1/agent/services then says
};

// A check that nothing ever passes, beside the one of its health.
Json DrainCheck(const std::string& id) {
  return {{"CheckID", absl::StrCat(id, "-drained")},
          {"Name", "drained by an operator (gatewayctl drain)"},
          {"TTL", kDrainCheckTtl},
          {"Status", "critical"}};
}

Wanted MakeWanted(const RegistrationOptions& options, const RegisteredInstance& instance, bool drained) {
  Wanted wanted;
  wanted.instance = instance;
  wanted.id = absl::StrCat(options.service_name, "-", instance.name);
  std::vector<std::string> tags;
  std::map<std::string, std::string> meta;
  const auto tell = [&](const std::string& tag, std::string key, const std::string& value) {
    if (value.empty() || value.size() > kMetaValueBytesMax || meta.size() + 1 >= kMetaMax) return;
    if (meta.emplace(std::move(key), value).second) tags.push_back(absl::StrCat(tag, "=", value));
  };
  tell("version", "version", instance.version);
  tell("zone", "zone", instance.zone);
  for (const auto& [key, value] : instance.labels) tell(key, MetaKey(key), value);

  wanted.body = {
      {"ID", wanted.id},
      {"Name", options.service_name},
      {"Address", instance.host},
      {"Port", instance.port},
      {"Tags", tags},
      {"Meta", meta},
      {"Check",
       {{"CheckID", absl::StrCat("service:", wanted.id)},  // Consul's own choice as long as it is the only one
        {"Name", "health of the data plane"},
        {"HTTP", absl::StrCat("http://", BracketV6(instance.host), ":", instance.health_port, "/health")},
        {"Interval", absl::StrCat(options.check_interval.count(), "ms")},
        {"Timeout", absl::StrCat(options.check_timeout.count(), "ms")},
        {"DeregisterCriticalServiceAfter", kDeregisterAfter}}},
  };
  if (drained) wanted.body["Checks"] = Json::array({DrainCheck(wanted.id)});
  // The list of services doesn't show their checks; through this, one with another check is seen to differ.
  meta[kFingerprint] = Fingerprint(wanted.body.dump(-1, ' ', false, Json::error_handler_t::replace));
  wanted.body["Meta"] = meta;
  wanted.shape = {options.service_name, instance.host, instance.port, std::move(tags), std::move(meta)};
  return wanted;
}

bool Matches(const AgentService& shape, const AgentService& registered) {
  return shape.service == registered.service && shape.address == registered.address && shape.port == registered.port &&
         shape.tags == registered.tags && shape.meta == registered.meta;
}

}  // namespace

struct ConsulRegistration::Impl {
  struct Entry {
    std::optional<Wanted> wanted;  // nothing: to be taken out
    bool announced = true;         // Register was called since the last time that it was registered
    uint64_t generation = 0;       // of the last call about it
  };

  explicit Impl(RegistrationOptions registration) : options(std::move(registration)) {}

  const RegistrationOptions options;
  absl::Mutex mutex;
  std::map<std::string, Entry> entries ABSL_GUARDED_BY(mutex);  // by ID
  uint64_t generations ABSL_GUARDED_BY(mutex) = 0;
  std::set<std::string> drained ABSL_GUARDED_BY(mutex);  // names; at most DataPlaneDrains::kDrainsMax

  // The rest belongs to the thread.
  asio::io_context io{1};
  asio::steady_timer wake{io};
  bool woken = false;
  bool stopping = false;
  const std::shared_ptr<AgentConnections> connections = std::make_shared<AgentConnections>(io, options.access);
  ConsulHttp agent{connections};
  std::vector<std::shared_ptr<ConsulHttp>> busy;  // connections of the pass under way
  std::string last_error;
  uint64_t jitter_state = 0x9e3779b97f4a7c15;
  std::thread thread;

  void Wake() {
    asio::post(io, [this] {
      woken = true;
      wake.cancel();
    });
  }

  double Unit() {  // xorshift: spread is all that is asked of it
    jitter_state ^= jitter_state << 13;
    jitter_state ^= jitter_state >> 7;
    jitter_state ^= jitter_state << 17;
    return static_cast<double>(jitter_state >> 11) * 0x1.0p-53;
  }

  void Say(const absl::Status& status) {
    const std::string text = status.ok() ? "" : std::string(status.message());
    if (text == last_error) return;
    if (text.empty()) {
      spdlog::info("consul: data planes are registered again");
    } else {
      spdlog::warn("consul: registering data planes: {}", text);
    }
    last_error = text;
  }

  asio::awaitable<void> Run() {
    RetryDelay retry;
    while (!stopping) {
      woken = false;
      const absl::Status status = co_await Pass();
      if (stopping) break;
      Say(status);
      milliseconds pause = kCompareInterval;
      if (status.ok()) {
        retry.Reset();
      } else {
        pause = retry.Next(Unit());
      }
      // A call that came during the pass is served at once, unless Consul is failing.
      if (woken && status.ok()) continue;
      wake.expires_after(pause);
      error_code ignored;  // cancelled: woken
      co_await wake.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
  }

  // One comparison of what is wanted with what is there, and what follows. The first failure.
  asio::awaitable<absl::Status> Pass() {
    {
      absl::MutexLock lock(&mutex);
      if (entries.empty()) co_return absl::OkStatus();
    }
    const absl::StatusOr<ConsulResponse> response = co_await agent.Get("/v1/agent/services", kRequestTimeout);
    if (absl::Status status = CheckResponse(response); !status.ok()) co_return status;
    const auto registered = DecodeAgentServices(response->body);
    if (!registered.ok()) co_return registered.status();

    std::vector<std::pair<std::string, Entry>> due;
    {
      absl::MutexLock lock(&mutex);
      for (auto it = entries.begin(); it != entries.end();) {
        const auto& [id, entry] = *it;
        const auto there = registered->find(id);
        if (entry.wanted.has_value()) {
          if (there == registered->end() || !Matches(entry.wanted->shape, there->second)) {
            due.emplace_back(id, entry);
          } else {
            it->second.announced = false;
          }
        } else if (there != registered->end()) {
          due.emplace_back(id, entry);
        } else {
          it = entries.erase(it);
          continue;
        }
        ++it;
      }
    }
    if (due.empty()) co_return absl::OkStatus();

    // A few at a time: a data plane that hangs must not hold up the others.
    absl::Status first_failure;
    size_t next = 0, running = std::min(kRegistrationsAtOnce, due.size());
    asio::steady_timer all_done(io, asio::steady_timer::time_point::max());
    const auto work = [&]() -> asio::awaitable<void> {
      auto http = std::make_shared<ConsulHttp>(connections);
      busy.push_back(http);
      while (next < due.size() && !stopping) {
        const auto& [id, entry] = due[next++];
        const absl::Status status = co_await Apply(*http, id, entry);
        if (!status.ok() && first_failure.ok()) first_failure = status;
      }
      std::erase(busy, http);
      if (--running == 0) all_done.cancel();
    };
    for (size_t i = 0, count = running; i < count; ++i) asio::co_spawn(io, work(), Rethrow);
    error_code ignored;
    if (running > 0) co_await all_done.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    co_return first_failure;
  }

  static void Rethrow(const std::exception_ptr& error) {
    if (error) std::rethrow_exception(error);
  }

  asio::awaitable<absl::Status> Apply(ConsulHttp& http, const std::string& id, const Entry& entry) {
    std::string target, body;
    if (entry.wanted.has_value()) {
      Json json = entry.wanted->body;
      // A data plane that has just said hello serves: it is up at once, not after the first check. One that Consul
      // forgot may be dead since long (that is how Consul forgets), and would come back as passing for an interval
      // every time: so one request of our own decides.
      bool passing = entry.announced;
      if (!passing) passing = co_await Probe(entry.wanted->instance);
      json["Check"]["Status"] = passing ? "passing" : "critical";
      target = "/v1/agent/service/register?replace-existing-checks=true";
      body = json.dump(-1, ' ', false, Json::error_handler_t::replace);
    } else {
      target = absl::StrCat("/v1/agent/service/deregister/", EscapeUrl(id));
    }
    const absl::StatusOr<ConsulResponse> response = co_await http.Put(target, body, kRequestTimeout);
    if (!response.ok()) co_return response.status();
    // Newer versions response 404 to the deregistration of what is not there.
    const bool gone = !entry.wanted.has_value() && response->status == 404;
    if (absl::Status status = CheckResponse(response); !status.ok() && !gone) {
      co_return absl::Status(status.code(), absl::StrCat(id, ": ", status.message()));
    }
    spdlog::info("consul: {} {}", entry.wanted.has_value() ? "registered" : "deregistered", id);
    absl::MutexLock lock(&mutex);
    const auto found = entries.find(id);
    if (found == entries.end() || found->second.generation != entry.generation) co_return absl::OkStatus();
    if (entry.wanted.has_value()) {
      found->second.announced = false;
    } else {
      entries.erase(found);
    }
    co_return absl::OkStatus();
  }

  asio::awaitable<bool> Probe(const RegisteredInstance& instance) {
    if (stopping) co_return false;
    auto http = std::make_shared<ConsulHttp>(std::make_shared<AgentConnections>(
        io, ConsulAccess{.address = absl::StrCat(BracketV6(instance.host), ":", instance.health_port)}));
    busy.push_back(http);
    const milliseconds timeout = std::min(options.check_timeout, kProbeTimeoutMax);
    const absl::StatusOr<ConsulResponse> response = co_await http->Get("/health", timeout);
    std::erase(busy, http);
    co_return response.ok() && response->status >= 200 && response->status < 300;
  }
};

ConsulRegistration::ConsulRegistration(RegistrationOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  asio::co_spawn(impl_->io, impl_->Run(), Impl::Rethrow);
  impl_->thread = std::thread([impl = impl_.get()] { impl->io.run(); });
}

ConsulRegistration::~ConsulRegistration() {
  asio::post(impl_->io, [impl = impl_.get()] {
    impl->stopping = true;
    impl->agent.Close();
    impl->connections->Close();
    for (const auto& http : impl->busy) http->Close();
    impl->wake.cancel();
  });
  impl_->thread.join();
}

void ConsulRegistration::Register(const RegisteredInstance& instance) {
  {
    absl::MutexLock lock(&impl_->mutex);
    Wanted wanted = MakeWanted(impl_->options, instance, impl_->drained.contains(instance.name));
    if (impl_->entries.size() >= kInstancesRegisteredMax && !impl_->entries.contains(wanted.id)) {
      spdlog::error("consul: {} is not registered: there are 10,000 data planes already", wanted.id);
      return;
    }
    std::string id = wanted.id;
    impl_->entries[id] = {std::move(wanted), /*announced=*/true, ++impl_->generations};
  }
  impl_->Wake();
}

void ConsulRegistration::Deregister(const std::string& name) {
  // Also one that this process never saw: it may have been registered before a restart.
  const std::string id = absl::StrCat(impl_->options.service_name, "-", name);
  {
    absl::MutexLock lock(&impl_->mutex);
    if (impl_->entries.size() >= kInstancesRegisteredMax && !impl_->entries.contains(id)) return;
    impl_->entries[id] = {std::nullopt, /*announced=*/false, ++impl_->generations};
  }
  impl_->Wake();
}

void ConsulRegistration::Forget(const std::string& name) {
  absl::MutexLock lock(&impl_->mutex);
  const auto found = impl_->entries.find(absl::StrCat(impl_->options.service_name, "-", name));
  // One that is to be taken out still is.
  if (found != impl_->entries.end() && found->second.wanted.has_value()) impl_->entries.erase(found);
}

void ConsulRegistration::SetDrained(std::set<std::string> names) {
  {
    absl::MutexLock lock(&impl_->mutex);
    for (auto& [id, entry] : impl_->entries) {
      if (!entry.wanted.has_value()) continue;
      const RegisteredInstance instance = entry.wanted->instance;
      const bool drained = names.contains(instance.name);
      if (drained == impl_->drained.contains(instance.name)) continue;
      entry.wanted = MakeWanted(impl_->options, instance, drained);
      entry.generation = ++impl_->generations;
    }
    impl_->drained = std::move(names);
  }
  impl_->Wake();
}

}  // namespace gateway::controlplane
