// A data plane as a registry of services lists it.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_REGISTERED_INSTANCE_H_
#define GATEWAY_CONTROLPLANE_SOURCES_REGISTERED_INSTANCE_H_

#include <cstdint>
#include <map>
#include <string>

namespace gateway::controlplane {

struct RegisteredInstance {
  std::string name;  // the data plane's; the instance's ID is service_name + "-" + name
  std::string host;
  uint16_t port = 0;
  uint16_t health_port = 0;  // http://host:health_port/health
  std::string zone;
  std::map<std::string, std::string> labels;
  std::string version;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_REGISTERED_INSTANCE_H_
