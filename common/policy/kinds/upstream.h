// How requests reach endpoints: what a Service and the template of a consul_service route have in common.
#ifndef GATEWAY_COMMON_POLICY_KINDS_UPSTREAM_H_
#define GATEWAY_COMMON_POLICY_KINDS_UPSTREAM_H_

#include <string>
#include <string_view>
#include <vector>

#include "common/policy/kinds/checks.h"
#include "common/policy/kinds/compilation.h"

namespace gateway {

// `base` precedes the fields' paths: "" or "consul_service.template.". Body: v1::Service, v1::ServiceTemplate.
template <typename Body>
void CheckUpstream(const Report& report, const std::string& base, const Body& body);
// Body: these two, and v1::Defaults.
template <typename Body>
void CheckUpstreamReferences(const Report& report, const std::string& base, const Body& body,
                             Compilation* compilation) {
  compilation->CheckOptionalReference<v1::CircuitBreaker>(report, base + "circuit_breaker", "circuit breaker",
                                                          body.circuit_breaker());
  compilation->CheckOptionalReference<v1::Retry>(report, base + "retry", "retry", body.retry());
  if constexpr (requires { body.tls(); }) {
    compilation->CheckReference<v1::Certificate>(report, base + "tls.certificate", "certificate",
                                                 body.tls().certificate());
  }
}
template <typename Body>
void CompileUpstream(const Body& body, const Compilation& compilation, ServicePolicy* policy);

// A name of Consul's, a tag or a pattern of names: Consul itself takes nearly everything.
void CheckConsulText(const Report& report, const std::string& field, std::string_view text);
void CheckTags(const Report& report, const std::string& field,
               const google::protobuf::RepeatedPtrField<std::string>& tags);
// Sorted, each once.
std::vector<std::string> SortedTags(const google::protobuf::RepeatedPtrField<std::string>& tags);
v1::ConsulSource::OnSuspect OnSuspectOf(v1::ConsulSource::OnSuspect on_suspect);

void CheckHashOn(const Report& report, const std::string& field, const v1::HashOn& on);
HashOnPolicy CompileHashOn(const v1::HashOn& on);

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_UPSTREAM_H_
