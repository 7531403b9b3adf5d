// Values and messages as text: for people (age) and for scripts (JSON, YAML).
#ifndef GATEWAY_TOOLS_GATEWAYCTL_FORMAT_H_
#define GATEWAY_TOOLS_GATEWAYCTL_FORMAT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/message.h"
#include "google/protobuf/timestamp.pb.h"
#include "nlohmann/json.hpp"

namespace gateway::ctl {

using Json = nlohmann::ordered_json;

// "12s", "3m", "5h", "12d": the largest unit that fits. "" for no time at all.
std::string FormatAge(const google::protobuf::Timestamp& time, absl::Time now);
// "30d", or a duration as in policy: "12h". InvalidArgument says what was expected; never zero.
absl::StatusOr<absl::Duration> ParseAge(const std::string& text);
// A moment: so long before `now` (ParseAge), or in RFC 3339. InvalidArgument says what was expected.
absl::StatusOr<google::protobuf::Timestamp> ParseMoment(const std::string& text, absl::Time now);
// RFC 3339 in UTC: "2026-07-04T10:00:00.25Z".
std::string FormatTime(const google::protobuf::Timestamp& time);
// "9 ms", "12.3 s" from ten seconds on. Never "0 ms": what took less than one is rounded up.
std::string FormatElapsed(const google::protobuf::Duration& elapsed);

// As policy writes durations, down to microseconds: "1m", "250ms", "2.147ms".
std::string FormatShortDuration(const google::protobuf::Duration& duration);

// Any message of the admin API: the proto's names, times in RFC 3339, durations as in policy, enum values in lower
// case, a Resource as its document. Every plain field is there, also at its default, so that scripts need not ask.
Json MessageJson(const google::protobuf::Message& message);

// Indented, with a newline at the end.
std::string JsonText(const Json& value);
// The same value as block YAML.
std::string YamlText(const Json& value);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_FORMAT_H_
