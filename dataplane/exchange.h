// The life of a request, from its head to its line in the log. exchange.cc tells it from top to bottom; what it decides
// by is in the snapshot, what it remembers in the runtime state, how bytes look on the wire in http1/, how bodies flow
// in relay.cc.
#ifndef GATEWAY_DATAPLANE_EXCHANGE_H_
#define GATEWAY_DATAPLANE_EXCHANGE_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/snapshot.h"
#include "dataplane/access_log.h"
#include "dataplane/buffer_pool.h"
#include "dataplane/connection.h"
#include "dataplane/failure.h"
#include "dataplane/http1/body.h"
#include "dataplane/http1/head.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/serving_state.h"
#include "dataplane/upstream_pool.h"
#include "dataplane/worker.h"

namespace gateway::dataplane {

// One request and its answer. Lives in its connection's coroutine; holds the state that it started with until it ends.
class Exchange {
 public:
  static constexpr int kConnectAttemptsMax = 3;  // endpoints tried while connections are refused
  static constexpr int kInterimAnswersMax = 16;  // 1xx of one answer; more are a flood
  static constexpr size_t kAnswerHeadBytesMax = 64 * 1024;
  static constexpr const char* kMaxDurationDetail = "max_duration is over";
  static constexpr size_t kRelayBytesPerTurnMax = 2 * 1024 * 1024;  // then the other connections have their turn

  Exchange(Worker* worker, ClientConnection* client);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Reads one request from the client's connection, answers it, records it. False: there was none. Does not throw.
  Task<bool> Run();

 private:
  // How one attempt at an endpoint ended.
  struct Attempt {
    bool answered = false;  // something of an answer has reached the client: nothing more can be said
    Reason reason = Reason::kNone;
    const char* detail = "";
    bool stale = false;     // a kept connection that had ended before any byte of an answer
    bool reusable = false;  // the connection can carry another exchange
    bool sent = false;      // bytes of the request may have reached the endpoint
  };
  // How the request's body got on.
  enum class Upload : uint8_t {
    kRunning,
    kComplete,
    kClientClosed,
    kClientTimeout,
    kRefused,         // its framing is wrong
    kUpstreamFailed,  // the endpoint takes no more; its answer may still come
    kUpstreamTimeout,
    kOverloaded,  // no buffer is to be had
    kStopped,
  };
  // How one direction of a tunnel ended.
  enum class TunnelEnd : uint8_t { kEnded, kFromBroken, kToBroken, kCancelled, kIdle, kOutOfTime, kOverloaded };

  // exchange.cc, in the order of a request's life.
  Task<bool> ReadHead();  // false: nobody is there any more
  void Identify();        // request id and client address, by what the peer may say
  Reason NormalizeTarget();
  Task<bool> AnswerBuiltin();  // /health and the like; false: not one of them
  Reason MatchRoute();
  void ChooseService();
  Reason AdmitByLimits(const std::vector<uint32_t>& limits);
  bool CheckLimit(const BoundLimit& limit, bool consume);
  Task<void> Redirect(const RedirectPolicy& redirect);
  Task<void> Respond(const RespondPolicy& respond);
  Reason FindEndpoints() const;
  Task<void> Handle();
  Task<void> Forward();
  Task<std::unique_ptr<UpstreamConnection>> ConnectTo(const std::shared_ptr<Endpoint>& endpoint, bool fresh,
                                                      Attempt* failure);
  Task<Attempt> TryEndpoint(UpstreamConnection* upstream);
  Task<Attempt> Converse(UpstreamConnection* upstream, std::optional<Task<void>>* upload);
  bool MayRepeat(const Attempt& attempt) const;
  Task<void> Refuse(Reason reason, const char* detail = "");
  Task<void> Reply(int status, std::string_view body, std::string_view fields = {});
  void Record();

