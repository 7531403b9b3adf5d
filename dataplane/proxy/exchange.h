// The life of a request, from its head to its line in the log. exchange.cc tells it from top to bottom; what it decides
// by is in the snapshot, what it remembers in the runtime state, how bytes look on the wire in http1/, how bodies flow
// in relay.cc.
#ifndef GATEWAY_DATAPLANE_PROXY_EXCHANGE_H_
#define GATEWAY_DATAPLANE_PROXY_EXCHANGE_H_

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "common/policy/route/path.h"
#include "common/policy/snapshot.h"
#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/cors.h"
#include "dataplane/policy/transform.h"
#include "dataplane/proxy/failure.h"
#include "dataplane/server/connection.h"
#include "dataplane/server/worker.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/telemetry/access_log.h"
#include "dataplane/upstream/upstream_pool.h"

namespace gateway::dataplane {

class Alarm;

// Retry-After and RateLimit-Reset: whole seconds, after which what was promised holds.
inline int64_t CeilSeconds(std::chrono::milliseconds time) { return std::max<int64_t>(1, (time.count() + 999) / 1000); }

// One request and its answer. Lives in its connection's coroutine; holds the state that it started with until it ends.
class Exchange {
 public:
  static constexpr int kConnectAttemptsMax = 3;  // endpoints tried while connections are refused
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
    bool retried = false;   // it is to be made again: PrepareRetry has said so
  };
  // How the request's body got on.
  enum class Upload : uint8_t {
    kRunning,
    kComplete,
    kClientClosed,
    kClientTimeout,
    kRefused,         // its framing is wrong
    kTooLarge,        // past what its route allows
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
  bool FindBuiltin();  // /health and the like
  Task<void> AnswerBuiltin();
  Reason MatchRoute();
  bool IsGuardedOtherwise() const;
  void ChooseService();
  // limits.cc: those of one stage, together.
  Reason AdmitByLimits(std::span<const uint32_t> limits);
  Task<Reason> AdmitWithRedis(std::span<const uint32_t> limits);  // where one of them is counted there
  using Leases = absl::InlinedVector<std::pair<LeaseTable*, std::string_view>, 2>;
  bool AdmitByLease(const BoundLimit& limit, std::string_view key, Leases* leased);
  void AppendLimitKey(const RateLimitPolicy& limit, std::string* keys) const;
  void NoteLimit(const RateLimitPolicy& limit, const RateLimitDecision& decision);
  void AppendLimitFields(std::string* fields) const;
  Reason FindEndpoints() const;
  Task<void> Handle();
  Task<void> Forward();
  Task<std::unique_ptr<UpstreamConnection>> Connect(const std::shared_ptr<Endpoint>& endpoint, Attempt* failure);
  Task<Attempt> TryEndpoint(UpstreamConnection* upstream);
  Task<Attempt> Converse(UpstreamConnection* upstream, std::optional<Task<void>>* upload);
  bool MayRepeat(const Attempt& attempt) const;
  void ReportFailure(const Attempt& attempt);
  void ReportHead(int status);  // of the response that is relayed
  void ReportSuccess();         // its body has ended, or has flowed for long enough
  Task<void> Refuse(Reason reason, const char* detail = "");
  // `content_type` may be empty: there is none.
  Task<void> Reply(int status, std::string_view body, std::string_view fields = {},
                   std::string_view content_type = "application/json");
  void Record();

  // exchange_balance.cc: the endpoints.
  bool PickEndpoint();
  void ReportEndpoint(int status, Reason reason);
  void ObserveLatency(std::chrono::nanoseconds latency);
  void AppendSessionCookie(std::string* out) const;

  // The client went before there was an answer: nobody is to be told.
  void EndUnanswered();

