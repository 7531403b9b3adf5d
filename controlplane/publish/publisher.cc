#include "controlplane/publish/publisher.h"

#include <algorithm>
#include <mutex>
#include <optional>
#include <set>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/digest.h"
#include "common/base/timestamp.h"
#include "common/config/redaction.h"
#include "common/policy/label_selector.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/own_actors.h"
#include "controlplane/rpc/grpc_status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// Of a stored set that does not compile, as many mistakes are logged.
constexpr size_t kLoggedMistakesMax = 20;

v1::PolicyError Mistake(const ResourceKey& key, std::string field, std::string message) {
  v1::PolicyError error;
  error.set_kind(key.kind);
  error.set_name(key.name);
  error.set_field(std::move(field));
  error.set_message(std::move(message));
  return error;
}

// Whether `message` came with fields that this version does not know: it would drop their meaning in silence.
bool HasUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  if (!reflection->GetUnknownFields(message).empty()) return true;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (field->is_map()) continue;  // labels: strings to strings, with no meaning below them
    if (field->is_repeated()) {
      for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
        if (HasUnknownFields(reflection->GetRepeatedMessage(message, field, i))) return true;
      }
    } else if (HasUnknownFields(reflection->GetMessage(message, field))) {
      return true;
    }
  }
  return false;
}

// The field with most of the bytes of `message`, to say what is too long.
std::string LongestField(const google::protobuf::Message& message) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  const std::unique_ptr<google::protobuf::Message> alone(message.New());
  std::string longest;
  size_t most = 0;
  for (const auto* field : fields) {
    // What is left once all others are gone.
    alone->CopyFrom(message);
    for (const auto* other : fields) {
      if (other != field) reflection->ClearField(alone.get(), other);
    }
    if (alone->ByteSizeLong() <= most) continue;
    most = alone->ByteSizeLong();
    longest = field->name();
  }
  return longest;
}

v1::Change ChangeOf(const ResourceKey& key, v1::Change::Op op) {
  v1::Change change;
  change.set_op(op);
  change.set_kind(key.kind);
  change.set_name(key.name);
  return change;
}

// "Route/a, Route/b and 7 more".
std::string JoinFew(const std::vector<std::string>& names) {
  constexpr size_t kFew = 5;
  if (names.size() <= kFew) return absl::StrJoin(names, ", ");
  return absl::StrCat(absl::StrJoin(names.begin(), names.begin() + kFew, ", "), " and ", names.size() - kFew, " more");
}

// Whether `warning` speaks of one of `changed` ("Route/orders"): by that, or, of routes alone, by the quoted name.
bool Concerns(std::string_view warning, const std::set<std::string, std::less<>>& changed) {
  constexpr std::string_view kEnds = " :;,()";
  const bool of_routes = warning.starts_with("route");
  for (size_t begin = 0; begin < warning.size();) {
    const size_t end = std::min(warning.find_first_of(kEnds, begin), warning.size());
    std::string_view word = warning.substr(begin, end - begin);
    begin = end + 1;
    if (changed.contains(word)) return true;
    if (of_routes && word.size() > 2 && word.front() == '\'' && word.back() == '\'' &&
        changed.contains(absl::StrCat("Route/", absl::string_view(word.data() + 1, word.size() - 2)))) {
      return true;
    }
  }
  return false;
}

// A certificate with `acme` has what its CA issued last, whatever a document says: what `get` prints (where the key is
// redacted) may be applied again, or elsewhere. `current`: null, or what there is now.
void KeepIssued(const v1::Resource* current, v1::Resource* resource, std::vector<v1::PolicyError>* mistakes) {
  if (!resource->has_certificate() || !resource->certificate().has_acme()) return;
  v1::Certificate* const certificate = resource->mutable_certificate();
  if (certificate->has_key() && !IsRedacted(certificate->key().inline_())) {
    mistakes->push_back(Mistake(KeyOf(*resource), "key", "is set by the control plane alone if there is acme"));
  }
  certificate->clear_certificate();
  certificate->clear_key();
  if (current == nullptr || !current->certificate().has_key()) return;
  *certificate->mutable_certificate() = current->certificate().certificate();
  *certificate->mutable_key() = current->certificate().key();
}

// What tells one request from another, and one caller's from another's.
template <typename Request>
std::string RequestDigest(const Request& request, const Author& author) {
  // Maps are serialized in one order: the same request again is other bytes otherwise.
  std::string text = absl::StrCat(author.action, "\n", author.name, "\n", Request::descriptor()->name(), "\n");
  {
    google::protobuf::io::StringOutputStream stream(&text);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&coded);
  }
  const Digest digest = Sha256(text);
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

// Puts what is kept of `response` into `kept` (null: the request has no id).
template <typename Response>
void Keep(const Response& response, StoredRequest* kept) {
  if (kept == nullptr) return;
  kept->revision = response.revision();
  kept->response = response.SerializeAsString();
  if (kept->response.size() <= kKeptResponseBytesMax) return;
  Response shorter;
  shorter.set_revision(response.revision());
  kept->response = shorter.SerializeAsString();
}

bool Same(const v1::Resource& a, const v1::Resource& b) { return CanonicalBytes(a) == CanonicalBytes(b); }

std::string NameOf(const Author& author, const v1::ChangeContext& context) {
  return !author.name.empty() ? author.name : context.actor().empty() ? author.address : context.actor();
}

}  // namespace

Publisher::Publisher(std::unique_ptr<Store> store, PublisherOptions options)
    : store_(std::move(store)), options_(std::move(options)) {
  for (const v1::Resource& builtin : options_.builtins) {
    builtins_[KeyOf(builtin)] = std::make_shared<const v1::Resource>(builtin);
  }
}

absl::StatusOr<std::unique_ptr<Publisher>> Publisher::Open(std::unique_ptr<Store> store, PublisherOptions options) {
  std::unique_ptr<Publisher> publisher(new Publisher(std::move(store), std::move(options)));
  if (absl::Status s = publisher->Start(); !s.ok()) return s;
  return publisher;
}

