#include "common/config/bootstrap.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <system_error>
#include <thread>
#include <tuple>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/base/address_set.h"
#include "common/base/fetched_url.h"
#include "common/base/host_port.h"
#include "common/base/quote.h"
#include "common/base/units.h"
#include "common/base/version.h"
#include "common/config/codec.h"
#include "common/config/yaml.h"
#include "gateway/v1/rules.pb.h"
#include "google/protobuf/duration.pb.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::Duration;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kFileBytesMax = 1u << 20;  // a bootstrap file; thousands of times what one needs
constexpr uint32_t kWorkersMax = 1024;
constexpr size_t kDataPlaneNameMax = 128;
// Of a Unix socket's address 107 bytes can be used; it is bound under a longer name first.
constexpr size_t kHandoverPathMax = 90;
constexpr size_t kRedactedNameBytesMax = 64;

const v1::FieldRules& RulesOf(const FieldDescriptor* field) { return field->options().GetExtension(v1::rules); }

bool IsSection(const FieldDescriptor* field) {
  return field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field->is_repeated() &&
         field->message_type() != Duration::descriptor();
}

// One key of the file, below its sections.
struct Key {
  std::string path;                            // "consul.health_check.interval"
  std::vector<const FieldDescriptor*> fields;  // from the root to the key
  // Lists of messages, and maps, have no spelling in one line of text.
  bool overridable = true;
};

void CollectKeys(const Descriptor* type, const std::string& path, std::vector<const FieldDescriptor*> fields,
                 std::vector<Key>* keys) {
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    std::string field_path = path.empty() ? field->name() : path + "." + field->name();
    fields.push_back(field);
    if (IsSection(field)) {
      CollectKeys(field->message_type(), field_path, fields, keys);
    } else {
      bool many_messages = field->is_repeated() && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
      keys->push_back({field_path, fields, !many_messages && !RulesOf(field).no_override()});
    }
    fields.pop_back();
  }
}

const std::vector<Key>& AllKeys() {
  static const auto* const kKeys = [] {
    auto* keys = new std::vector<Key>;
    CollectKeys(v1::Bootstrap::descriptor(), "", {}, keys);
    return keys;
  }();
  return *kKeys;
}

const Key* FindKey(std::string_view path) {
  for (const Key& key : AllKeys()) {
    if (key.path == path) return &key;
  }
  return nullptr;
}

// "server.port" -> "GATEWAY_SERVER_PORT".
std::string EnvironmentName(std::string_view path) {
  std::string name = "GATEWAY_";
  for (char c : path) name += c == '.' ? '_' : absl::ascii_toupper(c);
  return name;
}

// The tree that a file with only this key would give: the codec then reads it as it reads a file.
YamlNode NodeOf(const Key& key, std::string_view text) {
  YamlNode node;
  if (key.fields.back()->is_repeated()) {
    node.kind = YamlNode::Kind::kSequence;
    while (!text.empty()) {
      size_t comma = std::min(text.find(','), text.size());
      std::string_view word = text.substr(0, comma);
      while (!word.empty() && absl::ascii_isspace(word.front())) word.remove_prefix(1);
      while (!word.empty() && absl::ascii_isspace(word.back())) word.remove_suffix(1);
      YamlNode& item = node.items.emplace_back();
      item.kind = YamlNode::Kind::kScalar;
      item.scalar = std::string(word);
      text.remove_prefix(std::min(comma + 1, text.size()));
    }
  } else {
    node.kind = YamlNode::Kind::kScalar;
    node.scalar = std::string(text);
  }
  for (auto field = key.fields.rbegin(); field != key.fields.rend(); ++field) {
    YamlNode parent;
    parent.kind = YamlNode::Kind::kMap;
    parent.entries.push_back({(*field)->name(), {}, std::move(node)});
    node = std::move(parent);
  }
  return node;
}

bool IsLoopback(const std::string& host) {
  in_addr address;
  if (inet_pton(AF_INET, host.c_str(), &address) == 1) return (ntohl(address.s_addr) >> 24) == 127;
  in6_addr address6;
  if (inet_pton(AF_INET6, host.c_str(), &address6) == 1) return IN6_IS_ADDR_LOOPBACK(&address6);
  return host == "localhost";
}

bool IsAnyAddress(const std::string& host) { return host == "0.0.0.0" || host == "::" || host.empty(); }

// Fills a LoadedBootstrap, step by step: file, environment, flags, defaults, then the checks that no rule can say.
class Loader {
 public:
  explicit Loader(LoadedBootstrap* loaded) : loaded_(loaded) {}

