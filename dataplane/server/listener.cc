#include "dataplane/server/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "common/base/host_port.h"
#include "common/base/text.h"
#include "dataplane/net/socket.h"
#include "dataplane/server/server_options.h"

namespace gateway::dataplane {
namespace {

constexpr int kFirstPassed = 3;  // SD_LISTEN_FDS_START
constexpr uint32_t kPassedMax = 4096;

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

absl::StatusOr<Address> ToAddress(const HostPort& at) {
  Address address;
  in6_addr ip;
  if (!ParseIp(at.host, &ip))
    return absl::InvalidArgumentError(Concat("server.listeners: '", at.host, "' is not an IP address"));
  if (at.host.find(':') == std::string::npos) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address.storage);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(at.port);
    std::memcpy(&v4.sin_addr, ip.s6_addr + 12, 4);
    address.length = sizeof v4;
  } else {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address.storage);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(at.port);
    v6.sin6_addr = ip;
    address.length = sizeof v6;
  }
  return address;
}

absl::Status CannotListen(const sockaddr_storage& address, int error) {
  return absl::UnavailableError(Concat("cannot listen on ", AddressText(address), ": ", std::strerror(error)));
}

// A bound socket, or -1 with errno. Without `shared` no other socket may be bound there.
int BindSocket(const sockaddr_storage& address, socklen_t length, bool shared, bool listening) {
  const int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int one = 1;
  const bool v6 = address.ss_family == AF_INET6;
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
      (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) != 0) ||
      // What is accepted inherits this.
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
      (v6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0) ||
      bind(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      (listening && listen(fd, kListenBacklog) != 0)) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return fd;
}

// 0 if it is unknown.
int Option(int fd, int level, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  return getsockopt(fd, level, name, &value, &length) == 0 ? value : 0;
}

uint64_t CookieOf(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

bool SameHost(const sockaddr_storage& a, const sockaddr_storage& b) {
  return a.ss_family == b.ss_family && IpText(a) == IpText(b);
}

bool SameAddress(const sockaddr_storage& a, const sockaddr_storage& b) {
  return SameHost(a, b) && PortOf(a) == PortOf(b);
}

// "[::]:8080" for both families: what systemd makes of ListenStream=8080.
bool TakesIpv4Too(const PassedSocket& each) {
  if (each.address.ss_family != AF_INET6) return false;
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(each.address);
  return IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr) && Option(each.fd, IPPROTO_IPV6, IPV6_V6ONLY) == 0;
}

bool IsAnyIpv4(const sockaddr_storage& address) {
  return address.ss_family == AF_INET && reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr == INADDR_ANY;
}

// Gives each worker its sockets.
class Spreader {
 public:
  explicit Spreader(size_t workers) { set_.of_worker.resize(workers); }
  ~Spreader() {
    for (const auto& sockets : set_.of_worker) {
      for (const ListeningSocket& each : sockets) close(each.fd);
    }
  }
  Spreader(const Spreader&) = delete;
  Spreader& operator=(const Spreader&) = delete;

  size_t workers() const { return set_.of_worker.size(); }
  uint16_t port() const { return set_.port; }
  ListenerSet Take() { return std::exchange(set_, ListenerSet()); }

  // `group`: all sockets of one address.
  absl::Status Add(const std::vector<PassedSocket>& group, const ListenerOptions& options, bool bind_more) {
    struct Each {
      int fd;
      bool listening;
    };
    std::vector<Each> fds;
    for (const PassedSocket& each : group) {
      fds.push_back({each.fd, true});
      set_.sockets.push_back(each);
      bind_more = bind_more && Option(each.fd, SOL_SOCKET, SO_REUSEPORT) != 0;
    }
    while (bind_more && fds.size() < workers()) {
      // Fails where the other process is another user's: then these are shared as well.
      const int fd = BindSocket(group[0].address, group[0].length, true, false);
      if (fd < 0) break;
      fds.push_back({fd, false});
      set_.sockets.push_back({fd, false, group[0].address, group[0].length});
    }
    const bool shared = fds.size() < workers();
    for (size_t i = 0; i < std::max(fds.size(), workers()); ++i) {
      const Each& each = fds[i % fds.size()];
      const int fd = i < fds.size() ? each.fd : fcntl(each.fd, F_DUPFD_CLOEXEC, 0);
      if (fd < 0) return CannotListen(group[0].address, errno);
      set_.of_worker[i % workers()].push_back({fd, options, shared, each.listening});
    }
    Name(group[0].address);
    return absl::OkStatus();
  }

