// The control plane, wired: store, publisher, hub, the two gRPC listeners, Consul, metrics.
#ifndef GATEWAY_CONTROLPLANE_SERVER_H_
#define GATEWAY_CONTROLPLANE_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "controlplane/acme/issuer.h"
#include "controlplane/identity/oidc.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/sources/consul/access.h"
#include "controlplane/sources/endpoint_source.h"
#include "controlplane/store/store.h"
#include "controlplane/stream/config_service.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/bootstrap.pb.h"

namespace gateway::controlplane {

// What tests set; the bootstrap says all the rest.
struct ControlPlaneOptions {
  StoreOptions store;  // `path` is the bootstrap's
  HubOptions hub;
  AcmeOptions acme;
  OidcOptions oidc;
  ConfigServiceOptions config;  // the callbacks are for whoever sets them where Consul is off
  // Fewer where RLIMIT_NOFILE allows fewer; half of them from one address.
  size_t stream_connections_max = 24'000;  // two of each data plane that may have a stream
  size_t admin_connections_max = 1000;
  std::chrono::milliseconds first_bytes_timeout{10'000};
};

// Owns everything; runs from Start until Stop. Which thread does what: gRPC's callback threads answer and stream, the
// admin service's executor changes policy, Consul's watcher and registration have a thread each, so has /metrics.
class ControlPlane {
 public:
  // Serves when it returns. Errors are one line: a port in use, the database, a listener beyond loopback.
  static absl::StatusOr<std::unique_ptr<ControlPlane>> Start(const v1::Bootstrap& config,
                                                             ControlPlaneOptions options = {});
  ~ControlPlane();  // stops

  // Ends the streams so that data planes reconnect elsewhere or later, answers what is under way, closes the database.
  // Nobody is taken out of Consul. Takes at most about `grace`.
  void Stop(std::chrono::milliseconds grace);

  // Looks at the certificate files now, and not at the next handshake. False: nothing new, or nothing good; the log
  // tells. Thread-safe.
  bool ReloadCertificates();

  // As bound.
  uint16_t admin_port() const;
  uint16_t stream_port() const;
  uint16_t metrics_port() const;

  Publisher& publisher();
  Hub& hub();

 private:
  struct Impl;
  explicit ControlPlane(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// How the bootstrap file says that Consul is reached.
ConsulAccess ConsulAccessOf(const v1::ConsulSection& section);

// What compiled policy makes the control plane watch in Consul: of all that data planes serve.
EndpointInterest InterestOf(const std::vector<std::shared_ptr<const Snapshot>>& snapshots);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SERVER_H_
