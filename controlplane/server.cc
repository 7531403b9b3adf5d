#include "controlplane/server.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "common/base/descriptors.h"
#include "common/base/host_port.h"
#include "common/base/log_level.h"
#include "common/base/metrics_http.h"
#include "common/base/units.h"
#include "common/config/codec.h"
#include "common/policy/builtin.h"
#include "controlplane/acme/issuer.h"
#include "controlplane/admin/admin_gate.h"
#include "controlplane/admin/admin_service.h"
#include "controlplane/admin/reflection.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/joining.h"
#include "controlplane/identity/oidc.h"
#include "controlplane/identity/tokens.h"
#include "controlplane/metrics.h"
#include "controlplane/publish/data_plane_drains.h"
#include "controlplane/publish/endpoint_overrides.h"
#include "controlplane/rpc/acceptor.h"
#include "controlplane/rpc/listener_probe.h"
#include "controlplane/rpc/reloading_tls.h"
#include "controlplane/sources/consul/registration.h"
#include "controlplane/sources/consul/watcher.h"
#include "controlplane/stream/canary_keeper.h"
#include "controlplane/stream/change_keeper.h"
#include "controlplane/stream/join_service.h"
#include "controlplane/stream/quota_service.h"
#include "controlplane/stream/roster.h"
#include "controlplane/stream/ticket_key_ring.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// An Apply of kApplyResourcesMax resources of nearly 900 bytes each.
constexpr int kAdminMessageBytesMax = 128 << 20;
// A data plane sends hellos and acks; the longest is a NACK with many rejections.
constexpr int kStreamMessageBytesMax = 1 << 20;
// Of what RLIMIT_NOFILE allows, as many stay for the database, the metrics port, the log, and as many more for Consul's
// watches (consul.max_watches).
constexpr size_t kReservedDescriptors = 166;
// The longest JWT (CompactJws::kTextBytesMax) and the rest of the header; gRPC's own bound is 8 KiB.
constexpr int kHeaderBytesMax = 24 << 10;
// From the first bytes of a connection to the client's SETTINGS, a TLS handshake included.
constexpr int kHandshakeTimeoutMs = 10'000;
constexpr int kCallsOfConnectionMax = 1'000;              // at a time
constexpr std::chrono::milliseconds kProbeTimeout{1000};  // of each listener
constexpr std::chrono::milliseconds kProbeKept{500};      // whoever asks sooner gets the same answer

std::string HostName() {
  char name[256] = "";
  return gethostname(name, sizeof name - 1) == 0 ? name : "controlplane";
}

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || absl::StartsWith(host, "127.");
}

absl::Status CheckListener(const std::string& key, const std::string& address, bool may_leave_loopback) {
  absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat(key, ": ", parsed.status().message()));
  if (!may_leave_loopback && !IsLoopback(parsed->host)) {
    return absl::FailedPreconditionError(absl::StrCat(
        key, ": ", address, " is beyond loopback and has no TLS; set control_plane.insecure: true to allow it"));
  }
  return absl::OkStatus();
}

// gRPC's own words go to the program's log, at a level where they disturb nobody.
void LogFromGrpc(gpr_log_func_args* args) {
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    spdlog::warn("grpc: {}", args->message);
  } else {
    spdlog::debug("grpc: {}", args->message);
  }
}

// Of descriptors that the process may have, three quarters are for streams and a quarter is for operators; with half of
// its share one address leaves room for the others.
AcceptorOptions BoundsOf(size_t wanted, size_t quarters, size_t watches,
                         std::chrono::milliseconds first_bytes_timeout) {
  const size_t limit = DescriptorLimit();
  const size_t reserved = kReservedDescriptors + watches;
  const size_t available = limit > 2 * reserved ? limit - reserved : limit / 2;
  AcceptorOptions options;
  options.connections_max = std::max<size_t>(std::min(wanted, available / 4 * quarters), 2);
  options.connections_per_address_max = options.connections_max / 2;
  options.first_bytes_timeout = first_bytes_timeout;
  return options;
}

// Null: the listener has no TLS.
absl::StatusOr<std::unique_ptr<ReloadingTls>> OpenTls(const std::string& key, const v1::ServerTlsSection& section,
                                                      ClientCertificate with_client_ca) {
  if (section.cert().empty()) return nullptr;
  return ReloadingTls::Open(key, {section.cert(), section.key(), section.client_ca()},
                            section.client_ca().empty() ? ClientCertificate::kNone : with_client_ca);
}

