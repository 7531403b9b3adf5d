// What this data plane has applied: resources and their compiled policy, endpoints, and what operators have set.
#ifndef GATEWAY_DATAPLANE_CONFIG_APPLIED_CONFIG_H_
#define GATEWAY_DATAPLANE_CONFIG_APPLIED_CONFIG_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/policy/resource.h"
#include "common/policy/snapshot.h"
#include "dataplane/config/chunk_stage.h"
#include "dataplane/config/config_cache.h"
#include "dataplane/config/timed_overrides.h"
#include "dataplane/state/endpoint_table.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// Changes as a whole or not at all: an update that is not applied leaves everything as it was. One thread's. Installs
// nothing; never reads a clock.
class AppliedConfig {
 public:
  // `bootstrap` must outlive it.
  explicit AppliedConfig(const v1::Bootstrap& bootstrap) : bootstrap_(bootstrap) {}

  // data_plane.policy_files. InvalidArgument names every error in them, one a line.
  absl::Status LoadPolicyFiles(std::vector<std::string>* warnings);
  // The cache's. What is not valid is logged and left out.
  void Restore(ConfigCache::Content content, absl::Time now);
  // Unless there is a policy already: the built-ins alone.
  absl::Status LoadBuiltins();

  struct Result {
    enum class Step {
      kApplied,
      kRejected,   // `nack` says why
      kOutOfStep,  // a delta from something else than what is applied; `why`
    };
    Step step = Step::kApplied;
    v1::Nack nack;
    std::string why;
    std::vector<std::string> warnings;  // of an applied policy
  };
  Result Apply(ChunkStage<v1::PolicyUpdate> update);
  Result Apply(ChunkStage<v1::EndpointsUpdate> update);
  void Apply(const v1::OperationsUpdate& update, absl::Time now);
  // Ends what operators have set for a while. True: something ended.
  bool EndOverrides(absl::Time now);
  absl::Time overrides_end() const { return overrides_.end(); }
  size_t overrides() const { return overrides_.all().size(); }

  // Null before one of the Loads, or Restore.
  const std::shared_ptr<const Snapshot>& snapshot() const { return snapshot_; }
  const EndpointTable& endpoints() const { return endpoints_; }
  bool has_policy() const { return has_policy_; }  // more than the built-ins
  uint64_t revision() const { return revision_; }
  // Certificates of the policy whose private keys are not here.
  bool lacks_keys() const { return snapshot_ != nullptr && snapshot_->keys_lacking() > 0; }

  // What of v1::Hello is about it.
  void Describe(v1::Hello* hello) const;
  // For the cache; of the policy without the sealing of keys.
  v1::PolicyUpdate PolicyToKeep() const;
  v1::EndpointsUpdate EndpointsToKeep() const;

 private:
  using ResourceSet = std::map<ResourceKey, std::shared_ptr<const v1::VersionedResource>>;

  CompileResult Compile(const ResourceSet& set, const std::string& epoch, uint64_t revision) const;
  ResourceSet BuiltinSet() const;
  void RestorePolicy(v1::PolicyUpdate policy);
  void RestoreEndpoints(v1::EndpointsUpdate endpoints, absl::Time now);
  void PutSet(v1::EndpointSet set);
  // After a change of policy: the versions of the Routes whose sides are watched.
  void UpdateWatchedSides();
  static void Put(v1::VersionedResource resource, ResourceSet* set);

  const v1::Bootstrap& bootstrap_;
  std::string epoch_;
  uint64_t revision_ = 0;
  ResourceSet resources_;
  std::shared_ptr<const Snapshot> snapshot_;
  bool has_policy_ = false;
  EndpointTable endpoints_;
  TimedOverrides overrides_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_APPLIED_CONFIG_H_