absl::Status Publisher::Start() {
  std::lock_guard lock(write_mu_);
  auto loaded = std::make_shared<PolicyState>();
  loaded->epoch = store_->epoch();
  loaded->revision = store_->revision();
  loaded->committed_at = store_->revision_time();
  loaded->resources = std::make_shared<const ResourceSet>(store_->TakeLoaded());
  absl::StatusOr<CanarySet> canaries = store_->LoadCanaries(loaded->revision);
  if (!canaries.ok()) return canaries.status();
  loaded->canaries =
      std::make_shared<const CanarySet>(CanariesOf(*loaded->resources, *std::move(canaries), options_.now()));
  {
    std::lock_guard pointer(mu_);
    current_ = loaded;
  }

  if (absl::Status s = ResumeChange(loaded.get()); !s.ok()) return s;

  // What replaces a built-in stays; the built-ins themselves are those of this start.
  Proposal proposal{*loaded->resources, {}};
  for (const auto& [key, record] : *loaded->resources) {
    if (record.built_in && !builtins_.contains(key)) Put(key, nullptr, true, v1::Change::DELETED, &proposal);
  }
  for (const auto& [key, builtin] : builtins_) {
    auto it = loaded->resources->find(key);
    if (it == loaded->resources->end()) {
      Put(key, builtin, true, v1::Change::CREATED, &proposal);
    } else if (it->second.built_in && !Same(*it->second.resource, *builtin)) {
      Put(key, builtin, true, v1::Change::UPDATED, &proposal);
    }
  }
  absl::Status status;
  if (!proposal.edits.empty() && loaded->pending != nullptr) {
    // Two changes at once could not be taken back one by one.
    v1::ChangeContext context;
    context.set_actor(kBootstrapActor);
    Author author;
    author.action = "Start";
    status =
        Revert(v1::PendingChange::REVERTED, "reverted: the bootstrap file or the version changed", context, author);
  } else if (!proposal.edits.empty() || loaded->revision == 0) {
    v1::ChangeContext context;
    context.set_actor(kBootstrapActor);
    context.set_comment(loaded->revision == 0 ? "first start" : "the bootstrap file or the version changed");
    Author author;
    author.action = "Start";
    status =
        Commit(std::move(proposal), context, author, false, "the stored policy with this start's built-ins", Turn())
            .status();
  } else {
    std::vector<const v1::Resource*> resources;
    for (const auto& [key, record] : *loaded->resources) resources.push_back(record.resource.get());
    CompileResult compiled = CompileSnapshot(resources, {loaded->epoch, loaded->revision, options_.own_service});
    if (compiled.snapshot == nullptr) {
      status = PolicyError("the stored policy", compiled.errors);
    } else {
      loaded->snapshot = std::move(compiled.snapshot);
      loaded->warnings = std::move(compiled.warnings);
      Install(loaded);
    }
  }
  if (status.ok()) return status;
  const std::vector<v1::PolicyError> mistakes = PolicyErrorsOf(status);
  if (mistakes.empty()) return status;
  // The data planes continue with what they have; to serve less than the stored set would be worse.
  for (size_t i = 0; i < mistakes.size() && i < kLoggedMistakesMax; ++i) {
    spdlog::error("stored policy: {}/{}: {}: {}", mistakes[i].kind(), mistakes[i].name(), mistakes[i].field(),
                  mistakes[i].message());
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the policy in the database is not valid for this version: ", status.message()));
}

std::shared_ptr<const PolicyState> Publisher::current() const {
  std::lock_guard lock(mu_);
  return current_;
}

void Publisher::Install(std::shared_ptr<const PolicyState> state) {
  {
    std::lock_guard lock(mu_);
    current_ = state;
  }
  if (options_.publish) options_.publish(std::move(state));
  revisions_.Notify();
}

std::shared_ptr<const v1::Resource> Publisher::Builtin(const ResourceKey& key) const {
  auto it = builtins_.find(key);
  return it == builtins_.end() ? nullptr : it->second;
}

void Publisher::Put(const ResourceKey& key, std::shared_ptr<const v1::Resource> resource, bool built_in,
                    v1::Change::Op op, Proposal* proposal, std::string set) {
  if (resource == nullptr) {
    proposal->resources.erase(key);
  } else {
    ResourceRecord& record = proposal->resources[key];
    record.resource = resource;
    record.built_in = built_in;
    record.set = set;
  }
  proposal->edits.push_back({key, op, std::move(resource), built_in, std::move(set)});
}

absl::Status Publisher::CheckContext(const v1::ChangeContext& context) {
  if (context.actor().size() > kActorBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("context.actor: ", context.actor().size(), " bytes; at most ", kActorBytesMax));
  }
  if (IsOwnActor(context.actor())) {
    return absl::InvalidArgumentError(
        absl::StrCat("context.actor: '", context.actor(), "' is the control plane's own"));
  }
  if (context.comment().size() > kCommentBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("context.comment: ", context.comment().size(), " bytes; at most ", kCommentBytesMax));
  }
  return absl::OkStatus();
}

