// The write path of policy: every change is edited, compiled, committed and published here.
#ifndef GATEWAY_CONTROLPLANE_PUBLISH_PUBLISHER_H_
#define GATEWAY_CONTROLPLANE_PUBLISH_PUBLISHER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/policy/snapshot.h"
#include "controlplane/change/canary.h"
#include "controlplane/change/pending_change.h"
#include "controlplane/identity/scope.h"
#include "controlplane/rpc/notifier.h"
#include "controlplane/store/store.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

// One committed state of all policy; immutable.
struct PolicyState {
  std::string epoch;
  uint64_t revision = 0;
  absl::Time committed_at;
  std::shared_ptr<const ResourceSet> resources;  // built-ins included
  std::shared_ptr<const Snapshot> snapshot;
  std::vector<std::string> warnings;  // of the whole set
  // How this revision came to be no final one, while that is under way; null: it is final.
  std::shared_ptr<const v1::PendingChange> pending;
  // While it is staged: what the data planes serve that it does not go to. Else null.
  std::shared_ptr<const PolicyState> base;
  // The state of the canaries of its Routes. Never null.
  std::shared_ptr<const CanarySet> canaries = std::make_shared<const CanarySet>();
};

// Limits of one request and of the whole. A set of 100,000 routes with their services goes in at once.
inline constexpr int kApplyResourcesMax = 150'000;
inline constexpr int kUndoneToldMax = 100;  // revisions that a rollback undoes, in its answer
inline constexpr size_t kActorBytesMax = 256;
inline constexpr size_t kCommentBytesMax = 4096;
// Two lists of 100,000 blocks, as an IpAccess may have; one such resource is a message of the config stream by itself.
inline constexpr size_t kResourceBytesMax = 10u << 20;
inline constexpr size_t kRequestIdBytesMax = 128;
inline constexpr size_t kSetNameBytesMax = 128;
// A longer response of a request with an id is kept without its changes, which are read from history.
inline constexpr size_t kKeptResponseBytesMax = 64u << 10;
inline constexpr size_t kSetResourcesMax = 250'000;
inline constexpr size_t kSetBytesMax = 256u << 20;

struct PublisherOptions {
  std::vector<v1::Resource> builtins;  // BuiltinResources of the bootstrap
  std::string own_service = "api-gateway";
  // Called with every state, in order, with the write lock held: must not block, and must not call back. A revision
  // comes again when the change that it is ends without another one.
  std::function<void(std::shared_ptr<const PolicyState>)> publish;
  // Called with the audit's entry of each revision, which is in the store already; likewise.
  std::function<void(const v1::AuditEntry&)> recorded;
  // The data planes that are connected, for a change that goes to some of them; likewise.
  std::function<std::vector<v1::DataPlaneState>()> data_planes;
  std::function<absl::Time()> now = absl::Now;
};

// How changes ended; of the process's life.
struct ChangeCounts {
  std::atomic<uint64_t> committed{0}, unchanged{0}, dry_run{0}, invalid{0}, conflict{0}, failed{0};
  // Changes that were taken back.
  std::atomic<uint64_t> reverted_by_guard{0}, reverted_unconfirmed{0}, abandoned{0}, rolled_back{0};
  std::atomic<uint64_t> canaries_reverted{0};
};

// Who asks for a change.
struct Author {
  Author() = default;
  // Not authenticated. Implicit: an address is an author.
  Author(const std::string& given_address) : address(given_address) {}  // NOLINT(google-explicit-constructor)
  Author(const char* given_address) : address(given_address) {}         // NOLINT(google-explicit-constructor)
  Author(std::string given_address, std::string given_name, std::string given_action,
         std::shared_ptr<const Scope> given_scope)
      : address(std::move(given_address)),
        name(std::move(given_name)),
        action(std::move(given_action)),
        scope(std::move(given_scope)) {}

  std::string address;                 // kept in history; stands in for a missing actor
  std::string name;                    // as authenticated; then the actor, whatever the request says
  std::string action;                  // the call, for the audit
  std::shared_ptr<const Scope> scope;  // null: may change everything
};

