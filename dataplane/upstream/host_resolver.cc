#include "dataplane/upstream/host_resolver.h"

#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/thread.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct HostTable::Host {
  std::shared_ptr<const std::vector<std::string>> addresses;
  TimePoint due;
  bool asking = false;
  bool answered = false;  // ever, or failed
  uint32_t failures = 0;  // in a row
};

struct HostTable::Impl {
  absl::flat_hash_map<std::string, Host> hosts;
};

HostTable::HostTable() : impl_(std::make_unique<Impl>()) {}
HostTable::~HostTable() = default;

bool HostTable::Add(const std::string& host, TimePoint now) {
  if (impl_->hosts.contains(host)) return true;
  if (impl_->hosts.size() >= kHostsMax) return false;
  impl_->hosts[host].due = now;
  return true;
}

void HostTable::Retain(const absl::flat_hash_set<std::string>& hosts) {
  absl::erase_if(impl_->hosts, [&](const auto& entry) { return !hosts.contains(entry.first); });
}

std::shared_ptr<const std::vector<std::string>> HostTable::Find(const std::string& host) const {
  const auto found = impl_->hosts.find(host);
  return found == impl_->hosts.end() ? nullptr : found->second.addresses;
}

bool HostTable::IsNew(const std::string& host) const {
  const auto found = impl_->hosts.find(host);
  return found != impl_->hosts.end() && !found->second.answered;
}

std::vector<std::string> HostTable::TakeDue(TimePoint now, size_t count, TimePoint* next) {
  std::vector<std::string> due;
  *next = TimePoint::max();
  for (auto& [name, host] : impl_->hosts) {
    if (host.asking) continue;
    if (host.due > now || due.size() >= count) {
      *next = std::min(*next, host.due);
      continue;
    }
    host.asking = true;
    due.push_back(name);
  }
  return due;
}

bool HostTable::Answer(const std::string& name, const absl::StatusOr<HostAnswer>& answer, TimePoint now) {
  const auto found = impl_->hosts.find(name);
  if (found == impl_->hosts.end()) return false;
  Host& host = found->second;
  host.asking = false;
  const bool first = !std::exchange(host.answered, true);
  if (!answer.ok() || answer->addresses.empty()) {
    const auto pause = std::min(kRetryMax, kRetryMin * (1 << std::min<uint32_t>(host.failures, 5)));
    host.due = now + pause;
    if (host.failures++ == 0) {
      spdlog::warn("host '{}' cannot be resolved ({}); {}", name,
                   answer.ok() ? "no address" : std::string(answer.status().message()),
                   host.addresses == nullptr ? "it has no endpoints" : "its last addresses stay");
    }
    return false;
  }
  host.due = now + std::clamp(answer->ttl, kTtlMin, kTtlMax);
  if (host.failures > 0 && !first) spdlog::info("host '{}' is resolved again", name);
  host.failures = 0;
  // Sorted, since name servers rotate their records and another order is not news.
  std::vector<std::string> addresses = answer->addresses;
  std::sort(addresses.begin(), addresses.end());
  addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
  if (addresses.size() > kAddressesMax) addresses.resize(kAddressesMax);
  if (host.addresses != nullptr && *host.addresses == addresses) return false;
  host.addresses = std::make_shared<const std::vector<std::string>>(std::move(addresses));
  return true;
}

namespace {

TimePoint Now() { return std::chrono::steady_clock::now(); }

// One channel of c-ares and what it waits for. The resolver's thread.
class Channel {
 public:
  using Done = std::function<void(const std::string& host, const absl::StatusOr<HostAnswer>& answer)>;

  Channel(std::string servers, Done done) : servers_(std::move(servers)), done_(std::move(done)) {}
  ~Channel() { Close(); }

  size_t running() const { return running_; }

  void Ask(const std::string& host) {
    if (channel_ == nullptr && !Open()) {
      done_(host, absl::UnavailableError("the resolver cannot be set up"));
      return;
    }
    ares_addrinfo_hints hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    ++running_;
    ares_getaddrinfo(channel_, host.c_str(), nullptr, &hints, OnAnswer, new Query{this, host});
  }

