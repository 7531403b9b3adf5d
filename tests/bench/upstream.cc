// The service behind the benchmark's proxies: so cheap that it is never the bottleneck. Reads each request to its end,
// whatever the body. The last segment of the path selects the response: `1m` and `1m-chunked` are 1 MiB, anything else
// is a small JSON object. One thread, epoll, edge-triggered; responses are prebuilt.
//
//   upstream PORT     (on 127.0.0.1)
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/message_reader.h"
#include "tests/bench/sockets.h"

namespace gateway::bench {
namespace {

constexpr int kEventsMax = 512;
constexpr size_t kBufferBytes = 256 * 1024;
constexpr size_t kLargeBytes = 1 << 20;
constexpr size_t kChunkBytes = 16 * 1024;

// The same fields as nginx sends.
std::string Answer(std::string_view framing, std::string_view body) {
  std::string text =
      "HTTP/1.1 200 OK\r\nServer: upstream/1.22.1\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
      "Content-Type: application/json\r\n";
  text += framing;
  text += "\r\nConnection: keep-alive\r\n\r\n";
  text += body;
  return text;
}

std::string Sized(const std::string& body) { return Answer("Content-Length: " + std::to_string(body.size()), body); }

std::string Chunked(size_t bytes) {
  std::string body;
  for (size_t sent = 0; sent < bytes; sent += kChunkBytes) {
    std::array<char, 16> size{};
    (void)std::snprintf(size.data(), size.size(), "%zx\r\n", kChunkBytes);
    body += size.data();
    body.append(kChunkBytes, 'x');
    body += "\r\n";
  }
  return Answer("Transfer-Encoding: chunked", body + "0\r\n\r\n");
}

const std::string& AnswerTo(std::string_view request_line) {
  static const std::string small = Sized(R"({"message": "a small answer of a service, as many of them are"})");
  static const std::string large = Sized(std::string(kLargeBytes, 'x'));
  static const std::string large_chunked = Chunked(kLargeBytes);
  if (request_line.find("/1m-chunked ") != std::string_view::npos) return large_chunked;
  if (request_line.find("/1m ") != std::string_view::npos) return large;
  return small;
}

struct Connection {
  int fd = -1;
  MessageReader request{MessageReader::Kind::kRequest};
  const std::string* answer = nullptr;  // being sent
  size_t sent = 0;

  // Reads and responds until either would block. False: the connection is closed.
  bool Go(char* buffer, bool ended) {
    bool more = true;  // there may be more to read
    while (true) {
      if (answer != nullptr) {
        while (sent < answer->size()) {
          const ssize_t bytes = send(fd, answer->data() + sent, answer->size() - sent, MSG_NOSIGNAL);
          if (bytes < 0) return errno == EAGAIN;
          sent += static_cast<size_t>(bytes);
        }
        answer = nullptr;
        if (request.closes()) return false;
        request.Next();
      }
      if (!more) return true;
      size_t consumed = 0;
      const ssize_t bytes = ReceiveInto(fd, &request, buffer, kBufferBytes, &more, &consumed);
      if (bytes < 0) return errno == EAGAIN;
      // No proxy pipelines requests; if one did, this would close its connection.
      if (bytes == 0 || request.bad() || consumed < static_cast<size_t>(bytes)) return false;
      more |= ended;
      if (request.complete()) {
        answer = &AnswerTo(request.start_line());
        sent = 0;
      }
    }
  }
};

int Serve(int port) {
  const int listener = Listen(port);
  if (listener < 0) {
    std::perror("listen");
    return 1;
  }
  (void)AnswerTo("");  // builds them before the first request
  const int poll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;  // null: the listener; every other event has its connection
  (void)epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  const auto buffer = std::make_unique_for_overwrite<char[]>(kBufferBytes);
  std::array<epoll_event, kEventsMax> events;
  while (true) {
    const int count = epoll_wait(poll, events.data(), kEventsMax, -1);
    if (count < 0 && errno != EINTR) return 1;
    for (int i = 0; i < count; ++i) {
      if (events[i].data.ptr == nullptr) {
        for (int fd = Accept(listener); fd >= 0; fd = Accept(listener)) {
          auto* connection = new Connection{.fd = fd};
          event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
          event.data.ptr = connection;
          (void)epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
        continue;
      }
      // A descriptor appears once per batch, so no connection is deleted under a later event.
      auto* connection = static_cast<Connection*>(events[i].data.ptr);
      if (!connection->Go(buffer.get(), (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0)) {
        close(connection->fd);
        delete connection;
      }
    }
  }
}

}  // namespace
}  // namespace gateway::bench

int main(int argc, char** argv) {
  if (argc != 2) {
    (void)std::fprintf(stderr, "usage: upstream PORT\n");
    return 2;
  }
  return gateway::bench::Serve(std::atoi(argv[1]));
}
