// What a daemon tells the service manager that started it.
#ifndef GATEWAY_COMMON_BASE_SERVICE_MANAGER_H_
#define GATEWAY_COMMON_BASE_SERVICE_MANAGER_H_

#include <string_view>

namespace gateway {

// Sends `state` ("READY=1", "STOPPING=1") to the socket that NOTIFY_SOCKET names: sd_notify(3), without its library.
// False, without any effect, if the socket does not exist. Never blocks.
bool NotifyServiceManager(std::string_view state);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_SERVICE_MANAGER_H_
