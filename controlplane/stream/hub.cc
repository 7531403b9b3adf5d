#include "controlplane/stream/hub.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <mutex>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/timestamp.h"
#include "common/base/version.h"
#include "common/config/redaction.h"
#include "common/policy/schema_version.h"
#include "google/protobuf/util/time_util.h"
#include "grpcpp/support/slice.h"

namespace gateway::controlplane {
namespace {

// Of a chunk, for what is around its resources.
constexpr size_t kEnvelopeBytes = 512;
// Tags and lengths around one of them.
constexpr size_t kItemOverheadBytes = 32;
// Of a NACK, as much is kept.
constexpr int kRejectionsKept = 100;
constexpr size_t kRejectionTextBytesMax = 1024;
// Of the instances that claim one name, as many are kept.
constexpr int kRivalsMax = 8;
// Commands that wait for a data plane that reads slowly.
constexpr size_t kCommandsMax = 16;
constexpr uint32_t kMagnitudeMax = 60;  // of BusyService
// As many names are in a sentence.
constexpr size_t kNamesTold = 5;
// In place of an instance's id: it replaces a process that did not say its own (of a version before 0.2).
constexpr char kReplacesAny[] = "*";

grpc::ByteBuffer Serialise(const v1::ControlPlaneMessage& message) {
  grpc::Slice slice(message.ByteSizeLong());
  message.SerializeWithCachedSizesToArray(const_cast<uint8_t*>(slice.begin()));
  return grpc::ByteBuffer(&slice, 1);
}

v1::Rejection Clipped(const v1::Rejection& rejection) {
  v1::Rejection clipped = rejection;
  for (std::string* text :
       {clipped.mutable_kind(), clipped.mutable_name(), clipped.mutable_field(), clipped.mutable_reason()}) {
    if (text->size() > kRejectionTextBytesMax) text->resize(kRejectionTextBytesMax);
  }
  return clipped;
}

std::string NewEpoch() {
  std::random_device random;
  return absl::StrFormat("%08x%08x", random(), random());
}

size_t CountKeys(const PolicyState& state) {
  return static_cast<size_t>(std::count_if(state.resources->begin(), state.resources->end(), [](const auto& each) {
    return each.second.resource->certificate().has_key();
  }));
}

}  // namespace

std::optional<ResourceKey> FirstNewer(const PolicyState& state, uint32_t schema_version) {
  for (const auto& [key, record] : *state.resources) {
    if (RequiredSchemaVersion(*record.resource) <= schema_version) continue;
    v1::Resource sent = *record.resource;
    ReplaceCanary(*state.canaries, &sent);
    if (RequiredSchemaVersion(sent) > schema_version) return key;
  }
  return std::nullopt;
}

std::shared_ptr<const EncodedUpdate> EncodePolicy(const PolicyState& state, PrivateKeys keys, uint32_t schema_version) {
  auto encoded = std::make_shared<EncodedUpdate>();
  encoded->to = state.revision;
  auto it = state.resources->begin();
  do {
    v1::ControlPlaneMessage message;
    v1::PolicyUpdate* update = message.mutable_policy();
    update->set_epoch(state.epoch);
    update->set_to(state.revision);
    update->set_chunk(static_cast<uint32_t>(encoded->chunks.size()));
    update->set_schema_version(schema_version);
    SetTime(state.committed_at, update->mutable_committed_at());
    size_t bytes = kEnvelopeBytes;
    for (; it != state.resources->end(); ++it) {
      const size_t more = it->second.resource->ByteSizeLong() + kItemOverheadBytes;
      if (bytes + more > kChunkBytesMax && update->resources_size() > 0) break;
      bytes += more;
      v1::VersionedResource* resource = update->add_resources();
      resource->set_version(it->second.revision);
      *resource->mutable_resource() = *it->second.resource;
      ReplaceCanary(*state.canaries, resource->mutable_resource());
      if (keys == PrivateKeys::kKept && it->second.resource->has_certificate()) {
        RedactSecrets(resource->mutable_resource()->mutable_certificate());
      }
      resource->set_built_in(it->second.built_in);
    }
    update->set_last(it == state.resources->end());
    encoded->chunks.push_back(Serialise(message));
  } while (it != state.resources->end());
  return encoded;
}

std::shared_ptr<const EncodedUpdate> EncodeEndpoints(const std::string& endpoints_epoch, const EndpointCatalog& catalog,
                                                     const EndpointCatalog* previous) {
  auto encoded = std::make_shared<EncodedUpdate>();
  encoded->from = previous == nullptr ? 0 : previous->version;
  encoded->to = catalog.version;
  std::vector<const v1::EndpointSet*> sets;
  std::vector<const EndpointKey*> removed;
  for (const auto& [key, set] : catalog.sets) {
    if (previous != nullptr) {
      // The watcher hands on what did not change, so that the pointer tells.
      auto before = previous->sets.find(key);
      if (before != previous->sets.end() && before->second == set) continue;
    }
    sets.push_back(set.get());
  }
  if (previous != nullptr) {
    for (const auto& [key, set] : previous->sets) {
      if (!catalog.sets.contains(key)) removed.push_back(&key);
    }
  }
  size_t next_set = 0, next_removed = 0;
  bool last = false;
  while (!last) {
    v1::ControlPlaneMessage message;
    v1::EndpointsUpdate* update = message.mutable_endpoints();
    update->set_endpoints_epoch(endpoints_epoch);
    update->set_from(encoded->from);
    update->set_to(encoded->to);
    update->set_chunk(static_cast<uint32_t>(encoded->chunks.size()));
    update->set_catalog_known(catalog.catalog_known);
    size_t bytes = kEnvelopeBytes;
    for (; next_set < sets.size(); ++next_set) {
      const size_t more = sets[next_set]->ByteSizeLong() + kItemOverheadBytes;
      if (bytes + more > kChunkBytesMax && update->sets_size() > 0) break;
      bytes += more;
      *update->add_sets() = *sets[next_set];
    }
    for (; next_set == sets.size() && next_removed < removed.size(); ++next_removed) {
      const size_t more =
          removed[next_removed]->first.size() + removed[next_removed]->second.size() + kItemOverheadBytes;
      if (bytes + more > kChunkBytesMax) break;
      bytes += more;
      v1::ServiceKey* key = update->add_removed();
      key->set_datacenter(removed[next_removed]->first);
      key->set_service(removed[next_removed]->second);
    }
    last = next_set == sets.size() && next_removed == removed.size();
    update->set_last(last);
    encoded->chunks.push_back(Serialise(message));
  }
  return encoded;
}

// One of the two kinds of update on a stream.
struct Hub::Lane {
  uint64_t acked = 0;    // applied; 0: nothing of this epoch
  uint64_t settled = 0;  // the newest that was answered, either way: not sent again on this stream
  std::shared_ptr<const EncodedUpdate> in_flight;
  size_t next_chunk = 0;
};

class Hub::Session {
 private:
  friend class Hub;
  std::string name;
  bool held = false;  // gets no update before an operator has decided
  std::weak_ptr<StreamSink> sink;
  std::optional<grpc::ByteBuffer> welcome;
  PrivateKeys keys = PrivateKeys::kKept;
  uint32_t schema_version = kSchemaVersion;  // that it understands
  bool takes_operations = false;
  uint64_t overrides_sent = 0;  // the version; 0: none yet
  bool takes_edge = false;
  uint64_t tickets_sent = 0, challenges_sent = 0;  // likewise
  uint64_t challenges_acked = 0;
  bool takes_drain = false;
  bool drained = false;  // as the data plane was told last, or said itself
  std::deque<grpc::ByteBuffer> commands;
  struct Ask {
    absl::Time until;
    DiagnoseDone done;
    v1::Diagnostics answer;
    size_t bytes = 0;
  };
  std::map<uint64_t, Ask> asks;  // by id
  Lane policy;
  Lane endpoints;
};

struct Hub::Entry {
  v1::DataPlaneState state;  // its rivals, too
  absl::Time since;
  absl::Time applied_at;                     // of applied_revision
  std::string applied_epoch;                 // that applied_revision belongs to
  uint64_t acked = 0;                        // the last revision that was acknowledged on this stream
  bool lost = false;                         // gone, without a goodbye
  std::shared_ptr<Session> session;          // null: gone
  std::shared_ptr<const v1::Report> report;  // null: none on this stream
};

Hub::Hub(HubOptions options)
    : options_(std::move(options)), endpoints_epoch_(NewEpoch()), takeover_(options_.takeover) {
  for (const RosterEntry& known : options_.expected) {
    Entry& entry = entries_[known.name];
    entry.lost = true;
    entry.since = known.lost_since.value_or(options_.now());
    entry.state.set_name(known.name);
    SetTime(entry.since, entry.state.mutable_since());
  }
  keeper_ = std::thread([this] { KeepTime(); });
}

Hub::~Hub() {
  {
    std::lock_guard lock(mu_);
    ending_ = true;
  }
  keeper_wakes_.notify_one();
  keeper_.join();
}

std::vector<Hub::DiagnoseDone> Hub::TakeOverdueAsks(absl::Time now) {
  std::vector<DiagnoseDone> overdue;
  for (auto& [name, entry] : entries_) {
    if (entry.session == nullptr) continue;
    auto& asks = entry.session->asks;
    for (auto it = asks.begin(); it != asks.end();) {
      if (it->second.until > now) {
        ++it;
        continue;
      }
      overdue.push_back(std::move(it->second.done));
      it = asks.erase(it);
    }
  }
  return overdue;
}

void Hub::KeepTime() {
  std::unique_lock lock(mu_);
  while (!ending_ || members_changed_) {
    for (const std::string& name : std::exchange(forgotten_, {})) {
      // Who is back is not forgotten.
      if (options_.forgotten && !entries_.contains(name)) options_.forgotten(name);
    }
    if (std::exchange(members_changed_, false) && options_.save_roster) {
      const std::vector<RosterEntry> members = Members();
      lock.unlock();
      options_.save_roster(members);
      lock.lock();
      continue;
    }
    if (ending_) continue;  // nobody wakes it any more; what is left to save is saved first
    PruneGone();
    if (members_changed_ || !forgotten_.empty()) continue;
    if (const std::vector<DiagnoseDone> overdue = TakeOverdueAsks(options_.now()); !overdue.empty()) {
      lock.unlock();
      for (const DiagnoseDone& done : overdue) {
        done(absl::DeadlineExceededError(absl::StrCat("no answer within ", absl::FormatDuration(kDiagnoseWait))));
      }
      lock.lock();
      continue;
    }
    absl::Time next = absl::InfiniteFuture();
    for (const auto& [name, entry] : entries_) {
      if (entry.session == nullptr) {
        next = std::min(next, Expected(entry) ? entry.since + options_.lost_grace : ForgottenAt(entry));
      } else {
        for (const auto& [id, ask] : entry.session->asks) next = std::min(next, ask.until);
      }
      for (const v1::Rival& rival : entry.state.rivals()) {
        next = std::min(next, TimeOf(rival.last_seen()) + options_.rival_kept);
      }
    }
    if (next == absl::InfiniteFuture()) {
      keeper_wakes_.wait(lock);
      continue;
    }
    keeper_wakes_.wait_for(lock, absl::ToChronoMilliseconds(next - options_.now()) + std::chrono::milliseconds(1));
    if (options_.now() < next) continue;
    PruneGone();  // first: who waits for a rollout looks when told
    lock.unlock();
    ledger_.Notify();
    lock.lock();
  }
}

std::vector<RosterEntry> Hub::Members() const {
  std::vector<RosterEntry> members;
  for (const bool connected : {true, false}) {  // the more important ones first
    for (const auto& [name, entry] : entries_) {
      if ((entry.session != nullptr) != connected || (!connected && !entry.lost)) continue;
      members.push_back({name, connected ? std::nullopt : std::optional(entry.since)});
    }
  }
  return members;
}

absl::Time Hub::ForgottenAt(const Entry& entry) const {
  return entry.since + (entry.lost ? options_.lost_kept : std::min(options_.goodbye_kept, options_.lost_kept));
}

bool Hub::Expected(const Entry& entry) const {
  return entry.session != nullptr || (entry.lost && options_.now() - entry.since < options_.lost_grace);
}

Hub::Image Hub::MakeImage(std::shared_ptr<const PolicyState> state) {
  Image image;
  image.update = EncodePolicy(*state, PrivateKeys::kSent, kSchemaVersion);
  image.keyless = CountKeys(*state) > 0 ? EncodePolicy(*state, PrivateKeys::kKept, kSchemaVersion) : image.update;
  image.state = std::move(state);
  return image;
}

void Hub::PublishPolicy(std::shared_ptr<const PolicyState> state) {
  Image newest, base;
  std::vector<std::string> watched;
  if (state->pending != nullptr && state->pending->has_guard_until()) {
    watched.assign(state->pending->routes().begin(), state->pending->routes().end());
  }
  for (std::string& sides : WatchedSides(*state->resources, *state->canaries)) watched.push_back(std::move(sides));
  // What is encoded already is not encoded again: the base was the newest, and what is promoted is.
  const auto encoded = [this](const PolicyState& wanted) -> Image {
    std::lock_guard lock(mu_);
    for (const Image* image : {&newest_, &base_}) {
      if (image->state != nullptr && image->state->revision == wanted.revision) return *image;
    }
    return {};
  };
  newest = encoded(*state);
  uint64_t made = newest.state == nullptr ? 1 : 0;
  if (newest.state == nullptr) newest = MakeImage(state);
  newest.state = state;
  std::optional<Selection> chosen;
  if (state->base != nullptr) {
    base = encoded(*state->base);
    if (base.state == nullptr) {
      base = MakeImage(state->base);
      ++made;
    }
    // It was parsed before it was stored. One that cannot be parsed chooses no data plane.
    absl::StatusOr<Selection> parsed = Selection::Parse(state->pending->to());
    if (parsed.ok()) chosen = *std::move(parsed);
  }
  {
    std::lock_guard lock(mu_);
    newest_ = std::move(newest);
    base_ = std::move(base);
    chosen_ = std::move(chosen);
    counts_.updates_encoded += made;
    if (watched_ != watched) {
      watched_ = std::move(watched);
      ++overrides_version_;
    }
    for (auto& [name, entry] : entries_) {
      if (entry.session != nullptr) JudgeOlder(&entry);
    }
  }
  WakeAll();
  ledger_.Notify();
}

bool Hub::Chosen(const Entry& entry) const {
  return base_.state != nullptr && chosen_ && chosen_->Takes(entry.state, newest_.state->pending->picked());
}

Hub::Image& Hub::ImageOf(const Entry& entry) { return base_.state == nullptr || Chosen(entry) ? newest_ : base_; }

const Hub::Image& Hub::ImageOf(const Entry& entry) const {
  return base_.state == nullptr || Chosen(entry) ? newest_ : base_;
}

void Hub::JudgeOlder(Entry* entry) {
  const uint32_t version = entry->session->schema_version;
  Image& image = ImageOf(*entry);
  if (version >= kSchemaVersion || image.state == nullptr) return;
  if (!std::exchange(image.older_made, true)) {
    image.newer = FirstNewer(*image.state, kSchemaVersionMin);
    image.older = image.newer ? nullptr : EncodePolicy(*image.state, PrivateKeys::kKept, kSchemaVersionMin);
  }
  if (version >= kSchemaVersionMin && !image.newer) return;
  entry->state.set_rejected_revision(image.state->revision);
  entry->state.clear_rejections();
  v1::Rejection* rejection = entry->state.add_rejections();
  if (image.newer) {
    rejection->set_kind(image.newer->kind);
    rejection->set_name(image.newer->name);
  }
  rejection->set_reason(absl::StrCat("this data plane understands policy of schema version ", version, "; version ",
                                     image.newer ? kSchemaVersion : kSchemaVersionMin, " is needed, upgrade it"));
}

void Hub::PublishEndpoints(std::shared_ptr<const EndpointCatalog> catalog) {
  std::shared_ptr<const EndpointCatalog> previous = endpoints();
  if (catalog->version == (previous == nullptr ? 0 : previous->version)) {
    std::lock_guard lock(mu_);
    catalog_ = std::move(catalog);
    return;
  }
  std::shared_ptr<const EncodedUpdate> delta;
  if (previous != nullptr && previous->version != 0) {
    delta = EncodeEndpoints(endpoints_epoch_, *catalog, previous.get());
  }
  {
    std::lock_guard lock(mu_);
    catalog_ = std::move(catalog);
    endpoints_full_ = nullptr;
    endpoints_delta_ = std::move(delta);
    if (endpoints_delta_ != nullptr) ++counts_.updates_encoded;
    counts_.endpoints_version = catalog_->version;
  }
  WakeAll();
}

void Hub::PublishOverrides(std::vector<v1::EndpointOverride> overrides) {
  {
    std::lock_guard lock(mu_);
    overrides_ = std::move(overrides);
    ++overrides_version_;
  }
  WakeAll();
}

void Hub::PublishTicketKeys(const v1::TicketKeysUpdate& keys, absl::Time rotates_at) {
  {
    std::lock_guard lock(mu_);
    ticket_keys_ = keys;
    tickets_rotate_at_ = rotates_at;
    ++tickets_version_;
  }
  WakeAll();
}

void Hub::PublishDrains(std::map<std::string, v1::DataPlaneDrain> drains) {
  {
    std::lock_guard lock(mu_);
    drains_ = std::move(drains);
  }
  WakeAll();
}

uint64_t Hub::PublishChallenges(std::vector<v1::Challenge> challenges) {
  uint64_t version;
  {
    std::lock_guard lock(mu_);
    challenges_ = std::move(challenges);
    version = ++challenges_version_;
  }
  WakeAll();
  return version;
}

std::vector<std::string> Hub::ChallengesPending(uint64_t version, size_t most) const {
  std::vector<std::string> names;
  std::lock_guard lock(mu_);
  for (const auto& [name, entry] : entries_) {
    if (names.size() == most) break;
    if (entry.session != nullptr && entry.session->challenges_acked < version) names.push_back(name);
  }
  return names;
}

absl::Status Hub::OnChallenges(const std::shared_ptr<Session>& session, const v1::ChallengesAck& ack) {
  {
    std::lock_guard lock(mu_);
    if (ack.version() > session->challenges_sent) {
      return absl::InvalidArgumentError(
          absl::StrCat("a response to challenges ", ack.version(), ", which were not sent"));
    }
    session->challenges_acked = std::max(session->challenges_acked, ack.version());
  }
  ledger_.Notify();
  return absl::OkStatus();
}

void Hub::WakeAll() {
  std::vector<std::shared_ptr<StreamSink>> sinks;
  {
    std::lock_guard lock(mu_);
    for (const auto& [name, entry] : entries_) {
      if (entry.session == nullptr) continue;
      if (auto sink = entry.session->sink.lock()) sinks.push_back(std::move(sink));
    }
  }
  for (const auto& sink : sinks) sink->Wake();
}

std::string Hub::ReasonToHold(const v1::Hello& hello) const {
  if (newest_.state == nullptr || takeover_ == Takeover::kAccepted || hello.epoch() == newest_.state->epoch) return "";
  if (!hello.epoch().empty() && hello.revision() > 0) {
    return absl::StrCat("it serves revision ", hello.revision(), " of another history (epoch ", hello.epoch(), ")");
  }
  return takeover_ == Takeover::kHeld ? "the database was created anew although data planes were known" : "";
}

void Hub::Refuse(Entry* entry, const v1::Hello& hello, const std::string& address, Attachment* attachment) {
  auto* rivals = entry->state.mutable_rivals();
  auto rival = std::find_if(rivals->begin(), rivals->end(),
                            [&hello](const v1::Rival& each) { return each.instance_id() == hello.instance_id(); });
  attachment->news = rival == rivals->end();
  if (rival == rivals->end()) {
    if (rivals->size() == kRivalsMax) rivals->DeleteSubrange(0, 1);
    rivals->Add();
    rival = rivals->end() - 1;
  }
  rival->set_instance_id(hello.instance_id());
  rival->set_address(address);
  rival->set_version(hello.version());
  SetTime(options_.now(), rival->mutable_last_seen());
  ++counts_.rivals_refused;
  attachment->refusal =
      absl::StrCat("the name '", hello.name(), "' is in use by another instance (", entry->state.address(),
                   ", version ", entry->state.version(), "); give this one a data_plane.name of its own");
}

Hub::Attachment Hub::Attach(const v1::Hello& hello, const std::string& address, std::weak_ptr<StreamSink> sink,
                            PrivateKeys keys) {
  Attachment attachment;
  std::shared_ptr<StreamSink> replaced;
  std::map<uint64_t, Session::Ask> cut;
  {
    std::lock_guard lock(mu_);
    Entry& entry = entries_[hello.name()];
    const bool takes_its_place = hello.instance_id() == entry.state.instance_id() ||
                                 hello.replaces_instance() == entry.state.instance_id() ||
                                 hello.replaces_instance() == kReplacesAny;
    if (entry.session == nullptr || takes_its_place) {
      if (entry.session != nullptr) {
        replaced = entry.session->sink.lock();
        cut = std::exchange(entry.session->asks, {});
      }
      Admit(&entry, hello, address, std::move(sink), keys, &attachment);
    } else {
      Refuse(&entry, hello, address, &attachment);
    }
  }
  if (replaced != nullptr) replaced->Replaced();
  for (auto& [id, ask] : cut) ask.done(absl::UnavailableError("its stream has ended"));
  keeper_wakes_.notify_one();
  ledger_.Notify();
  return attachment;
}

void Hub::Admit(Entry* entry, const v1::Hello& hello, const std::string& address, std::weak_ptr<StreamSink> sink,
                PrivateKeys keys, Attachment* attachment) {
  auto session = std::make_shared<Session>();
  session->name = hello.name();
  session->sink = std::move(sink);
  session->takes_operations = hello.takes_operations();
  session->takes_edge = hello.takes_edge();
  session->takes_drain = hello.takes_drain();
  session->drained = hello.drained();
  const absl::Time now = options_.now();
  entry->session = session;
  entry->report = nullptr;
  entry->since = now;
  entry->lost = false;
  entry->acked = 0;
  members_changed_ = true;
  v1::DataPlaneState& state = entry->state;
  state.set_name(hello.name());
  state.set_instance_id(hello.instance_id());
  state.set_version(hello.version());
  state.set_workers(hello.workers());
  state.set_zone(hello.zone());
  *state.mutable_labels() = hello.labels();
  state.set_address(address);
  state.set_connected(true);
  state.set_drained(hello.drained());
  SetTime(now, state.mutable_since());
  state.clear_rejections();
  state.set_rejected_revision(0);
  auto* rivals = state.mutable_rivals();
  rivals->erase(std::remove_if(rivals->begin(), rivals->end(),
                               [&hello](const v1::Rival& rival) { return rival.instance_id() == hello.instance_id(); }),
                rivals->end());

  std::string reason = ReasonToHold(hello);
  session->held = !reason.empty();
  attachment->news = reason != state.held();
  attachment->held = reason;
  state.set_held(std::move(reason));

  // What the data plane serves already is not sent again. A revision above ours is of a history that was lost (an
  // older copy of the database was put back): it says nothing.
  const bool known =
      newest_.state != nullptr && hello.epoch() == newest_.state->epoch && hello.revision() <= newest_.state->revision;
  const uint64_t applied = known ? hello.revision() : 0;
  if (applied != state.applied_revision() || entry->applied_epoch != hello.epoch()) entry->applied_at = now;
  state.set_applied_revision(applied);
  entry->applied_epoch = hello.epoch();
  // What lacks keys is sent again on a stream that may carry them.
  const bool whole = keys == PrivateKeys::kKept || !hello.lacks_keys();
  session->policy.acked = session->policy.settled = whole ? applied : 0;
  session->keys = keys;
  if (keys == PrivateKeys::kKept && newest_.state != nullptr) attachment->keys_kept = CountKeys(*newest_.state);
  const bool endpoints_known = catalog_ != nullptr && hello.endpoints_epoch() == endpoints_epoch_ &&
                               hello.endpoints_version() <= catalog_->version;
  session->endpoints.acked = session->endpoints.settled = endpoints_known ? hello.endpoints_version() : 0;
  state.set_applied_endpoints_version(session->endpoints.acked);

  session->schema_version = hello.schema_version();
  JudgeOlder(entry);
  v1::ControlPlaneMessage message;
  message.mutable_welcome()->set_control_plane_version(kVersion);
  message.mutable_welcome()->set_takes_reports(true);
  if (newest_.state != nullptr) {
    message.mutable_welcome()->set_epoch(newest_.state->epoch);
    message.mutable_welcome()->set_revision(newest_.state->revision);
  }
  session->welcome = Serialise(message);
  attachment->session = std::move(session);
  PruneGone();
}

bool Hub::Detach(const std::shared_ptr<Session>& session, bool said_goodbye) {
  std::map<uint64_t, Session::Ask> cut;
  {
    std::lock_guard lock(mu_);
    cut = std::exchange(session->asks, {});
    auto it = entries_.find(session->name);
    if (it == entries_.end() || it->second.session != session) return false;
    it->second.session = nullptr;
    it->second.report = nullptr;
    it->second.state.clear_log_level();
    it->second.state.clear_drained();
    it->second.lost = !said_goodbye;
    members_changed_ = true;
    it->second.since = options_.now();
    it->second.state.set_connected(false);
    SetTime(it->second.since, it->second.state.mutable_since());
    PruneGone();
  }
  for (auto& [id, ask] : cut) ask.done(absl::UnavailableError("its stream has ended"));
  keeper_wakes_.notify_one();
  ledger_.Notify();
  return true;
}

bool Hub::Holds(const std::shared_ptr<Session>& session) const {
  std::lock_guard lock(mu_);
  auto it = entries_.find(session->name);
  return it != entries_.end() && it->second.session == session;
}

void Hub::PruneGone() {
  const absl::Time now = options_.now();
  std::vector<std::pair<absl::Time, std::string>> gone;
  for (auto it = entries_.begin(); it != entries_.end();) {
    Entry& entry = it->second;
    auto* rivals = entry.state.mutable_rivals();
    rivals->erase(
        std::remove_if(rivals->begin(), rivals->end(),
                       [&](const v1::Rival& rival) { return TimeOf(rival.last_seen()) + options_.rival_kept <= now; }),
        rivals->end());
    if (entry.session != nullptr) {
      ++it;
    } else if (ForgottenAt(entry) <= now) {
      members_changed_ = members_changed_ || entry.lost;
      forgotten_.push_back(it->first);
      it = entries_.erase(it);
    } else {
      gone.emplace_back(entry.since, it->first);
      ++it;
    }
  }
  if (gone.size() <= options_.gone_max) return;
  std::sort(gone.begin(), gone.end());
  gone.resize(gone.size() - options_.gone_max);
  for (const auto& [since, name] : gone) {
    entries_.erase(name);
    forgotten_.push_back(name);
  }
  members_changed_ = true;
}

absl::Status Hub::Forget(const std::string& name) {
  {
    std::lock_guard lock(mu_);
    auto it = entries_.find(name);
    if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("there is no data plane '", name, "'"));
    if (it->second.session != nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("data plane '", name, "' is connected; nothing was forgotten"));
    }
    entries_.erase(it);
    forgotten_.push_back(name);
    members_changed_ = true;
  }
  keeper_wakes_.notify_one();
  ledger_.Notify();
  return absl::OkStatus();
}

