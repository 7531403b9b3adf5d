// The chunks of one update of the configuration stream, until the last one is there.
#ifndef GATEWAY_DATAPLANE_CONFIG_CHUNK_STAGE_H_
#define GATEWAY_DATAPLANE_CONFIG_CHUNK_STAGE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

inline constexpr size_t kUpdateBytesMax = 256u << 20;  // of one update, all chunks together

// `Update`: v1::PolicyUpdate or v1::EndpointsUpdate. Not thread-safe; never reads a clock.
template <typename Update>
class ChunkStage {
 public:
  enum class Step { kMore, kComplete, kOutOfOrder };

  // A first chunk starts again. Past kUpdateBytesMax the chunks are dropped (`too_large`) and the rest is only counted,
  // so that the update can be rejected by its name.
  Step Add(Update chunk, TimePoint now) {
    if (chunk.chunk() == 0) {
      *this = ChunkStage();
      epoch = EpochOf(chunk);
      from = chunk.from();
      to = chunk.to();
    } else if (chunk.chunk() != next_ || EpochOf(chunk) != epoch || chunk.from() != from || chunk.to() != to) {
      return Step::kOutOfOrder;
    }
    next_ = chunk.chunk() + 1;
    const bool last = chunk.last();
    bytes_ += chunk.ByteSizeLong();
    too_large = too_large || bytes_ > kUpdateBytesMax;
    if (too_large) {
      chunks.clear();
    } else {
      chunks.push_back(std::move(chunk));
    }
    if (!last) return Step::kMore;
    next_ = 0;  // only a first chunk may follow
    completed_at = now;
    return Step::kComplete;
  }

  std::string epoch;
  uint64_t from = 0, to = 0;
  bool too_large = false;
  std::vector<Update> chunks;
  TimePoint completed_at{};

 private:
  static const std::string& EpochOf(const v1::PolicyUpdate& update) { return update.epoch(); }
  static const std::string& EpochOf(const v1::EndpointsUpdate& update) { return update.endpoints_epoch(); }

  uint32_t next_ = 0;
  size_t bytes_ = 0;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CHUNK_STAGE_H_