  // One socket for each worker, at an address that is free. `error`: of the system call that failed.
  absl::Status Bind(Address address, const ListenerOptions& options, bool listening, int* error) {
    const auto failed = [&] {
      *error = errno;
      return CannotListen(address.storage, *error);
    };
    // SO_REUSEPORT would let a second process of the same user join in, and take half of the connections: first see
    // that it is free.
    if (PortOf(address.storage) != 0) {
      const int alone = BindSocket(address.storage, address.length, false, true);
      if (alone < 0) return failed();
      close(alone);
    }
    for (auto& sockets : set_.of_worker) {
      const int fd = BindSocket(address.storage, address.length, true, listening);
      if (fd < 0) return failed();
      sockets.push_back({fd, options, false, listening});
      // The first worker's bind chose the port for the others.
      (void)getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage),
                        &address.length);  // else the text has the wanted one
      set_.sockets.push_back({fd, false, address.storage, address.length});
    }
    Name(address.storage);
    return absl::OkStatus();
  }

  void Leave(const PassedSocket& each) { set_.leaving.push_back({each.fd, ListenerOptions(), false, true}); }

 private:
  void Name(const sockaddr_storage& address) {
    if (set_.port == 0) set_.port = PortOf(address);
    set_.addresses.push_back(AddressText(address));
  }

  ListenerSet set_;
};

ProxyHeaderMode ModeOf(v1::Listener::ProxyProtocol setting) {
  switch (setting) {
    case v1::Listener::ENABLED:
      return ProxyHeaderMode::kRequired;
    case v1::Listener::OPTIONAL:
      return ProxyHeaderMode::kOptional;
    default:
      return ProxyHeaderMode::kNone;
  }
}

std::string TakeVariable(const char* name) {
  const char* value = getenv(name);
  std::string text = value == nullptr ? "" : value;
  unsetenv(name);
  return text;
}

}  // namespace

absl::StatusOr<PassedSocket> InspectListener(int fd) {
  PassedSocket passed;
  passed.fd = fd;
  passed.length = sizeof passed.address;
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
    return absl::InvalidArgumentError(errno == EBADF ? "is not open" : "is not a socket");
  }
  if (type != SOCK_STREAM) return absl::InvalidArgumentError("is not a stream socket");
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&passed.address), &passed.length) != 0 ||
      (passed.address.ss_family != AF_INET && passed.address.ss_family != AF_INET6)) {
    return absl::InvalidArgumentError("is not an IPv4 or IPv6 socket");
  }
  if (Option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 0) {
    return absl::InvalidArgumentError(Concat("is a socket at ", AddressText(passed.address), " that does not listen"));
  }
  const int flags = fcntl(fd, F_GETFL);
  const int one = 1;
  // What is accepted inherits TCP_NODELAY.
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 ||
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0) {
    return absl::InvalidArgumentError(Concat("cannot be made ready: ", std::strerror(errno)));
  }
  return passed;
}

absl::StatusOr<std::vector<PassedSocket>> TakeSystemdSockets() {
  const std::string pid = TakeVariable("LISTEN_PID");
  const std::string count_text = TakeVariable("LISTEN_FDS");
  const std::string names = TakeVariable("LISTEN_FDNAMES");
  std::vector<PassedSocket> passed;
  if (pid.empty() || count_text.empty()) return passed;
  int64_t pid_number = 0;
  uint32_t count = 0;
  if (!absl::SimpleAtoi(pid, &pid_number) || !absl::SimpleAtoi(count_text, &count) || count > kPassedMax) {
    return absl::InvalidArgumentError(Concat("LISTEN_PID='", pid, "' and LISTEN_FDS='", count_text,
                                             "' are not a process and the number of sockets passed to it"));
  }
  if (pid_number != getpid()) return passed;  // a parent's, inherited: they are not for this process
  std::string_view rest = names;
  for (uint32_t i = 0; i < count; ++i) {
    const std::string_view name = rest.substr(0, rest.find(':'));
    const int fd = kFirstPassed + static_cast<int>(i);
    auto socket = InspectListener(fd);
    if (!socket.ok()) {
      return absl::InvalidArgumentError(Concat("LISTEN_FDS: descriptor ", fd, name.empty() ? "" : " (", name,
                                               name.empty() ? "" : ")", " ", std::string(socket.status().message())));
    }
    socket->systemd = true;
    passed.push_back(*socket);
    rest = rest.size() > name.size() ? rest.substr(name.size() + 1) : std::string_view();
  }
  return passed;
}

