#include "controlplane/sources/consul/confirmation.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

// Losses that belong together are read one by one: none is confirmed before the others had time to show.
constexpr milliseconds kLossSettle{300};
constexpr milliseconds kAcceptTimeout{4'000};  // of one read: an operator waits
constexpr const char* kUnconfirmed = "instances gone, and Consul's leader can't confirm it";

size_t CountLost(const v1::EndpointSet& before, const std::vector<v1::Instance>& now) {
  // Both are sorted by id.
  size_t lost = 0, i = 0;
  for (const v1::Instance& instance : before.instances()) {
    while (i < now.size() && now[i].id() < instance.id()) ++i;
    if (i == now.size() || now[i].id() != instance.id()) ++lost;
  }
  return lost;
}

}  // namespace

absl::Status Confirmation::OnResponse(const EndpointKey& key, const ConsulResponse& response) {
  Tracked* service = state_.Find(key);
  if (service == nullptr) return absl::OkStatus();
  const size_t digest = absl::HashOf(response.body);
  const bool as_before = service->body == digest && service->good_index > 0 && !service->failed &&
                         !service->suspect_since.has_value() && service->set->alarm().empty() && response.known_leader;
  if (as_before) {  // most responses: a wait has ended, or a sweep has passed
    service->good_index = response.index;
    believed_(key, *service, response.index);
    return absl::OkStatus();
  }
  CheckDigests checks;
  const absl::StatusOr<std::vector<v1::Instance>> instances = DecodeHealthService(response.body, &checks);
  if (!instances.ok()) return instances.status();
  if (service->suspect_since.has_value() && instances->empty()) return absl::OkStatus();  // Confirm is at it
  const Loss loss = MeasureLoss(*service, response, *instances);
  if (service->on_suspect != v1::ConsulSource::ACCEPT &&
      JudgeLoss(loss, Clock::duration::zero()).kind != Verdict::Kind::kBelieve) {
    Suspect(key, *service);
    return absl::OkStatus();
  }
  Believe(key, *service, response, *instances, checks, loss.lost, "");
  return absl::OkStatus();
}

Loss Confirmation::MeasureLoss(const Tracked& service, const ConsulResponse& response,
                               const std::vector<v1::Instance>& instances) const {
  Loss loss;
  loss.before = static_cast<size_t>(service.set->instances_size());
  loss.remaining = instances.size();
  loss.lost = CountLost(*service.set, instances);
  loss.leader_known = response.known_leader;
  // What came from the state file has no index to compare: this Consul may have begun again while we were away.
  loss.index_went_back = response.index < service.good_index || (service.good_index == 0 && service.set->stale());
  if (loss.lost == 0) return loss;
  size_t known = 0, suspected = 0;
  for (const auto& [key, other] : state_.tracked) {
    const auto count = static_cast<size_t>(other.set->instances_size());
    known += count;
    if (other.suspect_since.has_value() && &other != &service) suspected += count;
  }
  loss.mass = losses_.IsMass(loss.lost, suspected, known, Clock::now());
  return loss;
}

void Confirmation::Believe(const EndpointKey& key, Tracked& service, const ConsulResponse& response,
                           const std::vector<v1::Instance>& instances, const CheckDigests& checks, size_t lost,
                           const std::string& reason) {
  losses_.Believe(lost, Clock::now());
  service.failed = false;
  service.retry.Reset();
  service.suspect_since.reset();
  service.good_index = response.index;
  service.body = absl::HashOf(response.body);
  v1::EndpointSet set = EmptySet(key, v1::EndpointSet::KNOWN);
  set.mutable_instances()->Assign(instances.begin(), instances.end());
  if (!response.known_leader) set.set_alarm("Consul knew no leader when this was read");
  service.checks = DigestOf(set, checks);
  publication_.Store(key, service, std::move(set), reason);
  believed_(key, service, response.index);
}

void Confirmation::Suspect(const EndpointKey& key, Tracked& service) {
  if (service.suspect_since.has_value()) return;
  service.suspect_since = Clock::now();
  const std::shared_ptr<Datacenter>& dc = state_.datacenters.at(key.first);
  if (dc->confirm_loop != nullptr) {
    dc->confirm_loop->timer.cancel();  // it may be resting because of another service
    return;
  }
  dc->confirm_loop = state_.NewLoop();
  state_.Spawn(Confirm(dc, dc->confirm_loop));
}

