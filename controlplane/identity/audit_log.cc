#include "controlplane/identity/audit_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/quote.h"
#include "common/base/timestamp.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr int kChangesNamed = 20;

v1::AuditEntry EntryOf(const Caller& caller, v1::AuditEntry::Outcome outcome, std::string detail, absl::Time now) {
  v1::AuditEntry entry;
  SetTime(now, entry.mutable_time());
  entry.set_actor(caller.name);
  entry.set_address(caller.address);
  entry.set_action(caller.action);
  entry.set_outcome(outcome);
  detail = CutUtf8(std::move(detail), AuditLog::kDetailBytesMax);
  entry.set_detail(std::move(detail));
  return entry;
}

absl::StatusOr<int> OpenFile(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0)
    return absl::UnavailableError(absl::StrCat("control_plane.audit_log.path: '", path, "': ", strerror(errno)));
  return fd;
}

absl::Status Append(const std::string& path, const std::string& lines) {
  absl::StatusOr<int> fd = OpenFile(path);
  if (!fd.ok()) return fd.status();
  size_t written = 0;
  int error = 0;
  while (written < lines.size() && error == 0) {
    const ssize_t bytes = write(*fd, lines.data() + written, lines.size() - written);
    if (bytes > 0) written += static_cast<size_t>(bytes);
    if (bytes < 0 && errno != EINTR) error = errno;
  }
  close(*fd);
  if (error == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("control_plane.audit_log.path: '", path, "': ", strerror(error)));
}

}  // namespace

std::string AuditLine(const v1::AuditEntry& entry) {
  const absl::Time time = absl::FromUnixSeconds(entry.time().seconds()) + absl::Nanoseconds(entry.time().nanos());
  nlohmann::ordered_json line = {{"time", absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone())},
                                 {"actor", entry.actor()},
                                 {"address", entry.address()},
                                 {"action", entry.action()},
                                 {"outcome", entry.outcome() == v1::AuditEntry::DENIED ? "denied" : "done"},
                                 {"revision", entry.revision()},
                                 {"detail", entry.detail()}};
  // What is no UTF-8 must not cost the line.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string AuditDetail(const v1::RevisionInfo& info) {
  std::string detail;
  for (int i = 0; i < info.changes_size() && i < kChangesNamed; ++i) {
    const v1::Change& change = info.changes(i);
    absl::StrAppend(&detail, i == 0 ? "" : ", ", absl::AsciiStrToLower(v1::Change::Op_Name(change.op())), " ",
                    change.kind(), "/", change.name());
  }
  if (info.changes_size() > kChangesNamed) {
    absl::StrAppend(&detail, " and ", info.changes_size() - kChangesNamed, " more");
  }
  if (!info.comment().empty()) absl::StrAppend(&detail, detail.empty() ? "" : ": ", info.comment());
  detail = CutUtf8(std::move(detail), AuditLog::kDetailBytesMax);
  return detail;
}

AuditLog::AuditLog(Store* store, std::string path)
    : store_(store), path_(std::move(path)), thread_([this] { Run(); }) {}

AuditLog::~AuditLog() {
  {
    std::lock_guard lock(mu_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

absl::Status AuditLog::CheckFile() const {
  if (path_.empty()) return absl::OkStatus();
  absl::StatusOr<int> fd = OpenFile(path_);
  if (!fd.ok()) return fd.status();
  close(*fd);
  return absl::OkStatus();
}

void AuditLog::Queue(Item item) {
  if (queue_.size() >= kQueueMax) {
    ++dropped_;
    return;
  }
  queue_.push_back(std::move(item));
  ++queued_;
  changed_.notify_all();
}

void AuditLog::Denied(const Caller& caller, const std::string& why, absl::Time now) {
  std::lock_guard lock(mu_);
  if (filled_at_ != absl::InfinitePast()) {
    room_ = std::min<double>(kDeniedBurst, room_ + absl::ToDoubleSeconds(now - filled_at_) * kDeniedPerSecond);
  }
  filled_at_ = now;
  if (room_ < 1) {
    ++suppressed_;
    ++dropped_;
    return;
  }
  room_ -= 1;
  std::string detail = why;
  if (suppressed_ > 0) {
    detail = absl::StrCat("after ", std::exchange(suppressed_, 0), " denied attempts that are not listed: ", detail);
  }
  Queue({EntryOf(caller, v1::AuditEntry::DENIED, std::move(detail), now), false});
}

void AuditLog::Done(const Caller& caller, const std::string& detail, absl::Time now) {
  std::lock_guard lock(mu_);
  Queue({EntryOf(caller, v1::AuditEntry::DONE, detail, now), false});
}

void AuditLog::Committed(const v1::AuditEntry& entry) {
  if (path_.empty()) return;
  std::lock_guard lock(mu_);
  Queue({entry, true});
}

void AuditLog::Flush() {
  std::unique_lock lock(mu_);
  const uint64_t target = queued_;
  changed_.wait(lock, [this, target] { return written_ >= target; });
}

uint64_t AuditLog::dropped() const {
  std::lock_guard lock(mu_);
  return dropped_;
}

void AuditLog::Run() {
  std::unique_lock lock(mu_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::deque<Item> batch;
    batch.swap(queue_);
    lock.unlock();
    Write(batch);
    lock.lock();
    written_ += batch.size();
    changed_.notify_all();
  }
}

void AuditLog::Write(const std::deque<Item>& batch) {
  std::vector<v1::AuditEntry> entries;
  std::string lines;
  for (const Item& item : batch) {
    if (!item.stored) entries.push_back(item.entry);
    if (!path_.empty()) absl::StrAppend(&lines, AuditLine(item.entry), "\n");
  }
  absl::Status status = entries.empty() ? absl::OkStatus() : store_->AppendAudit(entries);
  if (!status.ok()) {
    spdlog::error("audit: {} entries are not kept: {}", entries.size(), std::string(status.message()));
    std::lock_guard lock(mu_);
    dropped_ += entries.size();
  }
  if (path_.empty()) return;
  if (status = Append(path_, lines); !status.ok()) spdlog::error("audit: {}", std::string(status.message()));
}

}  // namespace gateway::controlplane
