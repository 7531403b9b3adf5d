#include "controlplane/rpc/acceptor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/thread.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kBacklog = 4096;  // the kernel cuts it at net.core.somaxconn
constexpr int kAcceptsAtOnceMax = 64;
constexpr int kEventsMax = 256;
constexpr milliseconds kSweepEvery{1000};
constexpr milliseconds kSweepAgain{100};        // where a bound is reached
constexpr std::chrono::seconds kTellEvery{10};  // of the same trouble
// A peer that acknowledges nothing of what was sent is given up, like by gRPC's own listener with its keepalive.
constexpr int kUserTimeoutMs = 10'000;
constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr int kTlsRecordHeaderBytes = 5;
constexpr uint8_t kTlsHandshake = 22;
constexpr int kTlsRecordBytesMax = 1 << 14;  // RFC 8446, 5.1

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  uint16_t port() const {
    return ntohs(storage.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(storage).sin6_port
                                               : reinterpret_cast<const sockaddr_in&>(storage).sin_port);
  }
  void set_port(uint16_t port) {
    if (storage.ss_family == AF_INET6) {
      reinterpret_cast<sockaddr_in6&>(storage).sin6_port = htons(port);
    } else {
      reinterpret_cast<sockaddr_in&>(storage).sin_port = htons(port);
    }
  }
  // IPv4 as IPv4-mapped.
  in6_addr ip() const {
    if (storage.ss_family == AF_INET6) return reinterpret_cast<const sockaddr_in6&>(storage).sin6_addr;
    in6_addr mapped{};
    mapped.s6_addr[10] = mapped.s6_addr[11] = 0xff;
    memcpy(mapped.s6_addr + 12, &reinterpret_cast<const sockaddr_in&>(storage).sin_addr, 4);
    return mapped;
  }
};

// Whom connections are counted for: all of IPv4, the /64 of IPv6.
using ClientKey = std::pair<uint64_t, uint64_t>;

ClientKey KeyOf(const in6_addr& ip) {
  ClientKey key;
  memcpy(&key.first, ip.s6_addr, 8);
  memcpy(&key.second, ip.s6_addr + 8, 8);
  if (!IN6_IS_ADDR_V4MAPPED(&ip)) key.second = 0;
  return key;
}