std::vector<std::string> Hub::ForgetGone() {
  std::vector<std::string> names;
  {
    std::lock_guard lock(mu_);
    for (auto it = entries_.begin(); it != entries_.end();) {
      if (it->second.session != nullptr) {
        ++it;
        continue;
      }
      names.push_back(it->first);
      forgotten_.push_back(it->first);
      it = entries_.erase(it);
    }
    members_changed_ = true;
  }
  keeper_wakes_.notify_one();
  ledger_.Notify();
  return names;
}

std::string Hub::WhyHeld() const {
  constexpr absl::string_view kChoice =
      "; restore the database and start again, or accept this history: gatewayctl accept-history";
  std::lock_guard lock(mu_);
  size_t held = 0;
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) {
    if (entry.session == nullptr || !entry.session->held) continue;
    if (names.size() < kNamesTold) names.push_back(name);
    ++held;
  }
  const std::string who = absl::StrCat(held, held == 1 ? " data plane (" : " data planes (", absl::StrJoin(names, ", "),
                                       held > names.size() ? ", ..." : "", ")");
  if (takeover_ == Takeover::kHeld) {
    return absl::StrCat("the database was created anew although data planes were known, so policy is sent to nobody",
                        held > 0 ? absl::StrCat("; waiting: ", who) : "", kChoice);
  }
  if (held == 0) return "";
  return absl::StrCat("policy is not sent to ", who,
                      ": they serve another history than the database has, which was lost, replaced or created anew",
                      kChoice);
}

