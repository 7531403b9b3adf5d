#include "dataplane/config/reporter.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>
#include <vector>

#include "common/base/latency_buckets.h"
#include "dataplane/limits/lease_bucket.h"

namespace gateway::dataplane {
namespace {

void FillBreaker(const RuntimeState::BreakerRow& row, v1::BreakerReport* breaker) {
  breaker->set_service(row.service);
  breaker->set_breaker(row.breaker);
  breaker->set_state(row.view.state == BreakerState::kOpen       ? v1::BreakerReport::OPEN
                     : row.view.state == BreakerState::kHalfOpen ? v1::BreakerReport::HALF_OPEN
                                                                 : v1::BreakerReport::CLOSED);
  breaker->set_forced(row.view.forced);
  breaker->set_in_flight(row.view.in_flight);
  breaker->set_requests(row.view.requests);
  breaker->set_failures(row.view.failures);
  breaker->set_slow(row.view.slow);
  breaker->set_opened(row.view.opened);
  breaker->set_opening_requests(row.view.opening_requests);
  breaker->set_opening_failures(row.view.opening_failures);
  breaker->set_opening_slow(row.view.opening_slow);
  if (row.view.state != BreakerState::kClosed && !row.view.forced) {
    google::protobuf::Duration& next_probe = *breaker->mutable_next_probe();
    next_probe.set_seconds(row.next_probe.count() / 1000);
    next_probe.set_nanos(static_cast<int32_t>(row.next_probe.count() % 1000 * 1'000'000));
  }
}

void FillLimit(const RuntimeState::LimitRow& row, TimePoint now, v1::LimitReport* limit) {
  limit->set_name(row.name);
  limit->set_keys(row.stats.keys);
  limit->set_overflowed(row.stats.overflowed);
  limit->set_allowed(row.stats.allowed);
  limit->set_refused(row.stats.refused);
  if (row.leases != nullptr) {
    const LeaseTable::Stats stats = row.leases->stats();
    limit->set_keys(stats.keys);
    limit->set_overflowed(stats.overflowed);
    limit->set_allowed(stats.allowed);
    limit->set_refused(stats.refused);
    limit->set_unavailable(row.leases->unavailable(now));
  }
}

void FillLatency(const MetricsRegistry::WatchedFigures& figures, google::protobuf::RepeatedField<uint64_t>* latency) {
  size_t used = kLatencyBuckets;
  while (used > 0 && figures.latency[used - 1] == 0) --used;
  latency->Assign(figures.latency.begin(), figures.latency.begin() + static_cast<ptrdiff_t>(used));
}

}  // namespace

std::optional<v1::DataPlaneMessage> Reporter::Next(const Facts& facts, TimePoint now) {
  CountTraffic(now);
  v1::DataPlaneMessage message;
  *message.mutable_report() = Make(facts, now);
  std::string text = message.SerializeAsString();  // no maps: the same content is the same text
  if (text == last_) return std::nullopt;
  last_ = std::move(text);
  return message;
}

// The worst first, in case not all of it has room.
v1::Report Reporter::Make(const Facts& facts, TimePoint now) const {
  v1::Report report;
  report.set_operations_version(facts.operations_version);
  report.set_log_level(facts.log_level);
  report.set_drained(facts.drained);
  AddTraffic(&report);
  AddWatched(&report);
  AddWatchedSides(&report);
  size_t bytes = report.ByteSizeLong();
  const auto fits = [&bytes](const auto& list, const google::protobuf::Message& last) {
    bytes += last.ByteSizeLong() + 4;
    return bytes <= kBytesMax && list.size() < kEntriesMax;
  };
  std::vector<RuntimeState::BreakerRow> breakers = runtime_->Breakers(now);
  const auto badness = [](const RuntimeState::BreakerRow& row) {
    return row.view.state == BreakerState::kOpen ? 0 : row.view.state == BreakerState::kHalfOpen ? 1 : 2;
  };
  std::stable_sort(breakers.begin(), breakers.end(),
                   [&](const auto& a, const auto& b) { return badness(a) < badness(b); });
  for (const RuntimeState::BreakerRow& row : breakers) {
    v1::BreakerReport* breaker = report.add_breakers();
    FillBreaker(row, breaker);
    if (!fits(report.breakers(), *breaker)) break;
  }
  for (RuntimeState::ExclusionRow& row : runtime_->Exclusions(now)) {
    v1::ExcludedEndpoint* excluded = report.add_excluded();
    excluded->set_service(std::move(row.service));
    excluded->set_endpoint(std::move(row.endpoint));
    excluded->set_reason(std::move(row.reason));
    if (!fits(report.excluded(), *excluded)) break;
  }
  for (RuntimeState::HostRow& row : runtime_->Hosts()) {
    v1::HostReport* host = report.add_hosts();
    host->set_service(std::move(row.service));
    host->set_address(std::move(row.address));
    for (std::string& endpoint : row.endpoints) host->add_endpoints(std::move(endpoint));
    if (!fits(report.hosts(), *host)) break;
  }
  for (RuntimeState::HealthRow& row : runtime_->Health()) {
    if (!row.panicking || report.panicking_size() >= kEntriesMax) continue;
    bytes += row.service.size() + 4;
    if (bytes > kBytesMax) break;
    report.add_panicking(std::move(row.service));
  }
  for (const RuntimeState::LimitRow& row : runtime_->Limits()) {
    v1::LimitReport* limit = report.add_limits();
    FillLimit(row, now, limit);
    if (row.redis) limit->set_unavailable(!redis_away_ || redis_away_());
    if (!fits(report.limits(), *limit)) break;
  }
  return report;
}

// Which services of Consul get requests: counted each kTrafficInterval; half of the last count remains, so that a pause
// makes nothing idle at once.
void Reporter::CountTraffic(TimePoint now) {
  if (now < traffic_at_) return;
  traffic_at_ = now + kTrafficInterval;
  std::map<Service, Traffic> counted;
  for (RuntimeState::TrafficRow& row : runtime_->Traffic()) {
    counted[{std::move(row.datacenter), std::move(row.service)}].total += row.requests;
  }
  for (auto& [key, each] : counted) {
    const auto before = traffic_.find(key);
    if (before == traffic_.end()) {
      each.recent = each.total;
      continue;
    }
    // Less than before: one of several services of that name has left, or its series started again.
    const uint64_t fresh = each.total - std::min(each.total, before->second.total);
    each.recent = std::max(fresh, before->second.recent / 2);
  }
  traffic_ = std::move(counted);
}

void Reporter::AddWatched(v1::Report* report) const {
  for (RuntimeState::WatchedRow& row : runtime_->WatchedRoutes()) {
    v1::RouteReport* route = report->add_routes();
    route->set_route(std::move(row.route));
    route->set_revision(row.revision);
    route->set_requests(row.figures.requests);
    route->set_errors(row.figures.errors);
    FillLatency(row.figures, route->mutable_latency());
  }
}

void Reporter::AddWatchedSides(v1::Report* report) const {
  size_t bytes = 0;
  for (RuntimeState::SidesRow& row : runtime_->WatchedSides()) {
    v1::RouteReport* route = report->add_routes();
    route->set_route(std::move(row.route));
    route->set_revision(row.version);
    for (auto& [service, figures] : row.sides) {
      v1::RouteServiceReport* side = route->add_services();
      side->set_service(std::move(service));
      side->set_requests(figures.requests);
      side->set_errors(figures.errors);
      FillLatency(figures, side->mutable_latency());
    }
    bytes += route->ByteSizeLong();
    if (bytes <= kSidesBytesMax) continue;
    report->mutable_routes()->RemoveLast();
    return;
  }
}

void Reporter::AddTraffic(v1::Report* report) const {
  std::vector<std::pair<uint32_t, const Service*>> busy;
  for (const auto& [key, each] : traffic_) {
    if (each.recent > 0) busy.emplace_back(static_cast<uint32_t>(std::bit_width(each.recent)), &key);
  }
  std::stable_sort(busy.begin(), busy.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  if (busy.size() > kBusyServicesMax) busy.resize(kBusyServicesMax);
  for (const auto& [magnitude, key] : busy) {
    v1::BusyService* service = report->add_busy();
    service->mutable_key()->set_datacenter(key->first);
    service->mutable_key()->set_service(key->second);
    service->set_magnitude(magnitude);
  }
}

}  // namespace gateway::dataplane
