// One field of an HTTP header section, as views.
#ifndef GATEWAY_COMMON_BASE_FIELD_VIEW_H_
#define GATEWAY_COMMON_BASE_FIELD_VIEW_H_

#include <string_view>

namespace gateway {

// Views point into the buffer that was parsed.
struct FieldView {
  std::string_view name;
  std::string_view value;
};

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_FIELD_VIEW_H_
