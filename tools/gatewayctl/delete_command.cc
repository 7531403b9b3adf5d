// delete.
#include <iostream>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/documents.h"
#include "tools/gatewayctl/render.h"

namespace gateway::ctl {
namespace {

constexpr size_t kNamedMax = 10;  // resources in a question

// What the command line says shall go. InvalidArgument where it says too little.
absl::StatusOr<std::set<ResourceKey>> Doomed(Session& session, const std::vector<PolicyDocument>& documents) {
  const Options& options = session.options;
  std::set<ResourceKey> keys;
  for (const PolicyDocument& document : documents) keys.insert(KeyOf(document.resource));
  const absl::StatusOr<std::vector<ResourceKey>> targets = ParseTargets(options);
  if (!targets.ok()) return targets.status();
  const bool named = !targets->empty() && !targets->front().name.empty();
  if (named && !options.selectors.empty()) {
    return absl::InvalidArgumentError("-l goes with kinds, not with a NAME");
  }
  for (const ResourceKey& target : *targets) {
    if (!target.name.empty()) {
      keys.insert(target);
      continue;
    }
    // Never a whole kind by a name that was forgotten.
    if (options.selectors.empty()) return absl::InvalidArgumentError("NAME is required, or -l SELECTOR");
    const absl::StatusOr<v1::ListResponse> list =
        session.client.List(target.kind, absl::StrJoin(options.selectors, ","));
    if (!list.ok()) return list.status();
    for (const v1::StoredResource& stored : list->resources()) {
      if (!stored.built_in()) keys.insert(KeyOf(stored.resource()));
    }
  }
  return keys;
}

std::string Question(const std::set<ResourceKey>& keys) {
  std::string names;
  size_t named = 0;
  for (const ResourceKey& key : keys) {
    if (named++ == kNamedMax) break;
    absl::StrAppend(&names, names.empty() ? "" : ", ", key.ToString());
  }
  if (keys.size() > kNamedMax) absl::StrAppend(&names, " and ", keys.size() - kNamedMax, " more");
  return absl::StrCat("delete ", names);
}

}  // namespace

ExitCode Delete(Session& session) {
  const Options& options = session.options;
  ExitCode code = kDone;
  std::vector<PolicyDocument> documents;
  if (!options.files.empty()) {
    auto read = ReadFilesAlone(session, &code);
    if (!read.has_value()) return code;
    documents = *std::move(read);
  }
  if (options.files.empty() && options.kind.empty()) {
    return session.Fail(absl::InvalidArgumentError("expected KIND NAME, -f FILE or KIND -l SELECTOR"));
  }
  const absl::StatusOr<std::set<ResourceKey>> keys = Doomed(session, documents);
  if (!keys.ok()) return session.Fail(keys.status());
  if (keys->empty()) {
    session.err() << "nothing matches; nothing was changed\n";
    return kDone;
  }
  if (!session.Confirm(Question(*keys))) return kFailed;

  v1::DeleteRequest request;
  if (keys->size() == 1) {
    // Also understood by a control plane that is older than deleting several at once.
    request.set_kind(keys->begin()->kind);
    request.set_name(keys->begin()->name);
  } else {
    for (const ResourceKey& key : *keys) {
      v1::ResourceName* name = request.add_resources();
      name->set_kind(key.kind);
      name->set_name(key.name);
    }
  }
  request.set_ignore_not_found(options.ignore_not_found);
  request.set_dry_run(options.dry_run);
  request.set_expected_revision(options.expected_revision);
  request.mutable_context()->set_actor(ActorOf(session));
  request.mutable_context()->set_comment(options.comment);
  const absl::StatusOr<v1::DeleteResponse> deleted = session.client.Delete(request);
  if (!deleted.ok()) {
    const std::string what = keys->size() == 1 ? keys->begin()->ToString() : absl::StrCat(keys->size(), " resources");
    return FailApply(session, deleted.status(), {}, absl::StrCat("the policy without ", what));
  }
  std::set<ResourceKey> gone;
  for (const v1::Change& change : deleted->changes()) gone.insert({change.kind(), change.name()});
  // (A control plane that is older than this says nothing of changes.)
  if (gone.empty() && !options.ignore_not_found) gone = *keys;
  const bool wait = (options.wait || !options.require.empty()) && !options.dry_run;
  if (session.structured()) {
    Json json = Json::object();
    json["items"] = Json::array();
    for (const ResourceKey& key : gone) json["items"].push_back({{"kind", key.kind}, {"name", key.name}});
    json["revision"] = deleted->revision();
    json["dry_run"] = options.dry_run;
    if (wait) code = AwaitEverywhere(session, deleted->revision(), &json);
    session.PrintStructured(json);
    return code;
  }
  if (options.output == "name") {
    for (const ResourceKey& key : gone) session.out() << key.ToString() << "\n";
  } else {
    for (const ResourceKey& key : gone) session.out() << key.ToString() << " deleted\n";
    session.out() << "revision " << deleted->revision() << (options.dry_run ? " (dry run: nothing was stored)" : "")
                  << "\n"
                  << std::flush;
  }
  return wait ? AwaitEverywhere(session, deleted->revision(), nullptr) : kDone;
}

}  // namespace gateway::ctl
