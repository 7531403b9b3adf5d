// Makes every connected data plane an instance of the gateway's service in Consul.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_REGISTRATION_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_REGISTRATION_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "controlplane/sources/consul/access.h"

namespace gateway::controlplane {

struct RegistrationOptions {
  ConsulAccess access;
  std::string service_name = "api-gateway";
  std::chrono::milliseconds check_interval{10'000};
  std::chrono::milliseconds check_timeout{5'000};
};

struct RegisteredInstance {
  std::string name;  // the data plane's; the instance's ID is service_name + "-" + name
  std::string host;
  uint16_t port = 0;
  uint16_t health_port = 0;  // http://host:health_port/health
  std::string zone;
  std::map<std::string, std::string> labels;
  std::string version;
};

// Owns a thread. A data plane that says goodbye is deregistered; one whose stream is lost is not, nor is anybody when
// this ends (Consul's check decides, and DeregisterCriticalServiceAfter 10 min cleans up). Registrations that Consul
// forgot are made again: compared every 5 s and after every error, retried with backoff. Thread-safe; never blocks its
// callers.
class ConsulRegistration {
 public:
  explicit ConsulRegistration(RegistrationOptions options);
  ~ConsulRegistration();

  void Register(const RegisteredInstance& instance);
  void Deregister(const std::string& name);
  // Looks after it no longer: Consul's own check decides how long it stays there.
  void Forget(const std::string& name);
  // The data planes that operators have drained, all of them: Consul shows these as critical. Known in advance for one
  // that is registered later.
  void SetDrained(std::set<std::string> names);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_REGISTRATION_H_