std::shared_ptr<grpc::ServerCredentials> CredentialsOf(const ReloadingTls* tls) {
  return tls == nullptr ? grpc::InsecureServerCredentials() : tls->credentials();
}

absl::StatusOr<std::unique_ptr<Acceptor>> ListenOn(const std::string& key, const std::string& address,
                                                   const ReloadingTls* tls, AcceptorOptions options) {
  options.tls = tls != nullptr;
  options.key = key;
  options.address = address;
  spdlog::debug("{}: at most {} connections, {} of an address", key, options.connections_max,
                options.connections_per_address_max);
  return Acceptor::Listen(std::move(options));
}

// A server on the connections that `acceptor` hands over.
absl::StatusOr<std::unique_ptr<grpc::Server>> Serve(Acceptor* acceptor, const std::vector<grpc::Service*>& services,
                                                    const std::string& name, int receive_bytes_max,
                                                    std::shared_ptr<grpc::ServerCredentials> credentials,
                                                    std::unique_ptr<grpc::ContextAllocator> contexts) {
  using External = grpc::experimental::ExternalConnectionAcceptor;
  constexpr auto kFromFd = grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD;
  grpc::ServerBuilder builder;
  std::shared_ptr<External> clients =
      builder.experimental().AddExternalConnectionAcceptor(kFromFd, std::move(credentials));
  // The process' own never leave it, and need no credentials.
  std::shared_ptr<External> own =
      builder.experimental().AddExternalConnectionAcceptor(kFromFd, grpc::InsecureServerCredentials());
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (contexts != nullptr) builder.SetContextAllocator(std::move(contexts));
  builder.SetMaxReceiveMessageSize(receive_bytes_max);
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kCallsOfConnectionMax);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kHeaderBytesMax);
  // A client that stopped, or whose machine did, is found within 25 s (until then it has its data plane's name), an
  // idle connection is kept through NATs.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 15'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Clients ping every 20 s.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::InternalError(absl::StrCat("gRPC does not start a server for ", name));
  if (grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService()) {
    health->SetServingStatus(name, true);
  }
  acceptor->Start([clients, own](int fd, bool from_self) {
    External::NewConnectionParameters connection;
    connection.fd = fd;
    (from_self ? own : clients)->HandleNewConnection(&connection);
  });
  return server;
}

std::unique_ptr<Reflection> MakeReflection(std::vector<std::string> services) {
  for (const char* name :
       {grpc::health::v1::Health::service_full_name(), grpc::reflection::v1::ServerReflection::service_full_name(),
        "grpc.reflection.v1alpha.ServerReflection"}) {
    services.emplace_back(name);
  }
  return std::make_unique<Reflection>(std::move(services));
}

// What /ready says: whether both listeners answer, and whether data planes are sent policy. Asked on one thread.
class Readiness {
 public:
  HttpReply Reply(const Hub& hub, Acceptor* stream, Acceptor* admin) {
    const auto now = std::chrono::steady_clock::now();
    if (!asked_at_ || now - *asked_at_ >= kProbeKept) {
      absl::Status status = ProbeListener(stream, v1::ConfigStream::service_full_name(), kProbeTimeout);
      if (!status.ok()) {
        reason_ = absl::StrCat("control_plane.stream_listen: ", status.message());
      } else {
        status = ProbeListener(admin, v1::Admin::service_full_name(), kProbeTimeout);
        reason_ = status.ok() ? "" : absl::StrCat("control_plane.admin_listen: ", status.message());
      }
      asked_at_ = std::chrono::steady_clock::now();
    }
    const std::string reason = reason_.empty() ? hub.WhyHeld() : reason_;
    if (reason.empty()) return StatusReply("ready");
    return {503, "application/json",
            absl::StrCat(R"({"status": "not_ready", "reason": ")",
                         absl::StrReplaceAll(reason, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", " "}}), R"("})")};
  }

  static HttpReply StatusReply(absl::string_view status) {
    return {200, "application/json",
            absl::StrCat(R"({"status": ")", status, R"(", "time": ")",
                         absl::FormatTime(absl::RFC3339_full, absl::Now(), absl::UTCTimeZone()), R"("})")};
  }

 private:
  std::optional<std::chrono::steady_clock::time_point> asked_at_;
  std::string reason_;
};

}  // namespace

