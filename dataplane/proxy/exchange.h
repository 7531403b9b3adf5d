// The life of a request, from its head to its line in the log. exchange.cc tells it from top to bottom, forward.cc how
// a service is asked. What it decides by is in the snapshot, what it remembers in the runtime state; how bytes look on
// the wire is the streams' (http/stream.h), how bodies flow is relay.cc's.
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
#include "dataplane/http/grpc_web.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/policy/circuit_breaker.h"
#include "dataplane/policy/cors.h"
#include "dataplane/policy/transform.h"
#include "dataplane/proxy/failure.h"
#include "dataplane/proxy/relay.h"
#include "dataplane/server/worker.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/telemetry/access_log.h"

namespace gateway::dataplane {

class Alarm;

// Retry-After and RateLimit-Reset: whole seconds, after which what was promised holds.
inline int64_t CeilSeconds(std::chrono::milliseconds time) { return std::max<int64_t>(1, (time.count() + 999) / 1000); }

// One request and its response. Lives in the coroutine of its stream's connection; holds the state that it started with
// until it ends.
class Exchange {
 public:
  static constexpr int kConnectAttemptsMax = 3;  // endpoints tried while connections are refused
  static constexpr int kRenewalsMax = 3;         // new connections for a request that an endpoint has not looked at
  static constexpr const char* kMaxDurationDetail = "max_duration is over";
  static constexpr const char* kGrpcTimeoutDetail = "grpc-timeout is over";

  Exchange(Worker* worker, http::DownstreamStream* stream);
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

 private:
  friend Task<void> ServeRequest(Worker& worker, http::DownstreamStream& stream);

  // Fields of the other side that go on.
  using FieldList = absl::InlinedVector<FieldView, 32>;
  // What is particular to each relay.
  class Upload;
  class Download;
  class Buffering;
  class TunnelDirection;
  struct TunnelState;

  // How one attempt at an endpoint ended.
  struct Attempt {
    bool answered = false;  // something of an answer has reached the client: nothing more can be said
    Reason reason = Reason::kNone;
    const char* detail = "";
    bool stale = false;     // a kept connection that had ended before any byte of an answer
    bool refused = false;   // the endpoint has not looked at the request
    bool complete = false;  // the connection has carried the request and the response to their ends
    bool sent = false;      // bytes of the request may have reached the endpoint
    bool retried = false;   // it is to be made again: PrepareRetry has said so
  };

  // exchange.cc, in the order of a request's life.
  void Identify();  // request id and client address, by what the peer may say
  // grpc_call.cc: what sets calls of gRPC apart.
  void ReadCall();       // whether the request is one, and its deadline
  Reason ReadWebCall();  // the same, of gRPC-Web, where the route takes it
  bool AdaptToWeb(http::Response* response, http::OutgoingResponse* head);  // false: it goes on as it is
  std::string_view CallType() const { return web_type_.empty() ? "application/grpc" : std::string_view(web_type_); }
  bool IsCallFor(const RetryPolicy& retry) const { return grpc_ && retry.grpc_codes.any(); }
  void KeepForRetry(const http::BodyPiece& piece);  // of a body that flows as it comes
  void NoteCallStatus(std::span<const FieldView> fields);
  int OutcomeStatus(int status) const;  // of a response, as breakers, ejection and metrics see it
  Task<void> RefuseCall(Reason reason, std::string_view fields);
  Task<void> EndCall(Reason reason);  // its response breaks off
  Reason NormalizeTarget();
  bool FindBuiltin();  // /health and the like
  Task<void> AnswerBuiltin();
  Reason MatchRoute();
  MatchInput MatchInputOf(std::string_view method, std::string_view path) const;
  bool IsGuardedOtherwise() const;
  bool HasBeenHere() const;  // by its Via
  void ChooseService();
  // limits.cc: those of one stage, together.
  Reason AdmitByLimits(std::span<const uint32_t> limits);
  Task<Reason> AdmitWithRedis(std::span<const uint32_t> limits);  // where one of them is counted there
  using Leases = absl::InlinedVector<std::pair<LeaseTable*, std::string_view>, 2>;
  bool AdmitByLease(const BoundLimit& limit, std::string_view key, Leases* leased);
  void RefundLeases(const Leases& leased) const;
  void AppendLimitKey(const RateLimitPolicy& limit, std::string* keys) const;
  void NoteLimit(const RateLimitPolicy& limit, const RateLimitDecision& decision);
  void AppendLimitFields(std::string* fields) const;
  Reason FindEndpoints() const;
  Task<void> Handle();
  void TakeBufferedBody();
  Task<void> Refuse(Reason reason, const char* detail = "");
  // `content_type` may be empty: there is none.
  Task<void> Reply(int status, std::string_view body, std::string_view fields = {},
                   std::string_view content_type = "application/json");
  // The client went before there was a response.
  void EndUnanswered();
  void Record();

