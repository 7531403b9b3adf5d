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
  // X-Consul-Index; 0 where it is absent or no number. Look at `status` first: a 500 carries an index too.
  uint64_t index = 0;
  bool known_leader = true;  // X-Consul-KnownLeader; true where the answer has none
  std::string body;          // at most kAnswerBytesMax, else the read fails
};

// Keeps its connection between requests, and makes a new one where Consul has closed it meanwhile. Not thread-safe:
// everything happens on the io_context's one thread. Must outlive its requests.
class ConsulHttp {
 public:
  // `address` is "host:port". The token, if any, goes with every request and into no message.
  ConsulHttp(boost::asio::io_context& io, std::string address, std::string token);
  ~ConsulHttp();
  ConsulHttp(const ConsulHttp&) = delete;
  ConsulHttp& operator=(const ConsulHttp&) = delete;

  // An answer of any status; or Unavailable (no connection, cut off, not HTTP), DeadlineExceeded (`timeout` covers name
  // resolution, connecting, writing and reading), ResourceExhausted (over the limit), Cancelled (Close).
  boost::asio::awaitable<absl::StatusOr<ConsulAnswer>> Get(std::string_view target, std::chrono::milliseconds timeout);
  // The same with a body (JSON, or nothing). Sent a second time where a kept connection broke before any byte of an
  // answer, so it is for requests that may be repeated.
  boost::asio::awaitable<absl::StatusOr<ConsulAnswer>> Put(std::string_view target, std::string body,
                                                           std::chrono::milliseconds timeout);

  // Ends what is under way, and every later request, with Cancelled.
  void Close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The answer's failure as a message for people: "500: No cluster leader". The body is cut short and cleaned.
std::string DescribeAnswer(const ConsulAnswer& answer);

// For a segment of a path or the value of a query: everything but unreserved characters is escaped.
std::string EscapeUrl(std::string_view text);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP_CLIENT_H_
