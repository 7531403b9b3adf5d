#include "controlplane/rpc/reloading_tls.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpc/grpc.h"
#include "grpc/grpc_security.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr absl::Duration kLookEvery = absl::Seconds(1);

grpc_ssl_client_certificate_request_type RequestType(ClientCertificate clients) {
  switch (clients) {
    case ClientCertificate::kNone:
      break;
    case ClientCertificate::kOptional:
      return GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY;
    case ClientCertificate::kRequired:
      return GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  return GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
}

}  // namespace

// gRPC's C++ API has no server credentials with a fetcher; its C API does. A fetcher, unlike gRPC's own watcher of
// files, lets us check a pair before any handshake sees it.
class ReloadingTls::Credentials final : public grpc::ServerCredentials {
 public:
  Credentials(ReloadingTls* tls, ClientCertificate clients)
      : credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(RequestType(clients), &ReloadingTls::Fetch,
                                                                            tls))) {}
  ~Credentials() override { grpc_server_credentials_release(credentials_); }

  // Who calls is decided by the services (caller.h), with or without TLS.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* const credentials_;
};

absl::StatusOr<std::unique_ptr<ReloadingTls>> ReloadingTls::Open(std::string key, TlsFiles files,
                                                                 ClientCertificate clients) {
  std::string stamp = TlsFilesStamp(files);
  absl::StatusOr<TlsMaterial> material = ReadTlsFiles(files, absl::Now());
  if (!material.ok()) {
    return absl::Status(material.status().code(), absl::StrCat(key, ": ", material.status().message()));
  }
  std::unique_ptr<ReloadingTls> tls(
      new ReloadingTls(std::move(key), std::move(files), *std::move(material), std::move(stamp)));
  tls->credentials_ = std::make_shared<Credentials>(tls.get(), clients);
  return tls;
}

ReloadingTls::ReloadingTls(std::string key, TlsFiles files, TlsMaterial material, std::string stamp)
    : key_(std::move(key)),
      files_(std::move(files)),
      material_(std::move(material)),
      stamp_(std::move(stamp)),
      looked_at_(absl::Now()) {}

bool ReloadingTls::Reload() {
  std::lock_guard lock(mu_);
  return ReloadLocked();
}

bool ReloadingTls::ReloadLocked() {
  const absl::Time now = absl::Now();
  looked_at_ = now;
  // Before the files are read: a change meanwhile is seen by the next look.
  std::string stamp = TlsFilesStamp(files_);
  if (stamp == stamp_) return false;
  stamp_ = std::move(stamp);
  absl::StatusOr<TlsMaterial> material = ReadTlsFiles(files_, now);
  if (!material.ok()) {
    spdlog::error("{}: {}; the certificate of before stays in use", key_, std::string(material.status().message()));
    return false;
  }
  material_ = *std::move(material);
  taken_ = false;
  spdlog::info("{}: a new certificate is in use, valid to {}", key_,
               absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", material_.not_after, absl::UTCTimeZone()));
  return true;
}

absl::Time ReloadingTls::not_after() const {
  std::lock_guard lock(mu_);
  return material_.not_after;
}

std::string ReloadingTls::client_ca() const {
  std::lock_guard lock(mu_);
  return material_.ca;
}

grpc_ssl_certificate_config_reload_status ReloadingTls::Fetch(void* self, grpc_ssl_server_certificate_config** config) {
  auto* tls = static_cast<ReloadingTls*>(self);
  std::lock_guard lock(tls->mu_);
  if (absl::Now() - tls->looked_at_ >= kLookEvery) tls->ReloadLocked();
  if (tls->taken_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const grpc_ssl_pem_key_cert_pair pair{tls->material_.private_key.c_str(), tls->material_.certificate_chain.c_str()};
  // gRPC 1.51 aborts without roots, even if it asks no client for a certificate. It verifies nothing by these.
  const std::string& roots = tls->material_.ca.empty() ? tls->material_.certificate_chain : tls->material_.ca;
  *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
  tls->taken_ = true;
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

}  // namespace gateway::controlplane
