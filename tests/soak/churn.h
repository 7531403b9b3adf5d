// A soak in which everything that can come and go does.
#ifndef GATEWAY_TESTS_SOAK_CHURN_H_
#define GATEWAY_TESTS_SOAK_CHURN_H_

namespace gateway::soak {

// A control plane, a data plane and others that come and go, and a real Consul, for so long: services with routes,
// limits, breakers and consumers, endpoints, services of Consul, data planes, what operators set. No request may fail;
// memory, descriptors, /metrics and the lists of gatewayctl have to be flat after the first minutes. Exit code 0:
// everything held.
int RunChurn(double minutes);

}  // namespace gateway::soak

#endif  // GATEWAY_TESTS_SOAK_CHURN_H_
