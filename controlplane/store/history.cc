// Resources, their history and the revisions.
#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {
namespace {

void ToTimestamp(int64_t micros, google::protobuf::Timestamp* out) {
  out->set_seconds(micros / 1'000'000);
  out->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
}

}  // namespace

uint32_t RowChecksum(const ResourceKey& key, absl::string_view body, uint64_t revision, int64_t changed_at, int op,
                     bool built_in, absl::string_view set) {
  // Without a set it is as it was before there were sets.
  uint32_t crc = Crc32c(0, absl::StrCat(key.kind, "\n", key.name, "\n", revision, "\n", changed_at, "\n", op, "\n",
                                        built_in ? 1 : 0, "\n", set, set.empty() ? "" : "\n"));
  return Crc32c(crc, body);
}

absl::Status Store::Impl::ReadRow(Statement& row, ResourceSet* into, int op) {
  ResourceKey key{row.Text(0), row.Text(1)};
  const absl::string_view body = row.Blob(2);
  const bool built_in = row.Int(6) != 0;
  const auto revision_of_row = static_cast<uint64_t>(row.Int(4));
  std::string set = row.Text(7);
  if (row.Int(3) != RowChecksum(key, body, revision_of_row, row.Int(5), op, built_in, set)) {
    return Damaged(key, "does not match its checksum");
  }
  auto resource = std::make_shared<v1::Resource>();
  if (!resource->ParseFromArray(body.data(), static_cast<int>(body.size())) || KeyOf(*resource) != key) {
    return Damaged(key, "cannot be read");
  }
  if (absl::Status s = Unseal(key, resource.get()); !s.ok()) return s;
  (*into)[std::move(key)] = {std::move(resource), revision_of_row, absl::FromUnixMicros(row.Int(5)), built_in,
                             std::move(set)};
  return absl::OkStatus();
}

int Store::Impl::Write(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
                       std::span<const std::string> bodies, int64_t micros, uint64_t* rows, uint64_t* new_oldest) {
  const auto number = static_cast<int64_t>(info.revision());
  {
    Statement statement(database.get(),
                        "INSERT INTO revisions(revision, time, actor, peer, comment) VALUES(?,?,?,?,?)");
    statement.Bind(number).Bind(micros).Bind(info.actor()).Bind(peer).Bind(info.comment());
    if (int rc = statement.Run(); rc != SQLITE_OK) return rc;
  }
  Statement upsert(database.get(),
                   "INSERT INTO resources(kind, name, body, checksum, revision, changed_at, built_in, owner) "
                   "VALUES(?,?,?,?,?,?,?,?) ON CONFLICT(kind, name) DO UPDATE SET body=excluded.body, "
                   "checksum=excluded.checksum, revision=excluded.revision, changed_at=excluded.changed_at, "
                   "built_in=excluded.built_in, owner=excluded.owner");
  Statement erase(database.get(), "DELETE FROM resources WHERE kind=? AND name=?");
  Statement remember(database.get(),
                     "INSERT INTO history(kind, name, revision, op, body, checksum, changed_at, built_in, owner) "
                     "VALUES(?,?,?,?,?,?,?,?,?)");
  for (size_t i = 0; i < edits.size(); ++i) {
    const Edit& edit = edits[i];
    const std::string& body = bodies[i];
    int rc;
    if (edit.resource != nullptr) {
      upsert.Bind(edit.key.kind).Bind(edit.key.name).BindBlob(body);
      upsert.Bind(RowChecksum(edit.key, body, info.revision(), micros, 0, edit.built_in, edit.set));
      rc = upsert.Bind(number).Bind(micros).Bind(edit.built_in ? 1 : 0).Bind(edit.set).Run();
    } else {
      rc = erase.Bind(edit.key.kind).Bind(edit.key.name).Run();
    }
    if (rc != SQLITE_OK) return rc;
    remember.Bind(edit.key.kind).Bind(edit.key.name).Bind(number).Bind(edit.op);
    edit.resource == nullptr ? remember.BindNull() : remember.BindBlob(body);
    remember.Bind(RowChecksum(edit.key, body, info.revision(), micros, edit.op, edit.built_in, edit.set));
    if (rc = remember.Bind(micros).Bind(edit.built_in ? 1 : 0).Bind(edit.set).Run(); rc != SQLITE_OK) return rc;
  }
  *rows = history_rows + edits.size();
  *new_oldest = oldest == 0 ? info.revision() : oldest;
  return Prune(info.revision(), rows, new_oldest);
}

