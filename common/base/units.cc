#include "common/base/units.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

using google::protobuf::Duration;

constexpr size_t kSuggestionMax = 64;  // longer words get no "did you mean"
constexpr int64_t kNanosPerSecond = 1'000'000'000;

}  // namespace

std::string FormatDuration(const Duration& duration) {
  int64_t seconds = duration.seconds();
  int64_t nanos = duration.nanos();
  std::string sign;
  if (seconds < 0 || nanos < 0) {
    sign = "-";
    seconds = -seconds;
    nanos = -nanos;
  }
  if (nanos == 0) {
    if (seconds != 0 && seconds % 3600 == 0) return fmt::format("{}{}h", sign, seconds / 3600);
    if (seconds != 0 && seconds % 60 == 0) return fmt::format("{}{}m", sign, seconds / 60);
    return fmt::format("{}{}s", sign, seconds);
  }
  // The finest unit that is needed; a long duration is two parts, "3600s1ns".
  auto [divisor, unit] = nanos % 1'000'000 == 0 ? std::pair(1'000'000, "ms")
                         : nanos % 1'000 == 0   ? std::pair(1'000, "us")
                                                : std::pair(1, "ns");
  if (seconds < 1'000'000) return fmt::format("{}{}{}", sign, (seconds * kNanosPerSecond + nanos) / divisor, unit);
  return fmt::format("{}{}s{}{}", sign, seconds, nanos / divisor, unit);
}

std::string FormatSize(uint64_t bytes) {
  static constexpr std::pair<int, std::string_view> kUnits[] = {{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}};
  for (const auto& [shift, unit] : kUnits) {
    if (bytes != 0 && bytes % (uint64_t{1} << shift) == 0) return fmt::format("{}{}", bytes >> shift, unit);
  }
  return std::to_string(bytes);
}

absl::StatusOr<Duration> ParseDuration(std::string_view text) {
  auto refuse = [&](std::string_view expected) {
    return absl::InvalidArgumentError(fmt::format("expected {}, found {}", expected, QuoteForMessage(text)));
  };
  constexpr std::string_view kExpected = "a duration such as 250ms, 30s or 1m";
  static constexpr std::pair<std::string_view, int64_t> kUnits[] = {{"h", 3600 * kNanosPerSecond},
                                                                    {"m", 60 * kNanosPerSecond},
                                                                    {"s", kNanosPerSecond},
                                                                    {"ms", 1'000'000},
                                                                    {"us", 1'000},
                                                                    {"ns", 1}};
  constexpr int64_t kMax = kDurationHoursMax * 3600 * kNanosPerSecond;
  if (text.starts_with('-')) return refuse("a duration that is not negative");
  int64_t total = 0;
  int64_t last_unit = std::numeric_limits<int64_t>::max();
  std::string_view rest = text;
  if (rest.empty()) return refuse(kExpected);
  while (!rest.empty()) {
    size_t whole = 0;
    while (whole < rest.size() && absl::ascii_isdigit(rest[whole])) ++whole;
    if (whole == 0) return refuse(kExpected);
    std::string_view fraction;
    size_t length = whole;
    if (length < rest.size() && rest[length] == '.') {
      size_t begin = ++length;
      while (length < rest.size() && absl::ascii_isdigit(rest[length])) ++length;
      fraction = rest.substr(begin, length - begin);
      if (fraction.empty()) return refuse(kExpected);
    }
    size_t unit_end = length;
    while (unit_end < rest.size() && absl::ascii_isalpha(rest[unit_end])) ++unit_end;
    std::string_view unit_name = rest.substr(length, unit_end - length);
    int64_t unit = 0;
    if (unit_name.empty()) {
      if (rest.data() != text.data()) return refuse(kExpected);  // "1h30": thirty of what?
      unit = kNanosPerSecond;
    }
    for (const auto& [name, nanos] : kUnits) {
      if (unit_name == name) unit = nanos;
    }
    if (unit == 0) return refuse("a duration such as 250ms, 30s or 1m (units: h, m, s, ms, us, ns)");
    if (unit >= last_unit) return refuse("the units of a duration from the largest down, each once");
    last_unit = unit;
    int64_t number = 0;
    auto [end, error] = std::from_chars(rest.data(), rest.data() + whole, number);
    if (error != std::errc() || number > (kMax - total) / unit) {
      return refuse(fmt::format("a duration of at most {}h", kDurationHoursMax));
    }
    total += number * unit;
    int64_t scale = unit;
    for (char digit : fraction) {
      if (scale % 10 != 0 && digit != '0') return refuse("a duration of whole nanoseconds");
      scale /= 10;
      total += (digit - '0') * scale;
    }
    if (total > kMax) return refuse(fmt::format("a duration of at most {}h", kDurationHoursMax));
    rest.remove_prefix(unit_end);
  }
  Duration duration;
  duration.set_seconds(total / kNanosPerSecond);
  duration.set_nanos(static_cast<int32_t>(total % kNanosPerSecond));
  return duration;
}

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  auto refuse = [&](std::string_view expected) {
    return absl::InvalidArgumentError(fmt::format("expected {}, found {}", expected, QuoteForMessage(text)));
  };
  uint64_t number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc::result_out_of_range) return refuse("a size below 16384PiB");
  if (error != std::errc()) return refuse("a size such as 64KiB or 10MiB");
  std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  static constexpr std::pair<std::string_view, int> kUnits[] = {{"", 0},     {"B", 0},    {"KiB", 10},
                                                                {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  for (const auto& [name, shift] : kUnits) {
    if (unit != name) continue;
    if (number > std::numeric_limits<uint64_t>::max() >> shift) return refuse("a size below 16384PiB");
    return number << shift;
  }
  return refuse("a size such as 64KiB or 10MiB (units: B, KiB, MiB, GiB, TiB)");
}

std::chrono::milliseconds ToMillis(const google::protobuf::Duration& duration) {
  return std::chrono::seconds(duration.seconds()) + std::chrono::milliseconds(duration.nanos() / 1'000'000);
}

std::string NearestName(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.size() > kSuggestionMax) return "";
  size_t best = 1 + word.size() / 3;
  const std::string* nearest = nullptr;
  for (const std::string& candidate : candidates) {
    // Levenshtein's distance, one row at a time.
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t i = 0; i < row.size(); ++i) row[i] = i;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t k = 1; k <= candidate.size(); ++k) {
        size_t substituted = diagonal + (absl::ascii_tolower(word[i - 1]) != absl::ascii_tolower(candidate[k - 1]));
        diagonal = row[k];
        row[k] = std::min({row[k] + 1, row[k - 1] + 1, substituted});
      }
    }
    if (row.back() < best || (row.back() == best && nearest == nullptr)) {
      best = row.back();
      nearest = &candidate;
    }
  }
  // A word of which nothing stayed is not "near".
  return nearest == nullptr || best >= word.size() ? "" : *nearest;
}

std::string DidYouMean(std::string_view word, const std::vector<std::string>& candidates) {
  std::string nearest = NearestName(word, candidates);
  if (!nearest.empty()) return fmt::format("did you mean '{}'?", nearest);
  return fmt::format("expected one of: {}", fmt::join(candidates, ", "));
}

}  // namespace gateway
