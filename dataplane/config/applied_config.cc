#include "dataplane/config/applied_config.h"

#include <optional>
#include <string_view>
#include <utility>

#include "common/policy/builtin.h"
#include "common/policy/policy_files.h"
#include "dataplane/config/cache_keys.h"
#include "spdlog/fmt/fmt.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr int kRejectionsMax = 1000;         // in a NACK
constexpr size_t kWatchedRoutesMax = 1'000;  // whose figures a report has; as many by their sides
constexpr std::string_view kSidesSuffix = "/sides";

// The errors of a set of files, each with its place.
absl::Status PolicyFilesError(const std::vector<PolicyProblem>& problems) {
  std::string text =
      fmt::format("data_plane.policy_files: {} error{}", problems.size(), problems.size() == 1 ? "" : "s");
  for (const PolicyProblem& problem : problems) text += "\n" + problem.ToString();
  return absl::InvalidArgumentError(text);
}

std::string TooLarge() { return fmt::format("an update is at most {} MiB", kUpdateBytesMax >> 20); }

// The whole update is rejected, for one reason.
AppliedConfig::Result Rejected(v1::Nack nack, std::string reason) {
  nack.add_rejections()->set_reason(std::move(reason));
  return {.step = AppliedConfig::Result::Step::kRejected, .nack = std::move(nack), .why = "", .warnings = {}};
}

AppliedConfig::Result OutOfStep(std::string why) {
  return {.step = AppliedConfig::Result::Step::kOutOfStep, .nack = {}, .why = std::move(why), .warnings = {}};
}

}  // namespace

CompileResult AppliedConfig::Compile(const ResourceSet& set, const std::string& epoch, uint64_t revision) const {
  std::vector<const v1::Resource*> resources;
  resources.reserve(set.size());
  for (const auto& [key, resource] : set) resources.push_back(&resource->resource());
  CompileOptions compile;
  compile.epoch = epoch;
  compile.revision = revision;
  if (const std::string& own = bootstrap_.consul().service_name(); !own.empty()) compile.own_service = own;
  return CompileSnapshot(resources, compile);
}

void AppliedConfig::Put(v1::VersionedResource resource, ResourceSet* set) {
  ResourceKey key = KeyOf(resource.resource());
  (*set)[std::move(key)] = std::make_shared<const v1::VersionedResource>(std::move(resource));
}

AppliedConfig::ResourceSet AppliedConfig::BuiltinSet() const {
  ResourceSet set;
  for (v1::Resource& resource : BuiltinResources(BuiltinLimitOf(bootstrap_))) {
    v1::VersionedResource versioned;
    versioned.set_built_in(true);
    *versioned.mutable_resource() = std::move(resource);
    Put(std::move(versioned), &set);
  }
  return set;
}

absl::Status AppliedConfig::LoadPolicyFiles(std::vector<std::string>* warnings) {
  const auto& files = bootstrap_.data_plane().policy_files();
  std::vector<PolicyProblem> problems;
  const std::vector<PolicyDocument> documents = ReadPolicyFiles({files.begin(), files.end()}, &problems);
  resources_ = BuiltinSet();
  for (const PolicyDocument& document : documents) {
    v1::VersionedResource versioned;
    *versioned.mutable_resource() = document.resource;
    Put(std::move(versioned), &resources_);
  }
  // All errors at once: what could be read is checked even if something could not.
  const std::vector<PolicyProblem> of_files = problems;
  CompileResult result = Compile(resources_, "", 0);
  for (const auto& [key, resource] : resources_) {
    const bool canary = resource->resource().route().has_canary();
    if (!canary && !resource->resource().certificate().has_acme()) continue;
    v1::PolicyError& error = result.errors.emplace_back();
    error.set_kind(key.kind);
    error.set_name(key.name);
    error.set_field(canary ? "canary" : "acme");
    error.set_message(
        canary ? "needs a control plane, which takes its steps; write the weights of the split instead"
               : "needs a control plane, which orders it; name the files of a certificate and its key instead");
  }
  const PolicyPlaces places(documents);
  for (const v1::PolicyError& error : result.errors) {
    PolicyProblem problem = places.Locate(error);
    if (!FollowsFrom(problem, of_files)) problems.push_back(std::move(problem));
  }
  if (!problems.empty()) return PolicyFilesError(problems);
  *warnings = std::move(result.warnings);
  snapshot_ = std::move(result.snapshot);
  has_policy_ = true;
  return absl::OkStatus();
}

