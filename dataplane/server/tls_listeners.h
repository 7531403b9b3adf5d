// TLS of server.listeners: read from files and joined by policy's certificates, compiled for each worker, and again
// when either changes.
#ifndef GATEWAY_DATAPLANE_SERVER_TLS_LISTENERS_H_
#define GATEWAY_DATAPLANE_SERVER_TLS_LISTENERS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/openssl_ptr.h"
#include "dataplane/net/tls/acme_challenges.h"
#include "dataplane/net/tls/server_context.h"
#include "dataplane/net/tls/session.h"
#include "dataplane/net/tls/ticket_keys.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/config_stream.pb.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

// Of one worker, which alone writes them.
struct TlsCounters {
  static constexpr size_t kResults = static_cast<size_t>(tls::HandshakeError::kOther) + 1;
  std::array<std::atomic<uint64_t>, kResults> handshakes{};
  std::atomic<uint64_t> resumed{0};

  void Count(tls::HandshakeError result) { Add(&handshakes[static_cast<size_t>(result)]); }
  void CountResumed() { Add(&resumed); }

 private:
  static void Add(std::atomic<uint64_t>* counter) {
    counter->store(counter->load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
};

// Contexts by index of server.listeners; null: a listener without TLS. Immutable, for one worker.
using TlsContexts = std::vector<std::shared_ptr<const tls::ServerContext>>;

// Made, refreshed and destroyed on the main thread, after the workers have ended; the rest on any.
class TlsListeners {
 public:
  // Hands new contexts to a worker. Called for each one, in order with other changes; must not call back.
  using Install = std::function<void(int worker, TlsContexts contexts)>;

  // InvalidArgument says which listener, which file, and what is wrong with it. Warnings (a certificate that has
  // expired) are logged.
  static absl::StatusOr<std::unique_ptr<TlsListeners>> Open(const v1::ServerSection& server, int workers);
  // Whether Open would accept the files, now; starts nothing and logs nothing.
  static absl::Status Check(const v1::ServerSection& server, std::vector<std::string>* warnings);
  ~TlsListeners();

  // What worker `worker` accepts with now.
  TlsContexts contexts(int worker) const;
  TlsCounters* counters(int worker) { return &workers_[static_cast<size_t>(worker)]->counters; }

  // Reads the files again if they have changed and not changed further since the last call: a certificate and its key
  // are rarely written in one instant. `forced`: at once, changed or not. What is wrong is logged, and what was read
  // before stays.
  void Refresh(bool forced, const Install& install);

  // Serves `certificates`, of policy, beside each listener's own, by server name; those of a listener go first. Does
  // nothing if they are those of the last call. What OpenSSL rejects is logged, and the last ones stay.
  void UseCertificates(std::span<const std::shared_ptr<const Certificate>> certificates, const Install& install);

  // Seals and opens session tickets with the fleet's keys from now on. InvalidArgument: they are not as
  // v1::TicketKeysUpdate has them; nothing changes.
  absl::Status UseTicketKeys(const v1::TicketKeysUpdate& update);

  // Responded to by every worker when it returns.
  void UseChallenges(const v1::ChallengesUpdate& update);
  const tls::AcmeChallenges& challenges() const { return challenges_; }

  // Whether some listener asks clients for certificates.
  bool asks_certificates() const;

  // gateway_tls_handshakes_total{result}, gateway_tls_resumed_total, gateway_tls_ticket_keys_shared,
  // gateway_certificate_expiry_timestamp_seconds{certificate}; empty without TLS.
  std::vector<prometheus::MetricFamily> Families() const;

 private:
  using Settings = std::vector<std::shared_ptr<const tls::ServerSettings>>;
  struct ForWorker {
    LibraryPtr library;
    TlsContexts contexts;
    TlsCounters counters;
  };

  explicit TlsListeners(const v1::ServerSection& server);
  static absl::StatusOr<std::unique_ptr<TlsListeners>> Make(const v1::ServerSection& server, int workers,
                                                            std::vector<std::string>* warnings);
  using Certificates = std::vector<std::shared_ptr<const Certificate>>;
  absl::StatusOr<Settings> Read() const;
  // Makes them what is served.
  absl::Status Compile(const Settings& settings, const Certificates& of_policy)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  void InstallAll(const Install& install) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(change_mutex_);
  // Which files there are: what stat(2) reports for each.
  std::string Fingerprint() const;

  const v1::ServerSection server_;
  bool any_ = false;
  tls::TicketKeys tickets_;
  tls::AcmeChallenges challenges_;
  std::vector<std::unique_ptr<ForWorker>> workers_;
  std::string loaded_;                // the fingerprint of what was read last, good or bad
  std::string seen_;                  // of the last call of Refresh
  mutable absl::Mutex change_mutex_;  // held over a whole change; around ForWorker::contexts
  Settings settings_ ABSL_GUARDED_BY(change_mutex_);
  Certificates of_policy_ ABSL_GUARDED_BY(change_mutex_);
  mutable absl::Mutex mutex_;
  std::vector<std::shared_ptr<const Certificate>> certificates_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_TLS_LISTENERS_H_
