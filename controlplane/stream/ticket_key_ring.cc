#include "controlplane/stream/ticket_key_ring.h"

#include <openssl/rand.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/thread.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr char kSecret[] = "ticket-keys";
// The wall clock may be set: it is looked at as often.
constexpr absl::Duration kLookEvery = absl::Minutes(1);

absl::StatusOr<std::string> RandomBytes(int size) {
  std::string bytes(static_cast<size_t>(size), '\0');
  if (RAND_priv_bytes(reinterpret_cast<unsigned char*>(bytes.data()), size) != 1) {
    return absl::InternalError("no randomness for session ticket keys");
  }
  return bytes;
}

absl::StatusOr<v1::TicketKey> MakeKey() {
  v1::TicketKey key;
  for (auto [field, size] :
       {std::pair{key.mutable_name(), 16}, std::pair{key.mutable_cipher(), 32}, std::pair{key.mutable_mac(), 32}}) {
    absl::StatusOr<std::string> bytes = RandomBytes(size);
    if (!bytes.ok()) return bytes.status();
    *field = *std::move(bytes);
  }
  return key;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TicketKeyRing>> TicketKeyRing::Open(Store* store, Options options) {
  std::unique_ptr<TicketKeyRing> ring(new TicketKeyRing(store, std::move(options)));
  {
    std::lock_guard lock(ring->mu_);
    if (absl::Status s = ring->Load(); !s.ok()) return s;
    ring->options_.publish(ring->keys_, ring->rotates_at_);
  }
  ring->thread_ = StartThread("ticket-keys", ThreadPriority::kBackground, [ring = ring.get()] { ring->Run(); });
  return ring;
}

TicketKeyRing::~TicketKeyRing() {
  {
    std::lock_guard lock(mu_);
    ending_ = true;
  }
  wakes_.notify_one();
  if (thread_.joinable()) thread_.join();
}

absl::Status TicketKeyRing::Load() {
  const absl::Time now = options_.now();
  // In the stored form, next_in is when the next one becomes the current one, since 1970.
  if (absl::StatusOr<std::string> stored = store_->Secret(kSecret); stored.ok() && keys_.ParseFromString(*stored)) {
    rotates_at_ = absl::FromUnixSeconds(keys_.next_in().seconds());
    keys_.clear_next_in();
    // Older, and data planes have gone on with keys of their own; later, and the clock was set back.
    if (now < rotates_at_ + options_.rotation && rotates_at_ <= now + options_.rotation && keys_.has_current() &&
        keys_.has_next()) {
      return now >= rotates_at_ ? Rotate(now) : absl::OkStatus();
    }
  } else if (!stored.ok() && !absl::IsNotFound(stored.status())) {
    spdlog::warn("session ticket keys: {}; new ones are made", std::string(stored.status().message()));
  }
  keys_.Clear();
  for (v1::TicketKey* key : {keys_.mutable_current(), keys_.mutable_next()}) {
    absl::StatusOr<v1::TicketKey> made = MakeKey();
    if (!made.ok()) return made.status();
    *key = *std::move(made);
  }
  rotates_at_ = now + options_.rotation;
  Save();
  return absl::OkStatus();
}

absl::Status TicketKeyRing::Rotate(absl::Time now) {
  absl::StatusOr<v1::TicketKey> made = MakeKey();
  if (!made.ok()) return made.status();
  *keys_.mutable_previous() = std::move(*keys_.mutable_current());
  *keys_.mutable_current() = std::move(*keys_.mutable_next());
  *keys_.mutable_next() = *std::move(made);
  // As data planes count, which may have rotated by themselves.
  rotates_at_ = std::max(rotates_at_ + options_.rotation, now);
  Save();
  return absl::OkStatus();
}

// Without it, a restart makes sessions of before need a full handshake: no reason to stop.
void TicketKeyRing::Save() {
  v1::TicketKeysUpdate stored = keys_;
  stored.mutable_next_in()->set_seconds(absl::ToUnixSeconds(rotates_at_));
  if (absl::Status s = store_->PutSecret(kSecret, stored.SerializeAsString()); !s.ok()) {
    spdlog::warn("session ticket keys are not kept: {}", std::string(s.message()));
  }
}

void TicketKeyRing::Tick() {
  std::lock_guard lock(mu_);
  const absl::Time now = options_.now();
  if (now < rotates_at_) return;
  if (absl::Status s = Rotate(now); !s.ok()) {
    spdlog::error("{}; the last ones stay", std::string(s.message()));
    rotates_at_ = now + options_.rotation;
    return;
  }
  spdlog::debug("session ticket keys are rotated");
  options_.publish(keys_, rotates_at_);
}

void TicketKeyRing::Run() {
  std::unique_lock lock(mu_);
  while (!ending_) {
    const absl::Duration wait = std::clamp(rotates_at_ - options_.now(), absl::Milliseconds(1), kLookEvery);
    wakes_.wait_for(lock, absl::ToChronoMilliseconds(wait) + std::chrono::milliseconds(1));
    if (ending_) return;
    lock.unlock();
    Tick();
    lock.lock();
  }
}

}  // namespace gateway::controlplane