  // forward.cc: a service is asked.
  Task<void> Forward();
  Task<bool> Connect(http::UpstreamStream* upstream, Attempt* failure);
  Task<Attempt> TryEndpoint(http::UpstreamStream* upstream);
  Task<Attempt> Converse(http::UpstreamStream* upstream, std::optional<Task<void>>* upload);
  Task<Attempt> RelayResponse(http::UpstreamStream* upstream, http::Response* response);
  Task<void> UploadBody(http::UpstreamStream* upstream);
  void CancelWhenGone(http::UpstreamStream* upstream);  // null: nothing is
  bool IsGone() const { return stream_.gone() || worker_->cut_short(); }
  TimePoint ResponseDeadline() const;
  std::chrono::nanoseconds ServiceTime() const;
  Attempt EndOfWait(Wait wait) const;
  Reason EndOfCancelled() const;  // why nobody waits for the service any more
  bool MayRepeat(const Attempt& attempt) const;
  void ReportFailure(const Attempt& attempt);
  void ReportHead(int status);  // of the response that is relayed
  void ReportSuccess();         // its body has flowed for long enough
  void ReportEnd();             // its body has ended

  // exchange_balance.cc: the endpoints.
  bool PickEndpoint();
  void ReportEndpoint(int status, Reason reason);
  void ObserveLatency(std::chrono::nanoseconds latency);
  void AppendSessionCookie(std::string* out) const;

  // retry.cc: what a service's Retry, its limits and a route's mirrors ask for.
  // Until `deadline`, or until `alarm` is rung: also by the client, where it resets its connection.
  Task<void> AwaitAlarm(Alarm* alarm, TimePoint deadline);
  Task<Reason> EnterBulkhead();
  Task<Reason> BufferBody(uint64_t bytes_max);
  // `connected`: it failed on a connection, not for want of one.
  bool PrepareRetry(Reason reason, int status, bool connected = true);
  // Whether a condition of the Retry names how it ended, by its status or by that of ours in its place.
  bool IsRetryStatus(Reason reason, int status) const;
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
  bool IsHttps() const;
  // Of an answer of our own that carries them out: null for refusals and preflights.
  const FieldEditsPolicy* AnswerEdits() const;
  void AppendCorsFields(std::string* fields) const;

  // exchange_heads.cc: heads as they are sent on. Views hold until the next wait.
  // `copy_bytes`: for a mirror, whose body is whole and so long.
  http::OutgoingRequest BuildRequest(const Endpoint& endpoint, std::optional<size_t> copy_bytes, FieldList* fields);
  // Takes from `response` the fields that do not go on.
  http::OutgoingResponse BuildResponse(http::Response* response);
  std::string ForwardedForValue() const;

