// Times as messages carry them.
#ifndef GATEWAY_COMMON_BASE_TIMESTAMP_H_
#define GATEWAY_COMMON_BASE_TIMESTAMP_H_

#include <cstdint>

#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"

namespace gateway {

// In whole microseconds. Requires: not before 1970.
inline void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t micros = absl::ToUnixMicros(time);
  out->set_seconds(micros / 1'000'000);
  out->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
}

inline absl::Time TimeOf(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_TIMESTAMP_H_