// Owns the store. One mutex around all changes; readers take current() and never wait for them. Thread-safe. Changes
// block on the disk: call them off gRPC's threads.
class Publisher {
 public:
  // Compiles what the store holds and publishes it. Where the built-ins differ from those of the last time (the first
  // start included) that is a new revision by `bootstrap`. FailedPrecondition where the stored set does not compile.
  static absl::StatusOr<std::unique_ptr<Publisher>> Open(std::unique_ptr<Store> store, PublisherOptions options);

  std::shared_ptr<const PolicyState> current() const;

  // As in admin.proto. Invalid policy: see PolicyErrorsOf (grpc_status.h). PermissionDenied where the author's scope
  // leaves out a resource that would change.
  absl::StatusOr<v1::ApplyResponse> Apply(const v1::ApplyRequest& request, const Author& author);
  // A new revision in which the Certificate `name` is what its CA has issued. FailedPrecondition: it does not have
  // exactly this `acme` any more.
  absl::Status Issue(const std::string& name, const v1::Acme& acme, const std::string& chain_pem,
                     const std::string& key_pem);
  absl::StatusOr<v1::DeleteResponse> Delete(const v1::DeleteRequest& request, const Author& author);
  absl::StatusOr<v1::RollbackResponse> Rollback(const v1::RollbackRequest& request, const Author& author);

  // Aborted, NotFound, FailedPrecondition as in admin.proto; PermissionDenied for a bound editor where the change is
  // another's.
  absl::StatusOr<v1::DecideChangeResponse> Decide(const v1::DecideChangeRequest& request, const Author& author);
  // What time and `figures` (of the change under way: AddReport with its revision) make of the change under way;
  // nothing if there is none, or it is not `revision` any more. Takes it back where it must be. The store's errors:
  // call it again.
  absl::Status AdvanceChange(uint64_t revision, const GuardFigures& figures);

  // canary_changes.cc. As in admin.proto; Aborted while a change is under way.
  absl::StatusOr<v1::DecideCanaryResponse> DecideCanary(const v1::DecideCanaryRequest& request, const Author& author);
  // What time and `figures` make of the canaries: one revision for all that move. Those that are missing in `figures`,
  // or of another version of the Route, are left out unless they have no guard. `judge`: as AdvanceCanary has it.
  // Aborted if one would move while a change is under way: steps wait for its end.
  absl::Status AdvanceCanaries(const CanaryFigures& figures, bool judge);

  // History; see the store.
  Store& store() { return *store_; }

  // Told after each new revision.
  Notifier& revisions() { return revisions_; }
  const ChangeCounts& counts() const { return counts_; }

 private:
  // A set that may become the next state.
  struct Proposal {
    ResourceSet resources;
    std::vector<Edit> edits;
  };
  struct Commitment {
    uint64_t revision = 0;
    std::optional<v1::PendingChange> begun;
    std::vector<std::string> warnings;  // about what changed
    size_t other_warnings = 0;
  };

