// A soak in which everything that can come and go does.
#ifndef GATEWAY_TESTS_SOAK_CHURN_H_
#define GATEWAY_TESTS_SOAK_CHURN_H_

namespace gateway::soak {

// Runs for `minutes`: a control plane, one permanent and several temporary data planes, and a real Consul, while
// services with routes, limits, breakers and consumers, endpoints, Consul services, data planes and run-time settings
// come and go. No request may fail; memory, descriptors, /metrics and the lists of gatewayctl must be flat after the
// first minutes. Exit code 0: all of this held.
int RunChurn(double minutes);

}  // namespace gateway::soak

#endif  // GATEWAY_TESTS_SOAK_CHURN_H_