absl::Status Publisher::CheckExpected(uint64_t expected,
                                      const google::protobuf::RepeatedPtrField<v1::ExpectedVersion>& versions) {
  const std::shared_ptr<const PolicyState> state = current();
  if (expected != 0 && expected != state->revision) {
    return absl::AbortedError(absl::StrCat("the current revision is ", state->revision, ", not ", expected,
                                           "; nothing was changed; read it again"));
  }
  if (versions.size() > kApplyResourcesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected_versions: ", versions.size(), " of them; at most ", kApplyResourcesMax));
  }
  for (const v1::ExpectedVersion& version : versions) {
    absl::StatusOr<std::string> kind = CanonicalKind(version.kind());
    if (!kind.ok()) return kind.status();
    const ResourceKey key{*std::move(kind), version.name()};
    const auto it = state->resources->find(key);
    const uint64_t now = it == state->resources->end() ? 0 : it->second.revision;
    if (now == version.revision() || OnlySteps(*state, key, version.revision())) continue;
    const std::string wanted = version.revision() == 0 ? "that it does not exist"
                                                       : absl::StrCat("its version of revision ", version.revision());
    absl::StatusOr<std::vector<ResourceVersion>> last = store_->VersionsBefore(key, 0, 1);
    if (!last.ok()) return last.status();
    if (last->empty()) {
      return absl::AbortedError(
          absl::StrCat(key.ToString(), ": expected ", wanted, ", but it has never existed; nothing was changed"));
    }
    const v1::RevisionInfo& info = last->front().info;
    const absl::Time at = absl::FromUnixSeconds(info.time().seconds());
    return absl::AbortedError(absl::StrCat(
        key.ToString(), ": expected ", wanted, ", but revision ", info.revision(), " by '", info.actor(), "' ",
        last->front().op == v1::Change::CREATED   ? "created"
        : last->front().op == v1::Change::DELETED ? "deleted"
                                                  : "updated",
        " it at ", absl::FormatTime(absl::RFC3339_sec, at, absl::UTCTimeZone()),
        info.comment().empty() ? "" : absl::StrCat(" (\"", info.comment(), "\")"), "; nothing was changed"));
  }
  return absl::OkStatus();
}

absl::Status Publisher::Count(absl::Status status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      break;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
      ++counts_.invalid;
      break;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists:
      ++counts_.conflict;
      break;
    default:
      ++counts_.failed;
  }
  return status;
}

