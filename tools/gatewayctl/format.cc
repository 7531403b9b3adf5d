#include "tools/gatewayctl/format.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/units.h"
#include "common/config/yaml.h"
#include "common/policy/policy_files.h"
#include "gateway/v1/policy.pb.h"
#include "gateway/v1/rules.pb.h"
#include "google/protobuf/util/time_util.h"

namespace gateway::ctl {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

// `index` is into a repeated field; -1 for a singular one.
Json FieldJson(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& r = *message.GetReflection();
  const bool repeated = index >= 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return repeated ? r.GetRepeatedInt32(message, &field, index) : r.GetInt32(message, &field);
    case FieldDescriptor::CPPTYPE_INT64:
      return repeated ? r.GetRepeatedInt64(message, &field, index) : r.GetInt64(message, &field);
    case FieldDescriptor::CPPTYPE_UINT32:
      return repeated ? r.GetRepeatedUInt32(message, &field, index) : r.GetUInt32(message, &field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return repeated ? r.GetRepeatedUInt64(message, &field, index) : r.GetUInt64(message, &field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return repeated ? r.GetRepeatedDouble(message, &field, index) : r.GetDouble(message, &field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return repeated ? r.GetRepeatedFloat(message, &field, index) : r.GetFloat(message, &field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return repeated ? r.GetRepeatedBool(message, &field, index) : r.GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_STRING:
      return repeated ? r.GetRepeatedString(message, &field, index) : r.GetString(message, &field);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* value = repeated ? r.GetRepeatedEnum(message, &field, index) : r.GetEnum(message, &field);
      const std::string& word = value->options().GetExtension(v1::word);
      return word.empty() ? absl::AsciiStrToLower(value->name()) : word;
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageJson(repeated ? r.GetRepeatedMessage(message, &field, index) : r.GetMessage(message, &field));
  }
  return nullptr;
}

Json MapJson(const Message& message, const FieldDescriptor& field) {
  const Reflection& r = *message.GetReflection();
  std::map<std::string, Json> sorted;  // a proto map has no order, a script's diff wants one
  for (int i = 0; i < r.FieldSize(message, &field); ++i) {
    const Message& entry = r.GetRepeatedMessage(message, &field, i);
    const Json key = FieldJson(entry, *entry.GetDescriptor()->FindFieldByNumber(1), -1);
    sorted[key.is_string() ? key.get<std::string>() : key.dump()] =
        FieldJson(entry, *entry.GetDescriptor()->FindFieldByNumber(2), -1);
  }
  Json object = Json::object();
  for (auto& [key, value] : sorted) object[key] = std::move(value);
  return object;
}

void AppendYaml(const Json& value, int indent, std::string* out) {
  const std::string margin(indent, ' ');
  // A value after its key or dash: on the same line if it is short by nature, else below, deeper.
  const auto append_value = [&](const Json& child) {
    if (child.is_structured() && !child.empty()) {
      *out += "\n";
      AppendYaml(child, indent + 2, out);
    } else {
      *out += " ";
      AppendYaml(child, 0, out);
    }
  };
  if (value.is_object() && !value.empty()) {
    for (const auto& [key, child] : value.items()) {
      absl::StrAppend(out, margin, YamlScalar(key), ":");
      append_value(child);
    }
  } else if (value.is_array() && !value.empty()) {
    for (const Json& child : value) {
      if (child.is_object() && !child.empty()) {
        std::string item;
        AppendYaml(child, indent + 2, &item);
        absl::StrAppend(out, margin, "- ", item.substr(indent + 2));
      } else {
        absl::StrAppend(out, margin, "-");
        append_value(child);
      }
    }
  } else if (value.is_string()) {
    absl::StrAppend(out, YamlScalar(value.get_ref<const std::string&>()), "\n");
  } else {
    absl::StrAppend(out, value.dump(), "\n");  // numbers, true, false, null, [] and {} are the same in both
  }
}

}  // namespace

std::string FormatAge(const google::protobuf::Timestamp& time, absl::Time now) {
  if (time.seconds() == 0 && time.nanos() == 0) return "";
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(now - ToTime(time)));
  if (seconds < 60) return absl::StrCat(seconds, "s");
  if (seconds < 3600) return absl::StrCat(seconds / 60, "m");
  if (seconds < 48 * 3600) return absl::StrCat(seconds / 3600, "h");
  return absl::StrCat(seconds / 86400, "d");
}

absl::StatusOr<absl::Duration> ParseAge(const std::string& text) {
  constexpr int64_t kDaysMax = 36'500;
  int64_t days = 0;
  absl::Duration age;
  if (text.ends_with('d') && absl::SimpleAtoi(text.substr(0, text.size() - 1), &days) && days <= kDaysMax) {
    age = absl::Hours(24 * days);
  } else {
    const absl::StatusOr<google::protobuf::Duration> duration = ParseDuration(text);
    if (duration.ok()) age = absl::Seconds(duration->seconds()) + absl::Nanoseconds(duration->nanos());
  }
  if (age > absl::ZeroDuration()) return age;
  return absl::InvalidArgumentError(absl::StrCat("expected a time such as 30d, 12h or 90m, found '", text, "'"));
}

absl::StatusOr<google::protobuf::Timestamp> ParseMoment(const std::string& text, absl::Time now) {
  absl::Time moment;
  if (const absl::StatusOr<absl::Duration> age = ParseAge(text); age.ok()) {
    moment = now - *age;
  } else if (std::string error; !absl::ParseTime(absl::RFC3339_full, text, &moment, &error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a time such as 30d, 12h or 2026-07-04T10:00:00Z, found '", text, "'"));
  }
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(moment));
}

std::string FormatTime(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", ToTime(time), absl::UTCTimeZone());
}

std::string FormatElapsed(const google::protobuf::Duration& elapsed) {
  const double ms = static_cast<double>(elapsed.seconds()) * 1e3 + elapsed.nanos() / 1e6;
  if (ms >= 10'000) return absl::StrFormat("%.1f s", ms / 1e3);
  return absl::StrCat(std::max<int64_t>(1, std::llround(ms)), " ms");
}

std::string FormatShortDuration(const google::protobuf::Duration& duration) {
  if (duration.nanos() % 1'000'000 == 0 || duration.seconds() < 0 || duration.nanos() < 0) {
    return FormatDuration(duration);
  }
  const double ms = static_cast<double>(duration.seconds()) * 1e3 + duration.nanos() / 1e6;
  std::string text = absl::StrFormat("%.3f", ms);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return absl::StrCat(text, "ms");
}

Json MessageJson(const Message& message) {
  if (const auto* time = dynamic_cast<const google::protobuf::Timestamp*>(&message)) return FormatTime(*time);
  if (const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&message)) {
    return FormatShortDuration(*duration);
  }
  if (const auto* resource = dynamic_cast<const v1::Resource*>(&message)) {
    return Json::parse(EncodeResourceJson(*resource), nullptr, /*allow_exceptions=*/false);
  }
  Json object = Json::object();
  const Reflection& r = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    Json value;
    if (field.is_map()) {
      value = MapJson(message, field);
    } else if (field.is_repeated()) {
      value = Json::array();
      for (int k = 0; k < r.FieldSize(message, &field); ++k) value.push_back(FieldJson(message, field, k));
    } else if (field.has_presence() && !r.HasField(message, &field)) {
      continue;
    } else {
      value = FieldJson(message, field, -1);
    }
    object[field.name()] = std::move(value);
  }
  return object;
}

std::string JsonText(const Json& value) {
  return value.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

std::string YamlText(const Json& value) {
  std::string text;
  AppendYaml(value, 0, &text);
  return text;
}

}  // namespace gateway::ctl