asio::awaitable<absl::Status> Confirmation::ReadListing(const Datacenter& dc, Loop& loop, CatalogListing* listing,
                                                        uint64_t* index) {
  const absl::StatusOr<ConsulResponse> response =
      co_await loop.http.Get(absl::StrCat("/v1/catalog/services", WatchState::Query(dc, "consistent")), kReadTimeout);
  if (absl::Status status = CheckResponse(response); !status.ok()) co_return status;
  absl::StatusOr<CatalogListing> decoded = DecodeCatalogServices(response->body);
  if (!decoded.ok()) co_return decoded.status();
  *listing = *std::move(decoded);
  *index = response->index;
  co_return absl::OkStatus();
}

// Asks the leader about everything that is suspect, until nothing is.
asio::awaitable<void> Confirmation::Confirm(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop) {
  RetryDelay pause;
  while (!loop->stopped) {
    const auto began = Clock::now();
    std::vector<EndpointKey> keys;
    std::optional<Clock::time_point> unsettled;
    for (const auto& [key, service] : state_.tracked) {
      if (key.first != dc->name || !service.suspect_since.has_value()) continue;
      const Clock::time_point settles = *service.suspect_since + kLossSettle;
      if (settles <= began) {
        keys.push_back(key);
      } else {
        unsettled = std::min(unsettled.value_or(settles), settles);
      }
    }
    if (keys.empty() && !unsettled.has_value()) break;
    if (keys.empty()) {
      co_await WatchState::Pause(*loop, *unsettled - began);
      continue;
    }
    CatalogListing listing;
    uint64_t listing_index = 0;
    const absl::Status status = co_await ReadListing(*dc, *loop, &listing, &listing_index);
    if (loop->stopped) co_return;
    for (const EndpointKey& key : keys) {
      if (!status.ok()) {
        if (Tracked* service = state_.Find(key); service != nullptr && service->suspect_since.has_value()) {
          publication_.Hold(key, *service, kUnconfirmed);
        }
        continue;
      }
      co_await ConfirmService(*dc, *loop, key, listing, listing_index);
      if (loop->stopped) co_return;
    }
    // Those that stay suspect are asked about less often; what became so meanwhile does not wait for them.
    bool any_left = false;
    std::optional<Clock::time_point> settles;
    for (const auto& [key, service] : state_.tracked) {
      if (key.first != dc->name || !service.suspect_since.has_value()) continue;
      const Clock::time_point at = *service.suspect_since + kLossSettle;
      if (at <= began) {
        any_left = true;
      } else {
        settles = std::min(settles.value_or(at), at);
      }
    }
    if (!any_left) pause.Reset();
    Clock::duration rest = std::max<Clock::duration>(pause.Next(state_.Unit()), 5 * (Clock::now() - began));
    if (settles.has_value()) rest = std::min<Clock::duration>(rest, *settles - Clock::now());
    co_await WatchState::Pause(*loop, rest);
  }
  if (dc->confirm_loop == loop) dc->confirm_loop.reset();
}

asio::awaitable<void> Confirmation::ConfirmService(Datacenter& dc, Loop& loop, EndpointKey key,
                                                   const CatalogListing& listing, uint64_t listing_index) {
  const absl::StatusOr<ConsulResponse> response =
      co_await loop.http.Get(WatchState::ServiceTarget(dc, key.second, "consistent"), kReadTimeout);
  if (loop.stopped) co_return;
  Tracked* service = state_.Find(key);
  if (service == nullptr || !service->suspect_since.has_value()) co_return;
  CheckDigests checks;
  const absl::StatusOr<std::vector<v1::Instance>> instances =
      DecodeHealthService(response.ok() ? response->body : "", &checks);
  if (!CheckResponse(response).ok() || !instances.ok()) {
    publication_.Hold(key, *service, kUnconfirmed);
    co_return;
  }
  Loss loss = MeasureLoss(*service, *response, *instances);
  loss.confirmed = true;
  loss.listed = listing.contains(key.second);
  loss.listing_suspect = !SuspectListing(dc.listing, listing).empty();
  loss.index_went_back = loss.index_went_back || (dc.known && listing_index < dc.listing_index);
  if (service->on_suspect != v1::ConsulSource::ACCEPT) {
    const Verdict verdict = JudgeLoss(loss, Clock::now() - *service->suspect_since);
    if (verdict.kind != Verdict::Kind::kBelieve) {
      publication_.Hold(key, *service, verdict.alarm);
      co_return;
    }
  }
  if (instances->empty() && !loss.listed) {
    losses_.Believe(loss.lost, Clock::now());
    dc.listing.erase(key.second);
    SetUnknown(key, *service);
  } else {
    Believe(key, *service, *response, *instances, checks, loss.lost, "confirmed by Consul's leader");
  }
}

