// Which data planes a staged change goes to.
#ifndef GATEWAY_CONTROLPLANE_CHANGE_SELECTION_H_
#define GATEWAY_CONTROLPLANE_CHANGE_SELECTION_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr size_t kSelectionBytesMax = 256;

// Places a data plane by what it says of itself, so that one that comes later, or comes back, is placed as if it had
// been there. Pure.
class Selection {
 public:
  // "zone=a", "label=canary", "label=env=canary", "percent=10". InvalidArgument.
  static absl::StatusOr<Selection> Parse(std::string_view text);

  // `picked`: see PendingChange.
  bool Takes(const v1::DataPlaneState& data_plane, std::string_view picked) const;

  // Of a percentage, the data plane with the lowest hash if the percentage takes none of `data_planes`; else empty.
  std::string Pick(std::span<const v1::DataPlaneState> data_planes) const;

 private:
  enum class By { kZone, kLabel, kLabelValue, kPercent };
  By by_ = By::kZone;
  std::string name_;   // of the zone or the label
  std::string value_;  // of the label
  uint32_t percent_ = 0;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_CHANGE_SELECTION_H_