  // Until something has happened, `wake` is readable, or `deadline`.
  void Wait(int wake, TimePoint deadline) {
    std::vector<pollfd> polled = {{wake, POLLIN, 0}};
    for (const auto& [fd, events] : sockets_) polled.push_back({fd, events, 0});
    milliseconds wait = std::chrono::ceil<milliseconds>(
        std::clamp<TimePoint::duration>(deadline - Now(), seconds(0), std::chrono::hours(1)));
    if (running_ > 0) {
      timeval most{3600, 0}, until{};
      ares_timeout(channel_, &most, &until);
      wait = std::min(wait, milliseconds(until.tv_sec * 1000 + until.tv_usec / 1000 + 1));
    }
    (void)poll(polled.data(), polled.size(), static_cast<int>(wait.count()));  // interrupted: the caller comes again
    if (channel_ == nullptr) return;
    bool any = false;
    for (size_t i = 1; i < polled.size(); ++i) {
      const pollfd& each = polled[i];
      if (each.revents == 0) continue;
      any = true;
      const bool readable = (each.revents & (POLLIN | POLLERR | POLLHUP)) != 0;
      const bool writable = (each.revents & POLLOUT) != 0;
      ares_process_fd(channel_, readable ? each.fd : ARES_SOCKET_BAD, writable ? each.fd : ARES_SOCKET_BAD);
    }
    if (!any) ares_process_fd(channel_, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    // Name servers may have moved: with nothing under way, the next question reads resolv.conf again.
    if (running_ == 0 && std::exchange(failed_, false)) Close();
  }

  void Close() {
    if (channel_ == nullptr) return;
    ares_destroy(channel_);
    channel_ = nullptr;
    sockets_.clear();
  }

 private:
  struct Query {
    Channel* channel;
    std::string host;
  };

  bool Open() {
    ares_options options{};
    options.sock_state_cb = OnSocket;
    options.sock_state_cb_data = this;
    options.timeout = 1000;  // milliseconds, of one try at one server; doubled with each further one
    options.tries = 3;
    const int flags = ARES_OPT_SOCK_STATE_CB | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES;
    if (ares_init_options(&channel_, &options, flags) != ARES_SUCCESS) {
      channel_ = nullptr;
      return false;
    }
    if (!servers_.empty() && ares_set_servers_ports_csv(channel_, servers_.c_str()) != ARES_SUCCESS) {
      Close();
      return false;
    }
    return true;
  }

  static void OnSocket(void* self, ares_socket_t fd, int readable, int writable) {
    auto& sockets = static_cast<Channel*>(self)->sockets_;
    if (readable == 0 && writable == 0) {
      sockets.erase(fd);
    } else {
      sockets[fd] = static_cast<int16_t>((readable != 0 ? POLLIN : 0) | (writable != 0 ? POLLOUT : 0));
    }
  }

  static void OnAnswer(void* argument, int status, int /*timeouts*/, ares_addrinfo* result) {
    const std::unique_ptr<Query> query(static_cast<Query*>(argument));
    Channel& self = *query->channel;
    --self.running_;
    if (status == ARES_EDESTRUCTION || status == ARES_ECANCELLED) return;
    if (status != ARES_SUCCESS) {
      self.failed_ = true;
      self.done_(query->host, absl::UnavailableError(ares_strerror(status)));
      return;
    }
    HostAnswer answer;
    std::vector<std::string> v6;
    int ttl = static_cast<int>(HostTable::kTtlMax.count());
    for (const ares_addrinfo_node* node = result->nodes; node != nullptr; node = node->ai_next) {
      char text[INET6_ADDRSTRLEN];
      const void* address = nullptr;
      if (node->ai_family == AF_INET) address = &reinterpret_cast<const sockaddr_in*>(node->ai_addr)->sin_addr;
      if (node->ai_family == AF_INET6) address = &reinterpret_cast<const sockaddr_in6*>(node->ai_addr)->sin6_addr;
      if (address == nullptr || inet_ntop(node->ai_family, address, text, sizeof text) == nullptr) continue;
      (node->ai_family == AF_INET ? answer.addresses : v6).emplace_back(text);
      ttl = std::min(ttl, node->ai_ttl);
    }
    for (const ares_addrinfo_cname* name = result->cnames; name != nullptr; name = name->next) {
      ttl = std::min(ttl, name->ttl);
    }
    ares_freeaddrinfo(result);
    if (answer.addresses.empty()) answer.addresses = std::move(v6);
    answer.ttl = seconds(ttl);
    self.done_(query->host, answer);
  }

  const std::string servers_;
  const Done done_;
  ares_channel channel_ = nullptr;
  absl::flat_hash_map<int, int16_t> sockets_;  // what poll waits for
  size_t running_ = 0;
  bool failed_ = false;
};

}  // namespace

struct HostResolver::Impl {
  explicit Impl(Options options) : servers(std::move(options.servers)), on_change(std::move(options.on_change)) {}

