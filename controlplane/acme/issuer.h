// Certificates of policy that come from a CA: what is ordered when, and what became of it.
#ifndef GATEWAY_CONTROLPLANE_ACME_ISSUER_H_
#define GATEWAY_CONTROLPLANE_ACME_ISSUER_H_

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/acme/client.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

struct AcmeOptions {
  // After a try that failed: four times as long after each further one, up to the maximum, with a quarter of jitter
  // either way. A certificate that lives shortly is tried more often: a twentieth of its lifetime is the most.
  absl::Duration backoff_min = absl::Minutes(1);  // CAs allow few failures an hour
  absl::Duration backoff_max = absl::Hours(6);
  absl::Duration retry_after_max = absl::Hours(24 * 7);  // whatever the CA asks for
  absl::Duration acknowledged_wait = absl::Seconds(15);  // for all data planes, before the CA is told
  std::function<absl::Time()> now = absl::Now;
};

// Orders and renews, one certificate after the other, on a thread of its own. A certificate is renewed at two thirds of
// its lifetime, or in the window that the CA suggests (RFC 9773); the last good one is served until the new one is in
// policy, as a revision by `acme`. Accounts, and how each certificate fares, are kept sealed in the database, so that a
// restart neither forgets a rate limit nor asks at once. Thread-safe.
class AcmeIssuer {
 public:
  enum class Result { kIssued, kFailed, kRateLimited };

  // The publisher and the hub outlive it. Starts at once.
  AcmeIssuer(Publisher* publisher, Hub* hub, AcmeOptions options);
  ~AcmeIssuer();  // ends what is under way

  // How the certificate `name` fares; nothing: policy does not have it, or it has no `acme`.
  std::optional<v1::AcmeState> StateOf(const std::string& name) const;
  // Orders by their result, since the process began.
  std::array<uint64_t, 3> counts() const;
  struct Row {
    std::string name;
    absl::Time expires;  // InfinitePast: none is issued yet
    uint32_t failures = 0;
  };
  std::vector<Row> Rows() const;

 private:
  struct Entry {
    v1::Acme spec;
    std::string chain_pem, key_pem;  // what is served; empty: nothing yet
    absl::Time not_before, not_after;
    bool fits = false;        // it was issued for `spec`
    std::string issued_spec;  // a digest of the spec of the last order that went well
    v1::AcmeState state;
    absl::Time next_try = absl::InfinitePast();
    absl::Time renew_at = absl::InfiniteFuture();
    std::optional<absl::Time> suggested;              // by the CA: when to renew
    absl::Time ask_window_at = absl::InfinitePast();  // when the CA is asked for its window again
  };

  void Run();
  // Takes over what policy says, and schedules each certificate.
  void Reconcile(const PolicyState& state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Remember(const std::string& name, const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Recall(const std::string& name, Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Time DueAt(const Entry& entry) const;
  void Schedule(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::unique_ptr<acme::Client>> ClientOf(const v1::Acme& spec);
  void KeepAccount(const v1::Acme& spec, const acme::Client& client);
  // One order, and its outcome. Without the lock.
  absl::Status Issue(const std::string& name, const Entry& entry, std::optional<absl::Duration>* retry_after);
  void AskWindow(const std::string& name, const Entry& entry);
  absl::Status Present(std::vector<v1::Challenge> challenges);
  // Until something is news since `seen`, or `deadline`. False: this ends.
  bool AwaitNews(uint64_t* seen, std::chrono::steady_clock::time_point deadline);
  bool Wait(absl::Duration time);
  void Ended(const std::string& name, const v1::Acme& spec, const absl::Status& status,
             std::optional<absl::Duration> retry_after) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Rung by the publisher and the hub, also while this ends: they hold it by themselves.
  struct Bell {
    std::mutex mu;
    std::condition_variable rings;
    uint64_t rung ABSL_GUARDED_BY(mu) = 0;
    bool ending ABSL_GUARDED_BY(mu) = false;
  };

  Publisher* const publisher_;
  Hub* const hub_;
  const std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  const AcmeOptions options_;
  const acme::HttpTransport transport_;
  uint64_t revisions_id_ = 0, ledger_id_ = 0;

  mutable std::mutex mu_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by the certificate's name
  uint64_t seen_revision_ ABSL_GUARDED_BY(mu_) = 0;
  bool reconciled_ ABSL_GUARDED_BY(mu_) = false;
  std::array<uint64_t, 3> counts_ ABSL_GUARDED_BY(mu_){};
  absl::BitGen random_;  // the thread's
  std::thread thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ACME_ISSUER_H_