// Drops the oldest revisions past the bounds. A row of a dropped revision stays while it is the newest of its resource
// at the oldest revision that is kept.
int Store::Impl::Prune(uint64_t newest, uint64_t* rows, uint64_t* new_oldest) {
  Statement superseded(database.get(),
                       "DELETE FROM history WHERE rowid IN (SELECT h.rowid FROM history n JOIN history h ON "
                       "h.kind = n.kind AND h.name = n.name AND h.revision < n.revision WHERE n.revision = ?)");
  Statement gone(database.get(), "DELETE FROM history WHERE revision = ? AND body IS NULL");
  Statement revision_row(database.get(), "DELETE FROM revisions WHERE revision = ?");
  while (*new_oldest < newest &&
         (newest - *new_oldest + 1 > options.history_revisions_max || *rows > options.history_rows_max)) {
    const auto dropped = static_cast<int64_t>(*new_oldest);
    for (auto [statement, number] :
         {std::pair{&superseded, dropped + 1}, std::pair{&gone, dropped}, std::pair{&revision_row, dropped}}) {
      if (int rc = statement->Bind(number).Run(); rc != SQLITE_OK) return rc;
      if (statement != &revision_row) *rows -= static_cast<uint64_t>(sqlite3_changes(database.get()));
    }
    ++*new_oldest;
  }
  return SQLITE_OK;
}

absl::Status Store::Impl::ReadChanges(v1::RevisionInfo* info) {
  Statement row(database.get(), "SELECT kind, name, op FROM history WHERE revision = ? ORDER BY kind, name");
  row.Bind(static_cast<int64_t>(info->revision()));
  while (row.Step()) {
    v1::Change* change = info->add_changes();
    change->set_kind(row.Text(0));
    change->set_name(row.Text(1));
    change->set_op(static_cast<v1::Change::Op>(row.Int(2)));
  }
  if (row.rc() != SQLITE_OK) return database.Error(row.rc(), "read");
  absl::StatusOr<std::optional<v1::PendingChange>> change = ReadPendingChange(info->revision());
  if (!change.ok()) return change.status();
  if (change->has_value()) *info->mutable_change() = **std::move(change);
  return absl::OkStatus();
}

