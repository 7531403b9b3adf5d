// Values as operators write them: durations, sizes, and corrections of misspelled names.
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

// The longest duration: 114 years; in nanoseconds it still fits an int64.
inline constexpr int64_t kDurationHoursMax = 1'000'000;

// "1m", "1500ms"; "10MiB", "100".
std::string FormatDuration(const google::protobuf::Duration& duration);
std::string FormatSize(uint64_t bytes);
// InvalidArgument says what is expected.
absl::StatusOr<google::protobuf::Duration> ParseDuration(std::string_view text);
absl::StatusOr<uint64_t> ParseSize(std::string_view text);

// Rounded down to whole milliseconds.
std::chrono::milliseconds ToMillis(const google::protobuf::Duration& duration);

// The candidate nearest to `word` (edit distance at most 1 + length/3), or "".
std::string NearestName(std::string_view word, const std::vector<std::string>& candidates);
// "did you mean 'x'?", or the names to choose from.
std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_UNITS_H_
