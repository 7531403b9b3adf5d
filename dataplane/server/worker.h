// A worker: one thread, its loop, its listeners, its connections, its pools, and the state that it serves from.
#ifndef GATEWAY_DATAPLANE_SERVER_WORKER_H_
#define GATEWAY_DATAPLANE_SERVER_WORKER_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dataplane/http/http2/session_metrics.h"
#include "dataplane/http/stream_resources.h"
#include "dataplane/limits/redis_store.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/splice_pipe.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/server/connection_counts.h"
#include "dataplane/server/listener.h"
#include "dataplane/server/server_options.h"
#include "dataplane/server/tls_listeners.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/state/state_ref.h"
#include "dataplane/telemetry/access_log.h"
#include "dataplane/telemetry/metrics.h"
#include "dataplane/upstream/upstream_pool.h"

namespace gateway::dataplane {

class ClientConnection;
namespace http2 {
class SessionResources;
}

// Connections of one worker, the newest first; linked through themselves.
struct ConnectionList {
  void Add(ClientConnection* connection);
  void Remove(ClientConnection* connection);
  ClientConnection* first = nullptr;
  ClientConnection* last = nullptr;
};

class Worker final : private DescriptorReserve {
 public:
  struct Shared {
    const ServerOptions* options;
    BufferBudget* budget;
    ConnectionCounts* counts;
    // Answers /metrics on the main port; may be null.
    std::function<std::string()> metrics_page;
    // Tells the workers other than `asking` to CloseOneIdle; null: there are none.
    std::function<void(int asking)> ask_others_for_room;
    // Worker::CloseSilent of another worker; null: there is none.
    std::function<void(int worker, uint64_t id)> close_silent = {};
    // For limits of scope redis; a null directory: there is no Redis, their on_unavailable holds.
    RedisStore::Options redis = {};
    RedisDirectory* redis_directory = nullptr;
    // Needed where a route asks who calls; else may be null.
    Authentication* authentication = nullptr;
    TlsListeners* tls = nullptr;  // null: no listener has TLS
  };

  // Takes over `listeners`.
  Worker(int index, const Shared& shared, const std::vector<ListeningSocket>& listeners, WorkerShard* metrics,
         AccessLogBuffer* log, std::shared_ptr<const ServingState> state);
  ~Worker();

  void Start();
  // Accepts connections from now on, then calls `done` on the worker. Any thread.
  void Listen(std::function<void()> done);
  // Takes over a socket of nobody's: accepts what waits in it, and closes it. Any thread.
  void AcceptLast(const ListeningSocket& socket);
  // Serves from `state` from the next request on, then calls `done` on the worker. Any thread.
  void Install(std::shared_ptr<const ServingState> state, std::function<void()> done);
  // Accepts TLS connections with `contexts` from now on; established ones go on with what they have. Any thread.
  void InstallTls(TlsContexts contexts);
  // An operator takes this data plane out of the load, or back in. While it is on, connections end with the responses
  // in flight; new ones are accepted, and each serves at least one request. Any thread.
  void SetDrained(bool on);
  // The process is about to end. From now on every response ends its connection. New ones are still accepted, idle ones
  // stay. Any thread.
  void AnnounceEnd();
  // The same, and: accepts what waits in the queues, then nothing more; idle connections end after `idle_grace`. Calls
  // `done` on the worker when no connection is left. Any thread.
  void Drain(std::chrono::milliseconds idle_grace, std::function<void()> done);
  // While draining: requests that still wait for a service are answered with 503. Any thread.
  void CutShort();
  // Another worker took it from the silent ones. Any thread.
  void CloseSilent(uint64_t id);
  // Closes a connection that has been idle for long, if another worker still needs the room. Any thread.
  void CloseOneIdle();
  // Ends the thread, whatever is in flight, and hands over the last log lines. Any other thread; joins.
  void Stop();

  // For connections, on the worker.
  EventLoop& loop() { return loop_; }
  const EventLoop& loop() const { return loop_; }
  BufferPool& buffers() { return buffers_; }
  ExchangeResources& exchange_resources() { return exchange_resources_; }
  const http::StreamResources& stream_resources() const { return stream_resources_; }
  http2::SessionResources& http2() { return *http2_; }
  const http2::SessionMetrics& http2_metrics() const { return http2_metrics_; }                 // any thread
  const http2::ClientMetrics& upstream_http2_metrics() const { return pool_.http2_metrics(); }  // any thread
  RedisStore* redis() { return redis_.get(); }                                                  // null: there is none
  WorkerShard& metrics() { return *metrics_; }
  const ServerOptions& options() const { return *shared_.options; }
  bool draining() const { return draining_; }  // connections end with the responses in flight
  bool ending() const { return ending_; }      // and the process ends
  // How long a connection may stay idle at most: it ends while draining.
  std::chrono::milliseconds idle_grace() const { return idle_grace_; }
  // Whether a warning about what clients do may be logged now: each kind once a second.
  enum class Warning : uint8_t {
    kConnectionsMax,
    kCannotAccept,
    kAddressConnectionsMax,
    kProxyHeader,
    kTlsHandshake,
    kGaveWay,
    kHttp2Abuse,
    kCount
  };
  bool MayWarn(Warning kind);
  int index() const { return index_; }

