#include "controlplane/sources/consul/suspicion.h"

#include "absl/strings/str_cat.h"

namespace gateway::controlplane {

Verdict JudgeLoss(const Loss& loss, std::chrono::steady_clock::duration suspected_for) {
  if (loss.lost == 0) return {};
  const bool zero = loss.remaining == 0;
  const bool shrunk = loss.remaining < loss.before && loss.before - loss.remaining >= kMassLossMin &&
                      (loss.before - loss.remaining) * 100 > loss.before * kMassLossPercent;
  const std::string gone = absl::StrCat(loss.lost, " of ", loss.before, " instances gone");
  if (!loss.confirmed) {
    if (zero || shrunk || loss.mass || loss.index_went_back || !loss.leader_known)
      return {Verdict::Kind::kConfirm, gone};
    return {};
  }
  if (zero && loss.listing_suspect) {
    return {Verdict::Kind::kHold, "Consul lists no services any more: does the token still have service:read?"};
  }
  if (zero && loss.listed) {
    return {Verdict::Kind::kHold, "Consul lists the service but no instances: does the token still have node:read?"};
  }
  if (suspected_for < kLossHold) {
    if (zero && loss.index_went_back) return {Verdict::Kind::kHold, gone + " after Consul's index went back"};
    if (shrunk && !zero) return {Verdict::Kind::kHold, gone + " at once"};
    if (loss.mass) return {Verdict::Kind::kHold, gone + " together with most endpoints of all services"};
  }
  return {};
}

std::string SuspectListing(const CatalogListing& before, const CatalogListing& now) {
  if (now.empty()) return "Consul lists no services, not even itself: does the token have service:read?";
  if (before.contains("consul") && !now.contains("consul")) {
    return "Consul no longer lists itself: does the token still have service:read?";
  }
  return "";
}

void LossLedger::Believe(size_t lost, Clock::time_point now) {
  if (lost == 0) return;
  sum_ += lost;
  if (entries_.size() >= kEntriesMax) {
    entries_.back().first = now;
    entries_.back().second += lost;
  } else {
    entries_.emplace_back(now, lost);
  }
}

bool LossLedger::IsMass(size_t lost, size_t suspected, size_t known, Clock::time_point now) {
  while (!entries_.empty() && now - entries_.front().first > kMassLossWindow) {
    sum_ -= entries_.front().second;
    entries_.pop_front();
  }
  const size_t at_once = sum_ + suspected + lost;
  const size_t total = known + sum_;  // as it was before the window
  return at_once >= kMassLossMin && at_once * 100 > total * kMassLossPercent;
}

}  // namespace gateway::controlplane