uint64_t CookieOf(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

// What has come on a connection that is not handed over yet.
enum class FirstBytes { kSome, kWhole, kInvalid, kEnd };

FirstBytes ReadFirstBytes(int fd, bool tls) {
  std::array<char, kPreface.size()> bytes;
  const ssize_t got = recv(fd, bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR ? FirstBytes::kSome : FirstBytes::kEnd;
  if (got == 0) return FirstBytes::kEnd;
  const auto size = static_cast<size_t>(got);
  if (!tls) {
    if (std::string_view(bytes.data(), size) != kPreface.substr(0, size)) return FirstBytes::kInvalid;
    return size == kPreface.size() ? FirstBytes::kWhole : FirstBytes::kSome;
  }
  if (static_cast<uint8_t>(bytes[0]) != kTlsHandshake) return FirstBytes::kInvalid;
  if (size < kTlsRecordHeaderBytes) return FirstBytes::kSome;
  const int length = static_cast<uint8_t>(bytes[3]) << 8 | static_cast<uint8_t>(bytes[4]);
  if (bytes[1] != 3 || length == 0 || length > kTlsRecordBytesMax) return FirstBytes::kInvalid;
  int waiting = 0;
  if (ioctl(fd, FIONREAD, &waiting) != 0) return FirstBytes::kEnd;
  return waiting >= kTlsRecordHeaderBytes + length ? FirstBytes::kWhole : FirstBytes::kSome;
}

// True once every `kTellEvery`.
class Occasion {
 public:
  bool operator()(Clock::time_point now) {
    if (last_ && now - *last_ < kTellEvery) return false;
    last_ = now;
    return true;
  }

 private:
  std::optional<Clock::time_point> last_;
};

}  // namespace

struct Acceptor::Impl {
  struct Silent;
  using SilentList = std::list<Silent>;  // in the order of their acceptance
  struct Silent {
    int fd;
    ClientKey client;
    Clock::time_point deadline;
    std::list<SilentList::iterator>::iterator of_client;
  };
  struct HandedOver {
    int fd;
    uint64_t cookie;
  };
  struct Client {
    std::list<SilentList::iterator> silent;  // in the order of their acceptance
    std::vector<HandedOver> handed_over;
    Clock::time_point swept_at{};
    size_t open() const { return silent.size() + handed_over.size(); }
  };

  explicit Impl(AcceptorOptions o) : options(std::move(o)) {}

  ~Impl() {
    for (const int fd : {epoll, wake, spare}) {
      if (fd >= 0) close(fd);
    }
    CloseListeners();
  }

  void CloseListeners() {
    for (const int fd : listeners) close(fd);
    listeners.clear();
  }

  // One socket for each address that `host` has: "localhost" is 127.0.0.1 and ::1.
  absl::Status Bind() {
    const auto failed = [this](absl::string_view why) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", options.address, " (", options.key, "): ", why));
    };
    absl::StatusOr<HostPort> parsed = ParseHostPort(options.address);
    if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat(options.key, ": ", parsed.status().message()));
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    const int rc = getaddrinfo(parsed->host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found);
    if (rc != 0) return failed(gai_strerror(rc));
    const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
    std::string error = "no address";
    for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
      Address address;
      memcpy(&address.storage, each->ai_addr, each->ai_addrlen);
      address.length = each->ai_addrlen;
      if (!listeners.empty() && parsed->port == 0) address.set_port(own_address.port());
      const int fd = socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      if (fd < 0) {
        error = strerror(errno);
        continue;  // IPv6 may be off while "localhost" names it
      }
      const int yes = 1, no = 0;
      (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
      if (each->ai_family == AF_INET6) (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
      if (bind(fd, address.get(), address.length) != 0 || listen(fd, kBacklog) != 0) {
        const int reason = errno;
        close(fd);
        error = strerror(reason);
        if (reason == EADDRNOTAVAIL && found->ai_next != nullptr) continue;  // as above
        return failed(error);
      }
      if (listeners.empty()) {
        own_address.length = sizeof own_address.storage;
        if (getsockname(fd, own_address.get(), &own_address.length) != 0) own_address = address;
      }
      listeners.push_back(fd);
    }
    if (listeners.empty()) return failed(error);
    port = own_address.port();

    epoll = epoll_create1(EPOLL_CLOEXEC);
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (epoll < 0 || wake < 0) return failed(strerror(errno));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;  // connections have a pointer
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &event) != 0) return failed(strerror(errno));
    for (const int fd : listeners) {
      if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) return failed(strerror(errno));
    }
    return absl::OkStatus();
  }

  void Run() {
    std::array<epoll_event, kEventsMax> events;
    Clock::time_point sweep_at = Clock::now() + kSweepEvery;
    while (!stopping.load()) {
      const Clock::time_point before = Clock::now();
      Clock::time_point next = sweep_at;
      if (!silent.empty()) next = std::min(next, silent.front().deadline);
      if (paused_until) next = std::min(next, *paused_until);
      const auto wait = std::chrono::ceil<milliseconds>(std::max(next - before, Clock::duration::zero()));
      const int count = epoll_wait(epoll, events.data(), events.size(), static_cast<int>(wait.count()));
      const Clock::time_point now = Clock::now();
      bool accepting = false;
      for (int i = 0; i < count; ++i) {
        if (events[i].data.ptr == nullptr) {
          accepting = true;
        } else {
          OnFirstBytes(*static_cast<SilentList::iterator*>(events[i].data.ptr));
        }
      }
      while (!silent.empty() && silent.front().deadline <= now) CloseSilent(silent.begin());
      if (paused_until && *paused_until <= now) SetPaused(std::nullopt);
      // After the events of connections: those point into the lists that accepting changes.
      if (accepting && !paused_until) Accept(now);
      if (now >= sweep_at) {
        SweepAll(now);
        sweep_at = now + kSweepEvery;
      }
    }
    while (!silent.empty()) CloseSilent(silent.begin());
  }

  void SetPaused(std::optional<Clock::time_point> until) {
    paused_until = until;
    for (const int fd : listeners) {
      epoll_event event{};
      event.events = until ? 0u : static_cast<uint32_t>(EPOLLIN);
      event.data.ptr = nullptr;
      (void)epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);  // cannot fail: the socket is in the set
    }
  }

  void Accept(Clock::time_point now) {
    for (const int listener : listeners) {
      for (int i = 0; i < kAcceptsAtOnceMax; ++i) {
        Address peer;
        peer.length = sizeof peer.storage;
        const int fd = accept4(listener, peer.get(), &peer.length, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
          Take(fd, peer, now);
          continue;
        }
        if (errno == EINTR || errno == ECONNABORTED || errno == EPROTO || errno == EPERM) continue;
        if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) break;  // EAGAIN: all taken
        if (!MakeRoom(listener, now)) return;
      }
    }
  }

  // Without a descriptor, a connection would stay in the queue and its client in ignorance. False: pause.
  bool MakeRoom(int listener, Clock::time_point now) {
    const int reason = errno;
    ++counts.exhausted;
    if (tell_exhausted(now)) {
      spdlog::warn("{}: accept: {}; closing silent connections, refusing new ones until there is room", options.key,
                   strerror(reason));
    }
    if (!silent.empty()) {
      CloseSilent(silent.begin());
      return true;
    }
    if (spare >= 0) {
      close(spare);
      const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) {
        close(fd);
        ++counts.refused;
      }
    }
    spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (spare >= 0) return true;
    SetPaused(now + options.exhausted_pause);
    return false;
  }

  void Take(int fd, const Address& peer, Clock::time_point now) {
    if (IsOwn(peer)) return Give(fd, true);
    const ClientKey key = KeyOf(peer.ip());
    Client& client = clients[key];
    if (client.open() >= options.connections_per_address_max && now - client.swept_at >= kSweepAgain) {
      Sweep(&client, now);
    }
    if (silent.size() + handed_over >= options.connections_max && now - swept_at >= kSweepAgain) SweepAll(now, &key);
    const bool client_full = client.open() >= options.connections_per_address_max;
    if (client_full && !client.silent.empty()) {
      CloseSilent(client.silent.front(), /*keep_client=*/true);
    } else if (!client_full && silent.size() + handed_over >= options.connections_max && !silent.empty()) {
      CloseSilent(silent.begin(), /*keep_client=*/silent.front().client == key);
    } else if (client_full || silent.size() + handed_over >= options.connections_max) {
      close(fd);
      ++counts.refused;
      if (tell_refused(now)) {
        spdlog::warn("{}: connections are refused: {} are open, {} of this address; at most {}, {} of an address",
                     options.key, silent.size() + handed_over, client.open(), options.connections_max,
                     options.connections_per_address_max);
      }
      if (client.open() == 0) clients.erase(key);
      return;
    }
    silent.push_back({fd, key, now + options.first_bytes_timeout, {}});
    const auto it = std::prev(silent.end());
    client.silent.push_back(it);
    it->of_client = std::prev(client.silent.end());
    epoll_event event{};
    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;  // edges: half a preface is not told again and again
    event.data.ptr = &*it->of_client;
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
      CloseSilent(it);
      return;
    }
    Tell();
  }

  void OnFirstBytes(SilentList::iterator it) {
    switch (ReadFirstBytes(it->fd, options.tls)) {
      case FirstBytes::kSome:
        return;
      case FirstBytes::kInvalid:
        ++counts.invalid;
        close(Forget(it));
        return Tell();
      case FirstBytes::kEnd:
        close(Forget(it));
        return Tell();
      case FirstBytes::kWhole:
        break;
    }
    const ClientKey key = it->client;
    const int fd = it->fd;
    // Before it is forgotten as a silent one, so that the entry of its client stays.
    clients[key].handed_over.push_back({fd, CookieOf(fd)});
    ++handed_over;
    Forget(it);
    (void)epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr);
    ++counts.accepted;
    Tell();
    Give(fd, false);
  }

  void Give(int fd, bool own) {
    const int yes = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &kUserTimeoutMs, sizeof kUserTimeoutMs);
    hand_over(fd, own);
  }

  // Takes it out of the lists; its descriptor is the caller's.
  int Forget(SilentList::iterator it, bool keep_client = false) {
    const int fd = it->fd;
    const ClientKey key = it->client;
    auto client = clients.find(key);
    client->second.silent.erase(it->of_client);
    silent.erase(it);
    if (!keep_client && client->second.open() == 0) clients.erase(client);
    return fd;
  }

  void CloseSilent(SilentList::iterator it, bool keep_client = false) {
    ++counts.silent;
    close(Forget(it, keep_client));
    Tell();
  }

  void Sweep(Client* client, Clock::time_point now) {
    client->swept_at = now;
    const size_t before = client->handed_over.size();
    std::erase_if(client->handed_over, [](const HandedOver& each) { return CookieOf(each.fd) != each.cookie; });
    handed_over -= before - client->handed_over.size();
  }

  void SweepAll(Clock::time_point now, const ClientKey* keep = nullptr) {
    swept_at = now;
    for (auto it = clients.begin(); it != clients.end();) {
      Sweep(&it->second, now);
      if (it->second.open() == 0 && (keep == nullptr || it->first != *keep)) {
        clients.erase(it++);
      } else {
        ++it;
      }
    }
    Tell();
  }

  void Tell() { counts.open.store(silent.size() + handed_over, std::memory_order_relaxed); }

  bool IsOwn(const Address& peer) {
    std::lock_guard lock(own_mu);
    if (!own_peer || own_peer->port() != peer.port()) return false;
    const in6_addr ours = own_peer->ip(), theirs = peer.ip();
    return memcmp(&ours, &theirs, sizeof ours) == 0;
  }

  const AcceptorOptions options;
  AcceptorCounts counts;
  uint16_t port = 0;
  Address own_address;  // of the first listening socket
  int epoll = -1, wake = -1;
  std::vector<int> listeners;
  HandOver hand_over;
  std::thread thread;
  std::atomic<bool> stopping{false};

  std::mutex connect_mu;  // one connection to itself at a time
  std::mutex own_mu;
  std::optional<Address> own_peer ABSL_GUARDED_BY(own_mu);  // the other end of it, as accept will name it

  // The thread's.
  int spare = -1;  // given up for an accept where there is no other
  SilentList silent;
  absl::flat_hash_map<ClientKey, Client> clients;
  size_t handed_over = 0;
  Clock::time_point swept_at{};
  std::optional<Clock::time_point> paused_until;
  Occasion tell_refused, tell_exhausted;
};

