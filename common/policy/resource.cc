#include "common/policy/resource.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "common/config/codec.h"
#include "common/config/redaction.h"
#include "common/policy/kinds/checks.h"
#include "common/policy/kinds/kinds.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The members of Resource's oneof, in the order of their numbers: the list of kinds is the schema's own.
const google::protobuf::OneofDescriptor* KindOneof() {
  static const auto* const kOneof = v1::Resource::descriptor()->FindOneofByName("kind");
  return kOneof;
}

// null: `resource` holds nothing.
const FieldDescriptor* HeldField(const v1::Resource& resource) {
  return resource.GetReflection()->GetOneofFieldDescriptor(resource, KindOneof());
}

const FieldDescriptor* FieldOfKind(std::string_view kind) {
  for (int i = 0; i < KindOneof()->field_count(); ++i) {
    if (KindOneof()->field(i)->message_type()->name() == kind) return KindOneof()->field(i);
  }
  return nullptr;
}

// "rate-limits" -> "ratelimits".
std::string Squeeze(std::string_view word) {
  std::string squeezed;
  for (char c : word) {
    if (c != '-' && c != '_') squeezed += absl::ascii_tolower(c);
  }
  return squeezed;
}

constexpr size_t kLabelNameBytesMax = 63;     // as Kubernetes has it
constexpr size_t kLabelPrefixBytesMax = 253;  // RFC 1123, section 2.1

// Lower-case labels of letters, digits and inner dashes, with dots between them.
bool IsDnsSubdomain(std::string_view text) {
  if (text.empty() || text.size() > kLabelPrefixBytesMax) return false;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string_view label = text.substr(begin, end - begin);
    if (label.empty() || label.front() == '-' || label.back() == '-') return false;
    if (!std::all_of(label.begin(), label.end(),
                     [](unsigned char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-'; })) {
      return false;
    }
    begin = end + 1;
  }
  return true;
}

// A text field that every kind has.
const std::string& TextOf(const v1::Resource& resource, const char* field) {
  static const std::string kEmpty;
  const Message* body = BodyOf(resource);
  if (body == nullptr) return kEmpty;
  return body->GetReflection()->GetStringReference(*body, body->GetDescriptor()->FindFieldByName(field), nullptr);
}

bool IsPluralOf(std::string_view word, std::string_view singular) {
  if (word.starts_with(singular)) {
    std::string_view ending = word.substr(singular.size());
    return ending == "s" || ending == "es";
  }
  if (!singular.ends_with('y')) return false;
  singular.remove_suffix(1);
  return word.starts_with(singular) && word.substr(singular.size()) == "ies";
}

}  // namespace

std::span<const std::string_view> ResourceKinds() {
  static const auto* const kKinds = [] {
    auto* kinds = new std::vector<std::string_view>;
    for (int i = 0; i < KindOneof()->field_count(); ++i) {
      kinds->push_back(KindOneof()->field(i)->message_type()->name());
    }
    return kinds;
  }();
  return *kKinds;
}

absl::StatusOr<std::string> CanonicalKind(std::string_view word) {
  std::string squeezed = Squeeze(word);
  for (std::string_view kind : ResourceKinds()) {
    std::string lower = Squeeze(kind);
    if (squeezed == lower || IsPluralOf(squeezed, lower)) return std::string(kind);
  }
  for (const Kind& kind : Kinds()) {
    for (std::string_view name : kind.short_names) {
      if (squeezed != name && !IsPluralOf(squeezed, name)) continue;
      return v1::Resource::descriptor()->FindFieldByNumber(kind.number)->message_type()->name();
    }
  }
  return absl::NotFoundError(
      fmt::format("there is no kind {}; the kinds are {}", QuoteForMessage(word), fmt::join(ResourceKinds(), ", ")));
}

ResourceKey KeyOf(const v1::Resource& resource) {
  const Message* body = BodyOf(resource);
  if (body == nullptr) return {};
  return {body->GetDescriptor()->name(), NameOf(resource)};
}

const std::string& NameOf(const v1::Resource& resource) { return TextOf(resource, "name"); }

const std::string& DescriptionOf(const v1::Resource& resource) { return TextOf(resource, "description"); }