absl::Status Publisher::CheckScope(const Scope& scope, const ResourceSet& before, const Proposal& proposal) {
  const auto known = [](const ResourceSet& set, const ResourceKey& key) {
    const auto it = set.find(key);
    return it == set.end() ? Scope::Known() : Scope::Known{it->second.resource.get(), it->second.built_in};
  };
  for (const Edit& edit : proposal.edits) {
    // What gives way to a built-in is gone, to whom it was.
    const v1::Resource* after = edit.built_in ? nullptr : edit.resource.get();
    const absl::Status status = scope.CheckEdit(edit.key, known(before, edit.key), after,
                                                [&](const ResourceKey& key) { return known(proposal.resources, key); });
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<Publisher::Commitment> Publisher::Commit(Proposal proposal, const v1::ChangeContext& context,
                                                        const Author& author, bool dry_run, absl::string_view what,
                                                        const Turn& turn, StoredRequest* request,
                                                        const std::function<void(const Commitment&)>& keep) {
  const std::shared_ptr<const PolicyState> before = current();
  // Before any message mentions resources outside the author's scope.
  if (author.scope != nullptr) {
    if (absl::Status s = CheckScope(*author.scope, *before->resources, proposal); !s.ok()) return s;
  }
  if (proposal.resources.size() > kSetResourcesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("policy would have ", proposal.resources.size(), " resources; at most ", kSetResourcesMax));
  }
  std::vector<const v1::Resource*> resources;
  resources.reserve(proposal.resources.size());
  size_t bytes = 0;
  for (const auto& [key, record] : proposal.resources) {
    resources.push_back(record.resource.get());
    bytes += record.resource->ByteSizeLong();
  }
  if (bytes > kSetBytesMax) {
    return absl::ResourceExhaustedError(absl::StrCat("policy would have ", bytes, " bytes; at most ", kSetBytesMax));
  }
  const uint64_t revision = before->revision + 1;
  CompileResult compiled = CompileSnapshot(resources, {store_->epoch(), revision, options_.own_service});
  if (compiled.snapshot == nullptr) return PolicyError(what, compiled.errors);

  Commitment commitment{before->revision, {}, {}};
  const std::set<std::string> known(before->warnings.begin(), before->warnings.end());
  std::set<std::string, std::less<>> changed;
  for (const Edit& edit : proposal.edits) changed.insert(edit.key.ToString());
  for (const std::string& warning : compiled.warnings) {
    if (!known.contains(warning) || Concerns(warning, changed)) commitment.warnings.push_back(warning);
  }
  commitment.other_warnings = compiled.warnings.size() - commitment.warnings.size();
  std::string picked;
  if (turn.terms != nullptr && turn.terms->to) {
    absl::StatusOr<std::string> found = FindChosen(turn.begins->to(), *turn.terms->to);
    if (!found.ok()) return found.status();
    picked = *std::move(found);
  }
  if (dry_run) {
    ++counts_.dry_run;
    return commitment;
  }
  if (proposal.edits.empty() && before->revision != 0) {
    if (request != nullptr) {
      keep(commitment);
      request->revision = 0;  // it made no revision
      if (absl::Status s = store_->PutRequest(*request); !s.ok()) return s;
    }
    ++counts_.unchanged;
    return commitment;
  }
  commitment.revision = revision;

  // Whole microseconds: what is said now and what is read back later is the same.
  const absl::Time now = absl::FromUnixMicros(absl::ToUnixMicros(options_.now()));
  v1::RevisionInfo info;
  info.set_revision(revision);
  SetTime(now, info.mutable_time());
  info.set_actor(NameOf(author, context));
  info.set_comment(context.comment());
  for (const Edit& edit : proposal.edits) *info.add_changes() = ChangeOf(edit.key, edit.op);
  v1::AuditEntry entry;
  *entry.mutable_time() = info.time();
  entry.set_actor(info.actor());
  entry.set_address(author.address);
  entry.set_action(author.action);
  entry.set_outcome(v1::AuditEntry::DONE);
  entry.set_revision(revision);
  entry.set_detail(AuditDetail(info));
  std::vector<v1::PendingChange> changes;
  if (before->pending != nullptr && turn.ends != v1::PendingChange::OUTCOME_UNSPECIFIED) {
    changes.push_back(*before->pending);
    EndChange(turn.ends, turn.reason, revision, now, &changes.back());
  }
  if (turn.terms != nullptr) {
    std::set<ResourceKey> keys;
    for (const Edit& edit : proposal.edits) keys.insert(edit.key);
    std::vector<std::string> routes;
    if (turn.terms->guard) routes = RoutesConcerned(proposal.resources, keys);
    if (routes.size() > kWatchedRoutesMax) {
      commitment.warnings.push_back(absl::StrCat("the guard watches ", kWatchedRoutesMax, " of the ", routes.size(),
                                                 " routes that the change concerns"));
      routes.resize(kWatchedRoutesMax);
    } else if (turn.terms->guard && routes.empty()) {
      commitment.warnings.push_back("the guard watches nothing: the change concerns no route");
    }
    commitment.begun = BeginChange(*turn.begins, *turn.terms, revision, before->revision, info.actor(),
                                   std::move(picked), std::move(routes), now);
    changes.push_back(*commitment.begun);
  }
  const bool takes_back = before->pending != nullptr && turn.ends != v1::PendingChange::OUTCOME_UNSPECIFIED;
  auto canaries = std::make_shared<const CanarySet>(NextCanaries(
      *before->canaries, takes_back ? &base_canaries_ : nullptr, turn.canaries, proposal.edits, revision, now));
  CanaryEdits canary_edits = EditsOf(*canaries, proposal.edits);
  if (commitment.begun) {
    canary_edits.older = CanaryEdits::Older::kKept;
  } else if (older_canaries_) {
    canary_edits.older = CanaryEdits::Older::kAllReplaced;
    if (!canary_edits.empty()) canary_edits.put = *canaries;
  }
  if (request != nullptr) keep(commitment);
  if (absl::Status s = store_->Commit(info, author.address, proposal.edits, &entry, request, changes, &canary_edits);
      !s.ok()) {
    spdlog::error("revision {} by '{}' was not stored: {}", revision, info.actor(), std::string(s.message()));
    return s;
  }
  for (const Edit& edit : proposal.edits) {
    if (auto it = proposal.resources.find(edit.key); it != proposal.resources.end()) {
      it->second.revision = revision;
      it->second.changed_at = now;
    }
  }
  auto state = std::make_shared<PolicyState>();
  state->epoch = store_->epoch();
  state->revision = revision;
  state->committed_at = now;
  state->resources = std::make_shared<const ResourceSet>(std::move(proposal.resources));
  state->snapshot = std::move(compiled.snapshot);
  state->warnings = std::move(compiled.warnings);
  state->canaries = std::move(canaries);
  if (!canary_edits.empty()) older_canaries_ = commitment.begun.has_value();
  base_canaries_ = commitment.begun ? *before->canaries : CanarySet();
  if (commitment.begun) {
    state->pending = std::make_shared<const v1::PendingChange>(*commitment.begun);
    if (IsStaged(*state->pending)) state->base = before;
  }
  ++counts_.committed;
  spdlog::info("revision {} by '{}' from {}: {} {}", revision, info.actor(),
               author.address.empty() ? "here" : author.address, proposal.edits.size(),
               proposal.edits.size() == 1 ? "change" : "changes");
  if (options_.recorded) options_.recorded(entry);
  Install(std::move(state));
  return commitment;
}

template <typename Request, typename Response>
absl::StatusOr<Response> Publisher::Once(const Request& request, const Author& author,
                                         absl::StatusOr<Response> (Publisher::*change)(const Request&, const Author&,
                                                                                       StoredRequest*)) {
  const std::string& id = request.request_id();
  if (id.size() > kRequestIdBytesMax) {
    return Count(absl::InvalidArgumentError(
        absl::StrCat("request_id: ", id.size(), " bytes; expected at most ", kRequestIdBytesMax)));
  }
  if (!id.empty() && request.dry_run()) {
    return Count(absl::InvalidArgumentError("request_id: a dry run is done each time; expected none with dry_run"));
  }
  std::lock_guard lock(write_mu_);
  if (id.empty()) return (this->*change)(request, author, nullptr);
  StoredRequest kept;
  kept.id = id;
  kept.digest = RequestDigest(request, author);
  absl::StatusOr<std::optional<StoredRequest>> before = store_->FindRequest(id);
  if (!before.ok()) return Count(before.status());
  if (!before->has_value()) return (this->*change)(request, author, &kept);
  if ((*before)->digest != kept.digest) {
    return Count(absl::InvalidArgumentError(
        absl::StrCat("request_id: '", id, "' is that of another request; expected a new one for each")));
  }
  Response response;
  if (!response.ParseFromString((*before)->response)) {
    return Count(absl::DataLossError(absl::StrCat("request_id: what is kept of '", id, "' cannot be read")));
  }
  response.set_repeated(true);
  if constexpr (std::is_same_v<Response, v1::ApplyResponse>) {
    // What was kept is how the change began, or nothing of it; it may have ended since.
    absl::StatusOr<v1::PendingChange> begun = absl::NotFoundError("");
    if ((*before)->revision != 0) begun = store_->PendingChangeOf((*before)->revision);
    if (begun.ok()) {
      *response.mutable_change() = *std::move(begun);
    } else if (!absl::IsNotFound(begun.status())) {
      return Count(begun.status());
    }
  }
  if (response.changes().empty() && (*before)->revision != 0) {
    absl::StatusOr<std::vector<v1::Change>> changes = store_->ChangesOf((*before)->revision);
    if (!changes.ok()) return Count(changes.status());
    for (v1::Change& each : *changes) *response.add_changes() = std::move(each);
  }
  return response;
}

absl::StatusOr<v1::ApplyResponse> Publisher::Apply(const v1::ApplyRequest& request, const Author& author) {
  return Once(request, author, &Publisher::ApplyLocked);
}
absl::StatusOr<v1::DeleteResponse> Publisher::Delete(const v1::DeleteRequest& request, const Author& author) {
  return Once(request, author, &Publisher::DeleteLocked);
}
absl::StatusOr<v1::RollbackResponse> Publisher::Rollback(const v1::RollbackRequest& request, const Author& author) {
  return Once(request, author, &Publisher::RollbackLocked);
}

absl::Status Publisher::Prune(const v1::ApplyRequest& request, const std::set<ResourceKey>& given, Proposal* proposal,
                              v1::ApplyResponse* response) {
  const absl::StatusOr<LabelSelector> selector = LabelSelector::Parse(request.prune());
  if (!selector.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("prune: ", selector.status().message()));
  }
  if (!request.prune().empty()) {
    if (selector->empty()) return absl::InvalidArgumentError("prune: expected a selector, which selects something");
    for (const v1::Resource& resource : request.resources()) {
      if (selector->Matches(LabelsOf(resource))) continue;
      return absl::InvalidArgumentError(absl::StrCat("prune: ", KeyOf(resource).ToString(), " does not match '",
                                                     request.prune(), "', so that it would never be pruned"));
    }
  }
  std::vector<std::string> owned;
  for (const auto& [key, record] : *current()->resources) {
    if (record.built_in || given.contains(key)) continue;
    const bool doomed =
        request.prune().empty() ? record.set == request.set() : selector->Matches(LabelsOf(*record.resource));
    if (!doomed) continue;
    if (!request.prune().empty() && !record.set.empty()) {
      owned.push_back(absl::StrCat(key.ToString(), " (set '", record.set, "')"));
      continue;
    }
    const std::shared_ptr<const v1::Resource> builtin = Builtin(key);
    Put(key, builtin, builtin != nullptr, v1::Change::DELETED, proposal);
    *response->add_changes() = ChangeOf(key, v1::Change::DELETED);
  }
  if (owned.empty()) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat("prune: ", JoinFew(owned), " would be deleted, but a set owns ",
                                               owned.size() == 1 ? "it" : "them", "; nothing was changed"));
}

