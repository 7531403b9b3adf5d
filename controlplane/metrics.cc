#include "controlplane/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/version.h"
#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"

namespace gateway::controlplane {
namespace {

using Labels = std::vector<prometheus::ClientMetric::Label>;

class Families {
 public:
  void Add(const std::string& name, const std::string& help, prometheus::MetricType type, double value,
           Labels labels = {}) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({});
      families_.back().name = name;
      families_.back().help = help;
      families_.back().type = type;
    }
    prometheus::ClientMetric metric;
    metric.label = std::move(labels);
    if (type == prometheus::MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    families_.back().metric.push_back(std::move(metric));
  }
  void Gauge(const std::string& name, const std::string& help, double value, Labels labels = {}) {
    Add(name, help, prometheus::MetricType::Gauge, value, std::move(labels));
  }
  void Counter(const std::string& name, const std::string& help, uint64_t value, Labels labels = {}) {
    Add(name, help, prometheus::MetricType::Counter, static_cast<double>(value), std::move(labels));
  }
  const std::vector<prometheus::MetricFamily>& all() const { return families_; }

 private:
  std::vector<prometheus::MetricFamily> families_;
};

void AddAcme(const AcmeIssuer& acme, Families* families) {
  const std::array<uint64_t, 3> counts = acme.counts();
  for (const auto& [result, name] :
       {std::pair{AcmeIssuer::Result::kIssued, "issued"}, std::pair{AcmeIssuer::Result::kFailed, "failed"},
        std::pair{AcmeIssuer::Result::kRateLimited, "rate_limited"}}) {
    families->Counter("gateway_controlplane_acme_orders_total", "Orders of certificates at CAs, by their result.",
                      counts[static_cast<size_t>(result)], {{"result", name}});
  }
  const std::vector<AcmeIssuer::Row> rows = acme.Rows();
  for (const AcmeIssuer::Row& row : rows) {
    families->Gauge("gateway_controlplane_acme_failures", "Orders of a certificate that failed, in a row.",
                    row.failures, {{"certificate", row.name}});
  }
  for (const AcmeIssuer::Row& row : rows) {
    families->Gauge("gateway_controlplane_acme_expiry_timestamp_seconds",
                    "When a certificate that a CA issued expires, since the epoch; 0: none is issued yet.",
                    row.expires == absl::InfinitePast() ? 0 : absl::ToDoubleSeconds(row.expires - absl::UnixEpoch()),
                    {{"certificate", row.name}});
  }
}

void AddJoin(const JoinService::Counts& counts, Families* families) {
  for (const auto& [result, count] : {std::pair{"enrolled", &counts.enrolled}, std::pair{"renewed", &counts.renewed},
                                      std::pair{"rejected", &counts.rejected}}) {
    families->Counter("gateway_controlplane_joins_total", "Requests of data planes for a certificate, by their result.",
                      static_cast<double>(count->load()), {{"result", result}});
  }
}

void AddOidc(const KeyFetcher::Row& keys, Families* families) {
  for (const auto& [result, count] :
       {std::pair{"success", keys.fetches - keys.failures}, std::pair{"failure", keys.failures}}) {
    families->Counter("gateway_controlplane_oidc_fetches_total",
                      "Fetches of the keys of the operators' issuer, by their result.", count, {{"result", result}});
  }
  if (!keys.has_keys) return;
  families->Gauge("gateway_controlplane_oidc_keys_age_seconds",
                  "Since the newest good fetch of the keys of the operators' issuer.", keys.age_seconds);
}

// At most kCanariesMax of each.
void AddCanaries(const PolicyState& state, Families* families) {
  for (const auto& [route, canary] : *state.canaries) {
    families->Gauge("gateway_controlplane_canary_percent", "What the side of a canary gets of its route's traffic.",
                    canary.state.percent(), {{"route", route}, {"service", canary.state.service()}});
  }
  for (const auto& [route, canary] : *state.canaries) {
    families->Gauge("gateway_controlplane_canary_reverted", "Whether the guard of a route's canary has reverted it.",
                    canary.state.phase() == v1::CanaryState::REVERTED ? 1 : 0, {{"route", route}});
  }
}

size_t OpenDescriptors() {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  size_t count = 0;
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count < 3 ? 0 : count - 3;  // ".", ".." and the directory itself
}

void AddProcess(Families* families) {
  static const double started_at = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double cpu = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                     static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  families->Add("process_cpu_seconds_total", "CPU time, user and system.", prometheus::MetricType::Counter, cpu);
  long pages_virtual = 0, pages_resident = 0;
  if (FILE* statm = fopen("/proc/self/statm", "r")) {
    if (fscanf(statm, "%ld %ld", &pages_virtual, &pages_resident) != 2) pages_virtual = pages_resident = 0;
    fclose(statm);
  }
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  families->Gauge("process_resident_memory_bytes", "Resident memory.", static_cast<double>(pages_resident) * page);
  families->Gauge("process_virtual_memory_bytes", "Virtual memory.", static_cast<double>(pages_virtual) * page);
  families->Gauge("process_open_fds", "Open descriptors.", static_cast<double>(OpenDescriptors()));
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  families->Gauge("process_max_fds", "Descriptors that may be open.", static_cast<double>(limit.rlim_cur));
  families->Gauge("process_start_time_seconds", "When it started, since 1970.", started_at);
}

}  // namespace

