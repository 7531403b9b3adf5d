// Canaries as changes: a step, an end and a decision are revisions of their Route, whose document stays as it is.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/quote.h"
#include "controlplane/identity/own_actors.h"
#include "controlplane/publish/publisher.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kMovesTold = 5;  // in a comment

std::string CommentOf(const std::string& route, const CanaryMove& move) {
  return absl::StrCat("Route/", route, ": canary ", move);
}

}  // namespace

bool Publisher::OnlySteps(const PolicyState& state, const ResourceKey& key, uint64_t revision) {
  if (key.kind != "Route" || !state.resources->contains(key)) return false;
  const auto found = state.canaries->find(key.name);
  return found != state.canaries->end() && found->second.written <= revision && revision <= state.revision;
}

absl::StatusOr<uint64_t> Publisher::CommitCanaries(const CanarySet& moved, const v1::ChangeContext& context,
                                                   const Author& author) {
  const std::shared_ptr<const PolicyState> before = current();
  Proposal proposal{*before->resources, {}};
  for (const auto& [name, canary] : moved) {
    const ResourceRecord record = before->resources->at({"Route", name});
    Put({"Route", name}, record.resource, record.built_in, v1::Change::UPDATED, &proposal, record.set);
  }
  Turn turn;
  turn.canaries = &moved;
  absl::StatusOr<Commitment> done = Commit(std::move(proposal), context, author, false,
                                           "the policy is not valid any more; nothing was changed", turn);
  if (!done.ok()) return done.status();
  return done->revision;
}

absl::Status Publisher::AdvanceCanaries(const CanaryFigures& figures, bool judge) {
  std::lock_guard lock(write_mu_);
  const std::shared_ptr<const PolicyState> state = current();
  CanarySet moved;
  std::vector<std::string> comments;
  std::vector<std::string> reverted;
  for (const auto& [name, before] : *state->canaries) {
    const ResourceRecord& record = state->resources->at({"Route", name});
    const v1::Route& route = record.resource->route();
    SideFigures seen;
    if (!route.canary().guard().empty()) {
      const auto found = figures.find(name);
      if (found == figures.end() || found->second.version != record.revision) continue;
      seen = found->second;
    }
    StoredCanary canary = before;
    const std::optional<CanaryMove> move =
        AdvanceCanary(route, seen, judge, state->revision + 1, options_.now(), &canary);
    if (!move) continue;
    comments.push_back(CommentOf(name, *move));
    if (canary.state.phase() == v1::CanaryState::REVERTED) reverted.push_back(comments.back());
    moved[name] = std::move(canary);
  }
  if (moved.empty()) return absl::OkStatus();
  if (absl::Status s = CheckNoChangeUnderWay(); !s.ok()) {
    return absl::Status(s.code(), absl::StrCat(comments.front(), " waits: ", s.message()));
  }
  v1::ChangeContext context;
  const size_t more = comments.size() > kMovesTold ? comments.size() - kMovesTold : 0;
  comments.resize(comments.size() - more);
  context.set_comment(
      CutUtf8(absl::StrCat(absl::StrJoin(comments, "; "), more > 0 ? absl::StrCat("; and ", more, " more") : ""),
              kCommentBytesMax));
  Author author;
  author.name = kCanaryActor;
  author.action = "Canary";
  if (absl::StatusOr<uint64_t> done = CommitCanaries(moved, context, author); !done.ok()) return Count(done.status());
  counts_.canaries_reverted += reverted.size();
  for (const std::string& each : reverted) spdlog::warn("{}", each);
  return absl::OkStatus();
}

absl::StatusOr<v1::DecideCanaryResponse> Publisher::DecideCanary(const v1::DecideCanaryRequest& request,
                                                                 const Author& author) {
  if (absl::Status s = CheckContext(request.context()); !s.ok()) return Count(s);
  std::lock_guard lock(write_mu_);
  const std::shared_ptr<const PolicyState> state = current();
  const auto record = state->resources->find({"Route", request.route()});
  if (record == state->resources->end()) {
    return Count(absl::NotFoundError(absl::StrCat("no Route/", request.route())));
  }
  const auto found = state->canaries->find(request.route());
  if (found == state->canaries->end()) {
    return Count(absl::NotFoundError(absl::StrCat("Route/", request.route(), " has no canary")));
  }
  if (absl::Status s = CheckNoChangeUnderWay(); !s.ok()) return Count(s);
  const std::string actor = !author.name.empty()                ? author.name
                            : request.context().actor().empty() ? author.address
                                                                : request.context().actor();
  StoredCanary canary = found->second;
  const absl::StatusOr<CanaryMove> move =
      controlplane::DecideCanary(record->second.resource->route(), request.decision(), actor, state->revision + 1,
                                 absl::FromUnixMicros(absl::ToUnixMicros(options_.now())), &canary);
  if (!move.ok()) return Count(move.status());
  v1::ChangeContext context = request.context();
  context.set_comment(
      CutUtf8(absl::StrCat(CommentOf(request.route(), *move), context.comment().empty() ? "" : ": ", context.comment()),
              kCommentBytesMax));
  absl::StatusOr<uint64_t> done = CommitCanaries({{request.route(), canary}}, context, author);
  if (!done.ok()) return Count(done.status());
  v1::DecideCanaryResponse response;
  *response.mutable_canary() = std::move(canary.state);
  response.set_revision(*done);
  return response;
}

}  // namespace gateway::controlplane
