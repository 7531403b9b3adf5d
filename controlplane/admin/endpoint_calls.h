// The admin API's calls about endpoints: what they are, what operators set for them and decide about them.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_ENDPOINT_CALLS_H_
#define GATEWAY_CONTROLPLANE_ADMIN_ENDPOINT_CALLS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/publish/endpoint_overrides.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/sources/endpoint_source.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr uint32_t kEndpointWeightMax = 65'535;  // as policy and Consul have it
inline constexpr absl::Duration kOverrideMax = absl::Hours(24 * 366);

// As in admin.proto; what is done is in the log and in the audit. Thread-safe. Set blocks on the database.
class EndpointCalls {
 public:
  // `source`: null if there is no Consul.
  EndpointCalls(const Publisher* publisher, const Hub* hub, AuditLog* audit, EndpointOverrides* overrides,
                EndpointSource* source);

  absl::Status List(const v1::ListEndpointsRequest& request, v1::ListEndpointsResponse* response) const;
  absl::Status ListHistory(const v1::ListEndpointHistoryRequest& request,
                           v1::ListEndpointHistoryResponse* response) const;

  // The endpoint's name, for Set. InvalidArgument: what is wrong with a request before anything is read or written.
  static absl::StatusOr<std::string> CheckSet(const v1::SetEndpointRequest& request);
  absl::Status Set(const v1::SetEndpointRequest& request, const std::string& endpoint, const Caller& caller,
                   v1::SetEndpointResponse* response);

  // Calls `done` once, on any thread: `response` is filled then. `request` is not used after this returns.
  void Decide(const v1::DecideEndpointsRequest& request, const Caller& caller, v1::DecideEndpointsResponse* response,
              std::function<void(const absl::Status&)> done);

 private:
  void FillExclusions(const std::string& service, v1::ListEndpointsResponse* response) const;
  // Those that concern `service` ("": all), a Service's name or that of a service of Consul.
  std::vector<v1::EndpointOverride> OverridesOf(const std::string& service) const;
  absl::Status SetOverride(const v1::SetEndpointRequest& request, const std::string& endpoint, const Caller& caller,
                           v1::SetEndpointResponse* response);
  // What is worth a word about an override that was set just now.
  void WarnOfOverride(const v1::EndpointOverride& override, const v1::ListEndpointsResponse& endpoints,
                      v1::SetEndpointResponse* response) const;
  // What `service` is in Consul. NotFound, as ListEndpoints has it; FailedPrecondition if its endpoints are written
  // down.
  absl::StatusOr<EndpointKey> ConsulKeyOf(const std::string& service) const;

  const Publisher* const publisher_;
  const Hub* const hub_;
  AuditLog* const audit_;
  EndpointOverrides* const overrides_;
  EndpointSource* const source_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_ENDPOINT_CALLS_H_