EndpointInterest InterestOf(const std::vector<std::shared_ptr<const Snapshot>>& snapshots) {
  EndpointInterest interest;
  // Of two that ask for the same service, the careful one decides.
  std::map<EndpointKey, v1::ConsulSource::OnSuspect> services;
  for (const auto& snapshot : snapshots) {
    for (const ServicePolicy& service : snapshot->services()) {
      if (!service.from_consul) continue;
      auto [it, fresh] = services.emplace(EndpointKey(service.datacenter, service.consul_service), service.on_suspect);
      if (!fresh && service.on_suspect == v1::ConsulSource::KEEP) it->second = v1::ConsulSource::KEEP;
    }
  }
  for (const auto& [key, on_suspect] : services) interest.services.push_back({key.first, key.second, on_suspect});

  std::vector<const ConsulServicePolicy*> dynamic;
  bool all_accept = true;
  for (const auto& snapshot : snapshots) {
    for (const auto& route : snapshot->routes()) {
      if (route->consul_service == nullptr) continue;
      dynamic.push_back(route->consul_service.get());
      all_accept = all_accept && route->consul_service->service.on_suspect == v1::ConsulSource::ACCEPT;
    }
  }
  if (!dynamic.empty()) {
    interest.dynamic = [snapshots, dynamic](std::string_view service) {
      for (const ConsulServicePolicy* policy : dynamic) {
        if (policy->Allows(service)) return true;
      }
      return false;
    };
    interest.dynamic_on_suspect = all_accept ? v1::ConsulSource::ACCEPT : v1::ConsulSource::KEEP;
  }
  return interest;
}

ConsulAccess ConsulAccessOf(const v1::ConsulSection& section) {
  const v1::ConsulTlsSection& tls = section.tls();
  ConsulAccess access{.address = section.address(), .token = section.token(), .token_file = section.token_file()};
  access.tls = {.files = {.cert = tls.cert(), .key = tls.key(), .ca = tls.ca()}, .server_name = tls.server_name()};
  access.tls.on = !(tls.ca().empty() && tls.cert().empty() && tls.server_name().empty());
  return access;
}

// In the order of their making; what comes later uses what comes earlier, and ends before it.
struct ControlPlane::Impl {
  std::unique_ptr<ReloadingTls> stream_tls, admin_tls;  // null: cleartext
  std::unique_ptr<DataPlaneDrains> drains;              // the hub tells it whom it forgets
  std::unique_ptr<Hub> hub;
  std::unique_ptr<QuotaService> quota_service;
  std::shared_ptr<ConsulRegistration> registration;  // null: no Consul; the hub tells it, too
  std::unique_ptr<EndpointSource> endpoints;         // likewise
  std::unique_ptr<Publisher> publisher;
  std::unique_ptr<TicketKeyRing> ticket_keys;
  std::unique_ptr<ConfigService> config_service;
  std::unique_ptr<Tokens> tokens;
  std::unique_ptr<Oidc> oidc;  // null: no tokens of an issuer
  std::unique_ptr<AuditLog> audit;
  std::unique_ptr<Joining> joining;  // null: data planes do not join with tokens
  std::unique_ptr<JoinService> join_service;
  std::unique_ptr<EndpointOverrides> overrides;
  // These make revisions, which are in the audit.
  std::unique_ptr<AcmeIssuer> acme;
  std::unique_ptr<ChangeKeeper> change_keeper;
  std::unique_ptr<CanaryKeeper> canary_keeper;
  std::unique_ptr<LogLevel> log_level;
  std::unique_ptr<AdminService> admin_service;
  std::unique_ptr<AdminGate> admin_gate;
  std::unique_ptr<Reflection> stream_reflection;
  std::unique_ptr<Reflection> admin_reflection;
  std::unique_ptr<Acceptor> stream_acceptor;
  std::unique_ptr<Acceptor> admin_acceptor;
  std::unique_ptr<grpc::Server> stream_server;
  std::unique_ptr<grpc::Server> admin_server;
  Readiness readiness;
  std::unique_ptr<MetricsHttp> metrics;
};

