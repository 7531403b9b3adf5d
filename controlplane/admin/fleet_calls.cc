#include "controlplane/admin/fleet_calls.h"

#include <algorithm>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/timestamp.h"
#include "controlplane/admin/call_context.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {

FleetCalls::FleetCalls(Publisher* publisher, Hub* hub, AuditLog* audit, DataPlaneDrains* drains, LogLevel* log_level,
                       std::function<v1::DiagnoseResponse()> diagnose)
    : publisher_(publisher),
      hub_(hub),
      audit_(audit),
      drains_(drains),
      log_level_(log_level),
      diagnose_(std::move(diagnose)) {}

absl::Status FleetCalls::ListDataPlanes(v1::ListDataPlanesResponse* response) const {
  for (v1::DataPlaneState& each : hub_->DataPlanes()) *response->add_data_planes() = std::move(each);
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  response->set_revision(state->revision);
  if (state->pending != nullptr) *response->mutable_change() = *state->pending;
  return absl::OkStatus();
}

absl::Status FleetCalls::ForgetDataPlanes(const v1::ForgetDataPlanesRequest& request, const Caller& caller,
                                          v1::ForgetDataPlanesResponse* response) {
  if (request.name().empty() != request.gone()) {
    return absl::InvalidArgumentError("expected either `name` or `gone`");
  }
  std::vector<std::string> names{request.name()};
  if (request.gone()) {
    names = hub_->ForgetGone();
  } else if (absl::Status status = hub_->Forget(request.name()); !status.ok()) {
    return status;
  }
  spdlog::info("{} data planes that were gone are forgotten, by '{}' from {}", names.size(), caller.name,
               caller.address);
  audit_->Done(caller, absl::StrCat("forgot data planes: ", names.empty() ? "none" : absl::StrJoin(names, ", ")),
               absl::Now());
  for (std::string& name : names) response->add_names(std::move(name));
  return absl::OkStatus();
}

absl::Status FleetCalls::AcceptHistory(const v1::AcceptHistoryRequest& request, const Caller& caller,
                                       v1::AcceptHistoryResponse* response) {
  response->set_epoch(publisher_->current()->epoch);
  if (hub_->WhyHeld().empty()) return absl::OkStatus();
  if (absl::Status status = publisher_->store().SetTakeover(Takeover::kAccepted); !status.ok()) return status;
  response->set_released(static_cast<uint32_t>(hub_->AcceptHistory()));
  spdlog::warn("this history (epoch {}) takes the place of any other: accepted by '{}' from {}", response->epoch(),
               caller.name.empty() ? request.context().actor() : caller.name, caller.address);
  audit_->Done(caller, absl::StrCat("accepted the history ", response->epoch()), absl::Now());
  return absl::OkStatus();
}

absl::Status FleetCalls::ListBreakers(const v1::ListBreakersRequest& request,
                                      v1::ListBreakersResponse* response) const {
  for (const auto& [data_plane, report] : hub_->Reports()) {
    for (const v1::BreakerReport& breaker : report->breakers()) {
      if (!request.service().empty() && breaker.service() != request.service()) continue;
      v1::DataPlaneBreaker* row = response->add_breakers();
      row->set_data_plane(data_plane);
      *row->mutable_breaker() = breaker;
      *row->mutable_reported_at() = report->received_at();
    }
  }
  std::sort(response->mutable_breakers()->begin(), response->mutable_breakers()->end(),
            [](const v1::DataPlaneBreaker& a, const v1::DataPlaneBreaker& b) {
              return std::tie(a.breaker().service(), a.data_plane(), a.breaker().breaker()) <
                     std::tie(b.breaker().service(), b.data_plane(), b.breaker().breaker());
            });
  return absl::OkStatus();
}

absl::Status FleetCalls::ListLimits(const v1::ListLimitsRequest& request, v1::ListLimitsResponse* response) const {
  for (const auto& [data_plane, report] : hub_->Reports()) {
    for (const v1::LimitReport& limit : report->limits()) {
      if (!request.name().empty() && limit.name() != request.name()) continue;
      v1::DataPlaneLimit* row = response->add_limits();
      row->set_data_plane(data_plane);
      *row->mutable_limit() = limit;
    }
  }
  std::sort(response->mutable_limits()->begin(), response->mutable_limits()->end(),
            [](const v1::DataPlaneLimit& a, const v1::DataPlaneLimit& b) {
              return std::tie(a.limit().name(), a.data_plane()) < std::tie(b.limit().name(), b.data_plane());
            });
  return absl::OkStatus();
}

