#include "controlplane/admin/policy_reads.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/timestamp.h"
#include "common/config/redaction.h"
#include "common/policy/label_selector.h"
#include "common/policy/resource.h"
#include "controlplane/admin/paging.h"

namespace gateway::controlplane {
namespace {

void FillStored(const ResourceRecord& record, v1::StoredResource* out, bool with_secrets = false) {
  *out->mutable_resource() = *record.resource;
  if (with_secrets && !record.resource->has_certificate()) {
    // as they are: hashes. No response has a private key.
  } else if (google::protobuf::Message* body = MutableBodyOf(out->mutable_resource(), KeyOf(*record.resource).kind)) {
    RedactSecrets(body);
  }
  out->set_revision(record.revision);
  SetTime(record.changed_at, out->mutable_changed_at());
  out->set_built_in(record.built_in);
  out->set_set(record.set);
}

void FillAcme(const AcmeIssuer* acme, v1::StoredResource* out) {
  if (acme == nullptr || !out->resource().certificate().has_acme()) return;
  if (auto state = acme->StateOf(out->resource().certificate().name())) *out->mutable_acme() = *std::move(state);
}

void FillCanary(const PolicyState& state, v1::StoredResource* out) {
  if (!out->resource().route().has_canary()) return;
  const auto found = state.canaries->find(out->resource().route().name());
  if (found != state.canaries->end())
    *out->mutable_canary() = ShownState(found->second.state, state.pending.get(), absl::Now());
}

}  // namespace

absl::Status PolicyReads::Get(const v1::GetRequest& request, v1::GetResponse* response) const {
  absl::StatusOr<std::string> kind = CanonicalKind(request.kind());
  if (!kind.ok()) return kind.status();
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  auto it = state->resources->find({*kind, request.name()});
  if (it == state->resources->end()) {
    return absl::NotFoundError(absl::StrCat("no ", *kind, "/", request.name()));
  }
  FillStored(it->second, response->mutable_resource());
  FillAcme(acme_, response->mutable_resource());
  FillCanary(*state, response->mutable_resource());
  response->set_revision(state->revision);
  return absl::OkStatus();
}

absl::Status PolicyReads::List(const v1::ListRequest& request, bool with_secrets, v1::ListResponse* response) const {
  std::string kind;
  if (!request.kind().empty()) {
    absl::StatusOr<std::string> canonical = CanonicalKind(request.kind());
    if (!canonical.ok()) return canonical.status();
    kind = *std::move(canonical);
  }
  absl::StatusOr<uint32_t> page_size = PageSize(request.page_size(), kListPageDefault, kListPageMax);
  if (!page_size.ok()) return page_size.status();
  const std::map<std::string, std::string> labels(request.labels().begin(), request.labels().end());
  std::string filter = kind;
  for (const auto& [label, value] : labels) absl::StrAppend(&filter, "\n", label, "=", value);
  const absl::StatusOr<LabelSelector> selector = LabelSelector::Parse(request.selector());
  if (!selector.ok()) return selector.status();
  absl::StrAppend(&filter, "\n\n", request.selector());
  if (with_secrets) filter += "\n\nwith secrets";
  const std::string fingerprint = Fingerprint(filter);

  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const std::string revision = absl::StrCat(state->epoch, "-", state->revision);
  auto it = kind.empty() ? state->resources->begin() : state->resources->lower_bound({kind, ""});
  if (!request.page_token().empty()) {
    absl::StatusOr<std::vector<std::string>> token = ReadToken(request.page_token(), 4);
    if (!token.ok()) return token.status();
    if ((*token)[1] != fingerprint) {
      return absl::InvalidArgumentError("page_token: of a list of another kind or other labels");
    }
    if ((*token)[0] != revision) {
      return absl::AbortedError("policy has changed between two pages; list from the beginning");
    }
    it = state->resources->upper_bound({(*token)[2], (*token)[3]});
  }
  response->set_revision(state->revision);
  size_t bytes = 0;
  const ResourceKey* last = nullptr;
  for (; it != state->resources->end() && (kind.empty() || it->first.kind == kind); ++it) {
    const auto& own = LabelsOf(*it->second.resource);
    const bool wanted = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      auto found = own.find(label.first);
      return found != own.end() && found->second == label.second;
    });
    if (!wanted || !selector->Matches(own)) continue;
    const size_t more = it->second.resource->ByteSizeLong() + 64;
    if (last != nullptr &&
        (static_cast<uint32_t>(response->resources_size()) == *page_size || bytes + more > kListPageBytesMax)) {
      response->set_next_page_token(MakeToken({revision, fingerprint, last->kind, last->name}));
      break;
    }
    bytes += more;
    last = &it->first;
    v1::StoredResource* const filled = response->add_resources();
    FillStored(it->second, filled, with_secrets);
    FillAcme(acme_, filled);
    FillCanary(*state, filled);
    bytes += filled->canary().ByteSizeLong();
  }
  return absl::OkStatus();
}

absl::Status PolicyReads::Lint(v1::LintResponse* response) const {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  response->mutable_warnings()->Assign(state->warnings.begin(), state->warnings.end());
  response->set_revision(state->revision);
  return absl::OkStatus();
}

