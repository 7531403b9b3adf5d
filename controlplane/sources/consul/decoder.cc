#include "controlplane/sources/consul/decoder.h"

#include <arpa/inet.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/quote.h"
#include "nlohmann/json.hpp"

namespace gateway::controlplane {
namespace {

using Json = nlohmann::json;

// Size, nesting and number of values, by one look at the text: the parsed form takes many times the text's memory.
absl::Status CheckShape(std::string_view text) {
  if (text.size() > kResponseBytesMax) return absl::ResourceExhaustedError("the response is longer than 64 MiB");
  size_t depth = 0, values = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        break;
      case '[':
      case '{':
        ++values;
        if (++depth > kResponseDepthMax) return absl::InvalidArgumentError("the response nests too deeply");
        break;
      case ']':
      case '}':
        if (depth > 0) --depth;
        break;
      case ',':
        ++values;
        break;
      default:
        break;
    }
  }
  if (values > kResponseValuesMax) return absl::ResourceExhaustedError("the response has more than 4,000,000 values");
  return absl::OkStatus();
}

absl::StatusOr<Json> Parse(std::string_view text) {
  if (absl::Status shape = CheckShape(text); !shape.ok()) return shape;
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("the response is not JSON");
  return json;
}

// The member, or null if it is absent, null, or `object` is not an object. Consul writes empty lists and maps as null.
const Json* Member(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const std::string kEmpty;

// A member that is a string or absent; false if it is something else.
bool ReadString(const Json& object, const char* name, const std::string** out) {
  const Json* member = Member(object, name);
  *out = member == nullptr ? &kEmpty : member->get_ptr<const std::string*>();
  return *out != nullptr;
}

// Any number as an integer in [low, high]; `otherwise` if it is absent or not an integer.
int64_t ReadInteger(const Json& object, const char* name, int64_t low, int64_t high, int64_t otherwise) {
  const Json* member = Member(object, name);
  if (member == nullptr || !member->is_number_integer()) return otherwise;
  if (member->is_number_unsigned()) {
    return static_cast<int64_t>(std::clamp<uint64_t>(
        member->get<uint64_t>(), static_cast<uint64_t>(std::max<int64_t>(low, 0)), static_cast<uint64_t>(high)));
  }
  return std::clamp(member->get<int64_t>(), low, high);
}

// A string inside a map that should hold strings; "" if it is absent or something else.
std::string StringAt(const Json& object, const char* map, const char* name) {
  const Json* outer = Member(object, map);
  const Json* inner = outer == nullptr ? nullptr : Member(*outer, name);
  const std::string* text = inner == nullptr ? nullptr : inner->get_ptr<const std::string*>();
  return text == nullptr ? "" : *text;
}

bool IsIpAddress(const std::string& address) {
  in6_addr parsed;  // room for either
  if (inet_pton(AF_INET, address.c_str(), &parsed) == 1) return true;
  const size_t scope = address.find('%');
  if (scope != std::string::npos &&
      (scope + 1 == address.size() || !std::all_of(address.begin() + static_cast<ptrdiff_t>(scope) + 1, address.end(),
                                                   [](unsigned char c) { return absl::ascii_isalnum(c); }))) {
    return false;
  }
  return inet_pton(AF_INET6, address.substr(0, scope).c_str(), &parsed) == 1;
}

// Letters, digits, dashes and underscores between dots (RFC 1123, section 2.1, and what is in use); the last label is
// not a number, so nothing that was meant as an IPv4 address passes.
bool IsHostName(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  if (name.empty() || name.size() > 253) return false;
  for (;;) {
    const std::string_view label = name.substr(0, name.find('.'));
    const auto letter = [](unsigned char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_'; };
    if (label.empty() || label.size() > 63 || label.starts_with('-') || label.ends_with('-')) return false;
    if (!std::all_of(label.begin(), label.end(), letter)) return false;
    if (label.size() == name.size()) {
      return !std::all_of(label.begin(), label.end(), [](unsigned char c) { return absl::ascii_isdigit(c); });
    }
    name.remove_prefix(label.size() + 1);
  }
}

int Rank(v1::Instance::Health health) { return static_cast<int>(health); }  // the enum is in rising order

v1::Instance::Health HealthOf(std::string_view check_id, std::string_view status) {
  if (status == "passing") return v1::Instance::PASSING;
  if (check_id == "_node_maintenance" || check_id.starts_with("_service_maintenance:") || status == "maintenance") {
    return v1::Instance::MAINTENANCE;
  }
  if (status == "warning") return v1::Instance::WARNING;
  return v1::Instance::CRITICAL;  // also a status that we don't know: no traffic on a guess
}

absl::Status WrongEntry(size_t index, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("entry ", index, ": ", what));
}

// Adds one check. A sum, since the order of checks means nothing.
bool AddCheck(const Json& check, bool with_node_checks, CheckDigests* digests) {
  const std::string *node, *check_id, *status, *service_id, *service;
  if (!check.is_object() || !ReadString(check, "Node", &node) || !ReadString(check, "CheckID", &check_id) ||
      !ReadString(check, "Status", &status) || !ReadString(check, "ServiceID", &service_id) ||
      !ReadString(check, "ServiceName", &service)) {
    return false;
  }
  if (service->empty() && !with_node_checks) return true;
  std::vector<std::string> tags;
  if (const Json* list = Member(check, "ServiceTags"); list != nullptr && list->is_array()) {
    for (const Json& tag : *list) {
      if (const auto* tag_text = tag.get_ptr<const std::string*>()) tags.push_back(*tag_text);
    }
  }
  const uint64_t digest = absl::HashOf(*node, *check_id, *service_id, *status, tags);
  (service->empty() ? digests->nodes[*node] : digests->services[*service]) += digest | 1;
  return true;
}

absl::Status DecodeInstance(const Json& entry, size_t index, v1::Instance* out) {
  const Json* node = Member(entry, "Node");
  const Json* service = Member(entry, "Service");
  if (node == nullptr || !node->is_object()) return WrongEntry(index, "Node is not an object");
  if (service == nullptr || !service->is_object()) return WrongEntry(index, "Service is not an object");

  const std::string *node_name, *id, *name, *address, *node_address;
  if (!ReadString(*node, "Node", &node_name) || node_name->empty()) return WrongEntry(index, "Node.Node is not a name");
  if (!ReadString(*service, "ID", &id)) return WrongEntry(index, "Service.ID is not a string");
  if (!ReadString(*service, "Service", &name)) return WrongEntry(index, "Service.Service is not a string");
  if (!ReadString(*service, "Address", &address)) return WrongEntry(index, "Service.Address is not a string");
  if (!ReadString(*node, "Address", &node_address)) return WrongEntry(index, "Node.Address is not a string");
  const std::string& key = id->empty() ? *name : *id;
  if (key.empty()) return WrongEntry(index, "Service has neither ID nor name");
  if (node_name->size() + 1 + key.size() > kIdBytesMax) return WrongEntry(index, "Service.ID is too long");
  out->set_id(absl::StrCat(*node_name, "/", key));

  auto health = v1::Instance::PASSING;
  if (const Json* checks = Member(entry, "Checks")) {
    if (!checks->is_array()) return WrongEntry(index, "Checks is not a list");
    for (const Json& check : *checks) {
      const std::string *check_id, *status;
      if (!check.is_object() || !ReadString(check, "CheckID", &check_id) || !ReadString(check, "Status", &status)) {
        return WrongEntry(index, "Checks has an entry that is not a check");
      }
      const auto of_check = HealthOf(*check_id, *status);
      if (Rank(of_check) > Rank(health)) health = of_check;
    }
  }
  out->set_health(health);

  const std::string& usable = address->empty() ? *node_address : *address;
  const int64_t port = ReadInteger(*service, "Port", -1, 65536, 0);
  const bool address_ok = IsIpAddress(usable) || IsHostName(usable);
  const bool port_ok = port >= 1 && port <= 65535;
  const bool reachable = address_ok && port_ok;
  if (address_ok) out->set_address(usable);
  if (port_ok) out->set_port(static_cast<uint32_t>(port));
  if (!address_ok) {
    out->set_unusable(absl::StrCat("address ", QuoteForMessage(usable), " is neither an IP address nor a host name"));
  } else if (!port_ok) {
    out->set_unusable("the port is not between 1 and 65535");
  }

  int64_t weight = 0;
  if (reachable && (health == v1::Instance::PASSING || health == v1::Instance::WARNING)) {
    const Json* weights = Member(*service, "Weights");
    const char* which = health == v1::Instance::PASSING ? "Passing" : "Warning";
    weight = weights == nullptr ? 1 : ReadInteger(*weights, which, 0, kInstanceWeightMax, 1);
  }
  out->set_weight(static_cast<uint32_t>(weight));

  for (const auto& [object, map, member] : {std::tuple{service, "Meta", "zone"},
                                            {service, "Locality", "Zone"},
                                            {node, "Meta", "zone"},
                                            {node, "Locality", "Zone"}}) {
    std::string zone = StringAt(*object, map, member);
    if (zone.empty() || zone.size() > kTagBytesMax) continue;
    out->set_zone(std::move(zone));
    break;
  }

  if (const Json* tags = Member(*service, "Tags")) {
    if (!tags->is_array()) return WrongEntry(index, "Service.Tags is not a list");
    for (const Json& tag : *tags) {
      const auto* text = tag.get_ptr<const std::string*>();
      if (text == nullptr) return WrongEntry(index, "Service.Tags has an entry that is not a string");
      if (text->size() > kTagBytesMax || static_cast<size_t>(out->tags_size()) >= kTagsMax) continue;
      out->add_tags(*text);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<v1::Instance>> DecodeHealthService(std::string_view text, CheckDigests* checks) {
  const absl::StatusOr<Json> json = Parse(text);
  if (!json.ok()) return json.status();
  if (!json->is_array()) return absl::InvalidArgumentError("the response is not a list");
  if (json->size() > kInstancesMax) return absl::ResourceExhaustedError("more than 20,000 instances");
  std::vector<v1::Instance> instances(json->size());
  for (size_t i = 0; i < instances.size(); ++i) {
    if (absl::Status status = DecodeInstance((*json)[i], i, &instances[i]); !status.ok()) return status;
  }
  if (checks != nullptr) {
    // Every instance of a node lists the node's own checks; they count once.
    std::set<std::string_view> nodes;
    for (size_t i = 0; i < instances.size(); ++i) {
      const std::string_view id = instances[i].id();
      const bool new_node = nodes.insert(id.substr(0, id.find('/'))).second;
      const Json* list = Member((*json)[i], "Checks");
      if (list == nullptr) continue;
      for (const Json& check : *list) {
        if (!AddCheck(check, new_node, checks)) return WrongEntry(i, "Checks has an entry that is not a check");
      }
    }
  }
  // Not the algorithms over ranges: clang 14, which builds the fuzzer, can't compile those of gcc 12's library.
  std::stable_sort(instances.begin(), instances.end(), [](const auto& a, const auto& b) { return a.id() < b.id(); });
  const auto twice =
      std::unique(instances.begin(), instances.end(), [](const auto& a, const auto& b) { return a.id() == b.id(); });
  instances.erase(twice, instances.end());
  return instances;
}

absl::StatusOr<CatalogListing> DecodeCatalogServices(std::string_view text) {
  const absl::StatusOr<Json> json = Parse(text);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return absl::InvalidArgumentError("the response is not a map");
  if (json->size() > kCatalogServicesMax) return absl::ResourceExhaustedError("more than 100,000 services");
  CatalogListing listing;
  for (const auto& [name, tags] : json->items()) {
    if (name.empty() || name.size() > kNameBytesMax) {
      return absl::InvalidArgumentError("a service's name is empty or too long");
    }
    if (!tags.is_array() && !tags.is_null()) return absl::InvalidArgumentError("the tags of a service are not a list");
    std::vector<std::string>& out = listing[name];
    for (const Json& tag : tags) {
      const auto* tag_text = tag.get_ptr<const std::string*>();
      if (tag_text == nullptr) return absl::InvalidArgumentError("a tag of a service is not a string");
      if (tag_text->size() <= kTagBytesMax && out.size() < kTagsMax) out.push_back(*tag_text);
    }
  }
  return listing;
}

absl::StatusOr<CheckDigests> DecodeHealthState(std::string_view text) {
  const absl::StatusOr<Json> json = Parse(text);
  if (!json.ok()) return json.status();
  if (!json->is_array()) return absl::InvalidArgumentError("the response is not a list");
  CheckDigests digests;
  for (size_t i = 0; i < json->size(); ++i) {
    if (!AddCheck((*json)[i], true, &digests)) return WrongEntry(i, "is not a check");
  }
  return digests;
}

absl::StatusOr<std::map<std::string, AgentService>> DecodeAgentServices(std::string_view text) {
  const absl::StatusOr<Json> json = Parse(text);
  if (!json.ok()) return json.status();
  if (!json->is_object()) return absl::InvalidArgumentError("the response is not a map");
  std::map<std::string, AgentService> services;
  for (const auto& [id, entry] : json->items()) {
    const std::string *service, *address;
    if (!ReadString(entry, "Service", &service) || !ReadString(entry, "Address", &address) || !entry.is_object()) {
      return absl::InvalidArgumentError("the response has an entry that is not a service");
    }
    AgentService out;
    out.service = *service;
    out.address = *address;
    out.port = ReadInteger(entry, "Port", -1, 65536, 0);
    if (const Json* tags = Member(entry, "Tags"); tags != nullptr && tags->is_array()) {
      for (const Json& tag : *tags) {
        if (const auto* tag_text = tag.get_ptr<const std::string*>()) out.tags.push_back(*tag_text);
      }
    }
    if (const Json* meta = Member(entry, "Meta"); meta != nullptr && meta->is_object()) {
      for (const auto& [key, value] : meta->items()) {
        if (const auto* value_text = value.get_ptr<const std::string*>()) out.meta[key] = *value_text;
      }
    }
    services.emplace(id, std::move(out));
  }
  return services;
}

}  // namespace gateway::controlplane
