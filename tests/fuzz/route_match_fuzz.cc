// Any request against a fixed table with every kind of condition. The input is lines: method, host, path, query, then
// "name:value" fields. A match must satisfy its invariants: views point into the path, and a rewrite is in normal
// form.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/route/path.h"
#include "common/policy/snapshot.h"

namespace {

std::shared_ptr<const gateway::Snapshot> MakeSnapshot() {
  std::vector<gateway::v1::Resource> resources(1);
  resources[0].mutable_service()->set_name("s");
  resources[0].mutable_service()->add_static_()->set_address("127.0.0.1:1");
  auto add = [&resources]() {
    gateway::v1::Route& route = *resources.emplace_back().mutable_route();
    route.set_name("r" + std::to_string(resources.size()));
    route.set_service("s");
    route.mutable_match();
    return &route;
  };
  gateway::v1::Route* route = add();
  route->mutable_match()->mutable_path()->set_prefix("/svc");
  route->mutable_rewrite()->set_prefix("/");
  route = add();
  route->mutable_match()->mutable_path()->set_template_("/users/{id}/**");
  route->mutable_rewrite()->set_template_("/v2/{id}/**");
  route = add();
  route->mutable_match()->mutable_path()->set_template_("/{a}/b/{c}");
  route->mutable_rewrite()->set_prefix("/x");
  route->set_priority(1);
  route = add();
  route->mutable_match()->mutable_path()->set_template_("/a/{x}/{y}/**");
  route->mutable_match()->add_hosts("*.example.com");
  route->mutable_rewrite()->set_template_("/**");
  route = add();
  route->mutable_match()->mutable_path()->set_exact("/a@b/c;d");
  route->mutable_match()->add_hosts("x.example.com");
  route->mutable_match()->add_methods("GET");
  route = add();
  route->mutable_match()->mutable_path()->set_regex("/r(/[a-z]*)+");
  gateway::v1::HeaderMatch* header = route->mutable_match()->add_headers();
  header->set_name("X-A");
  header->set_regex("a+b*");
  route = add();
  gateway::v1::QueryMatch* query = route->mutable_match()->add_query();
  query->set_name("q");
  query->set_prefix("1 2");
  query = route->mutable_match()->add_query();
  query->set_name("p");
  query->set_regex(".*");
  route->mutable_match()->add_methods("POST");
  // Enough routes of one path, and enough regexes, for an index.
  for (char value : std::string_view("0123456789")) {
    route = add();
    route->mutable_match()->mutable_path()->set_prefix("/m");
    header = route->mutable_match()->add_headers();
    header->set_name("X-A");
    header->set_exact(std::string(1, value));
    route = add();
    route->mutable_match()->mutable_path()->set_prefix("/m");
    query = route->mutable_match()->add_query();
    query->set_name("q");
    query->set_exact(std::string("a ") + value);
    add()->mutable_match()->mutable_path()->set_regex(std::string("/x") + value + "/.*");
  }
  route = add();
  route->mutable_match()->mutable_path()->set_prefix("/m");
  route->mutable_match()->set_scheme(gateway::v1::RouteMatch::HTTPS);
  std::vector<const gateway::v1::Resource*> pointers;
  for (const gateway::v1::Resource& resource : resources) pointers.push_back(&resource);
  return gateway::CompileSnapshot(pointers, {}).snapshot;
}

std::string_view TakeLine(std::string_view* text) {
  const size_t end = text->find('\n');
  const std::string_view line = text->substr(0, end);
  text->remove_prefix(end == std::string_view::npos ? text->size() : end + 1);
  return line;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::shared_ptr<const gateway::Snapshot> snapshot = MakeSnapshot();
  if (snapshot == nullptr) std::abort();
  std::string_view text(reinterpret_cast<const char*>(data), size);
  gateway::MatchInput in;
  in.method = TakeLine(&text);
  in.host = TakeLine(&text);
  const std::string_view raw_path = TakeLine(&text);
  in.query = TakeLine(&text);
  std::vector<gateway::FieldView> fields;
  while (!text.empty()) {
    const std::string_view line = TakeLine(&text);
    const size_t colon = std::min(line.find(':'), line.size());
    fields.push_back({line.substr(0, colon), line.substr(std::min(colon + 1, line.size()))});
  }
  in.fields = fields;
  in.https = fields.size() % 2 == 1;
  std::string path;
  const bool is_path = gateway::NormalizePath(raw_path, false, &path) == gateway::PathError::kNone;
  if (!is_path) path = raw_path;  // "*", or what no caller passes: must not crash
  in.path = path;
  gateway::RouteMatch match;
  snapshot->Match(in, &match);
  if (match.prefix_length > path.size()) std::abort();
  for (std::string_view variable : match.variables) {
    if (variable.data() < path.data() || variable.data() + variable.size() > path.data() + path.size()) std::abort();
  }
  if (match.route == nullptr || !match.route->rewrites || !is_path) return 0;
  std::string rewritten;
  gateway::Snapshot::Rewrite(match, path, &rewritten);
  std::string normal;
  if (gateway::NormalizePath(rewritten, false, &normal) != gateway::PathError::kNone || normal != rewritten)
    std::abort();
  return 0;
}
