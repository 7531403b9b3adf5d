#include "dataplane/config/timed_overrides.h"

#include <algorithm>
#include <cstdint>

#include "common/base/units.h"

namespace gateway::dataplane {
namespace {

absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

}  // namespace

void TimedOverrides::Assign(const v1::OperationsUpdate& update, absl::Time now) {
  all_.assign(update.overrides().begin(), update.overrides().end());
  for (v1::EndpointOverride& each : all_) {
    if (!each.has_remaining()) continue;
    const int64_t micros = absl::ToUnixMicros(now) + ToMillis(each.remaining()).count() * 1000;
    each.mutable_until()->set_seconds(micros / 1'000'000);
    each.mutable_until()->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
    each.clear_remaining();
  }
  FindEnd();
}

void TimedOverrides::Restore(const google::protobuf::RepeatedPtrField<v1::EndpointOverride>& overrides,
                             absl::Time now) {
  all_.assign(overrides.begin(), overrides.end());
  (void)EndDue(now);
  FindEnd();
}

bool TimedOverrides::EndDue(absl::Time now) {
  const bool any = std::erase_if(all_, [now](const v1::EndpointOverride& each) {
                     return each.has_until() && TimeOf(each.until()) <= now;
                   }) > 0;
  if (any) FindEnd();
  return any;
}

void TimedOverrides::FindEnd() {
  end_ = absl::InfiniteFuture();
  for (const v1::EndpointOverride& each : all_) {
    if (each.has_until()) end_ = std::min(end_, TimeOf(each.until()));
  }
}

OverrideTable TimedOverrides::Table() const {
  OverrideTable table;
  for (const v1::EndpointOverride& each : all_) {
    table.by_endpoint[{each.service(), each.endpoint()}] = {each.action_case(), each.weight()};
  }
  return table;
}

}  // namespace gateway::dataplane
