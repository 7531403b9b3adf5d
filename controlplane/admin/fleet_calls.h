// The admin API's calls about data planes, and about this process.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_FLEET_CALLS_H_
#define GATEWAY_CONTROLPLANE_ADMIN_FLEET_CALLS_H_

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/log_level.h"
#include "controlplane/identity/audit_log.h"
#include "controlplane/identity/caller.h"
#include "controlplane/publish/data_plane_drains.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/stream/hub.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr absl::Duration kLogLevelDefault = absl::Minutes(5);
inline constexpr absl::Duration kLogLevelMax = absl::Hours(24);

// As in admin.proto; what is done is in the log and in the audit. Thread-safe. AcceptHistory and SetDrain block on the
// database.
class FleetCalls {
 public:
  FleetCalls(Publisher* publisher, Hub* hub, AuditLog* audit, DataPlaneDrains* drains, LogLevel* log_level,
             std::function<v1::DiagnoseResponse()> diagnose);

  absl::Status ListDataPlanes(v1::ListDataPlanesResponse* response) const;
  absl::Status ForgetDataPlanes(const v1::ForgetDataPlanesRequest& request, const Caller& caller,
                                v1::ForgetDataPlanesResponse* response);
  absl::Status AcceptHistory(const v1::AcceptHistoryRequest& request, const Caller& caller,
                             v1::AcceptHistoryResponse* response);

  // What data planes report.
  absl::Status ListBreakers(const v1::ListBreakersRequest& request, v1::ListBreakersResponse* response) const;
  absl::Status ListLimits(const v1::ListLimitsRequest& request, v1::ListLimitsResponse* response) const;

  // What is wrong with a request before anything is read or written.
  static absl::Status CheckDrain(const v1::SetDrainRequest& request);
  absl::Status SetDrain(const v1::SetDrainRequest& request, const Caller& caller, v1::SetDrainResponse* response);

  // Of a data plane, or of this process.
  absl::Status SetLogLevel(const v1::SetLogLevelRequest& request, const Caller& caller,
                           v1::SetLogLevelResponse* response);
  // Calls `done` once, on any thread: `response` is filled then.
  void Diagnose(const v1::DiagnoseRequest& request, v1::DiagnoseResponse* response,
                std::function<void(const absl::Status&)> done);

 private:
  void WarnOfDrain(const std::string& name, v1::SetDrainResponse* response) const;

  Publisher* const publisher_;
  Hub* const hub_;
  AuditLog* const audit_;
  DataPlaneDrains* const drains_;
  LogLevel* const log_level_;
  const std::function<v1::DiagnoseResponse()> diagnose_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_FLEET_CALLS_H_
