// apply, diff, get, describe, delete, export.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/units.h"
#include "common/config/codec.h"
#include "common/config/policy_files.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/diff.h"
#include "tools/gatewayctl/effective.h"
#include "tools/gatewayctl/render.h"

namespace gateway::ctl {
namespace {

constexpr std::string_view kThePolicy = "the policy";

// The server's mistakes, where they stand in the files.
std::vector<PolicyProblem> Locate(const v1::PolicyErrors& errors, const std::vector<PolicyDocument>& documents) {
  const PolicyPlaces places(documents);
  std::vector<PolicyProblem> problems;
  for (const v1::PolicyError& error : errors.errors()) problems.push_back(places.Locate(error));
  return problems;
}

// `what` would not be valid. `left_out`: mistakes that the server had no room to tell.
ExitCode Refuse(Session& session, std::string_view what, std::vector<PolicyProblem> problems, size_t left_out) {
  // In the order of the files as given; what stands in no file comes last.
  std::vector<std::string> files;
  for (const PolicyProblem& problem : problems) {
    if (std::find(files.begin(), files.end(), problem.file) == files.end()) files.push_back(problem.file);
  }
  const auto rank = [&](const PolicyProblem& p) {
    return std::tuple(p.file.empty(), std::find(files.begin(), files.end(), p.file), p.position.line,
                      p.position.column);
  };
  std::stable_sort(problems.begin(), problems.end(),
                   [&](const PolicyProblem& a, const PolicyProblem& b) { return rank(a) < rank(b); });
  for (const PolicyProblem& problem : problems) session.err() << problem.ToString() << "\n";
  const size_t all = problems.size() + left_out;
  session.err() << "gatewayctl: " << what << " is invalid: " << all << (all == 1 ? " error" : " errors");
  if (left_out > 0) session.err() << ", of which " << left_out << " are not shown";
  session.err() << "; nothing was changed\n";
  return kInvalidPolicy;
}

v1::ApplyRequest RequestOf(const std::vector<PolicyDocument>& documents) {
  v1::ApplyRequest request;
  for (const PolicyDocument& document : documents) *request.add_resources() = document.resource;
  return request;
}

// The documents of --file. On anything wrong with them: says so, sets `code`, and returns nothing.
std::optional<std::vector<PolicyDocument>> ReadDocuments(Session& session, ExitCode* code) {
  for (const std::string& path : session.options.files) {
    std::error_code error;
    if (path != "-" && !std::filesystem::exists(path, error)) {
      session.err() << "gatewayctl: " << path << ": " << (error ? error.message() : std::strerror(ENOENT)) << "\n";
      *code = kUsage;
      return std::nullopt;
    }
  }
  std::vector<PolicyProblem> problems;
  std::vector<PolicyDocument> documents = ReadPolicyFiles(session.options.files, &problems);
  if (!problems.empty()) {
    // All mistakes at once: the server is asked about what could be read too, if it is there.
    v1::ApplyRequest request;
    for (const PolicyDocument& document : documents) {
      if (!KeyOf(document.resource).name.empty()) *request.add_resources() = document.resource;
    }
    request.set_dry_run(true);
    const absl::StatusOr<v1::ApplyResponse> checked = session.client.Apply(request);
    const std::vector<PolicyProblem> told = problems;
    const v1::PolicyErrors errors = PolicyErrorsOf(checked.status());
    for (PolicyProblem& problem : Locate(errors, documents)) {
      if (!FollowsFrom(problem, told)) problems.push_back(std::move(problem));
    }
    *code = Refuse(session, kThePolicy, std::move(problems), errors.left_out());
    return std::nullopt;
  }
  if (documents.empty()) {
    session.err() << "gatewayctl: the files hold no policy\n";
    *code = kUsage;
    return std::nullopt;
  }
  return documents;
}

ExitCode FailApply(Session& session, const absl::Status& status, const std::vector<PolicyDocument>& documents,
                   std::string_view what = kThePolicy) {
  const v1::PolicyErrors errors = PolicyErrorsOf(status);
  return errors.errors().empty() ? session.Fail(status)
                                 : Refuse(session, what, Locate(errors, documents), errors.left_out());
}

std::vector<v1::Change> RealChanges(const google::protobuf::RepeatedPtrField<v1::Change>& changes) {
  std::vector<v1::Change> real;
  std::copy_if(changes.begin(), changes.end(), std::back_inserter(real),
               [](const v1::Change& change) { return change.op() != v1::Change::UNCHANGED; });
  return real;
}

// The documents of `resources` as -o asks; the table is the caller's.
bool PrintDocuments(Session& session, const google::protobuf::RepeatedPtrField<v1::StoredResource>& resources,
                    bool single) {
  const std::string& output = session.options.output;
  if (output == "name") {
    for (const auto& stored : resources) session.out() << KeyOf(stored.resource()).ToString() << "\n";
    return true;
  }
  if (output == "yaml") {
    bool first = true;
    for (const auto& stored : resources) {
      session.out() << (first ? "" : "---\n") << EncodeResource(stored.resource());
      first = false;
    }
    return true;
  }
  if (output == "json") {
    Json documents = Json::array();
    for (const auto& stored : resources) documents.push_back(MessageJson(stored.resource()));
    return session.PrintStructured(single ? documents[0] : documents);
  }
  return false;
}

absl::StatusOr<std::map<std::string, std::string>> ParseLabels(const std::vector<std::string>& words) {
  std::map<std::string, std::string> labels;
  for (const std::string& word : words) {
    for (const std::string& pair : std::vector<std::string>(absl::StrSplit(word, ',', absl::SkipEmpty()))) {
      const size_t equals = pair.find('=');
      if (equals == std::string::npos || equals == 0) {
        return absl::InvalidArgumentError(absl::StrCat("-l '", pair, "': expected KEY=VALUE"));
      }
      labels[pair.substr(0, equals)] = pair.substr(equals + 1);
    }
  }
  return labels;
}

// NAME of KIND, with the names that there are in the message where there is none.
absl::StatusOr<v1::GetResponse> GetOne(Session& session, const ResourceKey& key) {
  absl::StatusOr<v1::GetResponse> got = session.client.Get(key.kind, key.name);
  if (got.ok() || !absl::IsNotFound(got.status())) return got;
  std::string message = absl::StrCat(key.ToString(), " is not defined");
  if (const absl::StatusOr<v1::ListResponse> list = session.client.List(key.kind, {}); list.ok()) {
    std::vector<std::string> names;
    for (const auto& stored : list->resources()) names.push_back(KeyOf(stored.resource()).name);
    if (const std::string nearest = NearestName(key.name, names); !nearest.empty()) {
      absl::StrAppend(&message, "; did you mean '", nearest, "'?");
    }
  }
  return absl::NotFoundError(message);
}

std::string ActorOf(const Session& session) {
  return session.options.actor.empty() ? session.terminal.actor : session.options.actor;
}

}  // namespace

ExitCode Apply(Session& session) {
  const Options& options = session.options;
  ExitCode code = kDone;
  const auto documents = ReadDocuments(session, &code);
  if (!documents.has_value()) return code;
  v1::ApplyRequest request = RequestOf(*documents);
  request.set_dry_run(options.dry_run);
  request.set_expected_revision(options.expected_revision);
  request.mutable_context()->set_actor(ActorOf(session));
  request.mutable_context()->set_comment(options.comment);
  const absl::StatusOr<v1::ApplyResponse> applied = session.client.Apply(request);
  if (!applied.ok()) return FailApply(session, applied.status(), *documents);

  for (const std::string& warning : applied->warnings()) session.err() << "warning: " << warning << "\n";
  const bool wait = options.wait && !options.dry_run;
  if (options.output == "json" || options.output == "yaml") {
    Json json = MessageJson(*applied);
    json["dry_run"] = options.dry_run;
    if (wait) code = AwaitEverywhere(session, applied->revision(), &json);
    session.PrintStructured(json);
    return code;
  }
  if (options.output == "name") {
    for (const v1::Change& change : RealChanges(applied->changes())) {
      session.out() << change.kind() << "/" << change.name() << "\n";
    }
    return wait ? AwaitEverywhere(session, applied->revision(), nullptr) : kDone;
  }
  session.out() << RenderChanges(std::vector<v1::Change>(applied->changes().begin(), applied->changes().end()));
  session.out() << "revision " << applied->revision() << (options.dry_run ? " (dry run: nothing was stored)" : "")
                << "\n"
                << std::flush;
  return wait ? AwaitEverywhere(session, applied->revision(), nullptr) : kDone;
}

ExitCode Diff(Session& session) {
  ExitCode code = kDone;
  const auto documents = ReadDocuments(session, &code);
  if (!documents.has_value()) return code;
  v1::ApplyRequest request = RequestOf(*documents);
  request.set_dry_run(true);
  const absl::StatusOr<v1::ApplyResponse> checked = session.client.Apply(request);
  if (!checked.ok()) return FailApply(session, checked.status(), *documents);
  const absl::StatusOr<v1::ListResponse> current = session.client.List("", {});
  if (!current.ok()) return session.Fail(current.status());

  std::map<ResourceKey, std::string> texts;
  for (const auto& stored : current->resources()) {
    texts[KeyOf(stored.resource())] = EncodeResource(stored.resource());
  }
  std::set<ResourceKey> changed;
  for (const v1::Change& change : RealChanges(checked->changes())) changed.insert({change.kind(), change.name()});
  Json json = Json::array();
  for (const PolicyDocument& document : *documents) {
    const ResourceKey key = KeyOf(document.resource);
    if (!changed.contains(key)) continue;
    const std::string name = key.ToString();
    const std::string before = texts[key], after = EncodeResource(document.resource);
    const bool structured = session.options.output != "table";
    const std::string diff = UnifiedDiff(absl::StrCat("current/", name), absl::StrCat(document.file, "/", name), before,
                                         after, session.colour && !structured);
    if (session.options.output == "table") session.out() << diff;
    if (session.options.output == "name") session.out() << name << "\n";
    json.push_back(
        {{"kind", key.kind}, {"name", key.name}, {"op", before.empty() ? "created" : "updated"}, {"diff", diff}});
  }
  session.PrintStructured(json);
  return session.options.exit_code && !changed.empty() ? kFailed : kDone;
}

ExitCode Get(Session& session) {
  const absl::StatusOr<ResourceKey> target = ParseTarget(session.options);
  if (!target.ok()) return session.Fail(target.status());
  const auto labels = ParseLabels(session.options.labels);
  if (!labels.ok()) return session.Fail(labels.status());
  const absl::Time now = session.terminal.now();
  v1::ListResponse found;
  const bool single = !target->name.empty();
  if (single) {
    if (!labels->empty()) return session.Fail(absl::InvalidArgumentError("-l goes with a list, not with one NAME"));
    absl::StatusOr<v1::GetResponse> got = GetOne(session, *target);
    if (!got.ok()) return session.Fail(got.status());
    *found.add_resources() = std::move(*got->mutable_resource());
  } else {
    absl::StatusOr<v1::ListResponse> list = session.client.List(target->kind, *labels);
    if (!list.ok()) return session.Fail(list.status());
    found = *std::move(list);
  }
  if (PrintDocuments(session, found.resources(), single)) return kDone;
  if (found.resources().empty()) {
    session.err() << "no " << (target->kind.empty() ? "policy" : target->kind) << " found\n";
    return kDone;
  }
  const std::vector<v1::StoredResource> rows(found.resources().begin(), found.resources().end());
  session.out() << RenderResources(target->kind, rows, now);
  return kDone;
}

ExitCode Describe(Session& session) {
  const absl::StatusOr<ResourceKey> target = ParseTarget(session.options);
  if (!target.ok()) return session.Fail(target.status());
  const absl::StatusOr<v1::GetResponse> got = GetOne(session, *target);
  if (!got.ok()) return session.Fail(got.status());
  const absl::StatusOr<v1::ListResponse> all = session.client.List("", {});
  if (!all.ok()) return session.Fail(all.status());
  if (session.options.effective) {
    if (!got->resource().resource().has_route()) {
      return session.Fail(absl::InvalidArgumentError("--effective goes with a route"));
    }
    const std::vector<v1::StoredResource> resources(all->resources().begin(), all->resources().end());
    const std::vector<EffectiveRow> rows = EffectiveOf(got->resource().resource().route(), resources);
    Json json = Json::array();
    for (const EffectiveRow& row : rows) {
      json.push_back(
          {{"stage", row.stage}, {"policy", row.policy}, {"source", row.source}, {"settings", row.settings}});
    }
    if (!session.PrintStructured(json)) session.out() << RenderEffective(rows);
    return kDone;
  }
  const absl::StatusOr<v1::HistoryResponse> history = session.client.History(target->kind, target->name, 1);
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
  if (session.PrintStructured(json)) return kDone;
  session.out() << RenderDescription(description, session.terminal.now());
  return kDone;
}

ExitCode Delete(Session& session) {
  const Options& options = session.options;
  const absl::StatusOr<ResourceKey> target = ParseTarget(options);
  if (!target.ok()) return session.Fail(target.status());
  v1::DeleteRequest request;
  request.set_kind(target->kind);
  request.set_name(target->name);
  request.set_dry_run(options.dry_run);
  request.set_expected_revision(options.expected_revision);
  request.mutable_context()->set_actor(ActorOf(session));
  request.mutable_context()->set_comment(options.comment);
  const absl::StatusOr<v1::DeleteResponse> deleted = session.client.Delete(request);
  if (!deleted.ok()) {
    return FailApply(session, deleted.status(), {}, absl::StrCat("the policy without ", target->ToString()));
  }
  const bool wait = options.wait && !options.dry_run;
  if (options.output == "json" || options.output == "yaml") {
    Json json = {{"revision", deleted->revision()},
                 {"kind", target->kind},
                 {"name", target->name},
                 {"dry_run", options.dry_run}};
    const ExitCode code = wait ? AwaitEverywhere(session, deleted->revision(), &json) : kDone;
    session.PrintStructured(json);
    return code;
  }
  if (options.output == "name") {
    session.out() << target->ToString() << "\n";
  } else {
    session.out() << target->ToString() << " deleted\nrevision " << deleted->revision()
                  << (options.dry_run ? " (dry run: nothing was stored)" : "") << "\n"
                  << std::flush;
  }
  return wait ? AwaitEverywhere(session, deleted->revision(), nullptr) : kDone;
}

ExitCode Export(Session& session) {
  absl::StatusOr<v1::ListResponse> list = session.client.List("", {});
  if (!list.ok()) return session.Fail(list.status());
  google::protobuf::RepeatedPtrField<v1::StoredResource> chosen;
  for (v1::StoredResource& stored : *list->mutable_resources()) {
    if (session.options.all || !stored.built_in()) *chosen.Add() = std::move(stored);
  }
  PrintDocuments(session, chosen, /*single=*/false);
  return kDone;
}

}  // namespace gateway::ctl