const Labels& LabelsOf(const v1::Resource& resource) {
  static const Labels kEmpty;
  const Kind* kind = KindOf(resource);
  return kind == nullptr ? kEmpty : kind->labels(resource);
}

const Message* BodyOf(const v1::Resource& resource) {
  const FieldDescriptor* field = HeldField(resource);
  return field == nullptr ? nullptr : &resource.GetReflection()->GetMessage(resource, field);
}

Message* MutableBodyOf(v1::Resource* resource, std::string_view kind) {
  const FieldDescriptor* field = FieldOfKind(kind);
  return field == nullptr ? nullptr : resource->GetReflection()->MutableMessage(resource, field);
}

void RestoreSecrets(const v1::Resource* current, v1::Resource* resource, std::vector<v1::PolicyError>* errors) {
  const ResourceKey key = KeyOf(*resource);
  Message* body = MutableBodyOf(resource, key.kind);
  if (body == nullptr) return;
  std::vector<FieldProblem> problems;
  RestoreSecrets(current == nullptr ? nullptr : BodyOf(*current), body, &problems);
  for (const FieldProblem& problem : problems) {
    v1::PolicyError& error = errors->emplace_back();
    error.set_kind(key.kind);
    error.set_name(key.name);
    error.set_field(problem.field);
    error.set_message(problem.message);
  }
}

absl::Status CheckName(std::string_view name) {
  auto refuse = [&](std::string_view why) {
    return absl::InvalidArgumentError(fmt::format("{} is not a name: {}", QuoteForMessage(name), why));
  };
  auto outer = [](char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); };
  if (name.empty()) return absl::InvalidArgumentError("a name is missing");
  if (name == "none") return refuse("'none' is reserved");
  if (name.size() > 128) return refuse("expected at most 128 characters");
  if (!outer(name.front()) || !outer(name.back())) {
    return refuse("expected a lower-case letter or a digit at its beginning and end");
  }
  for (char c : name) {
    if (!outer(c) && c != '.' && c != '_' && c != '-') {
      return refuse("expected lower-case letters, digits, '.', '_' and '-' only");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLabelKey(std::string_view key) {
  const auto refuse = [key](std::string_view why) {
    return absl::InvalidArgumentError(fmt::format("{} is not the key of a label: {}", QuoteForMessage(key), why));
  };
  const size_t slash = key.find('/');
  if (slash != std::string_view::npos && !IsDnsSubdomain(key.substr(0, slash))) {
    return refuse("expected a lower-case DNS name before the '/', as in example.com/team");
  }
  const std::string_view name = slash == std::string_view::npos ? key : key.substr(slash + 1);
  const auto alphanumeric = [](unsigned char c) { return absl::ascii_isalnum(c); };
  const bool valid = !name.empty() && name.size() <= kLabelNameBytesMax && alphanumeric(name.front()) &&
                     alphanumeric(name.back()) && std::all_of(name.begin(), name.end(), [&](char c) {
                       return alphanumeric(c) || c == '.' || c == '_' || c == '-';
                     });
  if (valid) return absl::OkStatus();
  return refuse(
      fmt::format("expected {}1 to {} letters, digits, '.', '_' and '-', with a letter or a digit at both ends, as in "
                  "team or example.com/team",
                  slash == std::string_view::npos ? "" : "after the '/' ", kLabelNameBytesMax));
}

void CheckLabelKeys(const v1::Resource& resource, std::vector<v1::PolicyError>* errors) {
  const ResourceKey key = KeyOf(resource);
  const Report report(key, errors);
  for (const auto& [label, value] : LabelsOf(resource)) {
    report.AddIfBad(fmt::format("labels.{}", KeyInPath(label)), CheckLabelKey(label));
  }
}

std::string CanonicalBytes(const v1::Resource& resource) {
  std::string bytes;
  bytes.reserve(resource.ByteSizeLong());
  {
    google::protobuf::io::StringOutputStream sink(&bytes);
    google::protobuf::io::CodedOutputStream out(&sink);
    out.SetSerializationDeterministic(true);  // maps by key
    resource.SerializeToCodedStream(&out);
  }
  return bytes;
}

}  // namespace gateway