size_t Hub::AcceptHistory() {
  size_t released = 0;
  {
    std::lock_guard lock(mu_);
    takeover_ = Takeover::kAccepted;
    for (auto& [name, entry] : entries_) {
      entry.state.clear_held();
      if (entry.session != nullptr && std::exchange(entry.session->held, false)) ++released;
    }
  }
  WakeAll();
  ledger_.Notify();
  return released;
}

std::optional<grpc::ByteBuffer> Hub::NextChunk(Lane* lane) {
  if (lane->in_flight == nullptr || lane->next_chunk == lane->in_flight->chunks.size()) return std::nullopt;
  if (lane->next_chunk == 0) ++counts_.updates_sent;
  const grpc::ByteBuffer& chunk = lane->in_flight->chunks[lane->next_chunk++];
  counts_.bytes_sent += chunk.Length();
  return chunk;
}

std::optional<grpc::ByteBuffer> Hub::Next(const std::shared_ptr<Session>& session) {
  static const std::shared_ptr<const EncodedUpdate> no_update;
  std::lock_guard lock(mu_);
  if (session->welcome) return std::exchange(session->welcome, std::nullopt);
  if (!session->commands.empty()) {
    grpc::ByteBuffer command = std::move(session->commands.front());
    session->commands.pop_front();
    counts_.bytes_sent += command.Length();
    return command;
  }
  if (auto edge = NextEdge(session.get())) return edge;
  if (auto drain = NextDrain(session.get())) return drain;
  if (session->held) return std::nullopt;
  // Before the endpoints that it is about.
  if (auto operations = NextOperations(session.get())) return operations;
  // Endpoints first: a policy that is served before its endpoints are known answers 503 for a moment.
  Lane& endpoints = session->endpoints;
  if (endpoints.in_flight == nullptr && catalog_ != nullptr && catalog_->version != 0 &&
      catalog_->version != endpoints.settled) {
    const bool bridged = endpoints_delta_ != nullptr && endpoints.acked == endpoints_delta_->from;
    if (!bridged && endpoints_full_ == nullptr) {
      endpoints_full_ = EncodeEndpoints(endpoints_epoch_, *catalog_, nullptr);
      ++counts_.updates_encoded;
    }
    endpoints.in_flight = bridged ? endpoints_delta_ : endpoints_full_;
    endpoints.next_chunk = 0;
  }
  if (auto chunk = NextChunk(&endpoints)) return chunk;
  Lane& policy = session->policy;
  // Null for an older data plane where it would ignore some of it: it goes on with what it has. (What has private keys
  // is newer than any of them knows.)
  const auto entry = entries_.find(session->name);
  if (entry == entries_.end()) return NextChunk(&policy);
  const Image& image = ImageOf(entry->second);
  const std::shared_ptr<const EncodedUpdate>& update = session->schema_version < kSchemaVersionMin ? no_update
                                                       : session->schema_version < kSchemaVersion  ? image.older
                                                       : session->keys == PrivateKeys::kSent       ? image.update
                                                                                                   : image.keyless;
  if (policy.in_flight == nullptr && update != nullptr && update->to != policy.settled) {
    policy.in_flight = update;
    policy.next_chunk = 0;
  }
  return NextChunk(&policy);
}