  void ReadFile(const std::string& path) {
    errno = 0;
    std::ifstream in(path, std::ios::binary);
    std::string text;
    if (in) {
      text.resize(kFileBytesMax + 1);
      in.read(text.data(), static_cast<std::streamsize>(text.size()));
      text.resize(static_cast<size_t>(in.gcount()));
    }
    if (!in.is_open() || in.bad()) {
      Problem(fmt::format("{}: cannot be read: {}", path, std::generic_category().message(errno == 0 ? EIO : errno)));
      return;
    }
    YamlLimits limits;
    limits.bytes_max = kFileBytesMax;
    std::vector<YamlProblem> yaml_problems;
    std::vector<YamlNode> documents = ParseYaml(text, &yaml_problems, limits);
    for (const YamlProblem& problem : yaml_problems) {
      Problem(fmt::format("{}: {}", At(path, problem.position), problem.message));
    }
    std::erase_if(documents, [](const YamlNode& node) { return node.kind == YamlNode::Kind::kNull; });
    if (documents.size() > 1) {
      Problem(fmt::format("{}: expected one document, found {}", At(path, documents[1].position), documents.size()));
    }
    if (documents.empty()) return;
    std::vector<FieldProblem> problems;
    SourceMap sources;
    DecodeYaml(documents[0], &loaded_->config, &problems, &sources);
    for (const auto& [field, position] : sources) {
      origins_[field] = At(path, position);
    }
    for (const FieldProblem& problem : problems) {
      std::string where = At(path, problem.position);
      Problem(problem.field.empty() ? fmt::format("{}: {}", where, problem.message)
                                    : fmt::format("{}: {}: {}", where, problem.field, problem.message));
      wrong_.insert(problem.field);
    }
  }

  void ReadEnvironment(const std::vector<std::string>& environment) {
    std::map<std::string, const Key*, std::less<>> by_name;
    std::vector<std::string> names;
    for (const Key& key : AllKeys()) {
      by_name.emplace(EnvironmentName(key.path), &key);
      if (key.overridable) names.push_back(EnvironmentName(key.path));
    }
    for (const std::string& variable : environment) {
      size_t equals = variable.find('=');
      std::string name = variable.substr(0, equals);
      if (!name.starts_with("GATEWAY_") || name.starts_with("GATEWAY_TEST_")) continue;
      if (name == "GATEWAY_SERVER" || name == "GATEWAY_TOKEN" || name == "GATEWAY_CA") continue;
      // What Kubernetes and container links put into every process beside a service called `gateway`.
      if (name == "GATEWAY_PORT" || name.starts_with("GATEWAY_PORT_") || name.starts_with("GATEWAY_SERVICE_")) continue;
      std::string value = equals == std::string::npos ? "" : variable.substr(equals + 1);
      std::string origin = "environment " + name;
      auto found = by_name.find(name);
      if (found == by_name.end()) {
        std::string nearest = NearestName(name, names);
        Problem(fmt::format("environment {}: is not a key of the bootstrap file{}", QuoteForMessage(name),
                            nearest.empty() ? "" : fmt::format("; did you mean {}?", nearest)));
        continue;
      }
      Override(*found->second, value, origin);
    }
  }