  // retry.cc: what a service's Retry, its limits and a route's mirrors ask for.
  // Until `deadline`, or until `alarm` is rung: also by the client, where it resets its connection.
  Task<void> AwaitAlarm(Alarm* alarm, TimePoint deadline);
  Task<Reason> EnterBulkhead();
  Task<Reason> BufferBody(uint64_t bytes_max);
  // `connected`: it failed on a connection, not for want of one.
  bool PrepareRetry(Reason reason, int status, bool connected = true);
  bool KeepsRetrying() const { return retry_ != nullptr && retries_ < retry_->attempts; }
  void CopyForMirrors(std::string_view payload);
  void StartMirrors();
  // exchange_edge.cc: what is decided and answered before a service is asked.
  bool MayAccess(const AccessPolicy& access);
  bool FindPreflightRoute();  // of the request that the preflight is for; false: there is none with a Cors
  Task<void> AnswerPreflight(const CorsPolicy& cors);
  bool IsBodyTooLarge() const;
  bool RewriteByRegex();  // false: it made what is no path
  Task<void> Redirect(const RedirectPolicy& redirect);
  Task<void> Respond(const RespondPolicy& respond);
  TextValues Values() const;
  std::string_view RequestScheme() const;
  // Of an answer of our own that carries them out: null for refusals and preflights.
  const FieldEditsPolicy* AnswerEdits() const;
  void AppendCorsFields(std::string* fields) const;

  // exchange_heads.cc: heads as they are sent on.
  // `copy_bytes`: for a mirror, whose body is whole and so long.
  bool BuildUpstreamHead(const Endpoint& endpoint, std::optional<size_t> copy_bytes, Buffer* out);
  bool BuildAnswerHead(const http1::ResponseHead& answer, bool chunked, bool with_length, Buffer* out);
  std::string ForwardedForValue() const;

  // authenticate.cc: who calls.
  void RemoveIdentityFields();
  Task<Reason> Authenticate();
  std::shared_ptr<const VerifiedToken> VerifyToken(const BoundAuthMethod& method, std::string_view text,
                                                   JwtRefusal* refusal);
  Task<PasswordPool::Answer> CheckPassword(std::string_view credentials, const ConsumerPolicy** caller);
  const ConsumerPolicy* FindConsumerOf(const AuthMethodPolicy& method, const VerifiedToken& token);
  std::string_view FindSingleField(std::string_view name) const;
  std::string_view ClaimOf(std::string_view name) const;  // of a verified token; empty: none
  bool IsAllowed(const AuthPolicy& auth) const;
  bool IsSpentCredential(const FieldView& field) const;
  void AppendChallenges(std::string* fields) const;
  void AppendForwarded(std::string* fields) const;

  // relay.cc: bodies.
  void TakeBufferedBody();
  Task<void> UploadBody(UpstreamConnection* upstream);
  Task<Upload> PumpBody(UpstreamConnection* upstream);
  Upload EndOfPiece(Io sent, const Socket& to) const;
  Task<Attempt> RelayAnswer(UpstreamConnection* upstream, http1::ResponseHead* answer);
  // `last`: nothing else of this exchange is sent.
  Task<Io> SendToClient(std::span<iovec> parts, bool last);

  // tunnel.cc: what follows a change of protocol.
  Task<Attempt> Tunnel(UpstreamConnection* upstream, http1::ResponseHead* answer);
  Task<TunnelEnd> PumpTunnel(Socket* from, Socket* to, Buffer first, uint64_t* bytes);
  Task<void> PumpTunnelUp(UpstreamConnection* upstream, Buffer first, TunnelEnd* end);
  void KeepOfHead();

  bool OutOfTime() const { return loop().now() >= ends_at_; }
  TimePoint AnswerDeadline() const;
  std::chrono::nanoseconds ServiceTime() const;
  Attempt EndOfWait(Wait wait) const;
  Reason EndOfCancelled() const;  // why nobody waits for the service any more
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
  bool upgrading_ = false;  // it asks for WebSocket, and its route allows that
  char request_id_room_[33];
  std::string_view request_id_;
  std::string client_ip_room_;  // where it is not the peer's
  std::string_view client_ip_;
  in6_addr client_address_{};
  char host_room_[kNormalHostBytesMax];
  std::string_view host_;               // lower case, no port
  std::string normal_room_;             // where the path was not in normal form
  std::string_view path_;               // normalised
  std::string rewritten_;               // where the route rewrites by regex
  std::optional<Preflight> preflight_;  // and its route has a Cors
  std::string kept_room_;               // what is left of a head whose buffer was given back

