// Which resources a label selector picks: the grammar of kubectl's -l.
#ifndef GATEWAY_COMMON_POLICY_LABEL_SELECTOR_H_
#define GATEWAY_COMMON_POLICY_LABEL_SELECTOR_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/map.h"

namespace gateway {

inline constexpr size_t kSelectorBytesMax = 4096;
inline constexpr size_t kSelectorRequirementsMax = 64;
inline constexpr size_t kSelectorValuesMax = 256;  // of one requirement

// Requirements that must all hold, with commas between them:
//
//   key=value  key==value  key!=value  key in (a, b)  key notin (a, b)  key  !key  key>7  key<7
//
// `!=` and `notin` also pick what has no such label; `>` and `<` compare whole numbers, and pick nothing if the label
// is not a number. A value may be empty. Immutable; any thread.
class LabelSelector {
 public:
  using Labels = google::protobuf::Map<std::string, std::string>;

  LabelSelector() = default;  // picks everything
  // An empty text picks everything. InvalidArgument says what was expected, and at which column.
  static absl::StatusOr<LabelSelector> Parse(std::string_view text);

  bool Matches(const Labels& labels) const;
  bool empty() const { return requirements_.empty(); }

 private:
  friend class SelectorParser;
  enum class Operator { kIn, kNotIn, kExists, kAbsent, kGreater, kLess };
  struct Requirement {
    std::string key;
    Operator op = Operator::kExists;
    std::vector<std::string> values;  // of kIn and kNotIn
    int64_t number = 0;               // of kGreater and kLess
  };
  std::vector<Requirement> requirements_;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_LABEL_SELECTOR_H_
