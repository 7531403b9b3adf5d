// get, describe, export, lint.
#include <algorithm>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/units.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/documents.h"
#include "tools/gatewayctl/effective.h"
#include "tools/gatewayctl/private_file.h"
#include "tools/gatewayctl/render.h"

namespace gateway::ctl {
namespace {

using StoredResources = google::protobuf::RepeatedPtrField<v1::StoredResource>;

std::string DocumentsText(const StoredResources& resources, bool with_secrets = false) {
  std::string text;
  for (const auto& stored : resources) {
    absl::StrAppend(&text, text.empty() ? "" : "---\n",
                    with_secrets ? EncodeResourceWithSecrets(stored.resource()) : EncodeResource(stored.resource()));
  }
  return text;
}

// The documents of `resources` as -o asks; the table is the caller's.
bool PrintDocuments(Session& session, const StoredResources& resources, uint64_t revision, bool single) {
  if (session.table()) return false;
  const std::string& output = session.options.output;
  if (output == "name") {
    for (const auto& stored : resources) session.out() << KeyOf(stored.resource()).ToString() << "\n";
    return true;
  }
  if (output == "yaml") {
    session.out() << DocumentsText(resources);
    return true;
  }
  Json documents = Json::array();
  for (const auto& stored : resources) documents.push_back(MessageJson(stored.resource()));
  return single ? session.PrintStructured(documents[0]) : session.PrintList(std::move(documents), revision);
}

Json EffectiveJson(const std::vector<EffectiveRow>& rows) {
  Json json = Json::array();
  for (const EffectiveRow& row : rows) {
    json.push_back({{"stage", row.stage}, {"policy", row.policy}, {"source", row.source}, {"settings", row.settings}});
  }
  return json;
}

// NAME of KIND; if it does not exist, the error suggests a similar name.
absl::StatusOr<v1::GetResponse> GetOne(Session& session, const ResourceKey& key) {
  absl::StatusOr<v1::GetResponse> got = session.client.Get(key.kind, key.name);
  if (got.ok() || !absl::IsNotFound(got.status())) return got;
  std::string message = absl::StrCat(key.ToString(), " is not defined");
  if (const absl::StatusOr<v1::ListResponse> list = session.client.List(key.kind); list.ok()) {
    std::vector<std::string> names;
    for (const auto& stored : list->resources()) names.push_back(KeyOf(stored.resource()).name);
    if (const std::string nearest = NearestName(key.name, names); !nearest.empty()) {
      absl::StrAppend(&message, "; did you mean '", nearest, "'?");
    }
  }
  return absl::NotFoundError(message);
}

// What `get` is asked for.
struct Wanted {
  std::vector<ResourceKey> targets;  // none: everything
  std::string selector;