ControlPlane::ControlPlane(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlPlane::~ControlPlane() { Stop(std::chrono::milliseconds(1500)); }

absl::StatusOr<std::unique_ptr<ControlPlane>> ControlPlane::Start(const v1::Bootstrap& config,
                                                                  ControlPlaneOptions options) {
  const v1::ControlPlaneSection& section = config.control_plane();
  const bool insecure = section.insecure();
  for (const auto& [key, address, tls] :
       {std::tuple{"control_plane.admin_listen", section.admin_listen(), section.admin_tls()},
        std::tuple{"control_plane.stream_listen", section.stream_listen(), section.stream_tls()}}) {
    if (absl::Status s = CheckListener(key, address, insecure || !tls.cert().empty()); !s.ok()) return s;
  }
  gpr_set_log_function(&LogFromGrpc);

  // Partly made, it is taken down by the destructor in the right order.
  std::unique_ptr<ControlPlane> control_plane(new ControlPlane(std::make_unique<Impl>()));
  Impl& impl = *control_plane->impl_;
  // A data plane that joins has no certificate yet. Streams of configuration and leases are refused without one.
  const bool joins = !section.join().ca_cert().empty();
  const ClientCertificate of_data_planes = joins ? ClientCertificate::kOptional : ClientCertificate::kRequired;
  for (auto [tls, key, files, clients] :
       {std::tuple{&impl.stream_tls, "control_plane.stream_tls", &section.stream_tls(), of_data_planes},
        std::tuple{&impl.admin_tls, "control_plane.admin_tls", &section.admin_tls(), ClientCertificate::kOptional}}) {
    absl::StatusOr<std::unique_ptr<ReloadingTls>> loaded = OpenTls(key, *files, clients);
    if (!loaded.ok()) return loaded.status();
    *tls = *std::move(loaded);
  }
  options.config.names_by_certificate = impl.stream_tls != nullptr;
  // Bound before the database is opened: of two control planes by mistake, the second ends here.
  absl::StatusOr<std::unique_ptr<Acceptor>> stream =
      ListenOn("control_plane.stream_listen", section.stream_listen(), impl.stream_tls.get(),
               BoundsOf(options.stream_connections_max, 3, config.consul().max_watches(), options.first_bytes_timeout));
  if (!stream.ok()) return stream.status();
  impl.stream_acceptor = *std::move(stream);
  absl::StatusOr<std::unique_ptr<Acceptor>> admin =
      ListenOn("control_plane.admin_listen", section.admin_listen(), impl.admin_tls.get(),
               BoundsOf(options.admin_connections_max, 1, config.consul().max_watches(), options.first_bytes_timeout));
  if (!admin.ok()) return admin.status();
  impl.admin_acceptor = *std::move(admin);
  absl::StatusOr<std::unique_ptr<MetricsHttp>> metrics =
      MetricsHttp::Listen(config.metrics().host(), static_cast<uint16_t>(section.metrics_port()));
  if (!metrics.ok()) {
    return absl::Status(metrics.status().code(),
                        absl::StrCat(metrics.status().message(), " (control_plane.metrics_port)"));
  }
  impl.metrics = *std::move(metrics);

  if (!section.database().starts_with('/')) {
    spdlog::warn(
        "control_plane.database '{}' is relative: started in another folder, this process has another database",
        section.database());
  }
  options.store.path = section.database();
  options.store.sealing_key = section.sealing_key();
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options.store);
  if (!store.ok()) return store.status();

  const Roster roster(absl::StrCat(section.database(), ".dataplanes"));
  options.hub.expected = roster.Load();
  if ((*store)->created() && !options.hub.expected.empty()) {
    if (absl::Status s = (*store)->SetTakeover(Takeover::kHeld); !s.ok()) return s;
  }
  options.hub.takeover = (*store)->takeover();
  if (section.has_forget_data_planes_after()) {
    options.hub.lost_kept = absl::FromChrono(ToMillis(section.forget_data_planes_after()));
  }
  options.hub.save_roster = [roster](const std::vector<RosterEntry>& entries) {
    if (const absl::Status status = roster.Save(entries); !status.ok()) {
      spdlog::warn("the list of data planes is not kept: {}", std::string(status.message()));
    }
  };
  const bool consul = !config.consul().address().empty();
  const ConsulAccess access = ConsulAccessOf(config.consul());
  if (consul) {
    if (absl::Status s = CheckConsulAccess(access); !s.ok()) return s;
    RegistrationOptions registration;
    registration.access = access;
    registration.service_name = config.consul().service_name();
    registration.check_interval = ToMillis(config.consul().health_check().interval());
    registration.check_timeout = ToMillis(config.consul().health_check().timeout());
    impl.registration = std::make_shared<ConsulRegistration>(std::move(registration));
  }
  absl::StatusOr<std::unique_ptr<DataPlaneDrains>> drains = DataPlaneDrains::Open(store->get());
  if (!drains.ok()) return drains.status();
  impl.drains = *std::move(drains);
  options.hub.forgotten = [drains = impl.drains.get(), registration = impl.registration](const std::string& name) {
    drains->Forget(name);
    if (registration != nullptr) registration->Forget(name);
  };
  impl.hub = std::make_unique<Hub>(options.hub);
  QuotaAllocator::Options quota;
  for (const RosterEntry& known : options.hub.expected) {
    if (!known.lost_since) quota.expected.push_back(known.name);
  }
  impl.quota_service = std::make_unique<QuotaService>(std::move(quota), impl.stream_tls != nullptr);
  if (consul) {
    options.config.registered = [r = impl.registration.get()](const RegisteredInstance& i) { r->Register(i); };
    options.config.said_goodbye = [r = impl.registration.get()](const std::string& name) { r->Deregister(name); };

    ConsulWatcherOptions watcher;
    watcher.access = access;
    watcher.state_file = absl::StrCat(section.database(), ".endpoints");
    watcher.watches_max = static_cast<int>(config.consul().max_watches());
    watcher.busy = [hub = impl.hub.get()] { return hub->BusyServices(); };
    impl.endpoints = std::make_unique<ConsulWatcher>(
        std::move(watcher), [hub = impl.hub.get()](std::shared_ptr<const EndpointCatalog> catalog) {
          hub->PublishEndpoints(std::move(catalog));
        });
  }

  PublisherOptions publisher;
  publisher.builtins = BuiltinResources(BuiltinLimitOf(config));
  publisher.own_service = config.consul().service_name();
  publisher.publish = [&impl](std::shared_ptr<const PolicyState> state) {
    // While a revision is staged, data planes serve it or its base. A fleet limit has one count for all of them: it
    // stays as the base has it.
    std::vector<std::shared_ptr<const Snapshot>> served;
    if (state->base != nullptr) served.push_back(state->base->snapshot);
    served.push_back(state->snapshot);
    std::map<std::string, FleetLimit> limits;
    for (const auto& snapshot : served) limits.merge(FleetLimitsOf(*snapshot));
    if (impl.endpoints != nullptr) impl.endpoints->SetInterest(InterestOf(served));
    // Before any data plane can ask for them.
    impl.quota_service->SetLimits(limits);
    impl.hub->PublishPolicy(std::move(state));
  };
  publisher.data_planes = [&impl] {
    std::vector<v1::DataPlaneState> connected;
    for (v1::DataPlaneState& each : impl.hub->DataPlanes()) {
      if (each.connected()) connected.push_back(std::move(each));
    }
    return connected;
  };
  publisher.recorded = [&impl](const v1::AuditEntry& entry) {
    if (impl.audit != nullptr) impl.audit->Committed(entry);  // not yet there: the first revision of this start
  };
  absl::StatusOr<std::unique_ptr<Publisher>> opened = Publisher::Open(*std::move(store), std::move(publisher));
  if (!opened.ok()) return opened.status();
  impl.publisher = *std::move(opened);
  if (const std::string why = impl.hub->WhyHeld(); !why.empty()) spdlog::error("{}", why);
  if (impl.endpoints != nullptr) impl.endpoints->Start();

  TicketKeyRing::Options ticket_keys;
  ticket_keys.publish = [&impl](const v1::TicketKeysUpdate& keys, absl::Time rotates_at) {
    impl.hub->PublishTicketKeys(keys, rotates_at);
  };
  absl::StatusOr<std::unique_ptr<TicketKeyRing>> ring =
      TicketKeyRing::Open(&impl.publisher->store(), std::move(ticket_keys));
  if (!ring.ok()) return ring.status();
  impl.ticket_keys = *std::move(ring);
  impl.config_service = std::make_unique<ConfigService>(impl.hub.get(), options.config);
  absl::StatusOr<std::unique_ptr<Tokens>> tokens = Tokens::Open(&impl.publisher->store());
  if (!tokens.ok()) return tokens.status();
  impl.tokens = *std::move(tokens);
  if (absl::Status s = impl.tokens->MakeFirst(absl::StrCat(section.database(), ".admin-token"), absl::Now()); !s.ok()) {
    return s;
  }
  if (!section.oidc().issuer().empty()) {
    absl::StatusOr<std::unique_ptr<Oidc>> oidc = Oidc::Open(section.oidc(), std::move(options.oidc));
    if (!oidc.ok()) return oidc.status();
    impl.oidc = *std::move(oidc);
  }
  impl.audit = std::make_unique<AuditLog>(&impl.publisher->store(), section.audit_log().path());
  if (absl::Status s = impl.audit->CheckFile(); !s.ok()) return s;
  if (joins) {
    absl::StatusOr<std::unique_ptr<Joining>> joining = Joining::Open(
        Joining::OptionsOf(section), [tls = impl.stream_tls.get()] { return tls->client_ca(); },
        &impl.publisher->store());
    if (!joining.ok()) return joining.status();
    impl.joining = *std::move(joining);
    impl.join_service = std::make_unique<JoinService>(impl.joining.get(), impl.audit.get());
  }
  EndpointOverrides::Options overrides;
  overrides.publish = [&impl](const std::vector<v1::EndpointOverride>& all) { impl.hub->PublishOverrides(all); };
  overrides.ended = [&impl](const v1::EndpointOverride& ended) {
    Caller nobody;
    nobody.action = "EndpointOverrideEnded";
    impl.audit->Done(nobody,
                     absl::StrCat(ended.endpoint(), " of '", ended.service(), "' is as policy has it again; was ",
                                  DescribeOverride(ended), " by '", ended.actor(), "'"),
                     absl::Now());
  };
  absl::StatusOr<std::unique_ptr<EndpointOverrides>> opened_overrides =
      EndpointOverrides::Open(&impl.publisher->store(), std::move(overrides));
  if (!opened_overrides.ok()) return opened_overrides.status();
  impl.overrides = *std::move(opened_overrides);
  impl.drains->Start([&impl](const DrainMap& all) {
    impl.hub->PublishDrains(all);
    if (impl.registration == nullptr) return;
    std::set<std::string> names;
    for (const auto& [name, drain] : all) names.insert(name);
    impl.registration->SetDrained(std::move(names));
  });
  impl.acme = std::make_unique<AcmeIssuer>(impl.publisher.get(), impl.hub.get(), options.acme);
  impl.change_keeper = std::make_unique<ChangeKeeper>(impl.publisher.get(), impl.hub.get());
  impl.canary_keeper = std::make_unique<CanaryKeeper>(impl.publisher.get(), impl.hub.get());
  impl.log_level = std::make_unique<LogLevel>(config.logging().level());
  const auto metrics_text = [&impl, consul] {
    return RenderMetrics(*impl.publisher, *impl.hub, *impl.config_service, *impl.quota_service, impl.acme.get(),
                         impl.join_service.get(), impl.oidc.get(),
                         {{"stream", &impl.stream_acceptor->counts()}, {"admin", &impl.admin_acceptor->counts()}},
                         consul);
  };
  AdminOperations operations{impl.overrides.get(),
                             impl.endpoints.get(),
                             impl.drains.get(),
                             impl.log_level.get(),
                             [metrics_text, config] {
                               v1::DiagnoseResponse response;
                               v1::DiagnosticFile* file = response.add_files();
                               file->set_name("bootstrap.yaml");
                               file->set_content(EncodeYaml(config));  // secrets as "redacted"
                               file = response.add_files();
                               file->set_name("metrics.txt");
                               file->set_content(metrics_text());
                               return response;
                             },
                             absl::StrCat(section.database(), ".backup-in-progress"),
                             impl.acme.get(),
                             impl.joining.get()};
  impl.admin_service =
      std::make_unique<AdminService>(impl.publisher.get(), impl.hub.get(), impl.tokens.get(), impl.audit.get(),
                                     std::move(operations), section.name().empty() ? HostName() : section.name());
  AdminGateOptions gate;
  gate.required = impl.admin_tls != nullptr || section.require_credentials();
  gate.shared_client_ca = [admin = impl.admin_tls.get(), stream = impl.stream_tls.get()] {
    return admin != nullptr && stream != nullptr && ShareCertificate(admin->client_ca(), stream->client_ca());
  };
  gate.oidc = impl.oidc.get();
  impl.admin_gate = std::make_unique<AdminGate>(impl.admin_service.get(), impl.tokens.get(), impl.audit.get(), gate);

  impl.metrics->Handle("/metrics", [metrics_text] {
    return HttpReply{200, "text/plain; version=0.0.4; charset=utf-8", metrics_text()};
  });
  impl.metrics->Handle("/health", [] { return Readiness::StatusReply("healthy"); });
  impl.metrics->Handle("/ready", [&impl] {
    return impl.readiness.Reply(*impl.hub, impl.stream_acceptor.get(), impl.admin_acceptor.get());
  });

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();  // v1alpha
  std::vector<std::string> stream_names = {v1::ConfigStream::service_full_name(), v1::Quota::service_full_name()};
  if (joins) stream_names.emplace_back(v1::Join::service_full_name());
  impl.stream_reflection = MakeReflection(std::move(stream_names));
  impl.admin_reflection = MakeReflection({v1::Admin::service_full_name()});
  std::vector<grpc::Service*> stream_services = {impl.config_service.get(), impl.quota_service.get(),
                                                 impl.stream_reflection.get()};
  if (joins) stream_services.push_back(impl.join_service.get());
  absl::StatusOr<std::unique_ptr<grpc::Server>> stream_server =
      Serve(impl.stream_acceptor.get(), stream_services, v1::ConfigStream::service_full_name(), kStreamMessageBytesMax,
            CredentialsOf(impl.stream_tls.get()), nullptr);
  if (!stream_server.ok()) return stream_server.status();
  impl.stream_server = *std::move(stream_server);
  absl::StatusOr<std::unique_ptr<grpc::Server>> admin_server = Serve(
      impl.admin_acceptor.get(), {impl.admin_gate.get(), impl.admin_reflection.get()}, v1::Admin::service_full_name(),
      kAdminMessageBytesMax, CredentialsOf(impl.admin_tls.get()), std::make_unique<CallContexts>());
  if (!admin_server.ok()) return admin_server.status();
  impl.admin_server = *std::move(admin_server);
  impl.metrics->Start();
  return control_plane;
}

