#include "controlplane/change/selection.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace gateway::controlplane {
namespace {

// FNV-1a and MurmurHash3's finaliser, so that names that differ in their last digit are spread. The same on every
// machine.
uint64_t HashOf(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char byte : name) hash = (hash ^ byte) * 0x100000001b3u;
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccdu;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53u;
  return hash ^ (hash >> 33);
}

}  // namespace

absl::StatusOr<Selection> Selection::Parse(std::string_view text) {
  const auto wrong = [text] {
    return absl::InvalidArgumentError(
        absl::StrCat("to: '", absl::string_view(text.data(), std::min(text.size(), kSelectionBytesMax)),
                     "': expected zone=NAME, label=KEY, label=KEY=VALUE or percent=N (1 to 100)"));
  };
  if (text.size() > kSelectionBytesMax) return wrong();
  Selection selection;
  absl::string_view rest(text.data(), text.size());
  if (absl::ConsumePrefix(&rest, "percent=")) {
    selection.by_ = By::kPercent;
    absl::ConsumeSuffix(&rest, "%");
    const bool valid = absl::SimpleAtoi(rest, &selection.percent_);
    if (!valid || selection.percent_ < 1 || selection.percent_ > 100) return wrong();
    return selection;
  }
  if (absl::ConsumePrefix(&rest, "label=")) {
    const size_t equals = rest.find('=');
    selection.by_ = equals == absl::string_view::npos ? By::kLabel : By::kLabelValue;
    if (equals != absl::string_view::npos) selection.value_ = std::string(rest.substr(equals + 1));
    rest = rest.substr(0, equals);
  } else if (!absl::ConsumePrefix(&rest, "zone=")) {
    return wrong();
  }
  if (rest.empty()) return wrong();
  selection.name_ = std::string(rest);
  return selection;
}

bool Selection::Takes(const v1::DataPlaneState& data_plane, std::string_view picked) const {
  const auto label = data_plane.labels().find(name_);
  switch (by_) {
    case By::kZone:
      return data_plane.zone() == name_;
    case By::kLabel:
      return label != data_plane.labels().end();
    case By::kLabelValue:
      return label != data_plane.labels().end() && label->second == value_;
    case By::kPercent:
      return HashOf(data_plane.name()) % 100 < percent_ || data_plane.name() == picked;
  }
  return false;
}

std::string Selection::Pick(std::span<const v1::DataPlaneState> data_planes) const {
  if (by_ != By::kPercent || data_planes.empty()) return "";
  if (std::any_of(data_planes.begin(), data_planes.end(), [this](const auto& each) { return Takes(each, ""); })) {
    return "";
  }
  return std::min_element(data_planes.begin(), data_planes.end(),
                          [](const auto& a, const auto& b) { return HashOf(a.name()) < HashOf(b.name()); })
      ->name();
}

}  // namespace gateway::controlplane