  bool single() const { return targets.size() == 1 && !targets.front().name.empty(); }
  bool named() const { return !targets.empty() && !targets.front().name.empty(); }
  // The kind of all of them; empty: of several.
  std::string kind() const {
    std::set<std::string> kinds;
    for (const ResourceKey& target : targets) kinds.insert(target.kind);
    return kinds.size() == 1 ? *kinds.begin() : "";
  }
  bool Includes(const v1::Change& change) const {
    return targets.empty() || std::any_of(targets.begin(), targets.end(), [&change](const ResourceKey& target) {
             return target.kind == change.kind() && (target.name.empty() || target.name == change.name());
           });
  }
};

absl::StatusOr<v1::ListResponse> Find(Session& session, const Wanted& wanted) {
  if (wanted.targets.empty()) return session.client.List("", wanted.selector);
  v1::ListResponse found;
  for (const ResourceKey& target : wanted.targets) {
    if (!target.name.empty()) {
      absl::StatusOr<v1::GetResponse> got = GetOne(session, target);
      if (!got.ok()) return got.status();
      *found.add_resources() = std::move(*got->mutable_resource());
      found.set_revision(got->revision());
      continue;
    }
    absl::StatusOr<v1::ListResponse> list = session.client.List(target.kind, wanted.selector);
    if (!list.ok()) return list.status();
    found.mutable_resources()->MergeFrom(list->resources());
    found.set_revision(list->revision());
  }
  return found;
}

void PrintRows(Session& session, const Wanted& wanted, const v1::ListResponse& found, bool headings) {
  if (PrintDocuments(session, found.resources(), found.revision(), wanted.single())) return;
  if (found.resources().empty()) return;
  const std::vector<v1::StoredResource> rows(found.resources().begin(), found.resources().end());
  const std::string table =
      RenderResources(wanted.kind(), rows, session.terminal.now(), session.options.output == "wide");
  session.out() << (headings ? table : table.substr(table.find('\n') + 1));
}

// Prints every later change of what is wanted, until the connection or the reader ends.
ExitCode WatchWanted(Session& session, const Wanted& wanted, uint64_t after) {
  absl::Status failure;
  const absl::Status ended = session.client.Watch(after, [&](const v1::RevisionInfo& info) {
    Wanted changed;
    changed.selector = wanted.selector;
    for (const v1::Change& change : info.changes()) {
      if (change.op() == v1::Change::UNCHANGED || !wanted.Includes(change)) continue;
      if (change.op() == v1::Change::DELETED) {
        session.err() << change.kind() << "/" << change.name() << " deleted in revision " << info.revision() << "\n";
      } else {
        changed.targets.push_back({change.kind(), change.name()});
      }
    }
    v1::ListResponse rows;
    rows.set_revision(info.revision());
    std::set<std::string> kinds;
    for (const ResourceKey& key : changed.targets) kinds.insert(key.kind);
    for (const std::string& kind : kinds) {
      absl::StatusOr<v1::ListResponse> list = session.client.List(kind, wanted.selector);
      if (!list.ok()) {
        failure = list.status();
        return false;
      }
      for (const v1::StoredResource& stored : list->resources()) {
        const ResourceKey key = KeyOf(stored.resource());
        if (std::find(changed.targets.begin(), changed.targets.end(), key) != changed.targets.end()) {
          *rows.add_resources() = stored;
        }
      }
    }
    Wanted shown;
    if (const std::string kind = wanted.kind(); !kind.empty()) shown.targets = {{kind, ""}};
    if (!rows.resources().empty()) PrintRows(session, shown, rows, /*headings=*/false);
    session.out().flush();
    return session.out().good();
  });
  if (!failure.ok()) return session.Fail(failure);
  return ended.ok() ? kDone : session.Fail(ended);
}

}  // namespace

ExitCode Get(Session& session) {
  absl::StatusOr<std::vector<ResourceKey>> targets = ParseTargets(session.options);
  if (!targets.ok()) return session.Fail(targets.status());
  // Each -l is a selector; all of them must hold.
  const Wanted wanted{*std::move(targets), absl::StrJoin(session.options.selectors, ",")};
  if (wanted.named() && !session.options.selectors.empty()) {
    return session.Fail(absl::InvalidArgumentError("-l goes with a list, not with a NAME"));
  }
  const absl::StatusOr<v1::ListResponse> found = Find(session, wanted);
  if (!found.ok()) return session.Fail(found.status());
  PrintRows(session, wanted, *found, /*headings=*/true);
  if (found->resources().empty() && session.table()) {
    session.err() << "no " << (wanted.kind().empty() ? "policy" : wanted.kind()) << " found\n";
  }
  if (!session.options.watch) return kDone;
  session.out().flush();
  return WatchWanted(session, wanted, found->revision());
}

ExitCode Describe(Session& session) {
  if (NamesDataPlane(session.options)) return DescribeDataPlane(session);
  const absl::StatusOr<ResourceKey> target = ParseTarget(session.options);
  if (!target.ok()) return session.Fail(target.status());
  const absl::StatusOr<v1::GetResponse> got = GetOne(session, *target);
  if (!got.ok()) return session.Fail(got.status());
  const absl::StatusOr<v1::ListResponse> all = session.client.List("");
  if (!all.ok()) return session.Fail(all.status());
  if (session.options.effective) {
    const v1::Resource& resource = got->resource().resource();
    if (!resource.has_route() && !resource.has_service()) {
      return session.Fail(absl::InvalidArgumentError("--effective goes with a route or a service"));
    }
    const std::vector<v1::StoredResource> resources(all->resources().begin(), all->resources().end());
    const std::vector<EffectiveRow> rows = resource.has_route() ? EffectiveOf(resource.route(), resources)
                                                                : EffectiveOfService(resource.service(), resources);
    if (!session.PrintList(EffectiveJson(rows), all->revision())) session.out() << RenderEffective(rows);
    return kDone;
  }
  const absl::StatusOr<v1::HistoryResponse> history = session.client.History(HistoryOf(*target), 1);
  if (!history.ok() && !absl::IsNotFound(history.status())) return session.Fail(history.status());

  Description description;
  description.stored = got->resource();
  description.all.assign(all->resources().begin(), all->resources().end());
  if (history.ok() && history->revisions_size() > 0) description.last_change = history->revisions(0);
  if (description.stored.resource().has_service() || description.stored.resource().has_route()) {
    absl::StatusOr<v1::ListEndpointsResponse> endpoints = session.client.ListEndpoints("");
    if (!endpoints.ok()) return session.Fail(endpoints.status());
    description.endpoints = *std::move(endpoints);
  }
  if (session.options.output == "name") {
    session.out() << target->ToString() << "\n";
    return kDone;
  }
  Json json = {{"document", MessageJson(description.stored.resource())},
               {"revision", description.stored.revision()},
               {"changed_at", FormatTime(description.stored.changed_at())},
               {"built_in", description.stored.built_in()}};
  if (description.last_change.has_value()) {
    json["actor"] = description.last_change->actor();
    json["comment"] = description.last_change->comment();
  }
  json["refers_to"] = Json::array();
  for (const auto& key : ReferencesOf(description.stored.resource())) json["refers_to"].push_back(key.ToString());
  json["referred_to_by"] = Json::array();
  for (const auto& key : ReferrersOf(*target, description.all)) json["referred_to_by"].push_back(key.ToString());
  if (description.stored.resource().has_consumer()) {
    json["admitted_by"] = Json::array();
    for (const Admission& admission : AdmissionsOf(description.stored.resource().consumer(), description.all)) {
      json["admitted_by"].push_back({{"auth", admission.auth},
                                     {"methods", admission.methods},
                                     {"because", admission.because},
                                     {"routes", admission.routes}});
    }
  }
  if (description.stored.has_canary()) json["canary"] = MessageJson(description.stored.canary());
  if (session.PrintStructured(json)) return kDone;
  session.out() << RenderDescription(description, session.terminal.now());
  return kDone;
}

ExitCode Export(Session& session) {
  const Options& options = session.options;
  if (options.with_secrets && options.output_file.empty()) {
    return session.Fail(
        absl::InvalidArgumentError("--with-secrets needs --output-file FILE, which is written with mode 0600: the "
                                   "hashes of secrets do not belong on a terminal"));
  }
  if (!options.output_file.empty() && options.output != "yaml") {
    return session.Fail(absl::InvalidArgumentError("--output-file takes YAML alone"));
  }
  absl::StatusOr<v1::ListResponse> list =
      options.with_secrets ? session.client.ListWithSecrets() : session.client.List("");
  if (!list.ok()) return session.Fail(list.status());
  StoredResources chosen;
  for (v1::StoredResource& stored : *list->mutable_resources()) {
    if (options.all || !stored.built_in()) *chosen.Add() = std::move(stored);
  }
  if (options.output_file.empty()) {
    PrintDocuments(session, chosen, list->revision(), /*single=*/false);
    return kDone;
  }
  if (const absl::Status written = WritePrivately(options.output_file, DocumentsText(chosen, options.with_secrets));
      !written.ok()) {
    return session.Fail(written);
  }
  session.err() << chosen.size() << " resources of revision " << list->revision() << " are in " << options.output_file
                << "\n";
  return kDone;
}

ExitCode Lint(Session& session) {
  const absl::StatusOr<v1::LintResponse> lint = session.client.Lint();
  if (!lint.ok()) return session.Fail(lint.status());
  Json items = Json::array();
  for (const std::string& warning : lint->warnings()) items.push_back(warning);
  if (session.PrintList(std::move(items), lint->revision())) return kDone;
  for (const std::string& warning : lint->warnings()) session.out() << "warning: " << warning << "\n";
  if (lint->warnings().empty()) session.err() << "revision " << lint->revision() << ": no warnings\n";
  return kDone;
}

}  // namespace gateway::ctl