  // authenticate.cc: who calls.
  void RemoveIdentityFields();
  bool IsMisdirected() const;
  Task<Reason> Authenticate();
  std::shared_ptr<const VerifiedToken> VerifyToken(const BoundAuthMethod& method, std::string_view text,
                                                   JwtRefusal* refusal);
  Task<PasswordPool::Answer> CheckPassword(std::string_view credentials, const ConsumerPolicy** caller);
  const ConsumerPolicy* FindCertificateHolder(const AuthMethodPolicy& method, size_t* tried) const;
  const ConsumerPolicy* FindConsumerOf(const AuthMethodPolicy& method, const VerifiedToken& token);
  std::string_view FindSingleField(std::string_view name) const;
  std::string_view ClaimOf(std::string_view name) const;  // of a verified token; empty: none
  bool IsAllowed(const AuthPolicy& auth) const;
  bool IsSpentCredential(const FieldView& field) const;
  void AppendChallenges(std::string* fields) const;
  void AppendForwarded(std::string* fields) const;

  // tunnel.cc: what follows a change of protocol.
  Task<Attempt> Tunnel(http::UpstreamStream* upstream, http::Response* response);
  Task<void> TunnelUp(http::UpstreamStream* upstream, TunnelState* state);
  void EndTunnel(http::UpstreamStream* upstream, TunnelState* state, RelayEnd end, bool upward);
  void KeepOfHead();

  bool OutOfTime() const { return loop().now() >= ends_at_; }
  const char* OutOfTimeDetail() const { return timed_by_client_ ? kGrpcTimeoutDetail : kMaxDurationDetail; }
  EventLoop& loop() const { return worker_->loop(); }

  Worker* const worker_;
  http::DownstreamStream& stream_;
  http::Request& head_;
  const ServerOptions& options_;
  std::optional<StateRef> state_;

  // The request.
  TimePoint started_;
  bool upgrading_ = false;                     // it asks for WebSocket, and its route allows that
  bool grpc_ = false;                          // a call of gRPC
  bool timed_by_client_ = false;               // ends_at_ is its grpc-timeout's
  std::chrono::nanoseconds grpc_timeout_{-1};  // below 0: none
  // Of gRPC-Web; else empty.
  std::string web_type_;                           // the Content-Type of its response
  std::string grpc_type_;                          // and of its request, as gRPC
  std::string web_body_;                           // what of the body came with the head, decoded
  std::optional<http::GrpcWebSource> web_source_;  // where it is base64
  std::optional<http::GrpcWebSink> web_sink_;
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
  std::string_view buffered_body_;                // what of it is here
  std::span<const FieldView> buffered_trailers_;  // behind it, if it came whole with the head
  Buffer body_room_;                              // where that is, if the stream does not have it
  std::string mirror_body_;
  uint64_t body_bytes_ = 0;     // of it, without framing, so far
  bool body_complete_ = false;  // all of it was read
  bool replayable_ = false;     // all of it is in buffered_body_, and can be sent again
  // Of a body that flows as it comes: all that has passed is in body_room_, or nothing has. Another attempt begins with
  // that, and the rest follows.
  bool keeps_body_ = false;
  bool mirrors_ = false;  // copies are still to be sent, of mirror_body_
  RelayEnd upload_ = RelayEnd::kComplete;
  bool stop_upload_ = false;
  bool continue_awaited_ = false;  // the client waits for a 100 before it sends its body
  bool upload_begun_ = false;      // something of the body was read as it came, and is gone
  TimePoint head_sent_;            // and what there was of the body, in this attempt
  TimePoint request_sent_;         // all of it, in this attempt
  TimePoint heard_;                // of the endpoint, before the answer's head was whole
  TimePoint request_complete_;     // all of it had come from the client
  const char* body_detail_ = "";

  // Its answer.
  bool answer_head_read_ = false;
  bool answer_started_ = false;
  int status_ = 0;
  int grpc_status_ = -1;         // of a call; -1: none was said
  bool answers_call_ = false;    // the response that is relayed is one of gRPC
  bool answer_bounded_ = false;  // it announced its length
  Reason reason_ = Reason::kNone;
  bool aborted_ = false;
  http::End end_ = http::End::kComplete;
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
  TimePoint ends_at_ = TimePoint::max();      // by the route's max_duration, or the call's deadline
  std::chrono::nanoseconds upstream_duration_{-1};
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_EXCHANGE_H_
