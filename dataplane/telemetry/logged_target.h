// A request's target as it may be written down.
#ifndef GATEWAY_DATAPLANE_TELEMETRY_LOGGED_TARGET_H_
#define GATEWAY_DATAPLANE_TELEMETRY_LOGGED_TARGET_H_

#include <string>
#include <string_view>
#include <vector>

namespace gateway::dataplane {

// Of `target`, as the client sent it (also one that was refused), path and query; not the authority of an absolute
// form, which may hold a password, and "***" for the values of query parameters that are credentials by their names
// (access_token of RFC 6750, section 2.3, and its like) or named in `more`, which is in lower case. Names are compared
// as services read them: decoded, in any case, and user[password] as password. The view is into `target` or `room`.
std::string_view LoggedTarget(std::string_view target, const std::vector<std::string>& more, std::string* room);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_TELEMETRY_LOGGED_TARGET_H_
