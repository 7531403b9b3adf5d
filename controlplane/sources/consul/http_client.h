// An HTTP client for Consul's API: one connection, one request at a time.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP_CLIENT_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/io_context.hpp"

namespace gateway::controlplane {

struct ConsulAnswer {
  int status = 0;
  // X-Consul-Index; 0 if absent or invalid. Check `status` first: a 500 carries an index too.
  uint64_t index = 0;
  bool known_leader = true;  // X-Consul-KnownLeader; true if absent
  std::string body;          // at most kAnswerBytesMax, otherwise the read fails
};

// Reuses its connection, and opens a new one if Consul has closed it. Not thread-safe: lives on the io_context's only
// thread. Must outlive its requests.
class ConsulHttp {
 public:
  // `address` is "host:port". The token, if any, is sent with every request and is in no message.
  ConsulHttp(boost::asio::io_context& io, std::string address, std::string token);
  ~ConsulHttp();
  ConsulHttp(const ConsulHttp&) = delete;
  ConsulHttp& operator=(const ConsulHttp&) = delete;

  // A response of any status; or Unavailable (no connection, cut off, not HTTP), DeadlineExceeded (`timeout` covers
  // name resolution, connecting, writing and reading), ResourceExhausted (over the limit), Cancelled (Close).
  boost::asio::awaitable<absl::StatusOr<ConsulAnswer>> Get(std::string_view target, std::chrono::milliseconds timeout);
  // The same with a body (JSON, or empty). Sent again if a reused connection broke before the first byte of a response,
  // so only for requests that may be repeated.
  boost::asio::awaitable<absl::StatusOr<ConsulAnswer>> Put(std::string_view target, std::string body,
                                                           std::chrono::milliseconds timeout);

  // Ends pending and later requests with Cancelled.
  void Close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A failed response as a message: "500: No cluster leader". The body is truncated and cleaned.
std::string DescribeAnswer(const ConsulAnswer& answer);

// For a path segment or a query value: escapes all but unreserved characters.
std::string EscapeUrl(std::string_view text);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP_CLIENT_H_
