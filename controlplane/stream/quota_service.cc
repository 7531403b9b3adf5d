#include "controlplane/stream/quota_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controlplane/identity/data_plane_name.h"
#include "controlplane/rpc/grpc_status.h"
#include "controlplane/stream/config_service.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;
using Reactor = grpc::ServerBidiReactor<v1::LeaseDemands, v1::LeaseGrants>;

constexpr size_t kNameBytesMax = 256;
constexpr size_t kKeyBytesMax = 32;
// A stream whose data plane takes no message for this long is cut; it holds only what is newest, so nothing grows.
constexpr std::chrono::seconds kWritePatience{10};
constexpr std::chrono::seconds kFirstMessageWait{10};

class Refusal final : public Reactor {
 public:
  explicit Refusal(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

KeyDemand DemandOf(const v1::KeyDemand& message) {
  KeyDemand demand;
  demand.id = message.id();
  demand.first = message.first();
  demand.key = message.key();
  demand.client = ClientPrefix::FromBytes(message.client());
  demand.used = message.used();
  demand.returned = message.returned();
  demand.target = message.target();
  demand.rate = message.rate();
  demand.recent = message.recent();
  demand.recent_span = milliseconds(message.recent_span_ms());
  demand.dropped = message.dropped();
  return demand;
}

void FillGrant(const KeyGrant& grant, v1::KeyGrant* message) {
  const auto ms = [](milliseconds time) {
    return static_cast<uint32_t>(std::clamp<int64_t>(time.count(), 0, int64_t{1} << 31));
  };
  message->set_id(grant.id);
  message->set_granted(grant.granted);
  message->set_scarce(grant.scarce);
  message->set_wait_ms(ms(grant.wait));
  message->set_full_in_ms(ms(grant.full_in));
  message->set_available(grant.available);
  message->set_share(grant.share);
  message->set_unknown(grant.unknown);
}

}  // namespace

std::map<std::string, FleetLimit> FleetLimitsOf(const Snapshot& snapshot) {
  std::map<std::string, FleetLimit> limits;
  for (const RateLimitPolicy& policy : snapshot.rate_limits()) {
    if (policy.scope != v1::RateLimit::FLEET || policy.mode == v1::RateLimit::DISABLED) continue;
    FleetLimit limit;
    limit.requests = policy.requests;
    limit.window = policy.window;
    limit.burst = policy.burst;
    if (policy.algorithm == v1::RateLimit::TOKEN_BUCKET) limit.algorithm = FleetAlgorithm::kTokenBucket;
    if (policy.algorithm == v1::RateLimit::FIXED_WINDOW) limit.algorithm = FleetAlgorithm::kFixedWindow;
    limits.emplace(policy.name, limit);
  }
  return limits;
}

// Lives until OnDone. All of it but `incoming_` is guarded by the service's lock.
class QuotaService::Stream final : public Reactor {
 public:
  Stream(QuotaService* service, grpc::CallbackServerContext* context) : service_(service), context_(context) {}

  void Start() { StartRead(&incoming_); }

  void OnReadDone(bool ok) override {
    std::lock_guard lock(service_->mu_);
    if (!ok) return End(grpc::Status::OK);
    if (const absl::Status status = Handle(); !status.ok()) {
      spdlog::warn("lease stream of '{}' ({}): {}", name_, HostOfPeer(context_->peer()), std::string(status.message()));
      return End(ToGrpc(status));
    }
    if (!end_) StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(service_->mu_);
    writing_ = false;
    if (!ok) End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream is lost"));
    if (end_) return FinishNow();
    if (dirty_) Write();
  }

  void OnCancel() override {
    std::lock_guard lock(service_->mu_);
    End(grpc::Status::CANCELLED);
  }

  void OnDone() override { service_->Remove(this); }

  // The rest requires the service's lock.