absl::Status Store::Commit(const v1::RevisionInfo& info, const std::string& peer, std::span<const Edit> edits,
                           const v1::AuditEntry* entry, const StoredRequest* request,
                           std::span<const v1::PendingChange> changes, const CanaryEdits* canaries) {
  std::lock_guard lock(impl_->mu);
  const int64_t micros = MicrosOf(info.time());
  uint64_t rows = 0, oldest = 0;
  std::vector<std::string> bodies;
  for (const Edit& edit : edits) {
    if (edit.resource == nullptr) {
      bodies.emplace_back();
      continue;
    }
    absl::StatusOr<std::string> body = impl_->Sealed(edit.key, *edit.resource);
    if (!body.ok()) return body.status();
    bodies.push_back(*std::move(body));
  }
  const absl::Status status = impl_->database.Transact([&] {
    int rc = impl_->Write(info, peer, edits, bodies, micros, &rows, &oldest);
    for (const v1::PendingChange& change : changes) {
      if (rc == SQLITE_OK) rc = impl_->WriteChange(change);
    }
    if (rc == SQLITE_OK && canaries != nullptr && !canaries->empty()) rc = impl_->WriteCanaries(*canaries);
    if (rc == SQLITE_OK && entry != nullptr) rc = impl_->WriteAudit({entry, 1});
    if (rc == SQLITE_OK && request != nullptr) rc = impl_->WriteRequest(*request);
    return rc;
  });
  if (!status.ok()) return status;
  impl_->revision = info.revision();
  impl_->revision_micros = micros;
  impl_->history_rows = rows;
  impl_->oldest = oldest;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::RevisionInfo>> Store::RevisionsBefore(uint64_t before, const HistoryFilter& filter,
                                                                     size_t limit) {
  std::lock_guard lock(impl_->mu);
  std::string sql = "SELECT revision, time, actor, comment, peer FROM revisions r WHERE revision < ?";
  if (filter.since > absl::InfinitePast()) sql += " AND time >= ?";
  if (filter.until < absl::InfiniteFuture()) sql += " AND time <= ?";
  if (!filter.actor.empty()) sql += " AND actor = ?";
  if (!filter.comment.empty()) sql += " AND instr(lower(comment), lower(?)) > 0";
  if (!filter.kind.empty()) {
    absl::StrAppend(&sql, " AND EXISTS(SELECT 1 FROM history WHERE revision = r.revision AND kind = ?",
                    filter.name.empty() ? ")" : " AND name = ?)");
  }
  sql += " ORDER BY revision DESC";
  Statement row(impl_->database.get(), sql.c_str());
  row.Bind(before == 0 ? INT64_MAX : static_cast<int64_t>(before));
  if (filter.since > absl::InfinitePast()) row.Bind(absl::ToUnixMicros(filter.since));
  if (filter.until < absl::InfiniteFuture()) row.Bind(absl::ToUnixMicros(filter.until));
  if (!filter.actor.empty()) row.Bind(filter.actor);
  if (!filter.comment.empty()) row.Bind(filter.comment);
  if (!filter.kind.empty()) row.Bind(filter.kind);
  if (!filter.kind.empty() && !filter.name.empty()) row.Bind(filter.name);
  std::vector<v1::RevisionInfo> page;
  size_t bytes = 0;
  while (page.size() < limit && bytes < kHistoryPageBytesMax) {
    if (!row.Step()) {
      if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
      break;
    }
    v1::RevisionInfo info;
    info.set_revision(static_cast<uint64_t>(row.Int(0)));
    ToTimestamp(row.Int(1), info.mutable_time());
    info.set_actor(row.Text(2));
    info.set_comment(row.Text(3));
    info.set_peer(row.Text(4));
    if (absl::Status s = impl_->ReadChanges(&info); !s.ok()) return s;
    if (filter.any_of.has_value() &&
        std::none_of(info.changes().begin(), info.changes().end(), [&filter](const v1::Change& change) {
          return filter.any_of->contains({change.kind(), change.name()});
        })) {
      continue;
    }
    bytes += info.ByteSizeLong();
    page.push_back(std::move(info));
  }
  return page;
}

absl::StatusOr<std::vector<ResourceVersion>> Store::VersionsBefore(const ResourceKey& key, uint64_t before,
                                                                   size_t limit) {
  std::lock_guard lock(impl_->mu);
  // The oldest row may be of a revision that is no longer kept itself.
  Statement row(impl_->database.get(),
                "SELECT h.kind, h.name, h.body, h.checksum, h.revision, h.changed_at, h.built_in, h.owner, h.op, "
                "h.body IS NULL, coalesce(r.actor, ''), coalesce(r.comment, ''), coalesce(r.peer, '') FROM history h "
                "LEFT JOIN revisions r ON r.revision = h.revision WHERE h.kind = ? AND h.name = ? AND h.revision < ? "
                "ORDER BY h.revision DESC LIMIT ?");
  row.Bind(key.kind).Bind(key.name).Bind(before == 0 ? INT64_MAX : static_cast<int64_t>(before));
  row.Bind(static_cast<int64_t>(limit));
  std::vector<ResourceVersion> page;
  size_t bytes = 0;
  while (bytes < kHistoryPageBytesMax && row.Step()) {
    ResourceVersion& version = page.emplace_back();
    version.info.set_revision(static_cast<uint64_t>(row.Int(4)));
    ToTimestamp(row.Int(5), version.info.mutable_time());
    version.info.set_actor(row.Text(10));
    version.info.set_comment(row.Text(11));
    version.info.set_peer(row.Text(12));
    version.op = static_cast<v1::Change::Op>(row.Int(8));
    if (row.Int(9) == 0) {
      ResourceSet read;
      if (absl::Status s = impl_->ReadRow(row, &read, static_cast<int>(row.Int(8))); !s.ok()) return s;
      version.resource = std::move(read.begin()->second.resource);
      bytes += version.resource->ByteSizeLong();
    }
    bytes += version.info.ByteSizeLong();
  }
  if (bytes < kHistoryPageBytesMax && row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return page;
}

uint64_t Store::oldest_revision() const {
  std::lock_guard lock(impl_->mu);
  return impl_->oldest;
}

absl::StatusOr<std::vector<v1::Change>> Store::ChangesOf(uint64_t revision) {
  std::lock_guard lock(impl_->mu);
  v1::RevisionInfo info;
  info.set_revision(revision);
  if (absl::Status s = impl_->ReadChanges(&info); !s.ok()) return s;
  return std::vector<v1::Change>(info.changes().begin(), info.changes().end());
}

absl::StatusOr<std::vector<v1::RevisionInfo>> Store::RevisionsAfter(uint64_t after, size_t limit) {
  std::lock_guard lock(impl_->mu);
  if (after + 1 < impl_->oldest) {
    return absl::OutOfRangeError(absl::StrCat("history starts at revision ", impl_->oldest));
  }
  Statement row(
      impl_->database.get(),
      "SELECT revision, time, actor, comment, peer FROM revisions WHERE revision > ? ORDER BY revision LIMIT ?");
  row.Bind(static_cast<int64_t>(after)).Bind(static_cast<int64_t>(limit));
  std::vector<v1::RevisionInfo> page;
  while (row.Step()) {
    v1::RevisionInfo& info = page.emplace_back();
    info.set_revision(static_cast<uint64_t>(row.Int(0)));
    ToTimestamp(row.Int(1), info.mutable_time());
    info.set_actor(row.Text(2));
    info.set_comment(row.Text(3));
    info.set_peer(row.Text(4));
    if (absl::Status s = impl_->ReadChanges(&info); !s.ok()) return s;
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return page;
}

absl::StatusOr<absl::Time> Store::TimeOf(uint64_t revision) {
  std::lock_guard lock(impl_->mu);
  if (revision == 0 || revision > impl_->revision) {
    return absl::NotFoundError(
        absl::StrCat("there is no revision ", revision, "; the newest is ", impl_->revision.load()));
  }
  if (revision < impl_->oldest) {
    return absl::OutOfRangeError(
        absl::StrCat("revision ", revision, " is no longer kept; history starts at revision ", impl_->oldest));
  }
  Statement row(impl_->database.get(), "SELECT time FROM revisions WHERE revision = ?");
  row.Bind(static_cast<int64_t>(revision));
  if (row.Step()) return absl::FromUnixMicros(row.Int(0));
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return absl::DataLossError(absl::StrCat("the database '", impl_->options.path, "' has lost revision ", revision));
}

absl::StatusOr<Store::Past> Store::SetAt(uint64_t revision) {
  absl::StatusOr<absl::Time> time = TimeOf(revision);
  if (!time.ok()) return time.status();
  std::lock_guard lock(impl_->mu);
  Past past;
  {
    Statement row(impl_->database.get(), "SELECT time, actor, comment, peer FROM revisions WHERE revision = ?");
    row.Bind(static_cast<int64_t>(revision));
    if (!row.Step()) {
      if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
      return absl::OutOfRangeError(absl::StrCat("revision ", revision, " is no longer kept"));
    }
    past.info.set_revision(revision);
    ToTimestamp(row.Int(0), past.info.mutable_time());
    past.info.set_actor(row.Text(1));
    past.info.set_comment(row.Text(2));
    past.info.set_peer(row.Text(3));
  }
  if (absl::Status s = impl_->ReadChanges(&past.info); !s.ok()) return s;
  Statement row(
      impl_->database.get(),
      "SELECT kind, name, body, checksum, revision, changed_at, built_in, owner, op FROM history h WHERE body IS "
      "NOT NULL AND revision = (SELECT max(revision) FROM history WHERE kind = h.kind AND name = h.name "
      "AND revision <= ?)");
  row.Bind(static_cast<int64_t>(revision));
  while (row.Step()) {
    if (absl::Status s = impl_->ReadRow(row, &past.resources, static_cast<int>(row.Int(8))); !s.ok()) return s;
  }
  if (row.rc() != SQLITE_OK) return impl_->database.Error(row.rc(), "read");
  return past;
}

}  // namespace gateway::controlplane
