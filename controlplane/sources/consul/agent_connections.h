// Connections to Consul's agent, as made from one io_context: a new one for each ConsulHttp, or over TLS with HTTP/2 a
// few that all share.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_AGENT_CONNECTIONS_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_AGENT_CONNECTIONS_H_

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "controlplane/sources/consul/access.h"
#include "controlplane/sources/consul/http2_connection.h"

namespace gateway::controlplane {

// One connection to the agent: exactly one of the three is set.
struct AgentLink {
  std::unique_ptr<boost::beast::tcp_stream> plain;
  std::unique_ptr<ConsulTlsStream> secure;  // HTTP/1.1 over TLS
  std::shared_ptr<Http2Connection> shared;
};

// Everything happens on the io_context's one thread.
class AgentConnections {
 public:
  using Clock = std::chrono::steady_clock;

  // Ends a wait for a connection. One for each Acquire.
  class Waiting {
   public:
    explicit Waiting(boost::asio::io_context& io) : timer_(io) {}
    void Cancel();

   private:
    friend class AgentConnections;
    boost::asio::steady_timer timer_;
    boost::beast::tcp_stream* stream_ = nullptr;  // being connected
    bool cancelled_ = false;
  };

  AgentConnections(boost::asio::io_context& io, ConsulAccess access);
  AgentConnections(const AgentConnections&) = delete;
  AgentConnections& operator=(const AgentConnections&) = delete;

  // Unavailable (no connection, TLS failed; the message says why), DeadlineExceeded, Cancelled, or what is wrong with
  // the files of `access`.
  boost::asio::awaitable<absl::StatusOr<AgentLink>> Acquire(Clock::time_point deadline,
                                                            std::shared_ptr<Waiting> waiting);
  // Whether requests share connections: the agent has chosen HTTP/2 the last time. Then hardly anything limits how many
  // of them wait at once.
  bool shared() const { return shared_; }
  // Connections that are shared and open.
  size_t open() const;

  boost::asio::io_context& io() const { return io_; }
  const std::string& address() const { return access_.address; }
  const std::string& token() { return token_.Get(Clock::now()); }
  // Ends the shared connections and every Acquire.
  void Close();

 private:
  // A connection that is being made, for all that wait for it.
  struct Attempt {
    bool done = false;
    absl::Status status;
    std::unique_ptr<ConsulTlsStream> unclaimed;  // the agent speaks HTTP/1.1: for one of them
    std::vector<std::shared_ptr<Waiting>> waiting;
  };

  boost::asio::awaitable<absl::StatusOr<AgentLink>> Dial(Clock::time_point deadline, std::shared_ptr<Waiting> waiting);
  boost::asio::awaitable<void> DialForAll(std::shared_ptr<Attempt> attempt);
  absl::Status Failure(const char* what, const boost::system::error_code& ec, bool cancelled) const;
  absl::Status HandshakeFailure(SSL* ssl, const std::string& name, const boost::system::error_code& ec) const;

  boost::asio::io_context& io_;
  const ConsulAccess access_;
  ConsulToken token_;
  bool shared_ = false;
  bool separate_ = false;  // over TLS the agent has chosen HTTP/1.1 the last time
  bool closed_ = false;
  std::vector<std::shared_ptr<Http2Connection>> connections_;
  std::shared_ptr<Attempt> attempt_;       // null: none is under way
  std::shared_ptr<Waiting> attempt_wait_;  // its own
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_AGENT_CONNECTIONS_H_