  void ReadSets(const std::vector<std::string>& sets) {
    std::vector<std::string> paths;
    for (const Key& key : AllKeys()) {
      if (key.overridable) paths.push_back(key.path);
    }
    for (const std::string& set : sets) {
      size_t equals = set.find('=');
      std::string path = set.substr(0, equals);
      if (equals == std::string::npos) {
        Problem(fmt::format("--set {}: expected KEY=VALUE, such as server.port=8081", QuoteForMessage(path)));
        continue;
      }
      const Key* key = FindKey(path);
      if (key == nullptr) {
        std::string nearest = NearestName(path, paths);
        Problem(fmt::format("--set {}: unknown key{}", QuoteForMessage(path),
                            nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest)));
        continue;
      }
      Override(*key, set.substr(equals + 1), "--set " + path);
    }
  }

  void FillDefaults() { FillSection(&loaded_->config, ""); }

  void Check() {
    const v1::Bootstrap& config = loaded_->config;
    CheckServer(config.server());
    CheckOptionalHostPort("consul.address", config.consul().address());
    const std::string& service = config.consul().service_name();
    if (service.empty() || service.size() > 128 || !std::all_of(service.begin(), service.end(), [](char c) {
          return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
        })) {
      KeyProblem("consul.service_name", fmt::format("expected 1 to 128 letters, digits, '-', '_' and '.', found {}",
                                                    QuoteForMessage(service)));
    }
    CheckPair("consul.tls", config.consul().tls().cert(), config.consul().tls().key());
    if (!config.consul().token().empty() && !config.consul().token_file().empty()) {
      KeyProblem("consul.token_file", "is given beside consul.token; expected one of the two");
    }
    CheckOptionalHostPort("redis.address", config.redis().address());
    if (const std::string& host = config.metrics().host(); !IsIpAddress(host) && host != "localhost") {
      KeyProblem("metrics.host", fmt::format("expected an IP address or localhost, found {}", QuoteForMessage(host)));
    }
    if (config.access_log().path().empty()) {
      KeyProblem("access_log.path", "expected a file, or \"-\" for standard output, found ''");
    }
    for (int i = 0; i < config.access_log().redact_query_size(); ++i) {
      const std::string& name = config.access_log().redact_query(i);
      const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
        return absl::ascii_isgraph(c) && c != '&' && c != ';' && c != '=' && c != '%';
      });
      if (!plain || name.empty() || name.size() > kRedactedNameBytesMax) {
        ListProblem("access_log.redact_query", i,
                    fmt::format("expected the name of a query parameter, of 1 to {} characters, decoded, found {}",
                                kRedactedNameBytesMax, QuoteForMessage(name)));
      }
    }
    CheckControlPlane(config.control_plane());
    CheckDataPlane(config.data_plane());
    CheckPorts(config);
  }

  // Every key in the order of the schema, then what the file says below lists and maps.
  void WriteOrigins() {
    for (const Key& key : AllKeys()) {
      auto found = origins_.find(key.path);
      if (found != origins_.end()) {
        loaded_->origins.emplace_back(key.path, found->second);
      } else if (key.fields[0]->name() == "rate_limit" && !loaded_->config.has_rate_limit()) {
        loaded_->origins.emplace_back(key.path, "absent");
      } else {
        loaded_->origins.emplace_back(key.path, "default");
      }
    }
  }

 private:
  static std::string At(const std::string& path, YamlPosition position) {
    return position.line > 0 ? fmt::format("{}:{}:{}", path, position.line, position.column) : path;
  }

  void Problem(std::string text) { loaded_->problems.push_back(std::move(text)); }

  // A problem with a value, wherever it came from. A value that was told to be wrong already is left alone.
  void KeyProblem(const std::string& path, const std::string& message) {
    if (wrong_.contains(path)) return;
    auto origin = origins_.find(path);
    Problem(fmt::format("{}: {}: {}", origin == origins_.end() ? "default" : origin->second, path, message));
  }

  void Override(const Key& key, const std::string& value, const std::string& origin) {
    if (!key.overridable) {
      Problem(fmt::format("{}: {} can be set in the file only", origin, key.path));
      return;
    }
    if (!IsValidUtf8(value)) {
      Problem(fmt::format("{}: {}: not UTF-8", origin, key.path));
      return;
    }
    std::vector<FieldProblem> problems;
    DecodeYaml(NodeOf(key, value), &loaded_->config, &problems);
    for (const FieldProblem& problem : problems) {
      Problem(fmt::format("{}: {}: {}", origin, problem.field, problem.message));
      wrong_.insert(problem.field);
    }
    // The entries of a list that is replaced are no longer the file's.
    std::erase_if(origins_, [&](const auto& entry) { return entry.first.starts_with(key.path + "["); });
    origins_[key.path] = origin;
  }

  void FillSection(Message* message, const std::string& path) {
    const Descriptor* type = message->GetDescriptor();
    const auto* reflection = message->GetReflection();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor* field = type->field(i);
      std::string field_path = path.empty() ? field->name() : path + "." + field->name();
      if (IsSection(field)) {
        // Absent means something: no limit; a listener without TLS.
        const bool optional = field_path == "rate_limit" || path.ends_with(']');
        if (optional && !reflection->HasField(*message, field)) continue;
        FillSection(reflection->MutableMessage(message, field), field_path);
        continue;
      }
      if (field->is_repeated() && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        if (field->is_map()) continue;
        for (int k = 0; k < reflection->FieldSize(*message, field); ++k) {
          FillSection(reflection->MutableRepeatedMessage(message, field, k), fmt::format("{}[{}]", field_path, k));
        }
        continue;
      }
      if (field->is_repeated()) {
        // An explicit empty list is not an absent one.
        if (reflection->FieldSize(*message, field) > 0 || origins_.contains(field_path)) continue;
        if (RulesOf(field).default_().empty()) continue;
      } else {
        if (reflection->HasField(*message, field)) continue;
        // An optional string without a default is set to "", so that no reader has to ask whether it is there.
        bool optional_text = field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && field->has_presence();
        if (RulesOf(field).default_().empty() && !optional_text) continue;
      }
      Key key{field->name(), {field}, true};
      std::vector<FieldProblem> problems;
      // Only this key's problems count: a default does not need the section's required keys.
      DecodeYaml(NodeOf(key, RulesOf(field).default_()), message, &problems);
      for (const FieldProblem& problem : problems) {
        if (problem.field == field->name()) Problem(fmt::format("default: {}: {}", field_path, problem.message));
      }
    }
  }

  void CheckServer(const v1::ServerSection& server) {
    std::set<std::string> addresses;
    for (int i = 0; i < server.listeners_size(); ++i) {
      std::string path = fmt::format("server.listeners[{}].address", i);
      const std::string& address = server.listeners(i).address();
      if (address.empty()) continue;  // required: told already
      absl::StatusOr<HostPort> parsed = ParseHostPort(address);
      if (!parsed.ok()) {
        KeyProblem(path, std::string(parsed.status().message()));
      } else if (!IsIpAddress(parsed->host)) {
        KeyProblem(path, fmt::format("expected an IP address and a port, found the host name {}",
                                     QuoteForMessage(parsed->host)));
      } else if (parsed->port != 0 && !addresses.insert(address).second) {
        KeyProblem(path, fmt::format("{} is given twice", QuoteForMessage(address)));
      }
    }
    for (int i = 0; i < server.listeners_size(); ++i) CheckListener(server.listeners(i), i);
    uint32_t workers = 0;
    const std::string& text = server.workers();
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), workers);
    bool number = error == std::errc() && end == text.data() + text.size();
    if (text != "auto" && (!number || workers < 1 || workers > kWorkersMax)) {
      KeyProblem("server.workers",
                 fmt::format("expected auto, or a number from 1 to {}, found {}", kWorkersMax, QuoteForMessage(text)));
    }
    if (server.handover().size() > kHandoverPathMax) {
      KeyProblem("server.handover", fmt::format("expected a path of at most {} bytes, found one of {}",
                                                kHandoverPathMax, server.handover().size()));
    }
    AddressSet trusted;
    for (int i = 0; i < server.trusted_proxies_size(); ++i) {
      const absl::Status status = trusted.Add(server.trusted_proxies(i));
      if (!status.ok()) ListProblem("server.trusted_proxies", i, std::string(status.message()));
    }
  }

  // What can be told without reading the files.
  void CheckListener(const v1::Listener& listener, int index) {
    const std::string path = fmt::format("server.listeners[{}]", index);
    std::set<std::string> protocols;
    for (int i = 0; i < listener.protocols_size(); ++i) {
      const std::string& each = listener.protocols(i);
      const std::string at = fmt::format("{}.protocols[{}]", path, i);
      if (each != "h2" && each != "http/1.1") {
        KeyProblem(at, fmt::format("expected h2 or http/1.1, found {}", QuoteForMessage(each)));
      } else if (!protocols.insert(each).second) {
        KeyProblem(at, fmt::format("{} is given twice", QuoteForMessage(each)));
      }
    }
    if (!listener.has_tls()) return;
    const v1::ListenerTls& tls = listener.tls();
    if (tls.has_min_version() && tls.min_version() != "1.2" && tls.min_version() != "1.3") {
      KeyProblem(path + ".tls.min_version",
                 fmt::format("expected 1.2 or 1.3, found {}", QuoteForMessage(tls.min_version())));
    }
    const bool asks =
        tls.client_certificate() == v1::ListenerTls::OPTIONAL || tls.client_certificate() == v1::ListenerTls::REQUIRED;
    if (asks && tls.client_ca().empty()) {
      KeyProblem(path + ".tls.client_ca", "is needed where client_certificate is optional or required");
    }
  }

  void ListProblem(const std::string& list, int index, const std::string& message) {
    std::string path = fmt::format("{}[{}]", list, index);
    if (auto origin = origins_.find(list); origin != origins_.end()) origins_.try_emplace(path, origin->second);
    KeyProblem(path, message);
  }

  void CheckOptionalHostPort(const std::string& path, const std::string& address) {
    if (address.empty()) return;
    absl::StatusOr<HostPort> parsed = ParseHostPort(address);
    if (address.find('@') != std::string::npos) {
      KeyProblem(path, "expected host:port without a user's name or password, which have keys of their own");
    } else if (!parsed.ok()) {
      KeyProblem(path, std::string(parsed.status().message()));
    } else if (parsed->port == 0) {
      KeyProblem(path, "a port from 1 to 65535 is needed");
    }
  }

  // `prefix`: of the two keys.
  void CheckPair(const std::string& path, const std::string& cert, const std::string& key,
                 std::string_view prefix = "") {
    if (cert.empty() == key.empty()) return;
    KeyProblem(fmt::format("{}.{}{}", path, prefix, cert.empty() ? "cert" : "key"),
               fmt::format("is missing; expected {0}cert and {0}key together, found only {0}{1}", prefix,
                           cert.empty() ? "key" : "cert"));
  }

  void CheckControlPlane(const v1::ControlPlaneSection& control) {
    for (const auto& [path, address, tls_path, tls] :
         {std::tuple("control_plane.admin_listen", control.admin_listen(), std::string("control_plane.admin_tls"),
                     control.admin_tls()),
          std::tuple("control_plane.stream_listen", control.stream_listen(), std::string("control_plane.stream_tls"),
                     control.stream_tls())}) {
      absl::StatusOr<HostPort> parsed = ParseHostPort(address);
      if (!parsed.ok()) {
        KeyProblem(path, std::string(parsed.status().message()));
      } else if (!IsIpAddress(parsed->host) && parsed->host != "localhost") {
        KeyProblem(path, fmt::format("expected an IP address or localhost, and a port, found the host name {}",
                                     QuoteForMessage(parsed->host)));
      } else if (!IsLoopback(parsed->host) && tls.cert().empty() && !control.insecure()) {
        KeyProblem(path, fmt::format("{} is reachable from other machines, and without TLS anyone there may use it; "
                                     "listen on 127.0.0.1, set {}, or set control_plane.insecure: true",
                                     QuoteForMessage(address), tls_path));
      }
      CheckPair(tls_path, tls.cert(), tls.key());
      if (tls.cert().empty() && !tls.client_ca().empty()) {
        KeyProblem(tls_path + ".client_ca", "is given without cert and key");
      }
    }
    if (!control.stream_tls().cert().empty() && control.stream_tls().client_ca().empty()) {
      KeyProblem("control_plane.stream_tls.client_ca",
                 "is needed with stream_tls: data planes identify themselves by certificates of it");
    }
    const v1::JoinSection& join = control.join();
    CheckPair("control_plane.join", join.ca_cert(), join.ca_key(), "ca_");
    if (!join.ca_cert().empty() && control.stream_tls().cert().empty()) {
      KeyProblem("control_plane.join.ca_cert", "needs stream_tls: data planes join over TLS");
    }
    CheckOidc(control);
    if (control.database().empty()) KeyProblem("control_plane.database", "expected a file, found ''");
  }

  // Kinds are checked by the control plane, which knows them.
  void CheckOidc(const v1::ControlPlaneSection& control) {
    const std::string path = "control_plane.oidc";
    const v1::OidcSection& oidc = control.oidc();
    if (oidc.issuer().empty()) {
      const bool given = std::any_of(origins_.begin(), origins_.end(), [&path](const auto& origin) {
        return origin.first.starts_with(path + ".") && origin.first != path + ".issuer";
      });
      if (given) KeyProblem(path + ".issuer", "is needed with oidc: whose tokens are accepted");
      return;
    }
    if (const absl::Status status = CheckFetchedUrl(oidc.issuer(), "keys"); !status.ok()) {
      KeyProblem(path + ".issuer", std::string(status.message()));
    } else if (oidc.issuer().find_first_of("?#") != std::string::npos) {
      KeyProblem(path + ".issuer", fmt::format("expected a URL without a query and a fragment, found {}",
                                               QuoteForMessage(oidc.issuer())));
    } else if (const absl::StatusOr<HostPort> listener = ParseHostPort(control.admin_listen());
               listener.ok() && !IsLoopback(listener->host) && control.admin_tls().cert().empty()) {
      KeyProblem(path + ".issuer", "needs admin_tls: tokens would cross the network in cleartext");
    }
    if (oidc.audience().empty()) {
      KeyProblem(path + ".audience", "is needed with oidc: the name in `aud` of the tokens that are for this gateway");
    }
    for (const auto& [name, claim] :
         {std::pair("name_claim", oidc.name_claim()), std::pair("groups_claim", oidc.groups_claim())}) {
      if (claim.empty()) KeyProblem(fmt::format("{}.{}", path, name), "expected the name of a claim, found ''");
    }
    if (oidc.roles().empty()) KeyProblem(path + ".roles", "is needed with oidc: a token without a role may do nothing");
    std::set<std::string> groups;
    for (int i = 0; i < oidc.roles_size(); ++i)
      CheckOidcRole(oidc.roles(i), fmt::format("{}.roles[{}]", path, i), &groups);
  }

  void CheckOidcRole(const v1::OidcRole& role, const std::string& path, std::set<std::string>* groups) {
    if (!role.group().empty() && !groups->insert(role.group()).second) {
      KeyProblem(path + ".group", fmt::format("{} is given twice", QuoteForMessage(role.group())));
    }
    constexpr std::string_view kRoles[] = {"viewer", "operator", "editor", "admin"};
    if (role.role().empty()) return;  // required: told already
    if (std::find(std::begin(kRoles), std::end(kRoles), role.role()) == std::end(kRoles)) {
      KeyProblem(path + ".role",
                 fmt::format("expected viewer, operator, editor or admin, found {}", QuoteForMessage(role.role())));
    } else if (role.role() != "editor" && !(role.only().empty() && role.kinds().empty())) {
      KeyProblem(path + (role.only().empty() ? ".kinds" : ".only"),
                 fmt::format("is for an editor; the role {} cannot be bound to labels or kinds", role.role()));
    }
  }

  void CheckDataPlane(const v1::DataPlaneSection& data) {
    for (int i = 0; i < data.control_planes_size(); ++i) {
      absl::StatusOr<HostPort> parsed = ParseHostPort(data.control_planes(i));
      if (!parsed.ok()) {
        ListProblem("data_plane.control_planes", i, std::string(parsed.status().message()));
      } else if (parsed->port == 0) {
        ListProblem("data_plane.control_planes", i, "a port from 1 to 65535 is needed");
      }
    }
    if (data.control_planes().empty() && data.policy_files().empty()) {
      KeyProblem("data_plane.control_planes", "and policy_files are both empty: there is no policy to serve");
    }
    for (int i = 0; i < data.policy_files_size(); ++i) {
      if (data.policy_files(i).empty()) ListProblem("data_plane.policy_files", i, "expected a file, found ''");
    }
    const v1::ClientTlsSection& tls = data.tls();
    CheckPair("data_plane.tls", tls.cert(), tls.key());
    if (tls.ca().empty() && !(tls.cert().empty() && tls.server_name().empty() && tls.join_token_file().empty())) {
      KeyProblem("data_plane.tls.ca", "is needed with tls: whose certificates the control planes have");
    }
    if (!tls.ca().empty() && tls.cert().empty() && tls.key().empty() && tls.join_token_file().empty()) {
      KeyProblem("data_plane.tls.cert", "is needed with tls: a control plane knows a data plane by its certificate");
    }
    if (!tls.join_token_file().empty()) {
      if (tls.cert().empty()) {
        KeyProblem("data_plane.tls.cert", "is needed with join_token_file: where the certificate is to be written");
      }
      if (data.name().empty()) {
        KeyProblem("data_plane.name", "is needed with tls.join_token_file: the name that the token is for");
      }
    }
    const std::string& name = data.name();
    if (name.size() > kDataPlaneNameMax || !std::all_of(name.begin(), name.end(), [](char c) {
          return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.' || c == ':';
        })) {
      KeyProblem("data_plane.name", fmt::format("expected at most {} letters, digits, '-', '_', '.' and ':', found {}",
                                                kDataPlaneNameMax, QuoteForMessage(name)));
    }
    if (!data.advertise().empty()) {
      absl::StatusOr<HostPort> parsed = ParseHostPort(data.advertise(), /*host_optional=*/true);
      if (!parsed.ok()) {
        KeyProblem("data_plane.advertise", std::string(parsed.status().message()));
      } else if (parsed->port == 0) {
        KeyProblem("data_plane.advertise", "a port from 1 to 65535 is needed");
      } else if (IsAnyAddress(parsed->host) && !parsed->host.empty()) {
        KeyProblem("data_plane.advertise",
                   fmt::format("{} is not an address that others can reach", QuoteForMessage(data.advertise())));
      }
    }
  }

  // Two listeners of one process on one port: found here, and not by the bind that fails (or, with SO_REUSEPORT,
  // doesn't).
  void CheckPorts(const v1::Bootstrap& config) {
    struct Use {
      std::string path;
      HostPort address;
    };
    auto check = [&](const std::vector<Use>& uses) {
      for (size_t i = 0; i < uses.size(); ++i) {
        for (size_t k = 0; k < i; ++k) {
          const HostPort& one = uses[i].address;
          const HostPort& other = uses[k].address;
          bool same_host = one.host == other.host || IsAnyAddress(one.host) || IsAnyAddress(other.host);
          if (one.port == 0 || one.port != other.port || !same_host) continue;
          KeyProblem(uses[i].path, fmt::format("port {} is that of {}", one.port, uses[k].path));
          break;
        }
      }
    };
    auto add = [](std::vector<Use>* uses, const std::string& path, const absl::StatusOr<HostPort>& address) {
      if (address.ok()) uses->push_back({path, *address});
    };
    auto port = [](uint32_t number) { return static_cast<uint16_t>(std::min<uint32_t>(number, 65535)); };
    if (config.metrics().enabled()) {
      // Listeners among themselves may differ in address family only ("0.0.0.0:80" and "[::]:80"): each alone.
      std::vector<Use> main;
      if (config.server().listeners().empty()) main.push_back({"server.port", {"", port(config.server().port())}});
      for (int i = 0; i < config.server().listeners_size(); ++i) {
        add(&main, fmt::format("server.listeners[{}].address", i),
            ParseHostPort(config.server().listeners(i).address()));
      }
      for (const Use& use : main) {
        check({use, {"metrics.port", {config.metrics().host(), port(config.metrics().port())}}});
      }
    }
    std::vector<Use> control;
    add(&control, "control_plane.admin_listen", ParseHostPort(config.control_plane().admin_listen()));
    add(&control, "control_plane.stream_listen", ParseHostPort(config.control_plane().stream_listen()));
    control.push_back(
        {"control_plane.metrics_port", {config.metrics().host(), port(config.control_plane().metrics_port())}});
    check(control);
  }

  LoadedBootstrap* loaded_;
  std::map<std::string, std::string, std::less<>> origins_;  // of what was written
  std::set<std::string, std::less<>> wrong_;                 // keys with a problem already
};