absl::StatusOr<v1::ApplyResponse> Publisher::ApplyLocked(const v1::ApplyRequest& request, const Author& author,
                                                         StoredRequest* kept) {
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return Count(s);
  if (request.resources_size() > kApplyResourcesMax) {
    return Count(absl::InvalidArgumentError(
        absl::StrCat(request.resources_size(), " resources; at most ", kApplyResourcesMax, " at once")));
  }
  const bool prunes = !request.prune().empty() || !request.set().empty();
  if (!request.prune().empty() && !request.set().empty()) {
    return Count(absl::InvalidArgumentError("prune and set: expected one of them"));
  }
  if (request.set().size() > kSetNameBytesMax) {
    return Count(absl::InvalidArgumentError(
        absl::StrCat("set: ", request.set().size(), " bytes; expected at most ", kSetNameBytesMax)));
  }
  // What a resource gets wrong by its envelope; all the rest is CompileSnapshot's.
  std::vector<v1::PolicyError> mistakes;
  std::set<ResourceKey> seen;
  for (int i = 0; i < request.resources_size(); ++i) {
    const v1::Resource& resource = request.resources(i);
    const ResourceKey key = KeyOf(resource);
    if (key.kind.empty()) {
      mistakes.push_back(Mistake(
          key, absl::StrCat("resources[", i, "]"),
          HasUnknownFields(resource) ? "a kind that this version does not know" : "holds no resource of any kind"));
      continue;
    }
    if (!seen.insert(key).second) mistakes.push_back(Mistake(key, "", "is given twice; expected one of each name"));
    CheckLabelKeys(resource, &mistakes);
    if (HasUnknownFields(resource)) {
      mistakes.push_back(Mistake(key, "", "has fields that this version of the control plane does not know"));
    }
    if (resource.ByteSizeLong() > kResourceBytesMax) {
      mistakes.push_back(Mistake(key, LongestField(*BodyOf(resource)),
                                 absl::StrCat("is most of ", resource.ByteSizeLong(),
                                              " bytes; expected a resource of at most ", kResourceBytesMax)));
    }
  }

  const absl::StatusOr<ChangeTerms> terms = TermsOf(request);
  if (!terms.ok()) return Count(terms.status());

  if (absl::Status s = CheckExpected(request.expected_revision(), request.expected_versions()); !s.ok()) {
    return Count(s);
  }
  if (absl::Status s = CheckNoChangeUnderWay(); !s.ok() && !request.dry_run()) return Count(s);
  const std::shared_ptr<const PolicyState> before = current();
  Proposal proposal{*before->resources, {}};
  v1::ApplyResponse response;
  std::vector<std::string> others;
  for (v1::Resource resource : request.resources()) {
    const ResourceKey key = KeyOf(resource);
    if (key.kind.empty()) continue;
    auto it = before->resources->find(key);
    KeepIssued(it == before->resources->end() ? nullptr : it->second.resource.get(), &resource, &mistakes);
    // What `get` printed as redacted stays as it is.
    RestoreSecrets(it == before->resources->end() ? nullptr : it->second.resource.get(), &resource, &mistakes);
    const std::string owner = it == before->resources->end() ? "" : it->second.set;
    const std::string& set = request.set().empty() ? owner : request.set();
    if (!request.set().empty() && !owner.empty() && owner != set) {
      others.push_back(absl::StrCat(key.ToString(), " (set '", owner, "')"));
    }
    // Applying what `get` prints changes nothing, also where that is a built-in. A set that takes it over does.
    const v1::Change::Op op = it == before->resources->end()                         ? v1::Change::CREATED
                              : Same(*it->second.resource, resource) && owner == set ? v1::Change::UNCHANGED
                                                                                     : v1::Change::UPDATED;
    *response.add_changes() = ChangeOf(key, op);
    if (op != v1::Change::UNCHANGED) {
      Put(key, std::make_shared<const v1::Resource>(std::move(resource)), false, op, &proposal, set);
    }
  }
  if (!others.empty()) {
    return Count(
        absl::AlreadyExistsError(absl::StrCat("set '", request.set(), "': another set owns ", JoinFew(others),
                                              "; nothing was changed: delete it there first, or leave it out here")));
  }
  if (prunes) {
    if (absl::Status s = Prune(request, seen, &proposal, &response); !s.ok()) return Count(s);
  }
  if (!mistakes.empty()) {
    if (author.scope != nullptr) {
      if (absl::Status s = CheckScope(*author.scope, *before->resources, proposal); !s.ok()) return Count(s);
    }
    // Those of the envelope and those inside at once.
    std::vector<const v1::Resource*> resources;
    for (const auto& [key, record] : proposal.resources) resources.push_back(record.resource.get());
    for (v1::PolicyError& error :
         CompileSnapshot(resources, {store_->epoch(), before->revision + 1, options_.own_service}).errors) {
      // A secret that could not be put back is not a hash either: report it once.
      const bool told = std::any_of(mistakes.begin(), mistakes.end(), [&error](const v1::PolicyError& other) {
        return other.kind() == error.kind() && other.name() == error.name() && other.field() == error.field();
      });
      if (!told) mistakes.push_back(std::move(error));
    }
    return Count(PolicyError("the policy is invalid; nothing was changed", mistakes));
  }
  Turn turn;
  if (!terms->final()) {
    turn.begins = &request;
    turn.terms = &*terms;
  }
  const auto finish = [&](const Commitment& done) {
    response.set_revision(done.revision);
    if (done.begun) *response.mutable_change() = *done.begun;
    response.clear_warnings();
    for (const std::string& warning : done.warnings) response.add_warnings(warning);
    response.set_other_warnings(static_cast<uint32_t>(done.other_warnings));
    Keep(response, kept);
  };
  absl::StatusOr<Commitment> done = Commit(std::move(proposal), request.context(), author, request.dry_run(),
                                           "the policy is invalid; nothing was changed", turn, kept, finish);
  if (!done.ok()) return Count(done.status());
  if (kept == nullptr) finish(*done);
  return response;
}