Acceptor::Acceptor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Acceptor::~Acceptor() { Stop(); }

absl::StatusOr<std::unique_ptr<Acceptor>> Acceptor::Listen(AcceptorOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  if (absl::Status status = impl->Bind(); !status.ok()) return status;
  return std::unique_ptr<Acceptor>(new Acceptor(std::move(impl)));
}

void Acceptor::Start(HandOver hand_over) {
  impl_->hand_over = std::move(hand_over);
  impl_->thread = StartThread("acceptor", ThreadPriority::kServing, [impl = impl_.get()] { impl->Run(); });
}

void Acceptor::Stop() {
  impl_->stopping.store(true);
  if (impl_->thread.joinable()) {
    const uint64_t one = 1;
    (void)!write(impl_->wake, &one, sizeof one);  // cannot block: nobody else writes
    impl_->thread.join();
  }
  impl_->CloseListeners();
}

uint16_t Acceptor::port() const { return impl_->port; }
const AcceptorCounts& Acceptor::counts() const { return impl_->counts; }

absl::Status Acceptor::ConnectToSelf(milliseconds timeout, const std::function<absl::Status(int fd)>& then) {
  std::lock_guard one_at_a_time(impl_->connect_mu);
  const auto failed = [this](absl::string_view what) {
    return absl::UnavailableError(absl::StrCat(impl_->options.address, ": ", what, ": ", strerror(errno)));
  };
  Address target = impl_->own_address;
  if (target.storage.ss_family == AF_INET6) {
    auto& in = reinterpret_cast<sockaddr_in6&>(target.storage);
    if (IN6_IS_ADDR_UNSPECIFIED(&in.sin6_addr)) in.sin6_addr = in6addr_loopback;
  } else {
    auto& in = reinterpret_cast<sockaddr_in&>(target.storage);
    if (in.sin_addr.s_addr == htonl(INADDR_ANY)) in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  }
  int fd = socket(target.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return failed("socket");
  // From the address that it goes to, and bound first: accept may return before connect does.
  Address source = target;
  source.set_port(0);
  const auto connected = [&]() -> absl::Status {
    if (bind(fd, source.get(), source.length) != 0) return failed("bind");
    if (getsockname(fd, source.get(), &source.length) != 0) return failed("getsockname");
    {
      std::lock_guard lock(impl_->own_mu);
      impl_->own_peer = source;
    }
    if (connect(fd, target.get(), target.length) != 0 && errno != EINPROGRESS) return failed("connect");
    pollfd writable{fd, POLLOUT, 0};
    const int ready = poll(&writable, 1, static_cast<int>(timeout.count()));
    int error = ready == 0 ? ETIMEDOUT : 0;
    socklen_t length = sizeof error;
    if (ready > 0) (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    errno = error;
    return error == 0 ? absl::OkStatus() : failed("connect");
  };
  absl::Status status = connected();
  if (status.ok()) status = then(std::exchange(fd, -1));
  if (fd >= 0) close(fd);
  std::lock_guard lock(impl_->own_mu);
  impl_->own_peer.reset();
  return status;
}

}  // namespace gateway::controlplane
