// A request's target as it may be written down.
#ifndef GATEWAY_DATAPLANE_TELEMETRY_LOGGED_TARGET_H_
#define GATEWAY_DATAPLANE_TELEMETRY_LOGGED_TARGET_H_

#include <string>
#include <string_view>

namespace gateway::dataplane {

// Of `target`, as the client sent it (also one that was refused), path and query; not the authority of an absolute
// form, which may hold a password, and "***" for the values of query parameters that are credentials by their names
// (access_token of RFC 6750, section 2.3, and its like). The view is into `target` or `room`.
std::string_view LoggedTarget(std::string_view target, std::string* room);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_TELEMETRY_LOGGED_TARGET_H_