absl::Status Publisher::Issue(const std::string& name, const v1::Acme& acme, const std::string& chain_pem,
                              const std::string& key_pem) {
  std::lock_guard lock(write_mu_);
  if (absl::Status s = CheckNoChangeUnderWay(); !s.ok()) return Count(s);
  const std::shared_ptr<const PolicyState> before = current();
  const ResourceKey key{"Certificate", name};
  const auto it = before->resources->find(key);
  if (it == before->resources->end() || !it->second.resource->certificate().has_acme() ||
      it->second.resource->certificate().acme().SerializeAsString() != acme.SerializeAsString()) {
    return absl::FailedPreconditionError(absl::StrCat(key.ToString(), " was changed meanwhile"));
  }
  auto resource = std::make_shared<v1::Resource>(*it->second.resource);
  resource->mutable_certificate()->mutable_certificate()->set_inline_(chain_pem);
  resource->mutable_certificate()->mutable_key()->set_inline_(key_pem);
  Proposal proposal{*before->resources, {}};
  Put(key, std::move(resource), false, v1::Change::UPDATED, &proposal, it->second.set);
  v1::ChangeContext context;
  context.set_comment(absl::StrCat("issued by ", acme.directory()).substr(0, kCommentBytesMax));
  Author author;
  author.name = kAcmeActor;
  author.action = "Issue";
  return Count(
      Commit(std::move(proposal), context, author, false, "the CA's certificate is of no use", Turn()).status());
}

absl::StatusOr<v1::DeleteResponse> Publisher::DeleteLocked(const v1::DeleteRequest& request, const Author& author,
                                                           StoredRequest* kept) {
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return Count(s);
  if (request.resources_size() > kApplyResourcesMax) {
    return Count(absl::InvalidArgumentError(
        absl::StrCat(request.resources_size(), " resources; at most ", kApplyResourcesMax, " at once")));
  }
  std::set<ResourceKey> keys;
  const auto add = [&keys](const std::string& kind, const std::string& name) {
    absl::StatusOr<std::string> canonical = CanonicalKind(kind);
    if (canonical.ok()) keys.insert({*std::move(canonical), name});
    return canonical.status();
  };
  if (!request.kind().empty() || !request.name().empty() || request.resources().empty()) {
    if (absl::Status s = add(request.kind(), request.name()); !s.ok()) return Count(s);
  }
  for (const v1::ResourceName& resource : request.resources()) {
    if (absl::Status s = add(resource.kind(), resource.name()); !s.ok()) return Count(s);
  }

  if (absl::Status s = CheckExpected(request.expected_revision(), request.expected_versions()); !s.ok()) {
    return Count(s);
  }
  if (absl::Status s = CheckNoChangeUnderWay(); !s.ok() && !request.dry_run()) return Count(s);
  const std::shared_ptr<const PolicyState> before = current();
  Proposal proposal{*before->resources, {}};
  v1::DeleteResponse response;
  std::vector<std::string> missing, gone;
  for (const ResourceKey& key : keys) {
    auto it = before->resources->find(key);
    if (it == before->resources->end()) {
      if (!request.ignore_not_found()) missing.push_back(key.ToString());
      continue;
    }
    if (it->second.built_in) {
      return Count(absl::FailedPreconditionError(
          absl::StrCat(key.ToString(), " is built in and cannot be deleted, only replaced by a document of its name")));
    }
    Put(key, Builtin(key), true, v1::Change::DELETED, &proposal);
    *response.add_changes() = ChangeOf(key, v1::Change::DELETED);
    gone.push_back(key.ToString());
  }
  if (!missing.empty()) return Count(absl::NotFoundError(absl::StrCat("no ", JoinFew(missing))));
  const auto finish = [&](const Commitment& done) {
    response.set_revision(done.revision);
    Keep(response, kept);
  };
  absl::StatusOr<Commitment> done = Commit(
      std::move(proposal), request.context(), author, request.dry_run(),
      absl::StrCat(JoinFew(gone), " cannot be deleted, something still refers to ", gone.size() == 1 ? "it" : "them"),
      Turn(), kept, finish);
  if (!done.ok()) return Count(done.status());
  if (kept == nullptr) finish(*done);
  return response;
}

