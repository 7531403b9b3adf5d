#include "dataplane/policy/bulkhead.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace gateway::dataplane {

// Guarded by the bulkhead's mutex.
struct Bulkhead::Place::State {
  std::function<void()> granted;
  bool entered = false;
};

void Bulkhead::Place::Leave() {
  if (bulkhead_ == nullptr) return;
  bulkhead_->Leave(this);
  bulkhead_ = nullptr;
  state_ = nullptr;
}

bool Bulkhead::Place::entered() const {
  if (bulkhead_ == nullptr) return false;
  if (state_ == nullptr) return true;
  absl::MutexLock lock(&bulkhead_->mutex_);
  return state_->entered;
}

Bulkhead::Verdict Bulkhead::Enter(const std::shared_ptr<Bulkhead>& self, Place* place,
                                  absl::FunctionRef<std::function<void()>()> granted) {
  absl::MutexLock lock(&self->mutex_);
  const ServiceLimitsPolicy& limits = self->limits_;
  if (limits.requests > 0 && self->in_use_ + self->pending_.size() >= limits.requests) {
    ++self->refused_;
    return Verdict::kTooManyRequests;
  }
  if (limits.connections == 0 || (self->in_use_ < limits.connections && self->pending_.empty())) {
    ++self->in_use_;
    place->bulkhead_ = self;
    return Verdict::kEntered;
  }
  if (self->pending_.size() >= limits.pending) {
    ++self->refused_;
    return Verdict::kTooManyPending;
  }
  place->state_ = std::make_shared<Place::State>();
  place->state_->granted = granted();
  place->bulkhead_ = self;
  self->pending_.push_back(place->state_);
  return Verdict::kWaits;
}

void Bulkhead::Leave(Place* place) {
  std::vector<std::function<void()>> calls;
  {
    absl::MutexLock lock(&mutex_);
    if (place->state_ != nullptr && !place->state_->entered) {
      std::erase(pending_, place->state_);
    } else {
      --in_use_;
    }
    Admit(&calls);
  }
  for (const std::function<void()>& call : calls) call();
}

void Bulkhead::Admit(std::vector<std::function<void()>>* calls) {
  while (!pending_.empty() && (limits_.connections == 0 || in_use_ < limits_.connections)) {
    const std::shared_ptr<Place::State> next = std::move(pending_.front());
    pending_.pop_front();
    ++in_use_;
    next->entered = true;
    calls->push_back(std::move(next->granted));
  }
}

void Bulkhead::Reconfigure(const ServiceLimitsPolicy& limits) {
  std::vector<std::function<void()>> calls;
  {
    absl::MutexLock lock(&mutex_);
    limits_ = limits;
    Admit(&calls);
  }
  for (const std::function<void()>& call : calls) call();
}

Bulkhead::View Bulkhead::view() const {
  absl::MutexLock lock(&mutex_);
  return {in_use_, static_cast<uint32_t>(pending_.size()), refused_};
}

}  // namespace gateway::dataplane