std::string RenderMetrics(Publisher& publisher, const Hub& hub, const ConfigService& config, const QuotaService& quota,
                          const AcmeIssuer* acme, const JoinService* join, const Oidc* oidc,
                          const ListenerCounts& listeners, bool consul) {
  Families families;
  const std::shared_ptr<const PolicyState> state = publisher.current();
  const HubCounts counts = hub.counts();
  families.Gauge("gateway_build_info", "Always 1; the version is the label.", 1,
                 {{"component", "controlplane"}, {"version", kVersion}});
  families.Counter("gateway_log_dropped_total",
                   "Lines of the program's own log that were dropped because its reader stalled.", DroppedLogLines());
  families.Gauge("gateway_controlplane_revision", "The current revision of policy.",
                 static_cast<double>(state->revision));
  families.Gauge("gateway_controlplane_resources", "Resources of policy, built-ins included.",
                 static_cast<double>(state->resources->size()));

  const ChangeCounts& changes = publisher.counts();
  const std::string changes_name = "gateway_controlplane_changes_total";
  const std::string changes_help = "Requests to change policy, by how they ended.";
  for (const auto& [result, value] : std::vector<std::pair<std::string, uint64_t>>{{"committed", changes.committed},
                                                                                   {"unchanged", changes.unchanged},
                                                                                   {"dry_run", changes.dry_run},
                                                                                   {"invalid", changes.invalid},
                                                                                   {"conflict", changes.conflict},
                                                                                   {"failed", changes.failed}}) {
    families.Counter(changes_name, changes_help, value, {{"result", result}});
  }
  families.Gauge("gateway_controlplane_staged_revision",
                 "The revision that only some data planes get, until it is promoted or abandoned; 0: none.",
                 state->base == nullptr ? 0 : static_cast<double>(state->revision));
  const std::string reverts_name = "gateway_controlplane_reverts_total";
  const std::string reverts_help = "Changes that were taken back before they were final, by why.";
  for (const auto& [cause, value] :
       std::vector<std::pair<std::string, uint64_t>>{{"guard", changes.reverted_by_guard},
                                                     {"confirmation", changes.reverted_unconfirmed},
                                                     {"abandoned", changes.abandoned},
                                                     {"rollback", changes.rolled_back}}) {
    families.Counter(reverts_name, reverts_help, value, {{"cause", cause}});
  }
  AddCanaries(*state, &families);
  families.Counter("gateway_controlplane_canaries_reverted_total", "Canaries that their guards reverted.",
                   changes.canaries_reverted);
  families.Counter("gateway_controlplane_database_errors_total", "Errors of the database.", publisher.store().errors());

  uint64_t serving = 0;
  for (const v1::DataPlaneState& data_plane : hub.DataPlanes()) {
    if (data_plane.connected() && data_plane.applied_revision() >= data_plane.wanted_revision()) ++serving;
  }
  families.Gauge("gateway_controlplane_data_planes", "Data planes that are connected.",
                 static_cast<double>(counts.connected));
  families.Gauge("gateway_controlplane_data_planes_current",
                 "Data planes that serve the revision that they are to serve.", static_cast<double>(serving));
  families.Gauge("gateway_controlplane_data_planes_held",
                 "Connected data planes that are sent nothing until an operator accepts this history.",
                 static_cast<double>(counts.held));
  families.Counter("gateway_controlplane_rivals_refused_total",
                   "Streams refused because another instance of that name was connected.", counts.rivals_refused);
  families.Counter("gateway_controlplane_acks_total", "Updates that data planes applied.", counts.acks);
  families.Counter("gateway_controlplane_nacks_total", "Updates that data planes rejected.", counts.nacks);
  families.Counter("gateway_controlplane_stream_bytes_total", "Bytes of updates handed to the streams.",
                   counts.bytes_sent);
  families.Counter("gateway_controlplane_updates_encoded_total", "Updates serialised, each once for all streams.",
                   counts.updates_encoded);
  families.Counter("gateway_controlplane_updates_sent_total", "Updates started on a stream.", counts.updates_sent);
  families.Counter("gateway_controlplane_streams_refused_total", "Streams beyond the limit.", config.streams_refused());
  for (const auto& [listener, open] : listeners) {
    families.Gauge("gateway_controlplane_connections", "Open connections, silent ones included.",
                   static_cast<double>(open->open), {{"listener", listener}});
  }
  for (const auto& [listener, closed] : listeners) {
    for (const auto& [reason, value] : std::vector<std::pair<std::string, uint64_t>>{
             {"limit", closed->refused}, {"silent", closed->silent}, {"invalid", closed->invalid}}) {
      families.Counter("gateway_controlplane_connections_refused_total",
                       "Connections closed before they were served: past a bound, silent, or not HTTP/2.", value,
                       {{"listener", listener}, {"reason", reason}});
    }
  }
  for (const auto& [listener, tried] : listeners) {
    families.Counter("gateway_controlplane_accepts_exhausted_total", "Accepts that found no free descriptor.",
                     tried->exhausted, {{"listener", listener}});
  }
  families.Gauge("gateway_controlplane_endpoints_version", "The version of the endpoints from Consul.",
                 static_cast<double>(counts.endpoints_version));
  families.Gauge("gateway_controlplane_endpoint_overrides", "Endpoints that operators have set at run time.",
                 static_cast<double>(counts.overrides));
  const QuotaService::Stats leases = quota.stats();
  families.Gauge("gateway_controlplane_quota_streams", "Data planes with a lease stream.",
                 static_cast<double>(leases.streams));
  families.Gauge("gateway_controlplane_quota_keys", "Keys of fleet-wide limits that are counted.",
                 static_cast<double>(leases.quota.keys));
  families.Gauge("gateway_controlplane_quota_holders", "Pairs of a key and a data plane that uses it.",
                 static_cast<double>(leases.quota.holders));
  families.Counter("gateway_controlplane_quota_messages_total", "Messages of data planes about leases.",
                   leases.messages);
  families.Counter("gateway_controlplane_quota_leased_total", "Tokens leased.", leases.quota.leased);
  families.Counter("gateway_controlplane_quota_overdrawn_total", "Requests let through ahead of a grant.",
                   leases.quota.overdrawn);
  families.Counter("gateway_controlplane_quota_overflowed_total", "Keys past the bound, counted with others.",
                   leases.quota.overflowed);
  if (acme != nullptr) AddAcme(*acme, &families);
  if (join != nullptr) AddJoin(join->counts(), &families);
  if (oidc != nullptr) AddOidc(oidc->keys(), &families);
  if (consul) {
    const std::shared_ptr<const EndpointCatalog> catalog = hub.endpoints();
    families.Gauge("gateway_controlplane_consul_reachable", "Whether the newest read of Consul succeeded.",
                   catalog != nullptr && catalog->reachable ? 1 : 0);
    families.Gauge("gateway_controlplane_consul_services", "Services that are followed in Consul.",
                   catalog == nullptr ? 0 : static_cast<double>(catalog->sets.size()));
    families.Gauge("gateway_controlplane_consul_watches", "Services that have a watch of their own.",
                   catalog == nullptr ? 0 : static_cast<double>(catalog->watches));
    families.Gauge("gateway_controlplane_consul_held",
                   "Services whose endpoints are held from an earlier read, which failed or was suspect since.",
                   catalog == nullptr ? 0 : static_cast<double>(catalog->held));
    families.Gauge("gateway_controlplane_consul_frozen", "Services whose endpoints an operator has frozen.",
                   catalog == nullptr ? 0 : static_cast<double>(catalog->frozen));
  }
  AddProcess(&families);
  return prometheus::TextSerializer().Serialize(families.all());
}

}  // namespace gateway::controlplane
