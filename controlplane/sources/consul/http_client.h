// An HTTP client for Consul's API: one request at a time.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP_CLIENT_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP_CLIENT_H_

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "boost/asio/awaitable.hpp"
#include "controlplane/sources/consul/agent_connections.h"
#include "controlplane/sources/consul/consul_request.h"

namespace gateway::controlplane {

// Keeps its connection between requests, and makes a new one if Consul has closed it meanwhile; shares one if the agent
// speaks HTTP/2. Not thread-safe: everything happens on the one thread of its agent's io_context. Must outlive its
// requests.
class ConsulHttp {
 public:
  explicit ConsulHttp(std::shared_ptr<AgentConnections> agent);
  ~ConsulHttp();
  ConsulHttp(const ConsulHttp&) = delete;
  ConsulHttp& operator=(const ConsulHttp&) = delete;

  // A response of any status; or Unavailable (no connection, cut off, not HTTP), DeadlineExceeded (`timeout` covers
  // name resolution, connecting, TLS, writing and reading), ResourceExhausted (over the limit), Cancelled (Close).
  boost::asio::awaitable<absl::StatusOr<ConsulResponse>> Get(std::string target, std::chrono::milliseconds timeout);
  // The same with a body (JSON, or nothing). Sent a second time if a kept connection broke before any byte of a
  // response, so it is for requests that may be repeated.
  boost::asio::awaitable<absl::StatusOr<ConsulResponse>> Put(std::string target, std::string body,
                                                             std::chrono::milliseconds timeout);

  // Ends what is under way, and every later request, with Cancelled.
  void Close();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The response's failure as a message for people: "500: No cluster leader". The body is cut short and cleaned.
std::string DescribeResponse(const ConsulResponse& response);

// OK for a response of 200, else why it is not one: PermissionDenied (403: the token is refused), NotFound (404: this
// is not Consul's API), Internal. Without a response, why.
absl::Status CheckResponse(const absl::StatusOr<ConsulResponse>& response);

// For a segment of a path or the value of a query: everything but unreserved characters is escaped.
std::string EscapeUrl(std::string_view text);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP_CLIENT_H_
