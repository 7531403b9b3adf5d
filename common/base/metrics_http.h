// The small HTTP server beside the main port: /metrics, /health, /ready. Boost.Beast, one thread; speed does not matter
// here.
#ifndef GATEWAY_COMMON_BASE_METRICS_HTTP_H_
#define GATEWAY_COMMON_BASE_METRICS_HTTP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace gateway {

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
};

// GET and HEAD of exact paths; anything else is 404 or 405 as {"error", "code"}. At most 64 connections (an eighth of
// the process's descriptors, if that is less), 16 of one client address (IPv6: of one /64), 8 KiB of header, 2 s for
// the first byte, 10 s for each further step. At a bound, and when descriptors run out, a new connection replaces the
// one that has waited longest without a request: first those that never sent one, then kept ones, then those that don't
// read their response. So a probe always gets through.
class MetricsHttp {
 public:
  using Handler = std::function<HttpReply()>;  // called on the server's thread

  // Binds at once (port 0: any); the thread starts with Start.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Listen(const std::string& host, uint16_t port);
  // On a listening TCP socket that another process has bound; takes it over.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Adopt(int fd);
  ~MetricsHttp();  // ends the thread

  void Handle(const std::string& path, Handler handler);  // before Start
  void Start();
  uint16_t port() const;
  std::string address() const;  // "127.0.0.1:9090", "[::1]:9090"
  // The listening socket, to be handed over; it stays this object's.
  int fd() const;
  // Stops accepting, without closing the socket if another process has it too; kept connections end with their next
  // response. After Start; returns when done.
  void StopListening();

 private:
  struct Impl;
  explicit MetricsHttp(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_METRICS_HTTP_H_
