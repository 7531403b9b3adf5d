// What operators have set for single endpoints at run time: kept beside policy, until it ends by itself.
#ifndef GATEWAY_CONTROLPLANE_PUBLISH_ENDPOINT_OVERRIDES_H_
#define GATEWAY_CONTROLPLANE_PUBLISH_ENDPOINT_OVERRIDES_H_

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "controlplane/store/store.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::controlplane {

// "weight 3 instead of its own", "drained", "taken out", for people and the audit.
std::string DescribeOverride(const v1::EndpointOverride& override);

// Owns a thread that ends those whose time has come. What is set is in the store before it is in force. Thread-safe;
// Set and Clear block on the disk.
class EndpointOverrides {
 public:
  static constexpr size_t kOverridesMax = 1'000;

  struct Options {
    // Told all that are in force, by service and endpoint, after every change and once by Open; in order, with the lock
    // held: must not call back.
    std::function<void(const std::vector<v1::EndpointOverride>&)> publish;
    // Told of each that has ended by itself; likewise.
    std::function<void(const v1::EndpointOverride&)> ended;
    std::function<absl::Time()> now = absl::Now;
  };

  // Reads what the store holds; what ended meanwhile is gone.
  static absl::StatusOr<std::unique_ptr<EndpointOverrides>> Open(Store* store, Options options);
  ~EndpointOverrides();
  EndpointOverrides(const EndpointOverrides&) = delete;
  EndpointOverrides& operator=(const EndpointOverrides&) = delete;

  // In the place of an earlier one of the same endpoint. ResourceExhausted past kOverridesMax; the store's errors.
  absl::Status Set(const v1::EndpointOverride& override);
  // NotFound where there is none.
  absl::Status Clear(const std::string& service, const std::string& endpoint);

  // By service and endpoint; "": of all services.
  std::vector<v1::EndpointOverride> List(const std::string& service) const;

 private:
  using Key = std::pair<std::string, std::string>;  // service, endpoint

  EndpointOverrides(Store* store, Options options) : store_(store), options_(std::move(options)) {}
  void Run();
  // Ends those whose time has come. Tells whether there were any.
  bool EndDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Publish() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Store* const store_;
  const Options options_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::map<Key, v1::EndpointOverride> all_ ABSL_GUARDED_BY(mu_);
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_PUBLISH_ENDPOINT_OVERRIDES_H_