  void Add(const std::string& limit, const KeyGrant& grant) {
    v1::LimitGrants* grants = nullptr;
    // Few limits; the last one is the likely one.
    for (int i = next_.limits_size() - 1; i >= 0 && grants == nullptr; --i) {
      if (next_.limits(i).limit() == limit) grants = next_.mutable_limits(i);
    }
    if (grants == nullptr) {
      grants = next_.add_limits();
      grants->set_limit(limit);
    }
    // While a slow reader takes the last message, newer grants for the same keys take the place of older ones.
    if (writing_ && grants->keys_size() >= kKeysPerMessageMax) {
      for (v1::KeyGrant& known : *grants->mutable_keys()) {
        if (known.id() == grant.id) return FillGrant(grant, &known);
      }
    }
    FillGrant(grant, grants->add_keys());
    dirty_ = true;
  }

  void Beat() { dirty_ = true; }

  // Sends what there is, with what every message tells.
  void Flush() {
    if (dirty_ || answers_ != answered_) Write();
  }

  void End(const grpc::Status& status) {
    if (end_) return;
    end_ = status;
    if (id_ != 0) {
      service_->quota_.Detach(id_, SteadyClock::now());
      service_->by_id_.erase(id_);
    }
    if (!writing_) FinishNow();
  }

  void CheckTimes(SteadyClock::time_point now) {
    if (writing_ && now - write_begin_ > kWritePatience) context_->TryCancel();
    if (id_ == 0 && now - begin_ > kFirstMessageWait) {
      End(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no message in time"));
    }
  }

 private:
  absl::Status Handle() {
    const SteadyClock::time_point now = SteadyClock::now();
    ++service_->messages_;
    if (id_ == 0) {
      if (incoming_.name().empty() || incoming_.name().size() > kNameBytesMax) {
        return absl::InvalidArgumentError("name: expected 1 to 256 bytes");
      }
      if (incoming_.instance_id().empty() || incoming_.instance_id().size() > kNameBytesMax) {
        return absl::InvalidArgumentError("instance_id: expected 1 to 256 bytes");
      }
      if (service_->names_by_certificate_) {
        if (absl::Status s = CheckDataPlaneName(incoming_.name(), PeerCertificate(*context_->auth_context()));
            !s.ok()) {
          return s;
        }
      }
      name_ = incoming_.name();
      id_ = service_->quota_.Attach(name_, incoming_.instance_id(), now);
      service_->by_id_[id_] = this;
      service_->changed_.notify_all();  // the first stream begins the ticks
      dirty_ = true;
    }
    answers_ = incoming_.number();
    received_ = now;
    int keys = 0;
    for (const v1::LimitDemands& limit : incoming_.limits()) {
      for (const v1::KeyDemand& message : limit.keys()) {
        if (++keys > kKeysPerMessageMax) {
          return absl::InvalidArgumentError(absl::StrCat("expected at most ", kKeysPerMessageMax, " keys"));
        }
        if (message.key().size() > kKeyBytesMax) return absl::InvalidArgumentError("key: expected at most 32 bytes");
        const size_t client_bytes = message.client().size();
        if (client_bytes != 0 && client_bytes != 4 && client_bytes != 8) {
          return absl::InvalidArgumentError("client: expected 0, 4 or 8 bytes");
        }
        if (!service_->quota_.OnDemand(id_, limit.limit(), DemandOf(message), now)) {
          KeyGrant unknown;
          unknown.id = message.id();
          unknown.unknown = true;
          Add(limit.limit(), unknown);
        }
      }
    }
    if (incoming_.told_all()) service_->quota_.OnToldAll(id_, now);
    incoming_.Clear();
    service_->Collect(false);
    if (dirty_) Write();
    return absl::OkStatus();
  }

  void Write() {
    if (writing_ || end_ || id_ == 0) return;
    const SteadyClock::time_point now = SteadyClock::now();
    next_.set_answers(answers_);
    next_.set_held_us(static_cast<uint32_t>(std::clamp<int64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(now - received_).count(), 0, 1 << 30)));
    next_.set_tick_ms(static_cast<uint32_t>(service_->quota_.tick().count()));
    next_.set_data_planes(service_->quota_.data_planes());
    outgoing_.Swap(&next_);
    next_.Clear();
    answered_ = answers_;
    dirty_ = false;
    writing_ = true;
    write_begin_ = now;
    StartWrite(&outgoing_);
  }

  void FinishNow() {
    if (std::exchange(finished_, true)) return;
    Finish(*end_);
  }

