// An HTTP/2 connection to Consul's agent, over TLS: many requests at once.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP2_CONNECTION_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP2_CONNECTION_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ssl/stream.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "controlplane/sources/consul/consul_request.h"

struct nghttp2_session;
struct nghttp2_session_callbacks;

namespace gateway::controlplane {

using ConsulTlsStream = boost::asio::ssl::stream<boost::beast::tcp_stream>;

// Below the 250 that Go's server, and so Consul, allows.
inline constexpr size_t kStreamsPerConnection = 240;

// Over a stream whose handshake has chosen h2. Held by shared_ptr: its two coroutines, a reader and a writer, keep it
// until the connection has ended. Everything happens on the io_context's one thread.
class Http2Connection : public std::enable_shared_from_this<Http2Connection> {
 public:
  using Clock = std::chrono::steady_clock;

  // A request under way, for who may want to end it early.
  class Call {
   public:
    // Its Exchange returns Cancelled.
    void Cancel();

   private:
    friend class Http2Connection;
    explicit Call(boost::asio::io_context& io) : wake(io) {}
    boost::asio::steady_timer wake;
    int32_t id = 0;
    std::string body;  // of the request
    size_t sent = 0;
    size_t header_bytes = 0;
    ConsulResponse response;
    bool done = false, cancelled = false;
    absl::Status failure;
  };

  Http2Connection(boost::asio::io_context& io, std::unique_ptr<ConsulTlsStream> stream, std::string address);
  ~Http2Connection();
  Http2Connection(const Http2Connection&) = delete;
  Http2Connection& operator=(const Http2Connection&) = delete;

  void Start();
  // Waits until the agent has said how many requests it takes at once. Unavailable, DeadlineExceeded.
  boost::asio::awaitable<absl::Status> Settled(Clock::time_point deadline);
  // Takes a further request.
  bool usable() const;
  bool ended() const { return ended_; }

  std::shared_ptr<Call> NewCall();
  // As ConsulHttp::Get. Aborted: the connection ended before the agent saw the request, or before a byte of its
  // response; the request may be sent again on another one.
  boost::asio::awaitable<absl::StatusOr<ConsulResponse>> Exchange(std::shared_ptr<Call> call, ConsulRequest request,
                                                                  Clock::time_point deadline);
  // Ends every request with Cancelled.
  void Close();

 private:
  struct Callbacks;

  boost::asio::awaitable<void> Read();
  boost::asio::awaitable<void> Write();
  void Flush();
  void Fail(const absl::Status& status);
  void Finish(Call& call, absl::Status failure);
  void Abandon(Call& call);

  boost::asio::io_context& io_;
  const std::unique_ptr<ConsulTlsStream> stream_;
  const std::string address_;
  std::unique_ptr<nghttp2_session, void (*)(nghttp2_session*)> session_;
  std::map<int32_t, std::shared_ptr<Call>> calls_;  // by stream; at most kStreamsPerConnection
  std::array<unsigned char, 32 * 1024> input_;
  std::string output_;
  boost::asio::steady_timer settle_timer_;
  size_t streams_max_ = 0;  // once it is settled; at most kStreamsPerConnection
  absl::Status end_;        // why it has ended
  bool writing_ = false;
  bool draining_ = false;  // takes no further request
  bool ended_ = false;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_HTTP2_CONNECTION_H_