  void Wake() {
    const uint64_t one = 1;
    (void)!write(wake, &one, sizeof one);  // full: it is awake anyhow
  }

  void Run() {
    bool changed = false;
    Channel channel(servers, [&](const std::string& host, const absl::StatusOr<HostAnswer>& answer) {
      absl::MutexLock lock(&mutex);
      if (table.Answer(host, answer, Now())) changed = true;
    });
    for (;;) {
      std::vector<std::string> due;
      TimePoint next;
      {
        absl::MutexLock lock(&mutex);
        if (stop) return;
        due = table.TakeDue(Now(), kLookupsMax - channel.running(), &next);
      }
      for (const std::string& host : due) channel.Ask(host);
      if (std::exchange(changed, false)) {
        absl::MutexLock lock(&call_mutex);
        if (on_change) on_change();
      }
      // At the limit it waits for responses, not for hosts that are due.
      if (channel.running() >= kLookupsMax) next = Now() + seconds(1);
      channel.Wait(wake, changed ? Now() : next);
      uint64_t count;
      (void)!read(wake, &count, sizeof count);  // nothing there: a response woke it
    }
  }

  const std::string servers;
  absl::Mutex call_mutex;  // held while it is called, so that it is not called after it was replaced
  std::function<void()> on_change ABSL_GUARDED_BY(call_mutex);
  absl::Mutex mutex;
  HostTable table ABSL_GUARDED_BY(mutex);
  bool stop ABSL_GUARDED_BY(mutex) = false;
  int wake = -1;       // eventfd
  std::thread thread;  // started with the first host
};

HostResolver::HostResolver(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {
  impl_->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (impl_->wake < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  static const int initialized = ares_library_init(ARES_LIB_INIT_ALL);
  (void)initialized;  // fails on no system that this runs on
}

HostResolver::~HostResolver() {
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->stop = true;
  }
  impl_->Wake();
  if (impl_->thread.joinable()) impl_->thread.join();
  close(impl_->wake);
}

void HostResolver::set_on_change(std::function<void()> on_change) {
  absl::MutexLock lock(&impl_->call_mutex);
  impl_->on_change = std::move(on_change);
}

std::shared_ptr<const std::vector<std::string>> HostResolver::Find(const std::string& host, TimePoint deadline) {
  absl::MutexLock lock(&impl_->mutex);
  const auto known = [&] { return !impl_->table.IsNew(host); };
  (void)impl_->mutex.AwaitWithDeadline(absl::Condition(&known), absl::Now() + absl::FromChrono(deadline - Now()));
  return impl_->table.Find(host);
}

bool HostResolver::Name(const absl::flat_hash_set<std::string>& hosts) {
  bool all = true;
  absl::MutexLock lock(&impl_->mutex);
  impl_->table.Retain(hosts);
  for (const std::string& host : hosts) all = impl_->table.Add(host, Now()) && all;
  if (hosts.empty()) return true;
  if (!impl_->thread.joinable()) {
    impl_->thread = StartThread("resolver", ThreadPriority::kBackground, [impl = impl_.get()] { impl->Run(); });
  }
  impl_->Wake();
  return all;
}

}  // namespace gateway::dataplane
