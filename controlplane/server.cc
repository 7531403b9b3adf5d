#include "controlplane/server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/metrics_http.h"
#include "common/config/bootstrap.h"
#include "controlplane/admin/admin_service.h"
#include "controlplane/identity/admin_gate.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/reloading_tls.h"
#include "controlplane/identity/tokens.h"
#include "controlplane/metrics.h"
#include "controlplane/stream/quota_service.h"
#include "controlplane/stream/roster.h"
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

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || absl::StartsWith(host, "127.");
}

// gRPC says only that it could not bind; the socket itself says why.
absl::Status CheckBindable(const std::string& key, const std::string& address) {
  absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat(key, ": ", parsed.status().message()));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(parsed->host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found);
  if (rc != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, " (", key, "): ", gai_strerror(rc)));
  }
  absl::Status status;
  const int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
  const int yes = 1;
  if (fd >= 0) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);  // as gRPC does
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
    status = absl::UnavailableError(absl::StrCat("cannot listen on ", address, " (", key, "): ", strerror(errno)));
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return status;
}

absl::Status CheckListener(const std::string& key, const std::string& address, bool may_leave_loopback) {
  absl::StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat(key, ": ", parsed.status().message()));
  if (!may_leave_loopback && !IsLoopback(parsed->host)) {
    return absl::FailedPreconditionError(absl::StrCat(
        key, ": ", address, " is beyond loopback and has no TLS; set control_plane.insecure: true to allow it"));
  }
  return CheckBindable(key, address);
}

// gRPC's own words go to the program's log, at a level where they disturb nobody.
void LogFromGrpc(gpr_log_func_args* args) {
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    spdlog::warn("grpc: {}", args->message);
  } else {
    spdlog::debug("grpc: {}", args->message);
  }
}

// Null: the listener has no TLS.
absl::StatusOr<std::unique_ptr<ReloadingTls>> OpenTls(const std::string& key, const v1::ServerTlsSection& section,
                                                      ClientCertificate with_client_ca) {
  if (section.cert().empty()) return nullptr;
  return ReloadingTls::Open(key, {section.cert(), section.key(), section.client_ca()},
                            section.client_ca().empty() ? ClientCertificate::kNone : with_client_ca);
}

absl::StatusOr<std::unique_ptr<grpc::Server>> Listen(const std::string& key, const std::string& address,
                                                     const ReloadingTls* tls,
                                                     std::unique_ptr<grpc::ContextAllocator> contexts,
                                                     const std::vector<grpc::Service*>& services,
                                                     const std::string& name, int receive_bytes_max, int* port) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, tls == nullptr ? grpc::InsecureServerCredentials() : tls->credentials(), port);
  for (grpc::Service* service : services) builder.RegisterService(service);
  if (contexts != nullptr) builder.SetContextAllocator(std::move(contexts));
  builder.SetMaxReceiveMessageSize(receive_bytes_max);
  builder.SetMaxSendMessageSize(-1);
  // Two control planes on one port would share its connections by chance.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A stopped client with pending data is found within 40 s, an idle connection is kept through NATs.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Clients ping every 20 s.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || *port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, " (", key, ")"));
  }
  if (grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService()) {
    health->SetServingStatus(name, true);
  }
  return server;
}

}  // namespace

ConsulInterest InterestOf(const std::shared_ptr<const Snapshot>& snapshot) {
  ConsulInterest interest;
  // Of two that ask for the same service, the careful one decides.
  std::map<ConsulKey, v1::ConsulSource::OnSuspect> services;
  for (const ServicePolicy& service : snapshot->services()) {
    if (!service.from_consul) continue;
    auto [it, fresh] = services.emplace(ConsulKey(service.datacenter, service.consul_service), service.on_suspect);
    if (!fresh && service.on_suspect == v1::ConsulSource::KEEP) it->second = v1::ConsulSource::KEEP;
  }
  for (const auto& [key, on_suspect] : services) interest.services.push_back({key.first, key.second, on_suspect});

  std::vector<const ConsulServicePolicy*> dynamic;
  bool all_accept = true;
  for (const auto& route : snapshot->routes()) {
    if (route->consul_service == nullptr) continue;
    dynamic.push_back(route->consul_service.get());
    all_accept = all_accept && route->consul_service->service.on_suspect == v1::ConsulSource::ACCEPT;
  }
  if (!dynamic.empty()) {
    interest.dynamic = [snapshot, dynamic](std::string_view service) {
      for (const ConsulServicePolicy* policy : dynamic) {
        if (policy->Allows(service)) return true;
      }
      return false;
    };
    interest.dynamic_on_suspect = all_accept ? v1::ConsulSource::ACCEPT : v1::ConsulSource::KEEP;
  }
  return interest;
}

