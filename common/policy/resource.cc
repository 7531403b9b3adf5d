#include "common/policy/resource.h"

#include <array>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "common/config/yaml.h"
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

// The short names, beside the kind itself and its plural.
constexpr std::array<std::pair<std::string_view, std::string_view>, 13> kShortNames = {{
    {"svc", "Service"},
    {"rt", "Route"},
    {"rl", "RateLimit"},
    {"limit", "RateLimit"},
    {"cb", "CircuitBreaker"},
    {"breaker", "CircuitBreaker"},
    {"def", "Defaults"},
    {"default", "Defaults"},
    {"con", "Consumer"},
    {"user", "Consumer"},
    {"access", "IpAccess"},
    {"ip", "IpAccess"},
    {"cert", "Certificate"},
}};

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
  for (const auto& [name, kind] : kShortNames) {
    if (squeezed == name || IsPluralOf(squeezed, name)) return std::string(kind);
  }
  return absl::NotFoundError(
      fmt::format("there is no kind {}; the kinds are {}", QuoteForMessage(word), fmt::join(ResourceKinds(), ", ")));
}

ResourceKey KeyOf(const v1::Resource& resource) {
  const Message* body = BodyOf(resource);
  if (body == nullptr) return {};
  const auto* name = body->GetDescriptor()->FindFieldByName("name");
  return {body->GetDescriptor()->name(), body->GetReflection()->GetString(*body, name)};
}

const google::protobuf::Map<std::string, std::string>& LabelsOf(const v1::Resource& resource) {
  static const google::protobuf::Map<std::string, std::string> kNone;
  switch (resource.kind_case()) {
    case v1::Resource::kService:
      return resource.service().labels();
    case v1::Resource::kRoute:
      return resource.route().labels();
    case v1::Resource::kRateLimit:
      return resource.rate_limit().labels();
    case v1::Resource::kCircuitBreaker:
      return resource.circuit_breaker().labels();
    case v1::Resource::kDefaults:
      return resource.defaults().labels();
    case v1::Resource::kRetry:
      return resource.retry().labels();
    case v1::Resource::kAuth:
      return resource.auth().labels();
    case v1::Resource::kConsumer:
      return resource.consumer().labels();
    case v1::Resource::kCors:
      return resource.cors().labels();
    case v1::Resource::kIpAccess:
      return resource.ip_access().labels();
    case v1::Resource::kCertificate:
      return resource.certificate().labels();
    case v1::Resource::KIND_NOT_SET:
      break;
  }
  return kNone;
}

const Message* BodyOf(const v1::Resource& resource) {
  const FieldDescriptor* field = HeldField(resource);
  return field == nullptr ? nullptr : &resource.GetReflection()->GetMessage(resource, field);
}

Message* MutableBodyOf(v1::Resource* resource, std::string_view kind) {
  const FieldDescriptor* field = FieldOfKind(kind);
  return field == nullptr ? nullptr : resource->GetReflection()->MutableMessage(resource, field);
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