absl::StatusOr<v1::RollbackResponse> Publisher::RollbackLocked(const v1::RollbackRequest& request, const Author& author,
                                                               StoredRequest* kept) {
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return Count(s);
  absl::StatusOr<Store::Past> past = store_->SetAt(request.revision());
  if (!past.ok()) return Count(past.status());

  if (absl::Status s = CheckExpected(request.expected_revision(), {}); !s.ok()) return Count(s);
  const std::shared_ptr<const PolicyState> before = current();
  Proposal proposal = Replacing(*before->resources, past->resources);
  v1::RollbackResponse response;
  for (const Edit& edit : proposal.edits) *response.add_changes() = ChangeOf(edit.key, edit.op);
  response.set_undone_count(before->revision - request.revision());
  absl::StatusOr<std::vector<v1::RevisionInfo>> newest = store_->RevisionsBefore(0, {}, kUndoneToldMax);
  if (!newest.ok()) return Count(newest.status());
  for (v1::RevisionInfo& info : *newest) {
    if (info.revision() > request.revision()) *response.add_undone() = std::move(info);
  }
  v1::ChangeContext context = request.context();
  if (context.comment().empty()) context.set_comment(absl::StrCat("rollback to revision ", request.revision()));
  Turn turn;
  turn.ends = v1::PendingChange::ROLLED_BACK;
  turn.reason = absl::StrCat("rolled back to revision ", request.revision(), " by '", NameOf(author, context), "'");
  const auto finish = [&](const Commitment& done) {
    response.set_revision(done.revision);
    Keep(response, kept);
  };
  absl::StatusOr<Commitment> done = Commit(
      std::move(proposal), context, author, request.dry_run(),
      absl::StrCat("revision ", request.revision(), " is not valid any more; nothing was changed"), turn, kept, finish);
  if (!done.ok()) return Count(done.status());
  if (kept == nullptr) finish(*done);
  if (before->pending != nullptr && done->revision != before->revision) ++counts_.rolled_back;
  return response;
}

Publisher::Proposal Publisher::Replacing(const ResourceSet& before, const ResourceSet& documents) const {
  ResourceSet target;
  for (const auto& [key, record] : documents) {
    if (!record.built_in) target[key] = record;
  }
  for (const auto& [key, builtin] : builtins_) {
    target.try_emplace(key, ResourceRecord{builtin, 0, absl::Time(), true, ""});
  }
  Proposal proposal{before, {}};
  for (const auto& [key, record] : before) {
    if (!target.contains(key)) Put(key, nullptr, false, v1::Change::DELETED, &proposal);
  }
  for (auto& [key, record] : target) {
    auto it = before.find(key);
    // A certificate that was renewed since stays so. One that was given by hand is what is taken back.
    if (it != before.end() && record.resource->certificate().has_acme() &&
        it->second.resource->certificate().has_acme() && it->second.resource->certificate().has_key()) {
      auto kept = std::make_shared<v1::Resource>(*record.resource);
      *kept->mutable_certificate()->mutable_certificate() = it->second.resource->certificate().certificate();
      *kept->mutable_certificate()->mutable_key() = it->second.resource->certificate().key();
      record.resource = std::move(kept);
    }
    if (it == before.end()) {
      Put(key, record.resource, record.built_in, v1::Change::CREATED, &proposal, record.set);
    } else if (it->second.built_in != record.built_in || it->second.set != record.set ||
               !Same(*it->second.resource, *record.resource)) {
      Put(key, record.resource, record.built_in, record.built_in ? v1::Change::DELETED : v1::Change::UPDATED, &proposal,
          record.set);
    }
  }
  return proposal;
}

absl::StatusOr<std::string> Publisher::FindChosen(const std::string& to, const Selection& selection) const {
  std::vector<v1::DataPlaneState> there;
  if (options_.data_planes) there = options_.data_planes();
  std::string picked = selection.Pick(there);
  const bool any = std::any_of(there.begin(), there.end(),
                               [&](const v1::DataPlaneState& each) { return selection.Takes(each, picked); });
  if (any) return picked;
  return absl::FailedPreconditionError(
      absl::StrCat("to: no connected data plane has ", to, "; nothing was changed; see gatewayctl dataplanes"));
}

absl::Status Publisher::CheckNoChangeUnderWay() {
  const std::shared_ptr<const PolicyState> state = current();
  if (state->pending == nullptr) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(DescribeUnderWay(*state->pending), "; nothing was changed"));
}

absl::StatusOr<ResourceSet> Publisher::BaseSet() {
  const std::shared_ptr<const PolicyState> state = current();
  if (state->base != nullptr) return *state->base->resources;
  absl::StatusOr<Store::Past> past = store_->SetAt(state->pending->base_revision());
  if (!past.ok()) return past.status();
  return std::move(past->resources);
}

absl::Status Publisher::Revert(v1::PendingChange::Outcome outcome, const std::string& reason,
                               const v1::ChangeContext& context, const Author& author) {
  absl::StatusOr<ResourceSet> base = BaseSet();
  if (!base.ok()) return base.status();
  v1::ChangeContext told = context;
  told.set_comment(reason);
  // Who may end a change may take back all of it.
  Author unbound = author;
  unbound.scope = nullptr;
  Turn turn;
  turn.ends = outcome;
  turn.reason = reason;
  return Commit(Replacing(*current()->resources, *base), told, unbound, false,
                "the policy of before is not valid any more; nothing was changed", turn)
      .status();
}

absl::Status Publisher::Settle(v1::PendingChange change, const Author& author, const std::string& detail) {
  v1::AuditEntry entry;
  SetTime(options_.now(), entry.mutable_time());
  entry.set_actor(author.name);
  entry.set_address(author.address);
  entry.set_action(author.action);
  entry.set_outcome(v1::AuditEntry::DONE);
  entry.set_revision(change.revision());
  entry.set_detail(detail);
  if (absl::Status s = store_->PutPendingChange(change, entry); !s.ok()) return s;
  spdlog::info("{}", detail);
  if (options_.recorded) options_.recorded(entry);
  auto state = std::make_shared<PolicyState>(*current());
  state->pending = IsUnderWay(change) ? std::make_shared<const v1::PendingChange>(std::move(change)) : nullptr;
  if (state->pending == nullptr) state->base = nullptr;
  Install(std::move(state));
  return absl::OkStatus();
}

