// apply, sync, diff.
#include <iostream>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/diff.h"
#include "tools/gatewayctl/documents.h"
#include "tools/gatewayctl/render.h"

namespace gateway::ctl {
namespace {

// The --expect of the command line: KIND/NAME=REVISION. InvalidArgument otherwise.
absl::Status AddExpected(const Options& options, google::protobuf::RepeatedPtrField<v1::ExpectedVersion>* versions) {
  for (const std::string& text : options.expected) {
    const size_t equals = text.rfind('=');
    Options one;
    one.kind = text.substr(0, equals);
    const absl::StatusOr<ResourceKey> key = ParseTarget(one);
    uint64_t revision = 0;
    if (equals == std::string::npos || !key.ok() || key->name.empty() ||
        !absl::SimpleAtoi(text.substr(equals + 1), &revision)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--expect: '", text, "': expected KIND/NAME=REVISION; 0: it does not exist"));
    }
    v1::ExpectedVersion* version = versions->Add();
    version->set_kind(key->kind);
    version->set_name(key->name);
    version->set_revision(revision);
  }
  return absl::OkStatus();
}

// Shows what `request` would delete and asks. True: go on, on the state that was shown; false: `code` says how it ends.
bool ConfirmDeletions(Session& session, const std::vector<PolicyDocument>& documents, v1::ApplyRequest* request,
                      ExitCode* code) {
  const Options& options = session.options;
  const bool asks = session.terminal.in != nullptr && session.terminal.out_is_terminal;
  if (!asks || options.yes || options.dry_run) return true;
  request->set_dry_run(true);
  const absl::StatusOr<v1::ApplyResponse> would = session.client.Apply(*request);
  request->set_dry_run(false);
  if (!would.ok()) {
    *code = FailApply(session, would.status(), documents);
    return false;
  }
  size_t deletions = 0;
  for (const v1::Change& change : would->changes()) {
    if (change.op() != v1::Change::DELETED) continue;
    session.err() << change.kind() << "/" << change.name() << " would be deleted\n";
    ++deletions;
  }
  if (deletions > 0 &&
      !session.Confirm(absl::StrCat("delete ", deletions, deletions == 1 ? " resource" : " resources"))) {
    *code = kFailed;
    return false;
  }
  request->set_expected_revision(would->revision());  // of a dry run: the current one
  return true;
}

// Sends `request`, which has the documents, and prints what came of it.
ExitCode Send(Session& session, const std::vector<PolicyDocument>& documents, v1::ApplyRequest request) {
  const Options& options = session.options;
  if (absl::Status s = AddExpected(options, request.mutable_expected_versions()); !s.ok()) return session.Fail(s);
  request.set_dry_run(options.dry_run);
  request.set_expected_revision(options.expected_revision);
  request.mutable_context()->set_actor(ActorOf(session));
  request.mutable_context()->set_comment(options.comment);
  if (const absl::Status terms = SetTerms(options, &request); !terms.ok()) return session.Fail(terms);
  ExitCode code = kDone;
  const bool has_terms = !request.to().empty() || !request.guard().empty() || request.has_confirm_within();
  if (request.expected_versions_size() > 0 || !request.prune().empty() || !request.set().empty() || has_terms) {
    // An older one would do the rest of it, without a word: of a staged change, give it to every data plane.
    const absl::StatusOr<v1::GetServerInfoResponse> info = session.client.GetServerInfo();
    if (!info.ok()) return session.Fail(info.status());
    if (!info->remembers_requests()) {
      return session.Fail(absl::UnimplementedError(
          absl::StrCat("the control plane at ", options.server, " is of version ", info->version(),
                       ", which knows no sync, --prune, --expect, --to, --confirm-within or --guard; nothing was "
                       "changed")));
    }
  }
  const bool deletes = !request.prune().empty() || !request.set().empty();
  if (deletes && !ConfirmDeletions(session, documents, &request, &code)) return code;
  const absl::StatusOr<v1::ApplyResponse> applied = session.client.Apply(request);
  if (!applied.ok()) return FailApply(session, applied.status(), documents);

  for (const std::string& warning : applied->warnings()) session.err() << "warning: " << warning << "\n";
  if (applied->other_warnings() > 0) {
    session.err() << "(" << applied->other_warnings() << (applied->other_warnings() == 1 ? " warning" : " warnings")
                  << " about the rest of the policy: gatewayctl lint)\n";
  }
  const bool wait = (options.wait || !options.require.empty()) && !options.dry_run;
  // Everywhere first; then, of a change that is not final, how it ends. A reversal tells more than who missed it.
  const auto await = [&](Json* json) {
    const ExitCode everywhere = AwaitEverywhere(session, applied->revision(), json);
    if (!applied->has_change()) return everywhere;
    const ExitCode outcome = AwaitOutcome(session, applied->change(), json);
    return outcome == kDone ? everywhere : outcome;
  };
  if (session.structured()) {
    Json json = MessageJson(*applied);
    json["dry_run"] = options.dry_run;
    if (wait) code = await(&json);
    session.PrintStructured(json);
    return code;
  }
  if (options.output == "name") {
    for (const v1::Change& change : RealChanges(applied->changes())) {
      session.out() << change.kind() << "/" << change.name() << "\n";
    }
    return wait ? await(nullptr) : kDone;
  }
  session.out() << RenderChanges(std::vector<v1::Change>(applied->changes().begin(), applied->changes().end()));
  session.out() << "revision " << applied->revision() << (options.dry_run ? " (dry run: nothing was stored)" : "")
                << "\n";
  if (applied->has_change()) session.out() << RenderPendingChange(applied->change(), session.terminal.now());
  session.out() << std::flush;
  return wait ? await(nullptr) : kDone;
}

// One resource that differs: as text, as a name, or as an item of `json`, as -o asks.
void PrintDifference(Session& session, const ResourceKey& key, const std::string& old_place,
                     const std::string& new_place, const std::string& before, const std::string& after, Json* json) {
  const std::string name = key.ToString();
  const std::string diff = UnifiedDiff(absl::StrCat(old_place, "/", name), absl::StrCat(new_place, "/", name), before,
                                       after, session.colour && session.table());
  if (session.table()) session.out() << diff;
  if (session.options.output == "name") session.out() << name << "\n";
  json->push_back({{"kind", key.kind},
                   {"name", key.name},
                   {"op", before.empty()  ? "created"
                          : after.empty() ? "deleted"
                                          : "updated"},
                   {"diff", diff}});
}

// The documents of a revision; 0: of now.
absl::StatusOr<std::map<ResourceKey, std::string>> TextsAt(Session& session, uint64_t revision, uint64_t* current) {
  std::map<ResourceKey, std::string> texts;
  google::protobuf::RepeatedPtrField<v1::StoredResource> resources;
  if (revision == 0) {
    absl::StatusOr<v1::ListResponse> list = session.client.List("");
    if (!list.ok()) return list.status();
    resources = std::move(*list->mutable_resources());
    *current = list->revision();
  } else {
    absl::StatusOr<v1::GetRevisionResponse> past = session.client.GetRevision(revision);
    if (!past.ok()) return past.status();
    resources = std::move(*past->mutable_resources());
    *current = revision;
  }
  for (const v1::StoredResource& stored : resources) {
    v1::Resource resource = stored.resource();
    // What the CA has issued is in no document.
    if (resource.certificate().has_acme()) {
      resource.mutable_certificate()->clear_certificate();
      resource.mutable_certificate()->clear_key();
    }
    texts[KeyOf(resource)] = EncodeResource(resource);
  }
  return texts;
}

// What changed from one revision to another, or to now.
ExitCode DiffRevisions(Session& session) {
  const std::vector<uint64_t>& revisions = session.options.revisions;
  uint64_t from = 0, to = 0;
  absl::StatusOr<std::map<ResourceKey, std::string>> before = TextsAt(session, revisions.front(), &from);
  if (!before.ok()) return session.Fail(before.status());
  absl::StatusOr<std::map<ResourceKey, std::string>> after =
      TextsAt(session, revisions.size() > 1 ? revisions[1] : 0, &to);
  if (!after.ok()) return session.Fail(after.status());
  std::set<ResourceKey> keys;
  for (const auto& [key, text] : *before) keys.insert(key);
  for (const auto& [key, text] : *after) keys.insert(key);
  Json json = Json::array();
  const std::string old_place = absl::StrCat(from);
  const std::string new_place = revisions.size() > 1 ? absl::StrCat(to) : "current";
  for (const ResourceKey& key : keys) {
    const std::string &old_text = (*before)[key], &new_text = (*after)[key];
    if (old_text != new_text) PrintDifference(session, key, old_place, new_place, old_text, new_text, &json);
  }
  const bool differ = !json.empty();
  session.PrintList(std::move(json), to);
  return session.options.exit_code && differ ? kFailed : kDone;
}

}  // namespace

ExitCode Apply(Session& session) {
  const Options& options = session.options;
  if (options.prune && options.selectors.empty()) {
    return session.Fail(absl::InvalidArgumentError("--prune needs -l SELECTOR, which says what may be deleted"));
  }
  if (!options.prune && !options.selectors.empty()) {
    return session.Fail(absl::InvalidArgumentError("-l goes with --prune"));
  }
  ExitCode code = kDone;
  const auto documents = ReadDocuments(session, &code);
  if (!documents.has_value()) return code;
  v1::ApplyRequest request = RequestOf(*documents);
  if (options.prune) request.set_prune(absl::StrJoin(options.selectors, ","));
  return Send(session, *documents, std::move(request));
}

ExitCode Sync(Session& session) {
  ExitCode code = kDone;
  const auto documents = ReadDocuments(session, &code);
  if (!documents.has_value()) return code;
  v1::ApplyRequest request = RequestOf(*documents);
  request.set_set(session.options.set_name);
  return Send(session, *documents, std::move(request));
}

ExitCode Diff(Session& session) {
  const Options& options = session.options;
  if (options.files.empty() == options.revisions.empty() || options.revisions.size() > 2) {
    return session.Fail(absl::InvalidArgumentError("expected -f FILE, REVISION, or two of them"));
  }
  if (options.files.empty()) return DiffRevisions(session);
  ExitCode code = kDone;
  const auto documents = ReadDocuments(session, &code);
  if (!documents.has_value()) return code;
  v1::ApplyRequest request = RequestOf(*documents);
  request.set_dry_run(true);
  const absl::StatusOr<v1::ApplyResponse> checked = session.client.Apply(request);
  if (!checked.ok()) return FailApply(session, checked.status(), *documents);
  uint64_t revision = 0;
  absl::StatusOr<std::map<ResourceKey, std::string>> texts = TextsAt(session, 0, &revision);
  if (!texts.ok()) return session.Fail(texts.status());
  std::set<ResourceKey> changed;
  for (const v1::Change& change : RealChanges(checked->changes())) changed.insert({change.kind(), change.name()});
  Json json = Json::array();
  for (const PolicyDocument& document : *documents) {
    const ResourceKey key = KeyOf(document.resource);
    if (!changed.contains(key)) continue;
    PrintDifference(session, key, "current", document.file, (*texts)[key], EncodeResource(document.resource), &json);
  }
  session.PrintList(std::move(json), checked->revision());
  return options.exit_code && !changed.empty() ? kFailed : kDone;
}

}  // namespace gateway::ctl
