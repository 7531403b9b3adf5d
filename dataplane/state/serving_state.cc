#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

LimitAlgorithm AlgorithmOf(v1::RateLimit::Algorithm algorithm) {
  switch (algorithm) {
    case v1::RateLimit::TOKEN_BUCKET:
      return LimitAlgorithm::kTokenBucket;
    case v1::RateLimit::FIXED_WINDOW:
      return LimitAlgorithm::kFixedWindow;
    default:
      return LimitAlgorithm::kSlidingWindow;
  }
}

}  // namespace gateway::dataplane
