#include "dataplane/state/endpoint_table.h"

#include "common/base/text.h"

namespace gateway::dataplane {

std::string KeyOfSet(std::string_view datacenter, std::string_view service) { return Concat(datacenter, "/", service); }

}  // namespace gateway::dataplane