absl::Status Publisher::AdvanceChange(uint64_t revision, const GuardFigures& figures) {
  std::lock_guard lock(write_mu_);
  const std::shared_ptr<const PolicyState> state = current();
  if (state->pending == nullptr || state->pending->revision() != revision) return absl::OkStatus();
  v1::PendingChange change = *state->pending;
  Author author;
  author.name = kControlPlaneActor;
  const Progress progress = Advance(figures, options_.now(), &change);
  if (progress.revert) {
    author.action = "Revert";
    if (absl::Status s = Revert(v1::PendingChange::REVERTED, progress.reason, {}, author); !s.ok()) return s;
    ++(*progress.revert == RevertCause::kGuard ? counts_.reverted_by_guard : counts_.reverted_unconfirmed);
    spdlog::warn("revision {} by '{}': {}", change.revision(), change.actor(), progress.reason);
    return absl::OkStatus();
  }
  if (!progress.changed) return absl::OkStatus();
  author.action = "Guard";
  const std::string detail = absl::StrCat("revision ", change.revision(), ": ", change.note());
  return Settle(std::move(change), author, detail);
}

absl::StatusOr<v1::DecideChangeResponse> Publisher::Decide(const v1::DecideChangeRequest& request,
                                                           const Author& author) {
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return Count(s);
  std::lock_guard lock(write_mu_);
  const std::shared_ptr<const PolicyState> state = current();
  if (request.revision() > state->revision) {
    return absl::NotFoundError(
        absl::StrCat("there is no revision ", request.revision(), "; the newest is ", state->revision));
  }
  if (state->pending == nullptr) {
    return absl::NotFoundError(absl::StrCat("revision ", request.revision() == 0 ? state->revision : request.revision(),
                                            " is final: no change is staged, watched or to be confirmed"));
  }
  v1::PendingChange change = *state->pending;
  if (request.revision() != 0 && request.revision() != change.revision()) {
    return absl::NotFoundError(
        absl::StrCat("revision ", request.revision(), " is not under way; ", DescribeUnderWay(change)));
  }
  const std::string actor = NameOf(author, request.context());
  if (author.scope != nullptr && author.name != change.actor()) {
    return absl::PermissionDeniedError(absl::StrCat("revision ", change.revision(), " is by '", change.actor(),
                                                    "'; you may decide changes of your own"));
  }
  Author named = author;
  named.name = actor;
  const std::string& comment = request.context().comment();
  const auto detail = [&](absl::string_view done) {
    return absl::StrCat("revision ", change.revision(), " ", done, " by '", actor, "'",
                        comment.empty() ? "" : absl::StrCat(": ", comment));
  };
  absl::Status status;
  switch (request.decision()) {
    case v1::DecideChangeRequest::CONFIRM:
      status = Confirm(actor, options_.now(), &change);
      if (status.ok()) status = Settle(change, named, detail("confirmed"));
      break;
    case v1::DecideChangeRequest::PROMOTE:
      status = Promote(actor, options_.now(), &change);
      if (status.ok()) status = Settle(change, named, detail("promoted"));
      break;
    case v1::DecideChangeRequest::ABANDON:
      status = Revert(v1::PendingChange::ABANDONED, detail("abandoned"), request.context(), author);
      if (status.ok()) ++counts_.abandoned;
      break;
    default:
      status = absl::InvalidArgumentError("decision: expected CONFIRM, PROMOTE or ABANDON");
  }
  if (!status.ok()) return status;
  absl::StatusOr<v1::PendingChange> stored = store_->PendingChangeOf(change.revision());
  if (!stored.ok()) return stored.status();
  v1::DecideChangeResponse response;
  *response.mutable_change() = *std::move(stored);
  response.set_revision(current()->revision);
  return response;
}

absl::Status Publisher::ResumeChange(PolicyState* state) {
  absl::StatusOr<v1::PendingChange> change = store_->PendingChangeOf(0);
  if (absl::IsNotFound(change.status())) return absl::OkStatus();
  if (!change.ok()) return change.status();
  if (!IsUnderWay(*change) || change->revision() != state->revision) return absl::OkStatus();
  state->pending = std::make_shared<const v1::PendingChange>(*change);
  spdlog::info("{}", DescribeUnderWay(*change));
  absl::StatusOr<CanarySet> before = store_->LoadCanaries(change->base_revision());
  if (!before.ok()) return before.status();
  base_canaries_ = *std::move(before);
  if (!IsStaged(*change)) return absl::OkStatus();
  absl::StatusOr<Store::Past> past = store_->SetAt(change->base_revision());
  if (!past.ok()) return past.status();
  auto base = std::make_shared<PolicyState>();
  base->epoch = state->epoch;
  base->revision = change->base_revision();
  base->committed_at =
      absl::FromUnixSeconds(past->info.time().seconds()) + absl::Nanoseconds(past->info.time().nanos());
  base->resources = std::make_shared<const ResourceSet>(std::move(past->resources));
  base->canaries = std::make_shared<const CanarySet>(CanariesOf(*base->resources, base_canaries_, options_.now()));
  std::vector<const v1::Resource*> resources;
  for (const auto& [key, record] : *base->resources) resources.push_back(record.resource.get());
  CompileResult compiled = CompileSnapshot(resources, {base->epoch, base->revision, options_.own_service});
  if (compiled.snapshot == nullptr) {
    return PolicyError(absl::StrCat("revision ", base->revision, ", the base of the staged one"), compiled.errors);
  }
  base->snapshot = std::move(compiled.snapshot);
  base->warnings = std::move(compiled.warnings);
  state->base = std::move(base);
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
