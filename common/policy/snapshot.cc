#include "common/policy/snapshot.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "common/base/quote.h"
#include "common/policy/kinds/compilation.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/resource.h"
#include "common/policy/route/path.h"
#include "common/policy/route/route_table.h"
#include "re2/re2.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

// Adds the resource to the others of its kind.
void Index(const v1::Resource& resource, Compilation* compilation) {
  const google::protobuf::Message* body = BodyOf(resource);
  if (body == nullptr || compilation->bodies[body->GetDescriptor()].Add(NameOf(resource), body)) return;
  const ResourceKey key = KeyOf(resource);
  Report(key, &compilation->errors).Add("name", fmt::format("{} comes twice", QuoteForMessage(key.name)));
}

void SortErrors(std::vector<v1::PolicyError>* errors) {
  auto order = [](const v1::PolicyError& e) { return std::tie(e.kind(), e.name(), e.field(), e.message()); };
  std::sort(errors->begin(), errors->end(),
            [&order](const v1::PolicyError& a, const v1::PolicyError& b) { return order(a) < order(b); });
  // The rules and a kind's check may find the same error.
  auto same = [&order](const v1::PolicyError& a, const v1::PolicyError& b) { return order(a) == order(b); };
  errors->erase(std::unique(errors->begin(), errors->end(), same), errors->end());
}

}  // namespace

Snapshot::Snapshot() = default;
Snapshot::~Snapshot() = default;

void Snapshot::Match(const MatchInput& in, RouteMatch* out) const { table_->Match(in, out); }

void Snapshot::AppendPath(const RouteMatch& m, const std::vector<RewritePiece>& pieces, bool is_prefix,
                          std::string_view path, std::string* out) {
  const size_t base = out->size();
  for (const RewritePiece& piece : pieces) {
    out->append(piece.variable < 0 ? std::string_view(piece.literal)
                                   : m.variables[static_cast<size_t>(piece.variable)]);
  }
  if (is_prefix) out->append(path.substr(m.prefix_length));
  if (out->size() == base) out->push_back('/');
}

bool Snapshot::Rewrite(const RouteMatch& m, std::string_view path, std::string* out) {
  if (m.route->rewrite_regex == nullptr) {
    AppendPath(m, m.route->rewrite, m.route->rewrite_is_prefix, path, out);
    return true;
  }
  if (path == "*") {  // of OPTIONS: no path, so there is nothing to replace
    out->push_back('*');
    return true;
  }
  std::string text(path);
  re2::RE2::GlobalReplace(&text, *m.route->rewrite_regex, m.route->rewrite_substitution);
  if (text.empty()) text.push_back('/');
  // What took "//" or a dot segment into being is not resolved: a client that makes one (/.x./ where x is taken out)
  // would leave where the route's operator meant it to stay.
  if (!IsNormalPath(text)) {
    std::string normal;
    if (NormalizePath(text, false, &normal) != PathError::kNone || normal != text) return false;
  }
  out->append(text);
  return true;
}

// The story of a compilation: checks each resource by itself, then with the others, and if nothing is wrong compiles
// kind by kind. What a kind means is in kinds/.
class SnapshotCompiler {
 public:
  SnapshotCompiler(std::span<const v1::Resource* const> resources, const CompileOptions& options)
      : compilation_{.resources = resources, .options = options} {}

  CompileResult Run() {
    Check();
    CompileResult result;
    if (compilation_.errors.empty()) {
      for (const Kind& kind : Kinds()) {
        if (kind.compile != nullptr) kind.compile(&compilation_);
      }
      result.snapshot = Finish();
      result.warnings = std::move(compilation_.warnings);
      std::sort(result.warnings.begin(), result.warnings.end());
    } else {
      result.errors = std::move(compilation_.errors);
      SortErrors(&result.errors);
    }
    return result;
  }

 private:
  // Collects every error.
  void Check() {
    for (const v1::Resource* resource : compilation_.resources) {
      CheckResource(*resource, &compilation_.errors);
      Index(*resource, &compilation_);
    }
    for (auto& [type, bodies] : compilation_.bodies) bodies.Sort();
    for (const v1::Resource* resource : compilation_.resources) {
      const Kind* kind = KindOf(*resource);
      if (kind == nullptr || kind->check_references == nullptr) continue;
      const ResourceKey key = KeyOf(*resource);
      kind->check_references(Report(key, &compilation_.errors), *resource, &compilation_);
    }
    for (const Kind& kind : Kinds()) {
      if (kind.check_all != nullptr) kind.check_all(&compilation_);
    }
  }

  std::shared_ptr<const Snapshot> Finish() {
    Compilation& parts = compilation_;
    std::shared_ptr<Snapshot> snapshot(new Snapshot);
    snapshot->epoch_ = parts.options.epoch;
    snapshot->revision_ = parts.options.revision;
    snapshot->routes_ = std::move(parts.routes);
    snapshot->services_ = std::move(parts.services);
    snapshot->rate_limits_ = std::move(parts.rate_limits);
    snapshot->auths_ = std::move(parts.auths);
    snapshot->consumers_ = std::move(parts.consumers);
    snapshot->identity_fields_ = std::move(parts.identity_fields);
    snapshot->certificates_ = std::move(parts.certificates);
    snapshot->keys_lacking_ = parts.keys_lacking;
    snapshot->builtin_rate_limit_ = parts.builtin_rate_limit;
    snapshot->table_ = std::move(parts.table);
    return snapshot;
  }

  Compilation compilation_;
};

CompileResult CompileSnapshot(std::span<const v1::Resource* const> resources, const CompileOptions& options) {
  return SnapshotCompiler(resources, options).Run();
}

}  // namespace gateway