// In the order of their making; what comes later uses what comes earlier, and ends before it.
struct ControlPlane::Impl {
  std::unique_ptr<ReloadingTls> stream_tls, admin_tls;  // null: cleartext
  std::unique_ptr<Hub> hub;
  std::unique_ptr<QuotaService> quota_service;
  std::unique_ptr<ConsulRegistration> registration;  // null: no Consul
  std::unique_ptr<ConsulWatcher> watcher;            // likewise
  std::unique_ptr<Publisher> publisher;
  std::unique_ptr<Tokens> tokens;
  std::unique_ptr<AuditLog> audit;
  std::unique_ptr<ConfigService> config_service;
  std::unique_ptr<AdminService> admin_service;
  std::unique_ptr<AdminGate> admin_gate;
  std::unique_ptr<grpc::Server> stream_server;
  std::unique_ptr<grpc::Server> admin_server;
  std::unique_ptr<MetricsHttp> metrics;
  int admin_port = 0;
  int stream_port = 0;
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
  for (auto [tls, key, files, clients] :
       {std::tuple{&impl.stream_tls, "control_plane.stream_tls", &section.stream_tls(), ClientCertificate::kRequired},
        std::tuple{&impl.admin_tls, "control_plane.admin_tls", &section.admin_tls(), ClientCertificate::kOptional}}) {
    absl::StatusOr<std::unique_ptr<ReloadingTls>> opened = OpenTls(key, *files, clients);
    if (!opened.ok()) return opened.status();
    *tls = *std::move(opened);
  }
  options.config.names_by_certificate = impl.stream_tls != nullptr;
  absl::StatusOr<std::unique_ptr<MetricsHttp>> metrics =
      MetricsHttp::Listen(config.metrics().host(), static_cast<uint16_t>(section.metrics_port()));
  if (!metrics.ok()) {
    return absl::Status(metrics.status().code(),
                        absl::StrCat(metrics.status().message(), " (control_plane.metrics_port)"));
  }
  impl.metrics = *std::move(metrics);