// The block of YAML that begins at line `at`, in flow style: maps, and lists of scalars. `at` is then behind it.
std::string FlowOf(const std::vector<std::string>& lines, size_t* at) {
  const size_t indent = lines[*at].find_first_not_of(' ');
  const bool list = lines[*at].compare(indent, 2, "- ") == 0;
  std::vector<std::string> items;
  while (*at < lines.size() && lines[*at].find_first_not_of(' ') == indent) {
    std::string item = lines[(*at)++].substr(list ? indent + 2 : indent);
    const bool nested = *at < lines.size() && lines[*at].find_first_not_of(' ') > indent;
    items.push_back(nested ? item + " " + FlowOf(lines, at) : item);
  }
  return fmt::format("{}{}{}", list ? "[" : "{", fmt::join(items, ", "), list ? "]" : "}");
}

// A key's value as YAML in one line, or "absent".
std::string ValueOf(const v1::Bootstrap& config, const Key& key) {
  const Message* message = &config;
  for (size_t i = 0; i + 1 < key.fields.size(); ++i) {
    if (!message->GetReflection()->HasField(*message, key.fields[i])) return "absent";
    message = &message->GetReflection()->GetMessage(*message, key.fields[i]);
  }
  const FieldDescriptor* field = key.fields.back();
  const auto* reflection = message->GetReflection();
  if (field->is_repeated() && reflection->FieldSize(*message, field) == 0) return field->is_map() ? "{}" : "[]";
  if (!field->is_repeated() && !reflection->HasField(*message, field)) return "absent";
  if (RulesOf(field).secret() && reflection->GetString(*message, field).empty()) return "\"\"";
  if (!field->is_repeated() || field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    // A message with this field alone, written by the codec: "port: 8080".
    std::unique_ptr<Message> alone(message->New());
    alone->CopyFrom(*message);
    const Descriptor* type = message->GetDescriptor();
    for (int i = 0; i < type->field_count(); ++i) {
      if (type->field(i) != field) reflection->ClearField(alone.get(), type->field(i));
    }
    std::string text = EncodeYaml(*alone).substr(field->name().size() + 1);
    if (text.starts_with("\n")) {  // a list too long for one line
      std::string line;
      std::istringstream items(text);
      for (std::string item; std::getline(items, item);) {
        if (item.size() > 4) line += (line.empty() ? "[" : ", ") + item.substr(4);
      }
      return line + "]";
    }
    text.erase(0, 1);
    while (text.ends_with('\n')) text.pop_back();
    return text;
  }
  std::vector<std::string> items;
  for (int i = 0; i < reflection->FieldSize(*message, field); ++i) {
    const Message& item = reflection->GetRepeatedMessage(*message, field, i);
    std::vector<std::string> parts;
    std::string text = EncodeYaml(item);
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) parts.push_back(line);
    if (field->is_map()) {
      items.push_back(fmt::format("{}: {}", parts.empty() ? "" : parts[0].substr(5),
                                  parts.size() < 2 ? "\"\"" : parts[1].substr(7)));
    } else {
      size_t at = 0;
      items.push_back(parts.empty() ? "{}" : FlowOf(parts, &at));
    }
  }
  if (field->is_map()) {
    std::sort(items.begin(), items.end());
    return fmt::format("{{{}}}", fmt::join(items, ", "));
  }
  return fmt::format("[{}]", fmt::join(items, ", "));
}

