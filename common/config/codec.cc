#include "common/config/codec.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/config/redaction.h"
#include "gateway/v1/policy.pb.h"
#include "gateway/v1/rules.pb.h"
#include "google/protobuf/duration.pb.h"
#include "nlohmann/json.hpp"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::Duration;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kFlowWidthMax = 96;  // a list of scalars up to this width is written in one line
constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr std::string_view kRedacted = "redacted";

const v1::FieldRules& RulesOf(const FieldDescriptor* field) { return field->options().GetExtension(v1::rules); }

bool IsMessage(const FieldDescriptor* field) { return field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE; }
bool IsDuration(const FieldDescriptor* field) {
  return IsMessage(field) && field->message_type() == Duration::descriptor();
}
bool IsSubmessage(const FieldDescriptor* field) { return IsMessage(field) && !IsDuration(field); }

std::string Join(std::string_view parent, std::string_view child) {
  if (parent.empty()) return std::string(child);
  return fmt::format("{}.{}", parent, child);
}

std::string EnumWord(const EnumValueDescriptor* value) {
  const std::string& word = value->options().GetExtension(v1::word);
  return word.empty() ? absl::AsciiStrToLower(value->name()) : word;
}

// The values that may be written: zero means "absent" and has no word.
std::vector<std::string> EnumWords(const EnumDescriptor* type) {
  std::vector<std::string> words;
  for (int i = 0; i < type->value_count(); ++i) {
    if (type->value(i)->number() != 0) words.push_back(EnumWord(type->value(i)));
  }
  return words;
}

std::string FormatNumber(double value) { return fmt::format("{:.15g}", value); }

Duration DurationOfSeconds(double seconds) {
  Duration duration;
  duration.set_seconds(static_cast<int64_t>(std::floor(seconds)));
  duration.set_nanos(static_cast<int32_t>(std::lround((seconds - std::floor(seconds)) * 1e9)));
  return duration;
}

double SecondsOf(const Duration& duration) {
  return static_cast<double>(duration.seconds()) + static_cast<double>(duration.nanos()) / 1e9;
}

// A bound of the rules, as an operator would write it.
std::string FormatBound(const FieldDescriptor* field, double bound) {
  if (IsDuration(field)) return FormatDuration(DurationOfSeconds(bound));
  if (RulesOf(field).size()) return FormatSize(static_cast<uint64_t>(bound));
  return FormatNumber(bound);
}

// "" where `value` is within the rules' range. The value is a number, a size in bytes, seconds or a list's length.
std::string RangeProblem(const FieldDescriptor* field, double value, std::string_view written) {
  const v1::FieldRules& rules = RulesOf(field);
  bool low = rules.has_min() && value < rules.min();
  bool high = rules.has_max() && value > rules.max();
  if (!low && !high) return "";
  if (field->is_repeated()) {
    if (high) return fmt::format("expected at most {} entries, found {}", FormatNumber(rules.max()), written);
    return fmt::format("expected at least {} entries, found {}", FormatNumber(rules.min()), written);
  }
  std::string range = rules.has_min() && rules.has_max() ? fmt::format("from {} to {}", FormatBound(field, rules.min()),
                                                                       FormatBound(field, rules.max()))
                      : rules.has_min() ? fmt::format("of at least {}", FormatBound(field, rules.min()))
                                        : fmt::format("of at most {}", FormatBound(field, rules.max()));
  std::string_view what = IsDuration(field) ? "a duration" : rules.size() ? "a size" : "a number";
  return fmt::format("expected {} {}, found {}", what, range, written);
}