  Publisher(std::unique_ptr<Store> store, PublisherOptions options);
  absl::Status Start();
  // Sets `key` to `resource` (null: nothing) in `proposal`; `set` owns it from now on.
  static void Put(const ResourceKey& key, std::shared_ptr<const v1::Resource> resource, bool built_in,
                  v1::Change::Op op, Proposal* proposal, std::string set = "");
  // Compiles, commits and publishes `proposal`; with `dry_run` compiles only. Counts how it ended.
  // `turn`: what it is to a change that is not final.
  struct Turn {
    // It is one; null: it is final.
    const v1::ApplyRequest* begins = nullptr;
    const ChangeTerms* terms = nullptr;
    // It ends the one under way.
    v1::PendingChange::Outcome ends = v1::PendingChange::OUTCOME_UNSPECIFIED;
    std::string reason = {};
    // Canaries as they are to be from now on; null: it is not about them.
    const CanarySet* canaries = nullptr;
  };
  // `request` (null: it has no id) is kept in the same transaction; `keep` puts the response into it, once the revision
  // is known.
  absl::StatusOr<Commitment> Commit(Proposal proposal, const v1::ChangeContext& context, const Author& author,
                                    bool dry_run, absl::string_view what, const Turn& turn,
                                    StoredRequest* request = nullptr,
                                    const std::function<void(const Commitment&)>& keep = nullptr)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  // What becomes of the policy where the operators' documents are those of `documents`, and the built-ins are today's.
  Proposal Replacing(const ResourceSet& before, const ResourceSet& documents) const;
  // Aborted while a change is under way.
  absl::Status CheckNoChangeUnderWay() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  // Takes the change under way back: a new revision with the policy of before.
  absl::Status Revert(v1::PendingChange::Outcome outcome, const std::string& reason, const v1::ChangeContext& context,
                      const Author& author) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  // `change` is what became of the one under way, without a revision: stores it and publishes what that means.
  absl::Status Settle(v1::PendingChange change, const Author& author, const std::string& detail)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  // The data plane that a change to a percentage is given to beyond it; empty: none need be. FailedPrecondition where
  // no connected data plane is chosen.
  absl::StatusOr<std::string> FindChosen(const std::string& to, const Selection& selection) const;
  // The set that comes back with the change under way.
  absl::StatusOr<ResourceSet> BaseSet() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  // After a start: whether the newest revision is a change that is under way, and what its base is.
  absl::Status ResumeChange(PolicyState* state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  // What Apply, Delete and Rollback have in common: a request that was done already is not done again.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Once(const Request& request, const Author& author,
                                absl::StatusOr<Response> (Publisher::*change)(const Request&, const Author&,
                                                                              StoredRequest*));
  absl::StatusOr<v1::ApplyResponse> ApplyLocked(const v1::ApplyRequest& request, const Author& author,
                                                StoredRequest* kept) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  absl::StatusOr<v1::DeleteResponse> DeleteLocked(const v1::DeleteRequest& request, const Author& author,
                                                  StoredRequest* kept) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  absl::StatusOr<v1::RollbackResponse> RollbackLocked(const v1::RollbackRequest& request, const Author& author,
                                                      StoredRequest* kept) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  // Deletes what `request` says besides its resources (`given`), by its prune or its set.
  absl::Status Prune(const v1::ApplyRequest& request, const std::set<ResourceKey>& given, Proposal* proposal,
                     v1::ApplyResponse* response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  static absl::Status CheckScope(const Scope& scope, const ResourceSet& before, const Proposal& proposal);
  // Whether since `revision` only steps of its canary have changed `key`.
  static bool OnlySteps(const PolicyState& state, const ResourceKey& key, uint64_t revision);
  // What becomes of the canaries of `moved`, whose documents stay as they are.
  absl::StatusOr<uint64_t> CommitCanaries(const CanarySet& moved, const v1::ChangeContext& context,
                                          const Author& author) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  absl::Status CheckContext(const v1::ChangeContext& context);
  absl::Status CheckExpected(uint64_t expected, const google::protobuf::RepeatedPtrField<v1::ExpectedVersion>& versions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mu_);
  absl::Status Count(absl::Status status);
  std::shared_ptr<const v1::Resource> Builtin(const ResourceKey& key) const;  // null: none
  void Install(std::shared_ptr<const PolicyState> state);

  std::unique_ptr<Store> store_;
  const PublisherOptions options_;
  std::map<ResourceKey, std::shared_ptr<const v1::Resource>> builtins_;
  Notifier revisions_;
  ChangeCounts counts_;

  std::mutex write_mu_;                                    // held over a whole change
  CanarySet base_canaries_ ABSL_GUARDED_BY(write_mu_);     // of before the change under way
  bool older_canaries_ ABSL_GUARDED_BY(write_mu_) = true;  // the database may have more than the current ones
  mutable std::mutex mu_;                                  // around the pointer alone
  std::shared_ptr<const PolicyState> current_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_PUBLISH_PUBLISHER_H_