std::optional<grpc::ByteBuffer> Hub::NextOperations(Session* session) {
  if (!session->takes_operations || session->overrides_sent == overrides_version_) return std::nullopt;
  session->overrides_sent = overrides_version_;
  v1::ControlPlaneMessage message;
  v1::OperationsUpdate* update = message.mutable_operations();
  update->set_version(overrides_version_);
  update->mutable_watched_routes()->Assign(watched_.begin(), watched_.end());
  const absl::Time now = options_.now();
  for (const v1::EndpointOverride& each : overrides_) {
    v1::EndpointOverride* sent = update->add_overrides();
    *sent = each;
    if (!each.has_until()) continue;
    // What is over is taken back at once; by then the data plane has done so by itself.
    const absl::Duration left = std::max(TimeOf(each.until()) - now, absl::Milliseconds(1));
    *sent->mutable_remaining() =
        google::protobuf::util::TimeUtil::MicrosecondsToDuration(absl::ToInt64Microseconds(left));
  }
  grpc::ByteBuffer buffer = Serialise(message);
  counts_.bytes_sent += buffer.Length();
  return buffer;
}

std::optional<grpc::ByteBuffer> Hub::NextEdge(Session* session) {
  if (!session->takes_edge) return std::nullopt;
  v1::ControlPlaneMessage message;
  if (session->keys == PrivateKeys::kSent && session->tickets_sent != tickets_version_) {
    session->tickets_sent = tickets_version_;
    *message.mutable_ticket_keys() = ticket_keys_;
    *message.mutable_ticket_keys()->mutable_next_in() = google::protobuf::util::TimeUtil::MicrosecondsToDuration(
        std::max<int64_t>(absl::ToInt64Microseconds(tickets_rotate_at_ - options_.now()), 0));
  } else if (session->challenges_sent != challenges_version_) {
    session->challenges_sent = challenges_version_;
    message.mutable_challenges()->set_version(challenges_version_);
    message.mutable_challenges()->mutable_challenges()->Assign(challenges_.begin(), challenges_.end());
  } else {
    return std::nullopt;
  }
  grpc::ByteBuffer buffer = Serialise(message);
  counts_.bytes_sent += buffer.Length();
  return buffer;
}