  // Where it goes.
  RouteMatch match_;
  const BoundRoute* route_ = nullptr;
  const BoundService* service_ = nullptr;
  std::shared_ptr<const BoundService> dynamic_;
  uint32_t series_ = MetricsRegistry::kNoRouteSeries;
  uint32_t service_metrics_ = MetricsRegistry::kUnknownService;
  std::string policy_;                          // whose decision a refusal was
  std::string_view consumer_;                   // who was authenticated; empty: nobody
  const ConsumerPolicy* caller_ = nullptr;      // in the snapshot; null: nobody that it has
  std::shared_ptr<const VerifiedToken> token_;  // null: none
  JwtRefusal token_refusal_ = JwtRefusal::kNone;
  // Of the limits that are enforced, the tightest so far (null: there was none), and what it said.
  const RateLimitPolicy* limit_policy_ = nullptr;
  RateLimitDecision limit_;
  absl::InlinedVector<const RateLimitPolicy*, 2> shadow_refusals_;  // of limits that only would have
  CircuitBreaker::Permit permit_;
  Bulkhead::Place place_;
  const RetryPolicy* retry_ = nullptr;  // null: an attempt that fails is not made again
  uint32_t retries_ = 0;                // made by it
  uint32_t attempts_ = 0;               // all of them, also those that could not connect
  std::chrono::milliseconds retry_delay_{0};
  std::chrono::milliseconds retry_after_{0};

  // Its body.
  http1::BodyDecoder body_ = http1::BodyDecoder::None();
  std::string_view buffered_body_;  // decoded, in the client's input, behind the head
  size_t input_used_ = 0;           // of the client's input: the head and what was decoded
  Buffer body_room_;                // where buffered_body_ is, if not there
  std::string mirror_body_;
  uint64_t body_bytes_ = 0;  // of it, without framing, so far
  bool replayable_ = false;  // all of it is in buffered_body_, and can be sent again
  bool mirrors_ = false;     // copies are still to be sent, of mirror_body_
  Upload upload_ = Upload::kComplete;
  bool stop_upload_ = false;
  bool continue_awaited_ = false;  // the client waits for a 100 before it sends its body
  bool upload_begun_ = false;      // something of the body was read as it came, and is gone
  TimePoint head_sent_;            // and what there was of the body, in this attempt
  TimePoint request_sent_;         // all of it, in this attempt
  TimePoint heard_;                // of the endpoint, before the answer's head was whole
  TimePoint request_complete_;     // all of it had come from the client
  Buffer next_input_;              // read behind a chunked body
  const char* body_detail_ = "";

  // Its answer.
  bool answer_head_read_ = false;
  bool answer_started_ = false;
  int status_ = 0;
  Reason reason_ = Reason::kNone;
  bool aborted_ = false;
  const char* detail_ = "";
  std::shared_ptr<Endpoint> endpoint_;
  uint32_t endpoint_index_ = 0;             // of endpoint_, in service_->endpoints
  bool endpoint_reported_ = true;           // of this attempt
  bool sets_session_ = false;               // the answer brings a cookie
  absl::InlinedVector<uint32_t, 8> tried_;  // as endpoint_index_, of those that are not to be picked again
  InFlight in_flight_;                      // where the balancer counts
  TimePoint attempt_started_;
  TimePoint head_read_;                       // the response's head, in this attempt
  std::chrono::nanoseconds head_latency_{0};  // what the endpoint took for it
  TimePoint ends_at_ = TimePoint::max();      // by the route's max_duration
  TimePoint tunnel_active_;                   // bytes moved, in either direction
  std::chrono::nanoseconds upstream_duration_{-1};
  uint64_t bytes_in_ = 0;
  uint64_t bytes_out_ = 0;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_EXCHANGE_H_
