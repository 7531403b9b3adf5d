// Registers every connected data plane in Consul, as an instance of the gateway's service.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_REGISTRATION_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_REGISTRATION_H_

#include <chrono>
#include <memory>
#include <string>

#include "controlplane/sources/registered_instance.h"

namespace gateway::controlplane {

struct RegistrationOptions {
  std::string address;  // of the agent
  std::string token;
  std::string service_name = "api-gateway";
  std::chrono::milliseconds check_interval{10'000};
  std::chrono::milliseconds check_timeout{5'000};
};

// Owns a thread. A data plane that says goodbye is deregistered; one whose stream is lost stays, and all stay when this
// object ends (Consul's check decides, and DeregisterCriticalServiceAfter 10 min cleans up). Registrations that Consul
// lost are made again: compared every 5 s and after every error, retried with backoff. Thread-safe; never blocks its
// callers.
class ConsulRegistration {
 public:
  explicit ConsulRegistration(RegistrationOptions options);
  ~ConsulRegistration();

  void Register(const RegisteredInstance& instance);
  void Deregister(const std::string& name);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_REGISTRATION_H_