  options.store.path = section.database();
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options.store);
  if (!store.ok()) return store.status();

  const Roster roster(absl::StrCat(section.database(), ".dataplanes"));
  options.hub.expected = roster.Load();
  options.hub.save_roster = [roster](const std::vector<std::string>& names) {
    if (const absl::Status status = roster.Save(names); !status.ok()) {
      spdlog::warn("the list of data planes is not kept: {}", std::string(status.message()));
    }
  };
  impl.hub = std::make_unique<Hub>(options.hub);
  QuotaAllocator::Options quota;
  quota.expected = options.hub.expected;
  impl.quota_service = std::make_unique<QuotaService>(std::move(quota), impl.stream_tls != nullptr);
  const bool consul = !config.consul().address().empty();
  if (consul) {
    RegistrationOptions registration;
    registration.address = config.consul().address();
    registration.token = config.consul().token();
    registration.service_name = config.consul().service_name();
    registration.check_interval = ToMillis(config.consul().health_check().interval());
    registration.check_timeout = ToMillis(config.consul().health_check().timeout());
    impl.registration = std::make_unique<ConsulRegistration>(std::move(registration));
    options.config.registered = [r = impl.registration.get()](const RegisteredInstance& i) { r->Register(i); };
    options.config.said_goodbye = [r = impl.registration.get()](const std::string& name) { r->Deregister(name); };

    ConsulWatcherOptions watcher;
    watcher.address = config.consul().address();
    watcher.token = config.consul().token();
    watcher.state_file = absl::StrCat(section.database(), ".endpoints");
    impl.watcher = std::make_unique<ConsulWatcher>(
        std::move(watcher), [hub = impl.hub.get()](std::shared_ptr<const EndpointCatalog> catalog) {
          hub->PublishEndpoints(std::move(catalog));
        });
  }

  PublisherOptions publisher;
  publisher.builtins = BuiltinResources(BuiltinLimitOf(config));
  publisher.own_service = config.consul().service_name();
  publisher.publish = [&impl](std::shared_ptr<const PolicyState> state) {
    if (impl.watcher != nullptr) impl.watcher->SetInterest(InterestOf(state->snapshot));
    // Before any data plane can ask for them.
    impl.quota_service->SetLimits(FleetLimitsOf(*state->snapshot));
    impl.hub->PublishPolicy(std::move(state));
  };
  publisher.recorded = [&impl](const v1::AuditEntry& entry) {
    if (impl.audit != nullptr) impl.audit->Committed(entry);  // not yet there: the first revision of this start
  };
  absl::StatusOr<std::unique_ptr<Publisher>> opened = Publisher::Open(*std::move(store), std::move(publisher));
  if (!opened.ok()) return opened.status();
  impl.publisher = *std::move(opened);
  if (impl.watcher != nullptr) impl.watcher->Start();

  impl.config_service = std::make_unique<ConfigService>(impl.hub.get(), options.config);
  absl::StatusOr<std::unique_ptr<Tokens>> tokens = Tokens::Open(&impl.publisher->store());
  if (!tokens.ok()) return tokens.status();
  impl.tokens = *std::move(tokens);
  if (absl::Status s = impl.tokens->MakeFirst(absl::StrCat(section.database(), ".admin-token"), absl::Now()); !s.ok()) {
    return s;
  }
  impl.audit = std::make_unique<AuditLog>(&impl.publisher->store(), section.audit_log().path());
  if (absl::Status s = impl.audit->CheckFile(); !s.ok()) return s;
  impl.admin_service = std::make_unique<AdminService>(impl.publisher.get(), impl.hub.get(), impl.tokens.get(),
                                                      impl.audit.get());
  AdminGateOptions gate;
  gate.required = impl.admin_tls != nullptr || section.require_credentials();
  gate.shared_client_ca = [admin = impl.admin_tls.get(), stream = impl.stream_tls.get()] {
    return admin != nullptr && stream != nullptr && ShareCertificate(admin->client_ca(), stream->client_ca());
  };
  impl.admin_gate = std::make_unique<AdminGate>(impl.admin_service.get(), impl.tokens.get(), impl.audit.get(), gate);

  impl.metrics->Handle("/metrics", [&impl, consul] {
    return HttpReply{200, "text/plain; version=0.0.4; charset=utf-8",
                     RenderMetrics(*impl.publisher, *impl.hub, *impl.config_service, *impl.quota_service, consul)};
  });
  const auto healthy = [] {
    return HttpReply{200, "application/json",
                     absl::StrCat(R"({"status": "healthy", "time": ")",
                                  absl::FormatTime(absl::RFC3339_full, absl::Now(), absl::UTCTimeZone()), R"("})")};
  };
  impl.metrics->Handle("/health", healthy);
  // Whoever gets an answer here gets one from the two listeners: they are bound before this one starts.
  impl.metrics->Handle("/ready", healthy);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  absl::StatusOr<std::unique_ptr<grpc::Server>> stream_server = Listen(
      "control_plane.stream_listen", section.stream_listen(), impl.stream_tls.get(), nullptr, {impl.config_service.get(), impl.quota_service.get()},
      v1::ConfigStream::service_full_name(), kStreamMessageBytesMax, &impl.stream_port);
  if (!stream_server.ok()) return stream_server.status();
  impl.stream_server = *std::move(stream_server);
  absl::StatusOr<std::unique_ptr<grpc::Server>> admin_server =
      Listen("control_plane.admin_listen", section.admin_listen(), impl.admin_tls.get(), std::make_unique<CallContexts>(),
             {impl.admin_gate.get()},
             v1::Admin::service_full_name(), kAdminMessageBytesMax, &impl.admin_port);
  if (!admin_server.ok()) return admin_server.status();
  impl.admin_server = *std::move(admin_server);
  impl.metrics->Start();
  return control_plane;
}

void ControlPlane::Stop(std::chrono::milliseconds grace) {
  Impl& impl = *impl_;
  impl.metrics.reset();  // its handlers use all the rest
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
  impl.audit.reset();
  impl.tokens.reset();
  impl.config_service.reset();
  // The quota service stays: the publisher tells it, until it is gone, too.
  // The watcher before the hub that it publishes to; the publisher, and with it the database, before the watcher.
  impl.publisher.reset();
  impl.watcher.reset();
  impl.registration.reset();
}

bool ControlPlane::ReloadCertificates() {
  bool any = false;
  for (const auto& tls : {impl_->stream_tls.get(), impl_->admin_tls.get()}) {
    if (tls != nullptr && tls->Reload()) any = true;
  }
  return any;
}

uint16_t ControlPlane::admin_port() const { return static_cast<uint16_t>(impl_->admin_port); }
uint16_t ControlPlane::stream_port() const { return static_cast<uint16_t>(impl_->stream_port); }
uint16_t ControlPlane::metrics_port() const { return impl_->metrics->port(); }
Publisher& ControlPlane::publisher() { return *impl_->publisher; }
Hub& ControlPlane::hub() { return *impl_->hub; }

}  // namespace gateway::controlplane