void ControlPlane::Stop(std::chrono::milliseconds grace) {
  Impl& impl = *impl_;
  impl.metrics.reset();  // its handlers use all the rest
  // Before their servers: a server that is shut down takes no connection.
  if (impl.stream_acceptor != nullptr) impl.stream_acceptor->Stop();
  if (impl.admin_acceptor != nullptr) impl.admin_acceptor->Stop();
  const auto deadline = std::chrono::system_clock::now() + grace;
  if (impl.config_service != nullptr) impl.config_service->Drain();
  if (impl.quota_service != nullptr) impl.quota_service->Drain();
  if (impl.admin_service != nullptr) impl.admin_service->Drain();
  // Past the deadline, what is still open is cut.
  if (impl.stream_server != nullptr) impl.stream_server->Shutdown(deadline);
  if (impl.admin_server != nullptr) impl.admin_server->Shutdown(deadline);
  impl.stream_server.reset();
  impl.admin_server.reset();
  impl.admin_gate.reset();
  impl.admin_service.reset();
  impl.overrides.reset();
  if (impl.drains != nullptr) impl.drains->Stop();
  impl.canary_keeper.reset();
  impl.change_keeper.reset();
  impl.acme.reset();
  impl.log_level.reset();
  impl.join_service.reset();
  impl.joining.reset();
  impl.audit.reset();
  impl.oidc.reset();
  impl.tokens.reset();
  impl.config_service.reset();
  impl.ticket_keys.reset();
  // The quota service stays: the publisher tells it, until it is gone, too.
  // The source of endpoints before the hub that it publishes to; the publisher, and with it the database, before it.
  impl.publisher.reset();
  impl.endpoints.reset();
  impl.registration.reset();
}

bool ControlPlane::ReloadCertificates() {
  bool any = false;
  for (ReloadingTls* tls : {impl_->stream_tls.get(), impl_->admin_tls.get()}) {
    if (tls != nullptr && tls->Reload()) any = true;
  }
  return any;
}

uint16_t ControlPlane::admin_port() const { return impl_->admin_acceptor->port(); }
uint16_t ControlPlane::stream_port() const { return impl_->stream_acceptor->port(); }
uint16_t ControlPlane::metrics_port() const { return impl_->metrics->port(); }
Publisher& ControlPlane::publisher() { return *impl_->publisher; }
Hub& ControlPlane::hub() { return *impl_->hub; }

}  // namespace gateway::controlplane