absl::Status FleetCalls::CheckDrain(const v1::SetDrainRequest& request) {
  if (request.data_plane().empty()) return absl::InvalidArgumentError("data_plane: expected a name");
  return CheckContext(request.context());
}

absl::Status FleetCalls::SetDrain(const v1::SetDrainRequest& request, const Caller& caller,
                                  v1::SetDrainResponse* response) {
  const std::string& name = request.data_plane();
  const absl::Time now = absl::Now();
  if (request.drained()) {
    if (absl::Status s = hub_->CheckDrain(name); !s.ok()) return s;
    v1::DataPlaneDrain drain;
    SetTime(now, drain.mutable_since());
    drain.set_actor(DoerOf(caller, request.context()));
    drain.set_comment(request.context().comment());
    absl::StatusOr<v1::DataPlaneDrain> in_force = drains_->Set(name, drain);
    if (!in_force.ok()) return in_force.status();
    *response->mutable_drain() = *std::move(in_force);
    WarnOfDrain(name, response);
  } else if (absl::Status s = drains_->Clear(name); !s.ok()) {
    return s;
  }
  const std::string what = absl::StrCat("data plane '", name, "': ", request.drained() ? "drained" : "undrained");
  spdlog::info("{}, by '{}' from {}", what, DoerOf(caller, request.context()), caller.address);
  audit_->Done(caller, what, now);
  return absl::OkStatus();
}

void FleetCalls::WarnOfDrain(const std::string& name, v1::SetDrainResponse* response) const {
  bool connected = false, others = false;
  for (const v1::DataPlaneState& each : hub_->DataPlanes()) {
    if (each.name() == name) {
      connected = each.connected();
    } else {
      others = others || (each.connected() && !each.has_drain());
    }
  }
  if (!connected) {
    response->add_warnings(absl::StrCat("data plane '", name, "' is not connected; it is drained once it is back"));
  }
  if (!others) response->add_warnings("no other data plane is connected and in service");
}

absl::Status FleetCalls::SetLogLevel(const v1::SetLogLevelRequest& request, const Caller& caller,
                                     v1::SetLogLevelResponse* response) {
  absl::Duration duration = kLogLevelDefault;
  if (request.has_duration()) {
    duration = absl::Seconds(request.duration().seconds()) + absl::Nanoseconds(request.duration().nanos());
  }
  if (duration < absl::Seconds(1) || duration > kLogLevelMax) {
    return absl::InvalidArgumentError("duration: expected 1s to 24h");
  }
  if (!v1::LoggingSection::Level_IsValid(request.level())) {
    return absl::InvalidArgumentError("level: expected trace, debug, info, warn or error");
  }
  if (request.data_plane().empty()) {
    log_level_->Set(request.level(), absl::ToChronoMilliseconds(duration));
  } else if (absl::Status s = hub_->SetLogLevel(request.data_plane(), request.level(), duration); !s.ok()) {
    return s;
  }
  const absl::Time now = absl::Now();
  const bool back = request.level() == v1::LoggingSection::LEVEL_UNSPECIFIED;
  if (!back) SetTime(now + duration, response->mutable_until());
  const std::string what = absl::StrCat(
      "log level of ",
      request.data_plane().empty() ? "the control plane" : absl::StrCat("'", request.data_plane(), "'"), ": ",
      back ? "as its bootstrap file has it"
           : absl::StrCat(absl::AsciiStrToLower(v1::LoggingSection::Level_Name(request.level())), " for ",
                          absl::FormatDuration(duration)));
  spdlog::info("{}, by '{}' from {}", what, DoerOf(caller, request.context()), caller.address);
  audit_->Done(caller, what, now);
  return absl::OkStatus();
}

void FleetCalls::Diagnose(const v1::DiagnoseRequest& request, v1::DiagnoseResponse* response,
                          std::function<void(const absl::Status&)> done) {
  if (request.data_plane().empty()) {
    *response = diagnose_();
    return done(absl::OkStatus());
  }
  hub_->Diagnose(request.data_plane(), [response, done = std::move(done)](absl::StatusOr<v1::Diagnostics> diagnostics) {
    if (diagnostics.ok()) response->mutable_files()->Swap(diagnostics->mutable_files());
    done(diagnostics.status());
  });
}

}  // namespace gateway::controlplane