constexpr std::string_view kHelpFooter = R"(
The bootstrap file is YAML; every key has a default, so no file is needed:
  server: {{ port: 8080 }}
  consul: {{ address: "localhost:8500" }}
The environment overrides a key (server.port: GATEWAY_SERVER_PORT; lists with
commas), and --set overrides both. All errors are reported at once, with file,
line and column.

Examples:
  {0} gateway.yaml
  {0} --config gateway.yaml --set logging.level=debug
  {0} --config gateway.yaml --check-config
  GATEWAY_LOGGING_FORMAT=text {0}

Exit codes: 0 done, 1 failed, 2 wrong usage or an invalid bootstrap file.)";

}  // namespace

LoadedBootstrap LoadBootstrap(const std::string& path, const std::vector<std::string>& environment,
                              const std::vector<std::string>& sets) {
  LoadedBootstrap loaded;
  Loader loader(&loaded);
  if (!path.empty()) loader.ReadFile(path);
  loader.ReadEnvironment(environment);
  loader.ReadSets(sets);
  loader.FillDefaults();
  loader.Check();
  loader.WriteOrigins();
  return loaded;
}

int WorkersOf(const v1::ServerSection& server) {
  int workers = 0;
  if (server.workers() != "auto" && absl::SimpleAtoi(server.workers(), &workers)) return std::max(1, workers);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int64_t ConnectionsPerAddressOf(const v1::ServerSection& server) {
  // Where few connections are allowed at all, one client address may have them all.
  constexpr int64_t kOneAddressMin = 1000;
  if (server.max_connections_per_address() > 0) return server.max_connections_per_address();
  const int64_t all = server.max_connections();
  return std::max(all / 2, std::min(all, kOneAddressMin));
}

std::string DescribeBootstrap(const LoadedBootstrap& loaded) {
  constexpr size_t kCommentColumnMax = 64;
  std::map<std::string, std::string> origins(loaded.origins.begin(), loaded.origins.end());
  std::vector<std::pair<std::string, std::string>> lines;
  size_t width = 0;
  for (const Key& key : AllKeys()) {
    std::string line = fmt::format("{}: {}", key.path, ValueOf(loaded.config, key));
    if (line.size() <= kCommentColumnMax) width = std::max(width, line.size());
    std::string origin = origins[key.path];
    const v1::ServerSection& server = loaded.config.server();
    if (key.path == "server.workers" && server.workers() == "auto") {
      origin += fmt::format("; {} on this machine", WorkersOf(server));
    }
    if (key.path == "server.max_connections_per_address" && server.max_connections_per_address() == 0) {
      origin += fmt::format("; {} in effect", ConnectionsPerAddressOf(server));
    }
    lines.emplace_back(std::move(line), std::move(origin));
  }
  std::string text;
  for (const auto& [line, origin] : lines) text += fmt::format("{:<{}}  # {}\n", line, width, origin);
  return text;
}

DaemonArguments ParseDaemonArguments(int argc, char** argv, const std::string& program, const std::string& about,
                                     const std::vector<DaemonCommand>& commands) {
  DaemonArguments arguments;
  CLI::App app{about, program};
  std::string config, positional;
  std::vector<std::string> sets;
  bool check = false;
  app.set_help_flag("-h,--help", "Prints this help and ends");
  app.add_option("-c,--config", config, "The bootstrap file")->type_name("FILE");
  app.add_option("file", positional, "The bootstrap file; the same as --config")->type_name("FILE");
  app.add_option("--set", sets, "Overrides one key: server.port=8081; may be repeated")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->take_all();
  app.add_flag("--check-config", check, "Checks all of it, prints the values in use, and ends");
  app.set_version_flag("--version", fmt::format("{} {}", program, kVersion), "Prints the version and ends");
  app.get_formatter()->column_width(26);
  app.footer(fmt::format(fmt::runtime(kHelpFooter), program));
  for (const DaemonCommand& command : commands) {
    CLI::App* added = app.add_subcommand(command.name, command.about);
    added->set_help_flag("-h,--help", "Prints this help and ends");
    added->fallthrough();
    if (!command.argument.empty()) {
      const bool optional = command.argument.starts_with('[');
      added
          ->add_option(optional ? command.argument.substr(1, command.argument.size() - 2) : command.argument,
                       arguments.argument)
          ->required(!optional)
          ->type_name("");
    }
    if (!command.flag.empty()) added->add_flag(command.flag, arguments.flag, command.flag_about);
    added->callback([&arguments, name = command.name] { arguments.command = name; });
  }
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    bool asked = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success);  // --help, --version
    app.exit(error);
    arguments.exit_code = asked ? 0 : 2;
    return arguments;
  }
  if (!config.empty() && !positional.empty()) {
    std::fprintf(stderr, "%s: the bootstrap file is given twice, as --config and as '%s'\n", program.c_str(),
                 positional.c_str());
    arguments.exit_code = 2;
    return arguments;
  }
  arguments.config_file = config.empty() ? positional : config;
  std::vector<std::string> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) environment.emplace_back(*variable);

  LoadedBootstrap loaded = LoadBootstrap(arguments.config_file, environment, sets);
  if (!loaded.problems.empty()) {
    for (const std::string& problem : loaded.problems) std::fprintf(stderr, "%s\n", problem.c_str());
    std::fprintf(stderr, "%s: %zu error%s in the bootstrap; not started\n", program.c_str(), loaded.problems.size(),
                 loaded.problems.size() == 1 ? "" : "s");
    arguments.exit_code = 2;
    return arguments;
  }
  if (check) {
    std::string text = DescribeBootstrap(loaded);
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    arguments.exit_code = 0;
    arguments.check = true;
  }
  arguments.config = std::move(loaded.config);
  return arguments;
}

}  // namespace gateway