void Confirmation::SetUnknown(const EndpointKey& key, Tracked& service) {
  state_.Stop(service.loop);
  service.suspect_since.reset();
  service.failed = false;
  service.good_index = 0;
  service.body.reset();
  service.checks.reset();
  publication_.Store(key, service, EmptySet(key, v1::EndpointSet::UNKNOWN_SERVICE),
                     "Consul's catalog does not list it any more");
  if (service.named || publication_.IsFrozen(key)) return;
  state_.tracked.erase(key);
  publication_.Removed();
}

void Confirmation::Accept(EndpointSource::Decision decision, EndpointSource::DecideDone done) {
  const Tracked* service = state_.Find(decision.key);
  const auto dc = state_.datacenters.find(decision.key.first);
  if (service == nullptr || dc == state_.datacenters.end()) {
    return done(absl::NotFoundError("no policy refers to this service of Consul"));
  }
  if (publication_.IsFrozen(decision.key)) {
    return done(absl::FailedPreconditionError("it is frozen; thaw it, and what Consul says is taken"));
  }
  if (!service->set->stale() && !service->suspect_since.has_value()) {
    return done(absl::FailedPreconditionError("nothing is held: its endpoints are those of Consul already"));
  }
  if (accepts_.size() >= kAcceptsMax) {
    return done(absl::ResourceExhaustedError("Consul is being read for others already; try again"));
  }
  const std::shared_ptr<Loop> loop = *accepts_.insert(state_.NewLoop()).first;
  state_.Spawn(ReadAndAccept(dc->second, loop, std::move(decision), std::move(done)));
}

asio::awaitable<void> Confirmation::ReadAndAccept(std::shared_ptr<Datacenter> dc, std::shared_ptr<Loop> loop,
                                                  EndpointSource::Decision decision, EndpointSource::DecideDone done) {
  const EndpointKey key = decision.key;
  const absl::StatusOr<ConsulResponse> response =
      co_await loop->http.Get(WatchState::ServiceTarget(*dc, key.second, "consistent"), kAcceptTimeout);
  absl::Status status = CheckResponse(response);
  CheckDigests checks;
  std::vector<v1::Instance> instances;
  if (status.ok()) {
    absl::StatusOr<std::vector<v1::Instance>> decoded = DecodeHealthService(response->body, &checks);
    status = decoded.status();
    if (decoded.ok()) instances = *std::move(decoded);
  }
  CatalogListing listing;
  uint64_t listing_index = 0;
  // An empty service may be one that is not there at all.
  if (status.ok() && instances.empty()) status = co_await ReadListing(*dc, *loop, &listing, &listing_index);
  accepts_.erase(loop);
  if (!status.ok()) {
    done(absl::UnavailableError(
        absl::StrCat("Consul's leader cannot be read, so nothing is accepted: ", status.message())));
    co_return;
  }
  Tracked* service = state_.Find(key);
  if (service == nullptr) {
    done(absl::NotFoundError("no policy refers to this service of Consul any more"));
    co_return;
  }
  const std::string reason = absl::StrCat("accepted by '", decision.actor, "'");
  spdlog::warn("consul: {}: {} instances are {}", key.second, instances.size(), reason);
  if (instances.empty() && !listing.empty() && !listing.contains(key.second)) {
    dc->listing.erase(key.second);
    SetUnknown(key, *service);
  } else {
    Believe(key, *service, *response, instances, checks, 0, reason);
  }
  publication_.RecordAccepted(decision, state_.Find(key));
  const std::shared_ptr<const v1::EndpointSet> served = publication_.Served(key);
  done(served == nullptr ? EmptySet(key, v1::EndpointSet::UNKNOWN_SERVICE) : *served);
}

void Confirmation::Stop() {
  for (const std::shared_ptr<Loop>& loop : accepts_) loop->Stop();
}

}  // namespace gateway::controlplane