  // exchange_heads.cc: heads as they are sent on.
  bool BuildUpstreamHead(const UpstreamConnection& upstream, Buffer* out);
  bool BuildAnswerHead(const http1::ResponseHead& answer, bool chunked, bool with_length, Buffer* out);
  std::string ForwardedForValue() const;
  void AppendText(const TextTemplate& text, std::string* out) const;

  // relay.cc: bodies.
  void TakeBufferedBody();
  Task<void> UploadBody(UpstreamConnection* upstream);
  Task<Upload> PumpBody(UpstreamConnection* upstream);
  Task<Attempt> RelayAnswer(UpstreamConnection* upstream, http1::ResponseHead* answer);
  Task<Io> SendToClient(std::span<iovec> parts);

  // tunnel.cc: what follows a change of protocol.
  Task<Attempt> Tunnel(UpstreamConnection* upstream, http1::ResponseHead* answer);
  Task<TunnelEnd> PumpTunnel(Socket* from, Socket* to, Buffer first, uint64_t* bytes);
  Task<void> PumpTunnelUp(UpstreamConnection* upstream, Buffer first, TunnelEnd* end);
  void KeepOfHead();

  bool OutOfTime() const { return loop().now() >= ends_at_; }
  TimePoint AnswerDeadline() const;
  Attempt EndOfWait(Wait wait) const;
  EventLoop& loop() const { return worker_->loop(); }

  Worker* const worker_;
  ClientConnection* const client_;
  const ServerOptions& options_;
  std::optional<StateRef> state_;

  // The request.
  TimePoint started_;
  std::chrono::system_clock::time_point started_wall_;
  http1::RequestHead head_;
  bool head_parsed_ = false;
  char request_id_room_[33];
  std::string_view request_id_;
  std::string client_ip_room_;  // where it is not the peer's
  std::string_view client_ip_;
  in6_addr client_address_{};
  char host_room_[256];
  std::string_view host_;    // lower case, no port
  std::string normal_room_;  // where the path was not in normal form
  std::string_view path_;    // normalised

  bool upgrading_ = false;  // it asks for WebSocket, and its route allows that
  std::string kept_room_;   // what is left of a head whose buffer was given back

  // Where it goes.
  RouteMatch match_;
  const BoundRoute* route_ = nullptr;
  const BoundService* service_ = nullptr;
  std::shared_ptr<const BoundService> dynamic_;
  uint32_t series_ = MetricsRegistry::kNoRouteSeries;
  uint32_t service_metrics_ = MetricsRegistry::kUnknownService;
  std::string policy_;         // whose decision a refusal was
  std::string_view consumer_;  // who was authenticated; empty: nobody
  RateLimitDecision limit_;
  CircuitBreaker::Permit permit_;
  std::chrono::milliseconds retry_after_{0};

  // Its body.
  http1::BodyDecoder body_ = http1::BodyDecoder::None();
  std::string_view buffered_body_;  // decoded, in the client's input, behind the head
  size_t input_used_ = 0;           // of the client's input: the head and what was decoded
  bool replayable_ = false;         // all of it is in buffered_body_, and can be sent again
  Upload upload_ = Upload::kComplete;
  bool stop_upload_ = false;
  bool continue_awaited_ = false;  // the client waits for a 100 before it sends its body
  TimePoint request_sent_;         // all of it, in this attempt
  TimePoint request_complete_;     // all of it had come from the client
  Buffer next_input_;              // read behind a chunked body
  const char* body_detail_ = "";

  // Its answer.
  bool answer_head_read_ = false;
  bool answer_started_ = false;
  int status_ = 0;
  Reason reason_ = Reason::kNone;
  const char* detail_ = "";
  bool aborted_ = false;
  std::shared_ptr<Endpoint> endpoint_;
  TimePoint attempt_started_;
  TimePoint ends_at_ = TimePoint::max();  // by the route's max_duration
  TimePoint tunnel_active_;               // bytes moved, in either direction
  std::chrono::nanoseconds upstream_duration_{-1};
  uint64_t bytes_in_ = 0;
  uint64_t bytes_out_ = 0;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_EXCHANGE_H_