absl::Status AppliedConfig::LoadBuiltins() {
  if (snapshot_ != nullptr) return absl::OkStatus();
  CompileResult result = Compile(BuiltinSet(), "", 0);
  if (result.snapshot == nullptr) {
    return absl::InternalError(
        fmt::format("the built-in policy is not valid: {}", result.errors.empty() ? "" : result.errors[0].message()));
  }
  snapshot_ = std::move(result.snapshot);
  return absl::OkStatus();
}

void AppliedConfig::Restore(ConfigCache::Content content, absl::Time now) {
  if (content.policy) RestorePolicy(*std::move(content.policy));
  if (content.endpoints) RestoreEndpoints(*std::move(content.endpoints), now);
}

void AppliedConfig::RestorePolicy(v1::PolicyUpdate policy) {
  if (policy.schema_version() > kSchemaVersion) {
    spdlog::warn("configuration cache: its policy has schema {}, this version understands {}; it is ignored",
                 policy.schema_version(), kSchemaVersion);
    return;
  }
  OpenKeys(bootstrap_.data_plane().tls().key(), &policy);
  ResourceSet set;
  for (v1::VersionedResource& resource : *policy.mutable_resources()) Put(std::move(resource), &set);
  CompileResult result = Compile(set, policy.epoch(), policy.to());
  if (result.snapshot == nullptr) {
    spdlog::error("configuration cache: its policy is not valid ({}); it is ignored",
                  result.errors.empty() ? "" : result.errors[0].message());
    return;
  }
  snapshot_ = std::move(result.snapshot);
  resources_ = std::move(set);
  epoch_ = policy.epoch();
  revision_ = policy.to();
  has_policy_ = true;
  spdlog::info("configuration cache: revision {}, {} resources", revision_, resources_.size());
  if (lacks_keys()) {
    spdlog::warn("configuration cache: {} certificates are not served before a control plane has sent their keys",
                 snapshot_->keys_lacking());
  }
}

void AppliedConfig::RestoreEndpoints(v1::EndpointsUpdate endpoints, absl::Time now) {
  endpoints_.epoch = endpoints.endpoints_epoch();
  endpoints_.version = endpoints.to();
  endpoints_.catalog_known = endpoints.catalog_known();
  for (v1::EndpointSet& set : *endpoints.mutable_sets()) PutSet(std::move(set));
  overrides_.Restore(endpoints.overrides(), now);
  endpoints_.overrides = overrides_.Table();
}

void AppliedConfig::PutSet(v1::EndpointSet set) {
  std::string key = KeyOfSet(set.key().datacenter(), set.key().service());
  endpoints_.sets[std::move(key)] = std::move(set);
}

AppliedConfig::Result AppliedConfig::Apply(ChunkStage<v1::PolicyUpdate> update) {
  v1::Nack nack;
  nack.set_epoch(update.epoch);
  nack.set_revision(update.to);
  nack.set_applied_revision(revision_);
  if (update.too_large) return Rejected(std::move(nack), TooLarge());
  for (const v1::PolicyUpdate& chunk : update.chunks) {
    if (chunk.schema_version() <= kSchemaVersion) continue;
    return Rejected(std::move(nack), fmt::format("schema version {} is not understood: this data plane has {}",
                                                 chunk.schema_version(), kSchemaVersion));
  }
  if (update.from != 0 && (update.from != revision_ || update.epoch != epoch_)) {
    // No NACK, since the revision itself is fine: the next hello says what is applied.
    return OutOfStep(fmt::format("it sent a change of revision {}, but {} is applied", update.from, revision_));
  }

  ResourceSet next;
  if (update.from != 0) next = resources_;
  for (v1::PolicyUpdate& chunk : update.chunks) {
    for (const v1::ResourceName& name : chunk.removed()) next.erase({name.kind(), name.name()});
    for (v1::VersionedResource& resource : *chunk.mutable_resources()) {
      if (KeyOf(resource.resource()).kind.empty()) {
        return Rejected(std::move(nack), "a resource is of a kind that this data plane does not know");
      }
      Put(std::move(resource), &next);
    }
  }
  CompileResult compiled = Compile(next, update.epoch, update.to);
  if (compiled.snapshot == nullptr) {
    for (const v1::PolicyError& error : compiled.errors) {
      if (nack.rejections_size() == kRejectionsMax) break;
      v1::Rejection* rejection = nack.add_rejections();
      rejection->set_kind(error.kind());
      rejection->set_name(error.name());
      rejection->set_field(error.field());
      rejection->set_reason(error.message());
    }
    return {.step = Result::Step::kRejected, .nack = std::move(nack), .why = "", .warnings = {}};
  }
  snapshot_ = std::move(compiled.snapshot);
  resources_ = std::move(next);
  epoch_ = update.epoch;
  revision_ = update.to;
  has_policy_ = true;
  UpdateWatchedSides();
  return {.step = Result::Step::kApplied, .nack = {}, .why = "", .warnings = std::move(compiled.warnings)};
}

