// The minimum cost of a proxy: accepts connections, opens one upstream connection for each, and copies bytes in both
// directions without parsing them. One thread, epoll, edge-triggered, recycled buffers.
//
//   tcp_forward LISTEN_PORT UPSTREAM_PORT     (both on 127.0.0.1)
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/bench/sockets.h"

namespace gateway::bench {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;  // the maximum of the gateway's relay buffer
constexpr int kEventsMax = 256;

// One direction: bytes read from `from` and not yet written to `to`.
struct Flow {
  int from = -1;
  int to = -1;
  std::unique_ptr<char[]> buffer = std::make_unique_for_overwrite<char[]>(kBufferBytes);
  size_t begin = 0;
  size_t end = 0;
  bool eof = false;
  bool shut = false;

  void Open(int source, int sink) {
    from = source;
    to = sink;
    begin = end = 0;
    eof = shut = false;
  }

  // Copies until one side would block. False: the pair is broken.
  bool Pump() {
    while (true) {
      while (begin < end) {
        const ssize_t sent = send(to, buffer.get() + begin, end - begin, MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN;
        begin += static_cast<size_t>(sent);
      }
      if (eof) {
        if (!shut) (void)shutdown(to, SHUT_WR);  // the other side may be gone
        shut = true;
        return true;
      }
      begin = end = 0;
      const ssize_t received = recv(from, buffer.get(), kBufferBytes, 0);
      if (received < 0) return errno == EAGAIN;
      eof = received == 0;
      end = static_cast<size_t>(received);
    }
  }
};

struct Pair {
  Flow up;
  Flow down;
  bool dead = false;

  void Open(int client, int server) {
    up.Open(client, server);
    down.Open(server, client);
    dead = false;
  }
};

int Fail(const char* what) {
  std::perror(what);
  return 1;
}

int Forward(int port, int upstream_port) {
  const int listener = Listen(port);
  if (listener < 0) return Fail("listen");
  const int poll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;  // null: the listener; every other event has its pair
  if (epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) != 0) return Fail("epoll_ctl");

  std::array<epoll_event, kEventsMax> events;
  std::vector<Pair*> ended;
  std::vector<std::unique_ptr<Pair>> spare;  // closed ones, for reuse
  while (true) {
    const int count = epoll_wait(poll, events.data(), kEventsMax, -1);
    if (count < 0 && errno != EINTR) return Fail("epoll_wait");
    for (int i = 0; i < count; ++i) {
      if (events[i].data.ptr == nullptr) {
        for (int client = Accept(listener); client >= 0; client = Accept(listener)) {
          const int server = Connect(upstream_port);
          if (spare.empty()) spare.push_back(std::make_unique<Pair>());
          Pair* pair = spare.back().release();
          spare.pop_back();
          pair->Open(client, server);
          event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
          event.data.ptr = pair;
          (void)epoll_ctl(poll, EPOLL_CTL_ADD, client, &event);
          (void)epoll_ctl(poll, EPOLL_CTL_ADD, server, &event);
        }
        continue;
      }
      auto* pair = static_cast<Pair*>(events[i].data.ptr);
      if (pair->dead) continue;  // both of its sockets may be in one batch
      const bool alive = pair->up.Pump() && pair->down.Pump();
      if (!alive || (pair->up.shut && pair->down.shut)) {
        pair->dead = true;
        ended.push_back(pair);
      }
    }
    for (Pair* pair : ended) {
      close(pair->up.from);
      close(pair->up.to);
      spare.emplace_back(pair);
    }
    ended.clear();
  }
}

}  // namespace
}  // namespace gateway::bench

int main(int argc, char** argv) {
  if (argc != 3) {
    (void)std::fprintf(stderr, "usage: tcp_forward LISTEN_PORT UPSTREAM_PORT\n");
    return 2;
  }
  return gateway::bench::Forward(std::atoi(argv[1]), std::atoi(argv[2]));
}
