// Gets this data plane its certificate from a control plane, and renews it: data_plane.tls.join_token_file.
#ifndef GATEWAY_DATAPLANE_CONFIG_ENROLLER_H_
#define GATEWAY_DATAPLANE_CONFIG_ENROLLER_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/bit_gen_ref.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/pki.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/join.pb.h"
#include "grpcpp/client_context.h"
#include "prometheus/metric_family.h"

namespace gateway::dataplane {

// Owns a thread. Without a good certificate in tls.cert it makes a key in tls.key, unless there is one, and asks the
// control planes in turn for a certificate, with the token in tls.join_token_file, which is read again for each
// attempt. With one, it asks for the next when two thirds of the certificate's life are over, for the same key, under
// which the cache is sealed. The private key never leaves this machine. Files are replaced whole, mode 0600. Two
// processes during a hand-over may both renew; the later certificate stays.
class Enroller {
 public:
  // Also the longest time until a control plane that is back is asked, or a new token is used.
  static constexpr std::chrono::seconds kRetryMax{60};

  // What `tls` needs is checked by the bootstrap. `name`: of this data plane, for the request's subject.
  Enroller(const v1::ClientTlsSection& tls, std::vector<std::string> control_planes, std::string name);
  ~Enroller();  // stops
  Enroller(const Enroller&) = delete;
  Enroller& operator=(const Enroller&) = delete;

  void Start();
  void Stop();

  // gateway_join_attempts_total, gateway_join_certificate_not_after_seconds. Thread-safe.
  std::vector<prometheus::MetricFamily> Families() const;

  // When to ask for the next one: at two thirds of the validity, and up to a twentieth of it earlier.
  static absl::Time RenewalTime(absl::Time not_before, absl::Time not_after, absl::BitGenRef random);

 private:
  enum class Call { kEnroll, kRenew };
  void Run();
  // One round over all control planes.
  absl::Status Attempt(Call call);
  absl::Status Ask(Call call, const std::string& address, const std::string& key, const TlsMaterial& current);
  absl::StatusOr<std::string> Key();
  // False: stopping.
  bool Sleep(absl::Duration duration);

  const TlsFiles files_;
  const std::string server_name_, token_file_, name_;
  const std::vector<std::string> control_planes_;
  absl::BitGen random_;

  absl::Mutex mu_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* call_ ABSL_GUARDED_BY(mu_) = nullptr;  // under way

  std::atomic<uint64_t> enrolled_{0}, enrol_errors_{0}, renewed_{0}, renew_errors_{0};
  std::atomic<int64_t> not_after_{0};  // seconds since 1970; 0: no certificate
  std::thread thread_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_ENROLLER_H_
