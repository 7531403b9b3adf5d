// Values as operators write them: durations, sizes, and the names that they meant.
#ifndef GATEWAY_COMMON_BASE_UNITS_H_
#define GATEWAY_COMMON_BASE_UNITS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/duration.pb.h"

namespace gateway {

// The longest duration that can be written; 114 years: in nanoseconds still an int64.
inline constexpr int64_t kDurationHoursMax = 1'000'000;

// "1m", "1500ms"; "10MiB", "100".
std::string FormatDuration(const google::protobuf::Duration& duration);
std::string FormatSize(uint64_t bytes);
// InvalidArgument says what was expected.
absl::StatusOr<google::protobuf::Duration> ParseDuration(std::string_view text);
absl::StatusOr<uint64_t> ParseSize(std::string_view text);
// What is finer than a millisecond is dropped.
std::chrono::milliseconds ToMillis(const google::protobuf::Duration& duration);

// The candidate nearest to `word` (edit distance at most 1 + length/3), or "".
std::string NearestName(std::string_view word, const std::vector<std::string>& candidates);
// "did you mean 'x'?", or what to choose from.
std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_UNITS_H_