absl::Status PolicyReads::History(const v1::HistoryRequest& request, v1::HistoryResponse* response) const {
  HistoryFilter filter;
  if (request.kind().empty() && !request.name().empty()) {
    return absl::InvalidArgumentError("name: expected a kind with it");
  }
  if (!request.kind().empty()) {
    absl::StatusOr<std::string> kind = CanonicalKind(request.kind());
    if (!kind.ok()) return kind.status();
    filter.kind = *std::move(kind);
    filter.name = request.name();
  }
  filter.actor = request.actor();
  filter.comment = request.comment();
  if (request.comment().size() > kCommentBytesMax || request.actor().size() > kActorBytesMax) {
    return absl::InvalidArgumentError("actor and comment: longer than any that is kept");
  }
  if (request.has_since()) filter.since = TimeOf(request.since());
  if (request.has_until()) filter.until = TimeOf(request.until());
  if (filter.since > filter.until) return absl::InvalidArgumentError("since: later than until");
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const absl::StatusOr<LabelSelector> selector = LabelSelector::Parse(request.selector());
  if (!selector.ok()) return selector.status();
  if (!selector->empty()) {
    filter.any_of.emplace();
    for (const auto& [key, record] : *state->resources) {
      if (selector->Matches(LabelsOf(*record.resource))) filter.any_of->insert(key);
    }
  }
  absl::StatusOr<uint32_t> page_size = PageSize(request.page_size(), kHistoryPageDefault, kHistoryPageMax);
  if (!page_size.ok()) return page_size.status();
  const std::string fingerprint = Fingerprint(absl::StrCat(filter.kind, "\n", filter.name, "\n", filter.actor, "\n",
                                                           filter.comment, "\n", absl::FormatTime(filter.since), "\n",
                                                           absl::FormatTime(filter.until), "\n", request.selector()));
  const absl::StatusOr<uint64_t> before = ReadBefore(request.page_token(), fingerprint, "history");
  if (!before.ok()) return before.status();
  // One more than asked for tells whether there is a next page.
  absl::StatusOr<std::vector<v1::RevisionInfo>> page =
      publisher_->store().RevisionsBefore(*before, filter, *page_size + 1);
  if (!page.ok()) return page.status();
  if (page->empty() && !filter.name.empty() && *before == 0 &&
      !state->resources->contains({filter.kind, filter.name})) {
    absl::StatusOr<std::vector<ResourceVersion>> any =
        publisher_->store().VersionsBefore({filter.kind, filter.name}, 0, 1);
    if (!any.ok()) return any.status();
    if (any->empty()) {
      return absl::NotFoundError(absl::StrCat("no ", filter.kind, "/", filter.name, ", and no history of it"));
    }
  }
  size_t count = std::min<size_t>(page->size(), *page_size);
  if (count == page->size() && count > 0) {
    // Shorter than asked for: either the end, or cut by its bytes.
    absl::StatusOr<std::vector<v1::RevisionInfo>> more =
        publisher_->store().RevisionsBefore(page->back().revision(), filter, 1);
    if (!more.ok()) return more.status();
    if (!more->empty()) page->push_back(std::move(more->front()));
  }
  for (size_t i = 0; i < count; ++i) *response->add_revisions() = std::move((*page)[i]);
  if (count < page->size()) {
    response->set_next_page_token(
        MakeToken({fingerprint, absl::StrCat(response->revisions(response->revisions_size() - 1).revision())}));
  }
  return absl::OkStatus();
}

absl::Status PolicyReads::ResourceHistory(const v1::ResourceHistoryRequest& request,
                                          v1::ResourceHistoryResponse* response) const {
  absl::StatusOr<std::string> kind = CanonicalKind(request.kind());
  if (!kind.ok()) return kind.status();
  if (request.name().empty()) return absl::InvalidArgumentError("name: expected a resource's name");
  const ResourceKey key{*std::move(kind), request.name()};
  absl::StatusOr<std::vector<ResourceVersion>> page =
      publisher_->store().VersionsBefore(key, request.before(), kHistoryPageMax);
  if (!page.ok()) return page.status();
  if (page->empty() && request.before() == 0) {
    return absl::NotFoundError(absl::StrCat("no ", key.ToString(), ", and no history of it"));
  }
  if (!page->empty()) {
    absl::StatusOr<std::vector<ResourceVersion>> more =
        publisher_->store().VersionsBefore(key, page->back().info.revision(), 1);
    if (!more.ok()) return more.status();
    if (!more->empty()) response->set_next_before(page->back().info.revision());
  }
  for (ResourceVersion& version : *page) {
    v1::ResourceVersion* out = response->add_versions();
    *out->mutable_info() = std::move(version.info);
    out->set_op(version.op);
    if (version.resource == nullptr) continue;
    *out->mutable_resource() = *version.resource;
    if (google::protobuf::Message* body = MutableBodyOf(out->mutable_resource(), key.kind)) RedactSecrets(body);
  }
  response->set_oldest_revision(publisher_->store().oldest_revision());
  return absl::OkStatus();
}

absl::Status PolicyReads::GetRevision(const v1::GetRevisionRequest& request, v1::GetRevisionResponse* response) const {
  absl::StatusOr<Store::Past> past = publisher_->store().SetAt(request.revision());
  if (!past.ok()) return past.status();
  *response->mutable_info() = std::move(past->info);
  for (const auto& [key, record] : past->resources) FillStored(record, response->add_resources());
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
