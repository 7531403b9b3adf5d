#include "tests/soak/upstream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "common/base/text.h"
#include "tests/soak/wire.h"

namespace gateway::soak {
namespace {

constexpr milliseconds kIdle{3'600'000};  // longer than any soak: it is the gateway that closes

// A number in the query; `absent` if it is missing.
uint64_t Wish(const std::string& target, const char* name, uint64_t absent) {
  size_t at = target.find('?');
  while (at != std::string::npos) {
    ++at;
    if (target.compare(at, std::strlen(name), name) == 0 && target[at + std::strlen(name)] == '=') {
      return std::strtoull(target.c_str() + at + std::strlen(name) + 1, nullptr, 10);
    }
    at = target.find('&', at);
  }
  return absent;
}

std::string SmallAnswer(const std::string& text, int status = 200) {
  return Concat("HTTP/1.1 ", status, status == 200 ? " OK" : " Bad Request",
                "\r\nContent-Type: text/plain\r\nContent-Length: ", text.size(), "\r\n\r\n", text);
}

Task<bool> Answer(Peer* peer, const Head& head) {
  const std::string path = head.target.substr(0, head.target.find('?'));
  const std::string what = path.substr(path.rfind('/') + 1);
  std::string answer;
  if (what == "ws") {
    // The key and accept value of the example in RFC 6455, section 1.3; the soak's clients send this key.
    answer =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    if (!co_await peer->Send(answer)) co_return false;
    std::string echo;
    for (;;) {
      if (peer->buffer().empty()) {
        const Got got = co_await peer->Fill(kIdle);
        if (got == Got::kEnd) peer->ShutdownWrite();
        if (got != Got::kAll) co_return false;
      }
      echo.swap(peer->buffer());
      peer->buffer().clear();
      if (!co_await peer->Send(echo)) co_return false;
    }
  }
  if (what == "upload") {
    uint64_t bytes = 0;
    const Got got = co_await peer->ReadBody(head, nullptr, &bytes, Peer::Pace());
    if (got == Got::kWrong) {
      answer = SmallAnswer("not what was sent", 400);
      (void)co_await peer->Send(answer);
      co_return false;
    }
    if (got != Got::kAll) co_return false;
    answer = SmallAnswer(Concat("bytes=", bytes));
    co_return co_await peer->Send(answer);
  }
  if (what == "silent") {
    const Got got = co_await peer->Fill(kIdle);
    (void)got;  // nothing is sent in any case
    co_return false;
  }
  if (what == "bytes" || what == "chunked" || what == "drip") {
    const uint64_t n = Wish(head.target, "n", 0);
    const size_t chunk = what == "chunked" ? 10'000 : 0;
    const size_t piece = Wish(head.target, "piece", what == "drip" ? 1024 : 64 * 1024);
    const milliseconds pause(Wish(head.target, "ms", 0));
    answer = Concat("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n");
    if (chunk > 0) {
      answer += "Transfer-Encoding: chunked\r\n\r\n";
    } else {
      Append(&answer, "Content-Length: ", n, "\r\n\r\n");
    }
    if (!co_await peer->Send(answer)) co_return false;
    if (!co_await peer->SendPattern(0, n, piece, chunk, pause)) co_return false;
    if (chunk > 0) co_return co_await peer->Send("0\r\n\r\n");
    co_return true;
  }
  if (what == "delay") co_await Pause(peer->loop(), milliseconds(Wish(head.target, "ms", 0)));
  answer =
      SmallAnswer(Concat("id=", Wish(head.target, "id", 0), " (a small answer of a service, as many of them are)"));
  co_return co_await peer->Send(answer);
}

Detached Serve(std::unique_ptr<Peer> peer) {
  Head head;
  for (;;) {
    if (co_await peer->ReadHead(&head, kIdle) != Got::kAll) co_return;
    if (!co_await Answer(peer.get(), head)) co_return;
  }
}

struct Listener {
  EventLoop* loop;
  int fd;
};

void OnAcceptable(void* owner, uint32_t) {
  auto* listener = static_cast<Listener*>(owner);
  for (;;) {
    const int fd = accept4(listener->fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    const int one = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // slower without it, but not wrong
    auto peer = std::make_unique<Peer>(listener->loop);
    if (peer->Adopt(fd)) Serve(std::move(peer));
  }
}

}  // namespace

int RunUpstream(uint16_t port) {
  rlimit limit{};
  (void)getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);  // the current limit may be enough
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int one = 1;
  (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);  // bind reports the failure
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(fd, 4096) != 0) {
    std::fprintf(stderr, "upstream: cannot listen on port %d: %s\n", port, std::strerror(errno));
    return 1;
  }
  EventLoop loop;
  Listener listener{&loop, fd};
  if (loop.Add(fd, &OnAcceptable, &listener) == nullptr) return 1;
  std::printf("upstream ready\n");
  (void)std::fflush(stdout);  // the parent waits for this line, and reports if it does not arrive
  loop.Run();
  return 0;
}

}  // namespace gateway::soak
