#include "common/base/version.h"

namespace gateway {

const char kVersion[] = GATEWAY_VERSION;

}  // namespace gateway
