#include "controlplane/sources/consul/ranking.h"

#include <algorithm>

namespace gateway::controlplane {
namespace {

constexpr uint32_t kWorthIt = 2;  // doublings: four times the requests
constexpr uint32_t kSteady = 3;   // of magnitude: a request every other second, and more

// Of a service that has a watch, or of one that wants it. Higher goes first.
uint32_t RankOf(const WatchCandidate& candidate) {
  if (candidate.magnitude > 0) return 1 + candidate.magnitude;
  return candidate.named ? 1 : 0;
}

bool Displaces(const WatchCandidate& wants, const WatchCandidate& has) {
  if (has.magnitude > 0) return has.settled && wants.magnitude >= has.magnitude + kWorthIt;
  return has.settled ? RankOf(wants) > RankOf(has) : wants.magnitude >= kSteady;
}

}  // namespace

WatchChoice ChooseWatched(const std::vector<WatchCandidate>& candidates, size_t watches) {
  std::vector<const WatchCandidate*> have, want;
  for (const WatchCandidate& candidate : candidates) (candidate.watched ? have : want).push_back(&candidate);
  const auto higher = [](const WatchCandidate* a, const WatchCandidate* b) { return RankOf(*a) > RankOf(*b); };
  std::stable_sort(have.begin(), have.end(), higher);
  std::stable_sort(want.begin(), want.end(), higher);
  WatchChoice choice;
  while (have.size() > watches) {
    choice.end.push_back(have.back()->index);
    have.pop_back();
  }
  size_t next = 0;
  for (; next < want.size() && have.size() + next < watches; ++next) choice.begin.push_back(want[next]->index);
  // The highest that is left against the lowest that has one, as long as that is worth it.
  for (auto low = have.rbegin(); low != have.rend() && next < want.size(); ++low) {
    if (Displaces(*want[next], **low)) choice.swaps.emplace_back((*low)->index, want[next++]->index);
  }
  return choice;
}

}  // namespace gateway::controlplane