  // What a connection of listener `listener` is accepted with; its index is ListenerOptions::tls.
  const std::shared_ptr<const tls::ServerContext>& tls_context(int listener) const {
    return tls_contexts_[static_cast<size_t>(listener)];
  }
  TlsCounters& tls_counters() { return *shared_.tls->counters(index_); }
  // Handshakes that are under way, at most so many: past that, the oldest one of the same client address gives way, or
  // the oldest of all.
  static constexpr size_t kHandshakesMax = 1024;
  void BeginHandshake(ClientConnection* connection);
  void EndHandshake(ClientConnection* connection);

  // How many connections one client address may have.
  int64_t connections_per_address_max() const;
  // Has the connection of `address` closed that has waited longest without a request ever arriving on it, on whichever
  // worker, and gives its place in the address's count to the caller.
  SilentConnections::Found TakeOverSilentOf(const in6_addr& address);

  ConnectionCounts& counts() { return *shared_.counts; }
  void Register(ClientConnection* connection);
  void Unregister(ClientConnection* connection);
  // Puts it into the list that it belongs to, and takes it out.
  void List(ClientConnection* connection);
  void Unlist(ClientConnection* connection);

 private:
  struct Listener;
  // Of DescriptorReserve. A descriptor that was just opened was the lowest one that was free (POSIX.1-2017, section
  // 2.14), so no more than kOwnDescriptors are left behind it, or more.
  bool FreeDescriptor() override;
  bool IsShortOfDescriptors(int fd) const override {
    return descriptors_max_ > 0 && fd >= descriptors_max_ - kOwnDescriptors;
  }
  static void OnAcceptable(void* listener, uint32_t events);
  // Until the queue is empty (true); not `all`: or others should have their turn.
  bool Accept(Listener* listener, bool all = false);
  enum class Room : uint8_t { kMade, kSoon, kNone };
  // Whether another connection has to go before a new one is accepted.
  bool IsFull();
  // The connection that has been silent the longest goes first, on whichever worker, then the one of this worker that
  // has been idle the longest since its last request, but for kIdleMin.
  Room MakeRoomForOne();
  bool CannotAccept(Room room, const char* why);  // false
  SilentConnections::Found Close(const SilentConnections::Result& silent);
  bool CloseIdle(std::chrono::milliseconds idle_min);
  ClientConnection* FindSilent(uint64_t id);
  template <typename Visit>  // void(ClientConnection*): may end that one, and no other
  void ForEachConnection(const Visit& visit);
  void EndListening();
  void RefuseConnection(int fd, const ListenerOptions& options);
  void CheckDrained();
  // As many connections of clients may be open in this process that some descriptors are left for services.
  void BoundConnections();
  static void OnAcceptRetry(void* self);
  static void OnIdleGrace(void* self);
  static void OnBeat(void* self);

  // Of all descriptors, an eighth is for connections to services, within these; clients get no more than the rest.
  static constexpr int64_t kServiceDescriptorsMin = 8;
  static constexpr int64_t kServiceDescriptorsMax = 1024;
  // Left to what is neither: the metrics port, the control plane, a log that is opened again.
  static constexpr int64_t kOwnDescriptors = 4;
  // How many idle connections are looked at, the oldest first, for one that gives way.
  static constexpr int kGiveWaySearchMax = 128;
  // A client that asks again at once keeps its connection.
  static constexpr std::chrono::milliseconds kIdleMin{1000};

  const int index_;
  const Shared shared_;
  EventLoop loop_;
  BufferPool buffers_;
  SplicePipePool pipes_;
  WorkerShard* const metrics_;
  AccessLogBuffer* const log_;
  bool ending_ = false;
  bool draining_ = false;  // ending, or drained by an operator
  const http::StreamResources stream_resources_;
  http2::SessionMetrics http2_metrics_;
  const std::unique_ptr<http2::SessionResources> http2_;
  UpstreamPool pool_;
  const std::unique_ptr<RedisStore> redis_;
  LocalState* state_;
  bool cut_short_ = false;  // it no longer waits for services
  ExchangeResources exchange_resources_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  ConnectionList silent_;  // no request has arrived on them yet
  ConnectionList asked_;
  size_t connection_count_ = 0;
  TlsContexts tls_contexts_;
  std::deque<ClientConnection*> handshakes_;  // oldest first
  int64_t descriptors_at_rest_ = 0;           // of the process, when this worker began to listen
  int64_t descriptors_max_ = 0;
  bool near_end_ = false;  // the last connection was given one of the last descriptors
  int64_t connections_max_ = std::numeric_limits<int64_t>::max();
  std::chrono::milliseconds idle_grace_ = std::chrono::hours(24 * 365);
  std::function<void()> drained_;
  Timer accept_timer_;
  Timer idle_timer_;
  Timer beat_timer_;  // the loop turns now and then, also with nothing to do: the watchdog looks
  std::array<TimePoint, static_cast<size_t>(Warning::kCount)> warned_at_{};
  std::thread thread_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_WORKER_H_