AppliedConfig::Result AppliedConfig::Apply(ChunkStage<v1::EndpointsUpdate> update) {
  if (update.too_large) {
    v1::Nack nack;
    nack.set_endpoints_epoch(update.epoch);
    nack.set_endpoints_version(update.to);
    nack.set_applied_revision(revision_);
    return Rejected(std::move(nack), TooLarge());
  }
  if (update.from != 0 && (update.from != endpoints_.version || update.epoch != endpoints_.epoch)) {
    return OutOfStep(
        fmt::format("it sent a change of endpoints {}, but {} is applied", update.from, endpoints_.version));
  }
  if (update.from == 0) endpoints_.sets.clear();
  for (v1::EndpointsUpdate& chunk : update.chunks) {
    for (const v1::ServiceKey& key : chunk.removed()) endpoints_.sets.erase(KeyOfSet(key.datacenter(), key.service()));
    for (v1::EndpointSet& set : *chunk.mutable_sets()) PutSet(std::move(set));
    endpoints_.catalog_known = chunk.catalog_known();
  }
  endpoints_.epoch = update.epoch;
  endpoints_.version = update.to;
  return {};
}

void AppliedConfig::Apply(const v1::OperationsUpdate& update, absl::Time now) {
  overrides_.Assign(update, now);
  endpoints_.overrides = overrides_.Table();
  endpoints_.watched_routes.clear();
  endpoints_.watched_sides.clear();
  for (const std::string& route : update.watched_routes()) {
    if (route.ends_with(kSidesSuffix)) {
      if (endpoints_.watched_sides.size() == kWatchedRoutesMax) continue;
      endpoints_.watched_sides.emplace(route.substr(0, route.size() - kSidesSuffix.size()), 0);
    } else if (endpoints_.watched_routes.size() < kWatchedRoutesMax) {
      endpoints_.watched_routes.insert(route);
    }
  }
  UpdateWatchedSides();
}

void AppliedConfig::UpdateWatchedSides() {
  for (auto& [route, version] : endpoints_.watched_sides) {
    const auto found = resources_.find({"Route", route});
    version = found == resources_.end() ? 0 : found->second->version();
  }
}

bool AppliedConfig::EndOverrides(absl::Time now) {
  if (!overrides_.EndDue(now)) return false;
  endpoints_.overrides = overrides_.Table();
  return true;
}

void AppliedConfig::Describe(v1::Hello* hello) const {
  hello->set_epoch(epoch_);
  hello->set_revision(revision_);
  hello->set_endpoints_epoch(endpoints_.epoch);
  hello->set_endpoints_version(endpoints_.version);
  hello->set_lacks_keys(lacks_keys());
}

v1::PolicyUpdate AppliedConfig::PolicyToKeep() const {
  v1::PolicyUpdate update;
  update.set_epoch(epoch_);
  update.set_to(revision_);
  update.set_last(true);
  update.set_schema_version(kSchemaVersion);
  for (const auto& [key, resource] : resources_) *update.add_resources() = *resource;
  return update;
}

v1::EndpointsUpdate AppliedConfig::EndpointsToKeep() const {
  v1::EndpointsUpdate update;
  update.set_endpoints_epoch(endpoints_.epoch);
  update.set_to(endpoints_.version);
  update.set_last(true);
  update.set_catalog_known(endpoints_.catalog_known);
  for (const auto& [key, set] : endpoints_.sets) *update.add_sets() = set;
  update.mutable_overrides()->Assign(overrides_.all().begin(), overrides_.all().end());
  return update;
}

}  // namespace gateway::dataplane
