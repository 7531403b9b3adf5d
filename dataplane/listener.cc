#include "dataplane/listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "common/bootstrap.h"
#include "common/text.h"
#include "dataplane/server_options.h"
#include "dataplane/socket.h"

namespace gateway::dataplane {
namespace {

constexpr int kBacklog = 4096;  // the kernel's own bound (net.core.somaxconn) is the lower one

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

// A bound and listening socket, or -1 with errno. Without `shared` nobody else may be bound there.
int Listen(const Address& address, bool shared) {
  const int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int one = 1;
  const bool v6 = address.storage.ss_family == AF_INET6;
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
      (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) != 0) ||
      // What is accepted inherits this.
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
      (v6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0) ||
      bind(fd, reinterpret_cast<const sockaddr*>(&address.storage), address.length) != 0 || listen(fd, kBacklog) != 0) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return fd;
}

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

}  // namespace

absl::StatusOr<ListenerSet> OpenListeners(const v1::ServerSection& server, int workers) {
  struct Wanted {
    HostPort at;
    ProxyHeaderMode proxy_header = ProxyHeaderMode::kNone;
  };
  std::vector<Wanted> wanted;
  const bool everywhere = server.listeners_size() == 0;
  if (everywhere) {
    const auto port = static_cast<uint16_t>(server.port());
    wanted = {{{"0.0.0.0", port}}, {{"::", port}}};
  }
  for (const v1::Listener& each : server.listeners()) {
    const auto parsed = ParseHostPort(each.address());
    if (!parsed.ok()) return parsed.status();
    wanted.push_back({*parsed, ModeOf(each.proxy_protocol())});
  }
  ListenerSet set;
  set.of_worker.resize(static_cast<size_t>(workers));
  absl::Cleanup close_all = [&set] {
    for (const auto& sockets : set.of_worker) {
      for (const ListeningSocket& each : sockets) close(each.fd);
    }
  };
  for (auto& [at, proxy_header] : wanted) {
    // All interfaces, at any port: one port for both families.
    if (everywhere && at.port == 0) at.port = set.port;
    auto address = ToAddress(at);
    if (!address.ok()) return address.status();
    // SO_REUSEPORT would let a second process of the same user join in, and take half of the connections: first see
    // that nobody is there.
    if (const int alone = at.port == 0 ? -1 : Listen(*address, false); alone >= 0) {
      close(alone);
    } else if (at.port != 0) {
      const bool no_ipv6 = errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL;
      if (everywhere && at.host == "::" && no_ipv6) continue;
      return absl::UnavailableError(
          Concat("cannot listen on ", AddressText(address->storage), ": ", std::strerror(errno)));
    }
    for (auto& sockets : set.of_worker) {
      const int fd = Listen(*address, true);
      if (fd < 0) {
        return absl::UnavailableError(
            Concat("cannot listen on ", AddressText(address->storage), ": ", std::strerror(errno)));
      }
      sockets.push_back({fd, proxy_header});
      // The first worker's bind chose the port for the others.
      (void)getsockname(fd, reinterpret_cast<sockaddr*>(&address->storage),
                        &address->length);  // else the text has the wanted one
    }
    if (set.port == 0) set.port = PortOf(address->storage);
    set.addresses.push_back(AddressText(address->storage));
  }
  std::move(close_all).Cancel();
  return set;
}

}  // namespace gateway::dataplane
