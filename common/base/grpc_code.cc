#include "common/base/grpc_code.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace gateway {
namespace {

constexpr std::array<std::string_view, kGrpcCodesMax> kNames = {
    "ok",        "cancelled",       "unknown",           "invalid_argument",   "deadline_exceeded",
    "not_found", "already_exists",  "permission_denied", "resource_exhausted", "failed_precondition",
    "aborted",   "out_of_range",    "unimplemented",     "internal",           "unavailable",
    "data_loss", "unauthenticated",
};

}  // namespace

std::string_view GrpcCodeName(int code) {
  return code >= 0 && code < kGrpcCodesMax ? kNames[static_cast<size_t>(code)] : kNames[kGrpcUnknown];
}

std::optional<int> GrpcCodeOf(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<int>(found - kNames.begin());
}

}  // namespace gateway