// The numeric value of a scalar, for the range; nullopt: a type without one.
std::optional<double> NumberOf(const Message& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return static_cast<double>(reflection->GetInt64(message, field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection->GetUInt32(message, field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return static_cast<double>(reflection->GetUInt64(message, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->GetDouble(message, field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection->GetFloat(message, field);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (IsDuration(field)) return SecondsOf(static_cast<const Duration&>(reflection->GetMessage(message, field)));
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

bool IsSet(const Message& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  return field->is_repeated() ? reflection->FieldSize(message, field) > 0 : reflection->HasField(message, field);
}

// ---- Reading ----

// One scalar of any type, before it is put into its field or list.
struct Value {
  int64_t signed_number = 0;
  uint64_t unsigned_number = 0;
  double real = 0;
  bool boolean = false;
  std::string text;
  int enum_number = 0;
  Duration duration;
};

template <typename T>
bool ParseWhole(std::string_view text, T* value) {
  if (text.empty() || text == "-") return false;
  if (text.size() > 1 && (text[0] == '0' || text.starts_with("-0"))) return false;  // 010: eight, or ten?
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

template <typename T>
std::string WholeRange(const FieldDescriptor* field, double type_low, double type_high) {
  const v1::FieldRules& rules = RulesOf(field);
  if (field->is_repeated() || (!rules.has_min() && !rules.has_max())) {
    return fmt::format("from {} to {}", std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  }
  return fmt::format("from {} to {}", FormatNumber(rules.has_min() ? rules.min() : type_low),
                     FormatNumber(rules.has_max() ? rules.max() : type_high));
}

class Decoder {
 public:
  Decoder(std::vector<FieldProblem>* problems, SourceMap* sources) : problems_(problems), sources_(sources) {}

  void DecodeMap(const YamlNode& node, const std::string& path, Message* message,
                 const std::vector<std::string>& skip) {
    const Descriptor* type = message->GetDescriptor();
    if (node.kind != YamlNode::Kind::kMap) {
      Problem(node.position, path, fmt::format("expected a map, found {}", DescribeForMessage(node, HasSecrets(type))));
      return;
    }
    std::map<const google::protobuf::OneofDescriptor*, std::pair<std::string, int>> chosen;
    std::set<const FieldDescriptor*> attempted;
    for (const YamlNode::Entry& entry : node.entries) {
      if (std::find(skip.begin(), skip.end(), entry.key) != skip.end()) continue;
      const FieldDescriptor* field = type->FindFieldByName(entry.key);
      if (field == nullptr) {
        std::vector<std::string> names = skip;
        for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
        // An unknown key of a message with a secret may be the secret itself, without its colon or its name.
        const bool hidden = HasSecrets(type, false) && NearestName(entry.key, names).empty();
        Problem(entry.position, hidden ? path : Join(path, KeyInPath(entry.key)),
                "unknown field; " + DidYouMean(entry.key, names));
        continue;
      }
      std::string field_path = Join(path, field->name());
      if (sources_ != nullptr) (*sources_)[field_path] = entry.position;
      attempted.insert(field);
      if (const auto* oneof = field->real_containing_oneof()) {
        auto [first, added] = chosen.try_emplace(oneof, field->name(), entry.position.line);
        if (!added) {
          Problem(entry.position, field_path,
                  fmt::format("only one of {} may be given; '{}' is, on line {}", OneofNames(oneof),
                              first->second.first, first->second.second));
          continue;
        }
      }
      DecodeField(entry.value, field_path, message, field);
    }
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor* field = type->field(i);
      if (RulesOf(field).required() && !IsSet(*message, field) && !Reported(attempted, field, path)) {
        Problem(node.position, Join(path, field->name()), "is required");
      }
    }
  }

 private:
  static std::string OneofNames(const google::protobuf::OneofDescriptor* oneof) {
    std::vector<std::string> names;
    names.reserve(static_cast<size_t>(oneof->field_count()));
    for (int i = 0; i < oneof->field_count(); ++i) names.push_back(fmt::format("'{}'", oneof->field(i)->name()));
    return fmt::format("{}", fmt::join(names, ", "));
  }

  // Whether the field was written and its error is reported already.
  bool Reported(const std::set<const FieldDescriptor*>& attempted, const FieldDescriptor* field,
                const std::string& path) const {
    if (!attempted.contains(field)) return false;
    std::string name = Join(path, field->name());
    return std::any_of(problems_->begin(), problems_->end(),
                       [&](const FieldProblem& problem) { return problem.field.starts_with(name); });
  }

  void Problem(YamlPosition position, std::string field, std::string message) {
    problems_->push_back({position, std::move(field), std::move(message)});
  }

  void DecodeField(const YamlNode& node, const std::string& path, Message* message, const FieldDescriptor* field) {
    if (field->is_map()) {
      DecodeMapField(node, path, message, field);
    } else if (field->is_repeated()) {
      DecodeList(node, path, message, field);
    } else if (IsSubmessage(field)) {
      // "consul:" with nothing behind it, or with everything commented out, is as good as not written.
      if (node.kind == YamlNode::Kind::kNull) return;
      DecodeMap(node, path, message->GetReflection()->MutableMessage(message, field), {});
    } else {
      Value value;
      if (DecodeScalar(node, path, field, &value)) Store(value, message, field);
    }
  }

  void DecodeMapField(const YamlNode& node, const std::string& path, Message* message, const FieldDescriptor* field) {
    message->GetReflection()->ClearField(message, field);
    if (node.kind == YamlNode::Kind::kNull) return;
    if (node.kind != YamlNode::Kind::kMap) {
      const bool secret = HasSecrets(field->message_type());
      Problem(node.position, path, fmt::format("expected a map, found {}", DescribeForMessage(node, secret)));
      return;
    }
    const FieldDescriptor* key_field = field->message_type()->map_key();
    const FieldDescriptor* value_field = field->message_type()->map_value();
    for (const YamlNode::Entry& entry : node.entries) {
      std::string entry_path = Join(path, KeyInPath(entry.key));
      if (sources_ != nullptr) (*sources_)[entry_path] = entry.position;
      YamlNode key;
      key.kind = YamlNode::Kind::kScalar;
      key.scalar = entry.key;
      key.position = entry.position;
      Value key_value;
      if (!DecodeScalar(key, entry_path, key_field, &key_value)) continue;
      if (IsSubmessage(value_field)) {
        Message* added = AddEntry(message, field, key_value);
        DecodeMap(entry.value, entry_path, added->GetReflection()->MutableMessage(added, value_field), {});
        continue;
      }
      Value value;
      if (!DecodeScalar(entry.value, entry_path, value_field, &value)) continue;
      Store(value, AddEntry(message, field, key_value), value_field);
    }
  }

  Message* AddEntry(Message* message, const FieldDescriptor* field, const Value& key) {
    Message* added = message->GetReflection()->AddMessage(message, field);
    Store(key, added, field->message_type()->map_key());
    return added;
  }

  void DecodeList(const YamlNode& node, const std::string& path, Message* message, const FieldDescriptor* field) {
    const Reflection* reflection = message->GetReflection();
    const v1::FieldRules& rules = RulesOf(field);
    reflection->ClearField(message, field);
    if (node.kind == YamlNode::Kind::kNull) {
      if (rules.empty_is_none()) {
        Problem(node.position, path, "expected a list, found nothing; write [] for none, or leave it out");
      }
      return;
    }
    if (node.kind == YamlNode::Kind::kMap && !IsSubmessage(field)) {
      Problem(node.position, path, "expected a list, found a map");
      return;
    }
    if (node.kind != YamlNode::Kind::kSequence) {  // a list of one
      DecodeItem(node, path, message, field);
      return;
    }
    if (std::string problem =
            RangeProblem(field, static_cast<double>(node.items.size()), std::to_string(node.items.size()));
        !problem.empty()) {
      Problem(node.position, path, problem);
      return;
    }
    if (node.items.empty() && rules.empty_is_none()) {
      reflection->AddString(message, field, "none");
      return;
    }
    for (size_t i = 0; i < node.items.size(); ++i) {
      std::string item_path = fmt::format("{}[{}]", path, i);
      if (sources_ != nullptr) (*sources_)[item_path] = node.items[i].position;
      DecodeItem(node.items[i], item_path, message, field);
    }
  }

  void DecodeItem(const YamlNode& node, const std::string& path, Message* message, const FieldDescriptor* field) {
    if (IsSubmessage(field)) {
      DecodeMap(node, path, message->GetReflection()->AddMessage(message, field), {});
      return;
    }
    Value value;
    if (DecodeScalar(node, path, field, &value)) Store(value, message, field);
  }

  template <typename T>
  bool DecodeWhole(const YamlNode& node, const std::string& path, const FieldDescriptor* field, T* value) {
    using Limits = std::numeric_limits<T>;
    if (node.quoted || !ParseWhole(node.scalar, value)) {
      std::string_view digits = node.scalar;
      if (digits.starts_with('-')) digits.remove_prefix(1);
      bool number = !node.quoted && !digits.empty() && std::all_of(digits.begin(), digits.end(), absl::ascii_isdigit);
      std::string hint = node.quoted ? ", without quotes" : "";
      Problem(node.position, path,
              fmt::format("expected a whole number{}{}, found {}", hint,
                          number ? " " + WholeRange<T>(field, static_cast<double>(Limits::min()),
                                                       static_cast<double>(Limits::max()))
                                 : "",
                          DescribeForMessage(node, RulesOf(field).secret())));
      return false;
    }
    return true;
  }

  bool DecodeScalar(const YamlNode& node, const std::string& path, const FieldDescriptor* field, Value* value) {
    const v1::FieldRules& rules = RulesOf(field);
    auto refuse = [&](std::string_view expected) {
      Problem(node.position, path,
              fmt::format("expected {}, found {}", expected, DescribeForMessage(node, rules.secret())));
      return false;
    };
    if (node.kind != YamlNode::Kind::kScalar) return refuse(ExpectedOf(field));
    double number = 0;
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        value->text = node.scalar;
        return true;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (node.quoted) return refuse("true or false, without quotes");
        if (node.scalar != "true" && node.scalar != "false") return refuse("true or false");
        value->boolean = node.scalar == "true";
        return true;
      case FieldDescriptor::CPPTYPE_ENUM: {
        const EnumDescriptor* type = field->enum_type();
        for (int i = 0; i < type->value_count(); ++i) {
          if (type->value(i)->number() == 0 || EnumWord(type->value(i)) != node.scalar) continue;
          value->enum_number = type->value(i)->number();
          return true;
        }
        std::vector<std::string> words = EnumWords(type);
        std::string nearest = NearestName(node.scalar, words);
        Problem(node.position, path,
                fmt::format("expected {}{}, found {}{}", words.size() > 1 ? "one of: " : "",
                            fmt::format("{}", fmt::join(words, ", ")), DescribeForMessage(node, rules.secret()),
                            nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)));
        return false;
      }
      case FieldDescriptor::CPPTYPE_MESSAGE: {
        absl::StatusOr<Duration> duration = ParseDuration(node.scalar);
        if (!duration.ok()) {
          Problem(node.position, path, std::string(duration.status().message()));
          return false;
        }
        value->duration = *duration;
        number = SecondsOf(*duration);
        break;
      }
      case FieldDescriptor::CPPTYPE_INT32: {
        int32_t whole = 0;
        if (!DecodeWhole(node, path, field, &whole)) return false;
        value->signed_number = whole;
        number = whole;
        break;
      }
      case FieldDescriptor::CPPTYPE_INT64:
        if (!DecodeWhole(node, path, field, &value->signed_number)) return false;
        number = static_cast<double>(value->signed_number);
        break;
      case FieldDescriptor::CPPTYPE_UINT32: {
        uint32_t whole = 0;
        if (rules.size()) {
          absl::StatusOr<uint64_t> size = ParseSize(node.scalar);
          if (!size.ok() || *size > std::numeric_limits<uint32_t>::max())
            return refuse("a size such as 64KiB or 10MiB");
          whole = static_cast<uint32_t>(*size);
        } else if (!DecodeWhole(node, path, field, &whole)) {
          return false;
        }
        value->unsigned_number = whole;
        number = whole;
        break;
      }
      case FieldDescriptor::CPPTYPE_UINT64:
        if (rules.size()) {
          absl::StatusOr<uint64_t> size = ParseSize(node.scalar);
          if (!size.ok()) {
            Problem(node.position, path, std::string(size.status().message()));
            return false;
          }
          value->unsigned_number = *size;
        } else if (!DecodeWhole(node, path, field, &value->unsigned_number)) {
          return false;
        }
        number = static_cast<double>(value->unsigned_number);
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
      case FieldDescriptor::CPPTYPE_FLOAT: {
        const char* end = node.scalar.data() + node.scalar.size();
        auto [stop, error] = std::from_chars(node.scalar.data(), end, value->real, std::chars_format::fixed);
        if (node.quoted || error != std::errc() || stop != end || !std::isfinite(value->real))
          return refuse("a number");
        number = value->real;
        break;
      }
    }
    if (field->is_repeated()) return true;  // the range is of the list's length
    std::string problem = RangeProblem(field, number, DescribeForMessage(node, rules.secret()));
    if (problem.empty()) return true;
    Problem(node.position, path, problem);
    return false;
  }

  static std::string ExpectedOf(const FieldDescriptor* field) {
    if (IsDuration(field)) return "a duration such as 250ms, 30s or 1m";
    if (RulesOf(field).size()) return "a size such as 64KiB or 10MiB";
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        return "a string";
      case FieldDescriptor::CPPTYPE_BOOL:
        return "true or false";
      case FieldDescriptor::CPPTYPE_ENUM:
        return fmt::format("one of: {}", fmt::join(EnumWords(field->enum_type()), ", "));
      case FieldDescriptor::CPPTYPE_DOUBLE:
      case FieldDescriptor::CPPTYPE_FLOAT:
        return "a number";
      default:
        return "a whole number";
    }
  }

  // Sets a field, or adds to a list.
  static void Store(const Value& value, Message* message, const FieldDescriptor* field) {
    const Reflection* reflection = message->GetReflection();
    bool list = field->is_repeated();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        list ? reflection->AddString(message, field, value.text) : reflection->SetString(message, field, value.text);
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        list ? reflection->AddBool(message, field, value.boolean) : reflection->SetBool(message, field, value.boolean);
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        list ? reflection->AddEnumValue(message, field, value.enum_number)
             : reflection->SetEnumValue(message, field, value.enum_number);
        break;
      case FieldDescriptor::CPPTYPE_MESSAGE:
        (list ? reflection->AddMessage(message, field) : reflection->MutableMessage(message, field))
            ->CopyFrom(value.duration);
        break;
      case FieldDescriptor::CPPTYPE_INT32: {
        auto number = static_cast<int32_t>(value.signed_number);
        list ? reflection->AddInt32(message, field, number) : reflection->SetInt32(message, field, number);
        break;
      }
      case FieldDescriptor::CPPTYPE_INT64:
        list ? reflection->AddInt64(message, field, value.signed_number)
             : reflection->SetInt64(message, field, value.signed_number);
        break;
      case FieldDescriptor::CPPTYPE_UINT32: {
        auto number = static_cast<uint32_t>(value.unsigned_number);
        list ? reflection->AddUInt32(message, field, number) : reflection->SetUInt32(message, field, number);
        break;
      }
      case FieldDescriptor::CPPTYPE_UINT64:
        list ? reflection->AddUInt64(message, field, value.unsigned_number)
             : reflection->SetUInt64(message, field, value.unsigned_number);
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        list ? reflection->AddDouble(message, field, value.real) : reflection->SetDouble(message, field, value.real);
        break;
      case FieldDescriptor::CPPTYPE_FLOAT: {
        auto number = static_cast<float>(value.real);
        list ? reflection->AddFloat(message, field, number) : reflection->SetFloat(message, field, number);
        break;
      }
    }
  }

  std::vector<FieldProblem>* problems_;
  SourceMap* sources_;
};

// ---- Checking a message ----

void CheckMessage(const Message& message, const std::string& path, std::vector<FieldProblem>* problems) {
  const Descriptor* type = message.GetDescriptor();
  const Reflection* reflection = message.GetReflection();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    const v1::FieldRules& rules = RulesOf(field);
    std::string field_path = Join(path, field->name());
    if (!IsSet(message, field)) {
      if (rules.required()) problems->push_back({{}, field_path, "is required"});
      continue;
    }
    if (field->is_repeated()) {
      int size = reflection->FieldSize(message, field);
      if (std::string problem = RangeProblem(field, size, std::to_string(size)); !problem.empty()) {
        problems->push_back({{}, field_path, problem});
        continue;
      }
      if (field->is_map() || !IsSubmessage(field)) continue;
      for (int k = 0; k < size; ++k) {
        CheckMessage(reflection->GetRepeatedMessage(message, field, k), fmt::format("{}[{}]", field_path, k), problems);
      }
      continue;
    }
    if (IsSubmessage(field)) {
      CheckMessage(reflection->GetMessage(message, field), field_path, problems);
      continue;
    }
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
      int number = reflection->GetEnumValue(message, field);
      if (field->enum_type()->FindValueByNumber(number) == nullptr) {
        problems->push_back(
            {{},
             field_path,
             fmt::format("expected one of: {}, found {}", fmt::join(EnumWords(field->enum_type()), ", "), number)});
      }
      continue;
    }
    if (IsDuration(field)) {
      const auto& duration = static_cast<const Duration&>(reflection->GetMessage(message, field));
      if (duration.seconds() < 0 || duration.nanos() < 0 || duration.nanos() >= kNanosPerSecond ||
          duration.seconds() > kDurationHoursMax * 3600) {
        problems->push_back({{}, field_path, "not a duration that can be used"});
        continue;
      }
    }
    std::optional<double> number = NumberOf(message, field);
    if (!number.has_value()) continue;
    std::string written = IsDuration(field)
                              ? FormatDuration(static_cast<const Duration&>(reflection->GetMessage(message, field)))
                          : rules.size() ? FormatSize(static_cast<uint64_t>(*number))
                                         : FormatNumber(*number);
    if (std::string problem = RangeProblem(field, *number, written); !problem.empty()) {
      problems->push_back({{}, field_path, problem});
    }
  }
}

// ---- Writing ----

// A scalar, or one of a list (`index` >= 0), as YAML.
std::string EncodeScalar(const Message& message, const FieldDescriptor* field, int index,
                         Secrets secrets = Secrets::kRedacted) {
  const Reflection* r = message.GetReflection();
  const v1::FieldRules& rules = RulesOf(field);
  bool list = index >= 0;
  if (rules.secret() && secrets == Secrets::kRedacted) {
    // Policy's are hashes, and a fingerprint says whether they are the same; the bootstrap's may be short and guessed
    // by it.
    if (field->file() != v1::Resource::descriptor()->file()) return std::string(kRedacted);
    return YamlScalar(RedactedText(list ? r->GetRepeatedString(message, field, index) : r->GetString(message, field)));
  }
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text = list ? r->GetRepeatedString(message, field, index) : r->GetString(message, field);
      return YamlScalar(text);
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      return (list ? r->GetRepeatedBool(message, field, index) : r->GetBool(message, field)) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_ENUM: {
      int number = list ? r->GetRepeatedEnumValue(message, field, index) : r->GetEnumValue(message, field);
      const EnumValueDescriptor* value = field->enum_type()->FindValueByNumber(number);
      return value == nullptr ? std::to_string(number) : EnumWord(value);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return FormatDuration(static_cast<const Duration&>(list ? r->GetRepeatedMessage(message, field, index)
                                                              : r->GetMessage(message, field)));
    case FieldDescriptor::CPPTYPE_INT32:
      return std::to_string(list ? r->GetRepeatedInt32(message, field, index) : r->GetInt32(message, field));
    case FieldDescriptor::CPPTYPE_INT64:
      return std::to_string(list ? r->GetRepeatedInt64(message, field, index) : r->GetInt64(message, field));
    case FieldDescriptor::CPPTYPE_UINT32: {
      uint32_t number = list ? r->GetRepeatedUInt32(message, field, index) : r->GetUInt32(message, field);
      return rules.size() ? FormatSize(number) : std::to_string(number);
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t number = list ? r->GetRepeatedUInt64(message, field, index) : r->GetUInt64(message, field);
      return rules.size() ? FormatSize(number) : std::to_string(number);
    }
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return fmt::format("{}", list ? r->GetRepeatedDouble(message, field, index) : r->GetDouble(message, field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return fmt::format("{}", list ? r->GetRepeatedFloat(message, field, index) : r->GetFloat(message, field));
  }
  return "";
}

// The set fields, in the order of their numbers (which is not that of their declaration).
std::vector<const FieldDescriptor*> SetFields(const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  return fields;
}

// The entries of a map field by key, so that the same message is always the same text.
std::vector<const Message*> SortedEntries(const Message& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  std::vector<std::pair<std::string, const Message*>> keyed;
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, field, i);
    keyed.emplace_back(EncodeScalar(entry, field->message_type()->map_key(), -1), &entry);
  }
  std::sort(keyed.begin(), keyed.end());
  std::vector<const Message*> entries;
  entries.reserve(keyed.size());
  for (const auto& [key, entry] : keyed) entries.push_back(entry);
  return entries;
}

void EncodeBlock(const Message& message, size_t indent, Secrets secrets, std::string* out);

// A field's or entry's value, behind "key:".
void EncodeValueOf(const Message& message, const FieldDescriptor* field, size_t indent, Secrets secrets,
                   std::string* out) {
  if (!IsSubmessage(field)) {
    *out += " " + EncodeScalar(message, field, -1, secrets) + "\n";
    return;
  }
  const Message& child = message.GetReflection()->GetMessage(message, field);
  if (SetFields(child).empty()) {
    *out += " {}\n";
    return;
  }
  *out += "\n";
  EncodeBlock(child, indent + 2, secrets, out);
}

void EncodeList(const Message& message, const FieldDescriptor* field, size_t indent, Secrets secrets,
                std::string* out) {
  const Reflection* reflection = message.GetReflection();
  int size = reflection->FieldSize(message, field);
  std::string margin(indent + 2, ' ');
  if (IsSubmessage(field)) {
    *out += "\n";
    for (int i = 0; i < size; ++i) {
      std::string item;
      EncodeBlock(reflection->GetRepeatedMessage(message, field, i), indent + 4, secrets, &item);
      // The item's first line follows the dash.
      *out += margin + "- " + (item.empty() ? "{}\n" : item.substr(indent + 4));
    }
    return;
  }
  std::vector<std::string> items;
  size_t width = indent + field->name().size() + 4;
  for (int i = 0; i < size; ++i) {
    items.push_back(EncodeScalar(message, field, i, secrets));
    width += items.back().size() + 2;
  }
  if (width <= kFlowWidthMax) {
    *out += fmt::format(" [{}]\n", fmt::join(items, ", "));
    return;
  }
  *out += "\n";
  for (const std::string& item : items) Append(out, margin, "- ", item, "\n");
}

void EncodeBlock(const Message& message, size_t indent, Secrets secrets, std::string* out) {
  std::string margin(indent, ' ');
  for (const FieldDescriptor* field : SetFields(message)) {
    *out += margin + field->name() + ":";
    if (field->is_map()) {
      *out += "\n";
      for (const Message* entry : SortedEntries(message, field)) {
        *out += margin + "  " + EncodeScalar(*entry, field->message_type()->map_key(), -1) + ":";
        EncodeValueOf(*entry, field->message_type()->map_value(), indent + 2, secrets, out);
      }
    } else if (field->is_repeated()) {
      EncodeList(message, field, indent, secrets, out);
    } else {
      EncodeValueOf(message, field, indent, secrets, out);
    }
  }
}

nlohmann::ordered_json JsonOf(const Message& message);

nlohmann::ordered_json EncodeJsonScalar(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* r = message.GetReflection();
  bool list = index >= 0;
  bool text = RulesOf(field).secret() || RulesOf(field).size();  // written as YAML writes them
  switch (text ? FieldDescriptor::CPPTYPE_ENUM : field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return list ? r->GetRepeatedString(message, field, index) : r->GetString(message, field);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      if (IsSubmessage(field)) {
        return JsonOf(list ? r->GetRepeatedMessage(message, field, index) : r->GetMessage(message, field));
      }
      return EncodeScalar(message, field, index);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EncodeScalar(message, field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return list ? r->GetRepeatedDouble(message, field, index) : r->GetDouble(message, field);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return list ? r->GetRepeatedFloat(message, field, index) : r->GetFloat(message, field);
    default:  // whole numbers and booleans are written alike
      return nlohmann::ordered_json::parse(EncodeScalar(message, field, index));
  }
}

nlohmann::ordered_json JsonOf(const Message& message) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const FieldDescriptor* field : SetFields(message)) {
    nlohmann::ordered_json& value = object[field->name()];
    if (field->is_map()) {
      value = nlohmann::ordered_json::object();
      for (const Message* entry : SortedEntries(message, field)) {
        nlohmann::ordered_json key = EncodeJsonScalar(*entry, field->message_type()->map_key(), -1);
        value[key.is_string() ? key.get<std::string>() : key.dump()] =
            EncodeJsonScalar(*entry, field->message_type()->map_value(), -1);
      }
    } else if (field->is_repeated()) {
      value = nlohmann::ordered_json::array();
      for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
        value.push_back(EncodeJsonScalar(message, field, i));
      }
    } else {
      value = EncodeJsonScalar(message, field, -1);
    }
  }
  return object;
}

}  // namespace

std::string KeyInPath(std::string_view key) {
  const bool simple = !key.empty() && key.size() <= 64 && std::all_of(key.begin(), key.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
  });
  return simple ? std::string(key) : QuoteForMessage(key);
}

void DecodeYaml(const YamlNode& node, Message* message, std::vector<FieldProblem>* problems, SourceMap* sources,
                const std::vector<std::string>& skip) {
  Decoder(problems, sources).DecodeMap(node, "", message, skip);
}

void CheckRules(const Message& message, std::vector<FieldProblem>* problems) { CheckMessage(message, "", problems); }

std::string EncodeYaml(const Message& message, int indent, Secrets secrets) {
  std::string out;
  EncodeBlock(message, static_cast<size_t>(std::max(indent, 0)), secrets, &out);
  return out;
}

std::string EncodeJson(const Message& message, std::string_view kind) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  if (!kind.empty()) object["kind"] = kind;
  object.update(JsonOf(message));
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace gateway