absl::StatusOr<ListenerSet> OpenListeners(const v1::ServerSection& server, int workers,
                                          std::vector<PassedSocket> passed) {
  absl::Cleanup close_passed = [&passed] {
    for (const PassedSocket& each : passed) close(each.fd);
  };
  // The same socket may have come from both sides.
  for (size_t i = 0; i < passed.size(); ++i) {
    const uint64_t cookie = CookieOf(passed[i].fd);
    for (size_t k = passed.size() - 1; k > i; --k) {
      if (cookie == 0 || CookieOf(passed[k].fd) != cookie) continue;
      passed[i].systemd = passed[i].systemd || passed[k].systemd;
      close(passed[k].fd);
      passed.erase(passed.begin() + static_cast<std::ptrdiff_t>(k));
    }
  }
  const auto of_systemd = [](const PassedSocket& each) { return each.systemd; };
  const bool from_systemd = std::any_of(passed.begin(), passed.end(), of_systemd);
  const bool handed_over = !std::all_of(passed.begin(), passed.end(), of_systemd);

  struct Wanted {
    HostPort at;
    ListenerOptions options = {};
  };
  std::vector<Wanted> wanted;
  const bool everywhere = server.listeners_size() == 0;
  if (everywhere && !from_systemd) {
    const auto port = static_cast<uint16_t>(server.port());
    wanted = {{{"0.0.0.0", port}}, {{"::", port}}};
  }
  for (int i = 0; i < server.listeners_size(); ++i) {
    const v1::Listener& each = server.listeners(i);
    const auto parsed = ParseHostPort(each.address());
    if (!parsed.ok()) return parsed.status();
    ListenerOptions options = {};
    options.proxy_header = ModeOf(each.proxy_protocol());
    if (each.has_tls()) options.tls = i;
    options.http2 = each.has_tls();
    if (each.protocols_size() > 0) options.http1 = options.http2 = false;
    for (const std::string& protocol : each.protocols()) (protocol == "h2" ? options.http2 : options.http1) = true;
    wanted.push_back({*parsed, options});
  }

  Spreader spreader(static_cast<size_t>(workers));
  // Takes those of `passed` out that `matches`.
  const auto take = [&passed](const auto& matches) {
    std::vector<PassedSocket> group;
    for (const PassedSocket& each : passed) {
      if (matches(each) && (group.empty() || SameAddress(group[0].address, each.address))) group.push_back(each);
    }
    std::erase_if(passed, [&group](const PassedSocket& each) {
      return std::any_of(group.begin(), group.end(),
                         [&each](const PassedSocket& other) { return other.fd == each.fd; });
    });
    return group;
  };
  std::vector<uint16_t> both_families;  // ports at which an IPv6 socket takes IPv4 as well
  for (const PassedSocket& each : passed) {
    if (TakesIpv4Too(each)) both_families.push_back(PortOf(each.address));
  }
  for (Wanted& each : wanted) {
    // All interfaces, at any port: one port for both families.
    if (everywhere && each.at.port == 0) each.at.port = spreader.port();
    auto address = ToAddress(each.at);
    if (!address.ok()) return address.status();
    const std::vector<PassedSocket> group = take([&](const PassedSocket& other) {
      return SameHost(address->storage, other.address) && (each.at.port == 0 || each.at.port == PortOf(other.address));
    });
    absl::Status status;
    if (!group.empty()) {
      const bool bind_more = std::none_of(group.begin(), group.end(), of_systemd);
      status = spreader.Add(group, each.options, bind_more);
    } else if (IsAnyIpv4(address->storage) &&
               std::find(both_families.begin(), both_families.end(), each.at.port) != both_families.end()) {
      continue;
    } else {
      int error = 0;
      status = spreader.Bind(*address, each.options, !handed_over, &error);
      const bool no_ipv6 = error == EAFNOSUPPORT || error == EADDRNOTAVAIL;
      if (everywhere && each.at.host == "::" && no_ipv6) continue;
    }
    if (!status.ok()) return status;
  }
  while (true) {
    const std::vector<PassedSocket> group = take(of_systemd);
    if (group.empty()) break;
    if (absl::Status status = spreader.Add(group, ListenerOptions(), false); !status.ok()) return status;
  }
  for (const PassedSocket& each : std::exchange(passed, {})) spreader.Leave(each);
  return spreader.Take();
}

}  // namespace gateway::dataplane