  QuotaService* const service_;
  grpc::CallbackServerContext* const context_;
  const SteadyClock::time_point begin_ = SteadyClock::now();
  v1::LeaseDemands incoming_;
  v1::LeaseGrants outgoing_;  // stays until OnWriteDone
  v1::LeaseGrants next_;
  std::string name_;
  QuotaAllocator::StreamId id_ = 0;  // 0: nothing was said yet
  uint64_t answers_ = 0, answered_ = 0;
  SteadyClock::time_point received_{}, write_begin_{};
  bool dirty_ = false, writing_ = false, finished_ = false;
  std::optional<grpc::Status> end_;
};

QuotaService::QuotaService(QuotaAllocator::Options options, bool names_by_certificate)
    : names_by_certificate_(names_by_certificate),
      quota_(std::move(options), SteadyClock::now()),
      ticker_([this] { Tick(); }) {}

QuotaService::~QuotaService() {
  {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [this] { return streams_.empty(); });
    ending_ = true;
  }
  changed_.notify_all();
  ticker_.join();
}

void QuotaService::SetLimits(const std::map<std::string, FleetLimit>& limits) {
  std::lock_guard lock(mu_);
  quota_.SetLimits(limits, SteadyClock::now());
}

Reactor* QuotaService::Lease(grpc::CallbackServerContext* context) {
  if (names_by_certificate_) {
    if (absl::Status s = CheckHasCertificate(*context->auth_context()); !s.ok()) return new Refusal(ToGrpc(s));
  }
  std::shared_ptr<Stream> stream;
  {
    std::lock_guard lock(mu_);
    if (draining_) return new Refusal({grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down"});
    if (streams_.size() >= kStreamsMax) {
      return new Refusal(
          {grpc::StatusCode::RESOURCE_EXHAUSTED, absl::StrCat("there are ", kStreamsMax, " streams already")});
    }
    stream = std::make_shared<Stream>(this, context);
    streams_.emplace(stream.get(), stream);
  }
  stream->Start();
  return stream.get();  // lives until OnDone: `streams_` holds it
}

void QuotaService::Drain() {
  std::lock_guard lock(mu_);
  draining_ = true;
  for (const auto& [raw, stream] : streams_) {
    stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down"));
  }
}

void QuotaService::Remove(Stream* stream) {
  std::shared_ptr<Stream> last;  // ends it after the lock is given back
  std::lock_guard lock(mu_);
  auto it = streams_.find(stream);
  last = std::move(it->second);
  streams_.erase(it);
  changed_.notify_all();
}

// Takes what the allocator has to say to the streams' next messages, and sends them; on a tick, all of them.
void QuotaService::Collect(bool tick) {
  quota_.Collect(SteadyClock::now(), tick,
                 [this, tick](QuotaAllocator::StreamId id, const std::string& limit, const KeyGrant& grant) {
                   const auto it = by_id_.find(id);
                   if (it == by_id_.end()) return;
                   it->second->Add(limit, grant);
                   if (!tick) touched_.push_back(it->second);
                 });
  if (tick) {
    for (const auto& [id, stream] : by_id_) stream->Flush();
  } else {
    for (Stream* stream : touched_) stream->Flush();
  }
  touched_.clear();
}

void QuotaService::Tick() {
  SteadyClock::time_point next_beat{};
  uint32_t told = 0;
  std::unique_lock lock(mu_);
  while (!ending_) {
    if (by_id_.empty()) {
      // Nobody to answer; leases of those who went still end.
      (void)changed_.wait_for(lock, std::chrono::seconds(1), [this] { return ending_ || !by_id_.empty(); });
    } else {
      (void)changed_.wait_for(lock, quota_.tick(), [this] { return ending_; });
    }
    const SteadyClock::time_point now = SteadyClock::now();
    if (now >= next_beat || quota_.data_planes() != told) {
      next_beat = now + kHeartbeat;
      told = quota_.data_planes();
      for (const auto& [id, stream] : by_id_) stream->Beat();
      for (const auto& [raw, stream] : streams_) stream->CheckTimes(now);
    }
    Collect(true);
  }
}

QuotaService::Stats QuotaService::stats() const {
  std::lock_guard lock(mu_);
  return {by_id_.size(), messages_, quota_.stats()};
}

}  // namespace gateway::controlplane