std::optional<grpc::ByteBuffer> Hub::NextDrain(Session* session) {
  const bool drained = drains_.contains(session->name);
  if (!session->takes_drain || session->drained == drained) return std::nullopt;
  session->drained = drained;
  v1::ControlPlaneMessage message;
  message.mutable_drain()->set_drained(drained);
  grpc::ByteBuffer buffer = Serialise(message);
  counts_.bytes_sent += buffer.Length();
  return buffer;
}

absl::Status Hub::CheckDrain(const std::string& name) const {
  std::lock_guard lock(mu_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("no data plane is called '", name, "'"));
  if (it->second.session != nullptr && !it->second.session->takes_drain) {
    return absl::FailedPreconditionError(absl::StrCat("data plane '", name, "' (version ", it->second.state.version(),
                                                      ") is too old to be drained; upgrade it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Hub::Session>> Hub::FindForCommand(const std::string& name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("there is no data plane '", name, "'"));
  const std::shared_ptr<Session>& session = it->second.session;
  if (session == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("data plane '", name, "' is not connected"));
  }
  if (!session->takes_operations) {
    return absl::FailedPreconditionError(absl::StrCat("data plane '", name, "' (version ", it->second.state.version(),
                                                      ") is too old for that; upgrade it"));
  }
  if (session->commands.size() >= kCommandsMax) {
    return absl::ResourceExhaustedError(absl::StrCat("data plane '", name, "' does not read its stream"));
  }
  return session;
}

absl::Status Hub::SetLogLevel(const std::string& name, v1::LoggingSection::Level level, absl::Duration duration) {
  std::shared_ptr<StreamSink> sink;
  {
    std::lock_guard lock(mu_);
    absl::StatusOr<std::shared_ptr<Session>> session = FindForCommand(name);
    if (!session.ok()) return session.status();
    v1::ControlPlaneMessage message;
    message.mutable_log_level()->set_level(level);
    *message.mutable_log_level()->mutable_duration() =
        google::protobuf::util::TimeUtil::MicrosecondsToDuration(absl::ToInt64Microseconds(duration));
    (*session)->commands.push_back(Serialise(message));
    sink = (*session)->sink.lock();
  }
  if (sink != nullptr) sink->Wake();
  return absl::OkStatus();
}

void Hub::Diagnose(const std::string& name, DiagnoseDone done) {
  std::shared_ptr<StreamSink> sink;
  absl::Status refusal;
  {
    std::lock_guard lock(mu_);
    absl::StatusOr<std::shared_ptr<Session>> session = FindForCommand(name);
    if (!session.ok()) {
      refusal = session.status();
    } else if ((*session)->asks.size() >= kAsksMax) {
      refusal =
          absl::ResourceExhaustedError(absl::StrCat(kAsksMax, " others wait for data plane '", name, "' already"));
    } else {
      v1::ControlPlaneMessage message;
      message.mutable_diagnostics()->set_id(++last_ask_);
      (*session)->commands.push_back(Serialise(message));
      Session::Ask& ask = (*session)->asks[last_ask_];
      ask.until = options_.now() + kDiagnoseWait;
      ask.done = std::move(done);
      sink = (*session)->sink.lock();
    }
  }
  if (!refusal.ok()) return done(refusal);
  keeper_wakes_.notify_one();
  if (sink != nullptr) sink->Wake();
}

void Hub::OnDiagnostics(const std::shared_ptr<Session>& session, v1::Diagnostics diagnostics) {
  DiagnoseDone done;
  absl::StatusOr<v1::Diagnostics> answer =
      absl::ResourceExhaustedError(absl::StrCat("it says more than ", kDiagnosticsBytesMax >> 20, " MiB of itself"));
  {
    std::lock_guard lock(mu_);
    const auto found = session->asks.find(diagnostics.id());
    if (found == session->asks.end()) return;  // too late, or never asked for
    Session::Ask& ask = found->second;
    ask.bytes += diagnostics.ByteSizeLong();
    const bool too_long = ask.bytes > kDiagnosticsBytesMax;
    for (v1::DiagnosticFile& file : *diagnostics.mutable_files()) {
      if (too_long) break;
      auto* files = ask.answer.mutable_files();
      if (!files->empty() && files->rbegin()->name() == file.name()) {
        files->rbegin()->mutable_content()->append(file.content());
      } else {
        *files->Add() = std::move(file);
      }
    }
    if (!too_long && !diagnostics.last()) return;
    if (!too_long) answer = std::move(ask.answer);
    done = std::move(ask.done);
    session->asks.erase(found);
  }
  done(std::move(answer));
}

absl::Status Hub::Settle(Lane* lane, uint64_t to, absl::string_view what) {
  if (lane->in_flight == nullptr || lane->in_flight->to != to || lane->next_chunk != lane->in_flight->chunks.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a response to ", what, " ", to, ", which is not in flight"));
  }
  lane->in_flight = nullptr;
  lane->settled = to;
  return absl::OkStatus();
}

absl::Status Hub::OnAck(const std::shared_ptr<Session>& session, const v1::Ack& ack) {
  if ((ack.revision() == 0) == (ack.endpoints_version() == 0)) {
    return absl::InvalidArgumentError("an ack has either `revision` or `endpoints_version`");
  }
  {
    std::lock_guard lock(mu_);
    auto it = entries_.find(session->name);
    if (it == entries_.end() || it->second.session != session) return absl::OkStatus();  // replaced; no longer counts
    Entry& entry = it->second;
    if (ack.revision() != 0) {
      if (ack.epoch() != newest_.state->epoch) return absl::InvalidArgumentError("an ack of another epoch");
      if (absl::Status s = Settle(&session->policy, ack.revision(), "revision"); !s.ok()) return s;
      session->policy.acked = entry.acked = ack.revision();
      entry.state.set_applied_revision(ack.revision());
      entry.applied_epoch = ack.epoch();
      entry.applied_at = options_.now();
      entry.state.set_rejected_revision(0);
      entry.state.clear_rejections();
    } else {
      if (ack.endpoints_epoch() != endpoints_epoch_) {
        return absl::InvalidArgumentError("an ack of another endpoints_epoch");
      }
      if (absl::Status s = Settle(&session->endpoints, ack.endpoints_version(), "endpoints version"); !s.ok()) {
        return s;
      }
      session->endpoints.acked = ack.endpoints_version();
      entry.state.set_applied_endpoints_version(ack.endpoints_version());
    }
    ++counts_.acks;
  }
  ledger_.Notify();
  return absl::OkStatus();
}

absl::Status Hub::OnNack(const std::shared_ptr<Session>& session, const v1::Nack& nack) {
  if ((nack.revision() == 0) == (nack.endpoints_version() == 0)) {
    return absl::InvalidArgumentError("a nack has either `revision` or `endpoints_version`");
  }
  {
    std::lock_guard lock(mu_);
    auto it = entries_.find(session->name);
    if (it == entries_.end() || it->second.session != session) return absl::OkStatus();  // replaced; no longer counts
    Entry& entry = it->second;
    if (nack.revision() != 0) {
      if (nack.epoch() != newest_.state->epoch) return absl::InvalidArgumentError("a nack of another epoch");
      if (nack.applied_revision() > newest_.state->revision) {
        return absl::InvalidArgumentError("a nack whose applied_revision there is not");
      }
      if (absl::Status s = Settle(&session->policy, nack.revision(), "revision"); !s.ok()) return s;
      session->policy.acked = nack.applied_revision();
      if (entry.state.applied_revision() != nack.applied_revision()) entry.applied_at = options_.now();
      entry.state.set_applied_revision(nack.applied_revision());
      entry.state.set_rejected_revision(nack.revision());
      entry.state.clear_rejections();
      for (const v1::Rejection& rejection : nack.rejections()) {
        if (entry.state.rejections_size() == kRejectionsKept) break;
        *entry.state.add_rejections() = Clipped(rejection);
      }
    } else {
      if (nack.endpoints_epoch() != endpoints_epoch_) {
        return absl::InvalidArgumentError("a nack of another endpoints_epoch");
      }
      if (absl::Status s = Settle(&session->endpoints, nack.endpoints_version(), "endpoints version"); !s.ok()) {
        return s;
      }
      // What it holds now is not known: the next update is a full one.
      session->endpoints.acked = 0;
    }
    ++counts_.nacks;
  }
  ledger_.Notify();
  return absl::OkStatus();
}

void Hub::OnReport(const std::shared_ptr<Session>& session, v1::Report report) {
  const auto cut = [](auto* entries) {
    if (entries->size() > kReportEntriesMax) {
      entries->DeleteSubrange(kReportEntriesMax, entries->size() - kReportEntriesMax);
    }
  };
  cut(report.mutable_breakers());
  cut(report.mutable_excluded());
  cut(report.mutable_limits());
  cut(report.mutable_hosts());
  cut(report.mutable_panicking());
  cut(report.mutable_busy());
  cut(report.mutable_routes());
  SetTime(options_.now(), report.mutable_received_at());
  auto kept = std::make_shared<const v1::Report>(std::move(report));
  std::lock_guard lock(mu_);
  auto it = entries_.find(session->name);
  if (it == entries_.end() || it->second.session != session) return;  // replaced
  it->second.state.set_log_level(kept->log_level());
  it->second.state.set_drained(kept->drained());
  it->second.report.swap(kept);
}

std::map<EndpointKey, uint32_t> Hub::BusyServices() const {
  std::map<EndpointKey, double> requests;
  {
    std::lock_guard lock(mu_);
    for (const auto& [name, entry] : entries_) {
      if (entry.report == nullptr) continue;
      for (const v1::BusyService& busy : entry.report->busy()) {
        requests[{busy.key().datacenter(), busy.key().service()}] +=
            std::exp2(std::min<uint32_t>(busy.magnitude(), kMagnitudeMax));
      }
    }
  }
  std::map<EndpointKey, uint32_t> busy;
  for (const auto& [key, sum] : requests) {
    busy.emplace_hint(busy.end(), key, static_cast<uint32_t>(std::max(1.0, std::round(std::log2(sum)))));
  }
  return busy;
}

std::vector<std::string> Hub::OverridesPending() const {
  std::vector<std::string> names;
  std::lock_guard lock(mu_);
  for (const auto& [name, entry] : entries_) {
    if (entry.session == nullptr) continue;
    const uint64_t in_force = entry.report == nullptr ? 0 : entry.report->operations_version();
    const bool too_old = !entry.session->takes_operations && !overrides_.empty();
    if (too_old || (entry.session->takes_operations && in_force != overrides_version_)) names.push_back(name);
  }
  return names;
}

std::vector<std::pair<std::string, std::shared_ptr<const v1::Report>>> Hub::Reports() const {
  std::vector<std::pair<std::string, std::shared_ptr<const v1::Report>>> reports;
  std::lock_guard lock(mu_);
  for (const auto& [name, entry] : entries_) {
    if (entry.report != nullptr) reports.emplace_back(name, entry.report);
  }
  return reports;
}

GuardFigures Hub::Figures(uint64_t revision) const {
  GuardFigures figures;
  std::lock_guard lock(mu_);
  for (const auto& [name, entry] : entries_) {
    if (entry.report != nullptr) AddReport(*entry.report, name, revision, &figures);
  }
  return figures;
}

std::vector<v1::DataPlaneState> Hub::DataPlanes() const {
  std::lock_guard lock(mu_);
  const absl::Time now = options_.now();
  std::vector<v1::DataPlaneState> states;
  for (const auto& [name, entry] : entries_) {
    if (entry.session == nullptr && ForgottenAt(entry) <= now) continue;
    states.push_back(entry.state);
    states.back().set_lost(entry.session == nullptr && entry.lost);
    if (const auto drain = drains_.find(name); drain != drains_.end()) *states.back().mutable_drain() = drain->second;
    states.back().set_staged(Chosen(entry));
    if (const Image& image = ImageOf(entry); image.state != nullptr) {
      states.back().set_wanted_revision(image.state->revision);
    }
  }
  return states;
}

v1::RolloutResponse Hub::Rollout(uint64_t revision, absl::Time committed_at) const {
  v1::RolloutResponse response;
  response.set_revision(revision);
  absl::Duration elapsed = absl::ZeroDuration();
  std::lock_guard lock(mu_);
  const bool staged = base_.state != nullptr && revision > base_.state->revision;
  if (staged) *response.mutable_change() = *newest_.state->pending;
  uint32_t expected = 0, serving = 0, workers = 0, rejected = 0, lost = 0;
  bool measured = true;  // every one of them acknowledged this very revision on the stream that it has now
  for (const auto& [name, entry] : entries_) {
    if (staged && !Chosen(entry)) continue;
    if (!Expected(entry)) {
      if (!entry.lost) continue;
      if (response.lost_size() < kPendingListedMax) response.add_lost(name);
      ++lost;
      continue;
    }
    ++expected;
    if (entry.session != nullptr && entry.state.applied_revision() >= revision && entry.state.rivals().empty()) {
      ++serving;
      workers += entry.state.workers();
      elapsed = std::max(elapsed, entry.applied_at - committed_at);
      measured = measured && entry.acked == revision;
      continue;
    }
    if (entry.state.rejected_revision() >= revision) ++rejected;
    if (response.pending_size() < kPendingListedMax) *response.add_pending() = entry.state;
  }
  response.set_data_planes(expected);
  response.set_serving(serving);
  response.set_workers_serving(workers);
  response.set_rejected(rejected);
  response.set_lost_count(lost);
  response.set_done(expected > 0 && serving == expected);
  if (!measured) return response;
  *response.mutable_elapsed() =
      google::protobuf::util::TimeUtil::MicrosecondsToDuration(absl::ToInt64Microseconds(elapsed));
  return response;
}

std::shared_ptr<const EndpointCatalog> Hub::endpoints() const {
  std::lock_guard lock(mu_);
  return catalog_;
}

HubCounts Hub::counts() const {
  std::lock_guard lock(mu_);
  HubCounts counts = counts_;
  counts.known = entries_.size();
  counts.overrides = overrides_.size();
  for (const auto& [name, entry] : entries_) {
    counts.connected += entry.session != nullptr ? 1 : 0;
    counts.held += entry.session != nullptr && entry.session->held ? 1 : 0;
  }
  return counts;
}

}  // namespace gateway::controlplane
