// The control plane's own metrics, in Prometheus' text format.
#ifndef GATEWAY_CONTROLPLANE_METRICS_H_
#define GATEWAY_CONTROLPLANE_METRICS_H_

#include <string>
#include <utility>
#include <vector>

#include "controlplane/acme/issuer.h"
#include "controlplane/identity/oidc.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/rpc/acceptor.h"
#include "controlplane/stream/config_service.h"
#include "controlplane/stream/hub.h"
#include "controlplane/stream/join_service.h"
#include "controlplane/stream/quota_service.h"

namespace gateway::controlplane {

// By the listener's name.
using ListenerCounts = std::vector<std::pair<std::string, const AcceptorCounts*>>;

// The text of /metrics. Thread-safe. `acme`, `join` and `oidc` may be null. `consul` says whether Consul is used at
// all.
std::string RenderMetrics(Publisher& publisher, const Hub& hub, const ConfigService& config, const QuotaService& quota,
                          const AcmeIssuer* acme, const JoinService* join, const Oidc* oidc,
                          const ListenerCounts& listeners, bool consul);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_METRICS_H_
