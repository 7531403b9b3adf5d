// The kinds of policy. A new one is a message in policy.proto, a file here, and its two lines: the declaration below
// and the row in kinds.cc.
#ifndef GATEWAY_COMMON_POLICY_KINDS_KINDS_H_
#define GATEWAY_COMMON_POLICY_KINDS_KINDS_H_

#include <span>
#include <string_view>
#include <vector>

#include "common/policy/kinds/checks.h"
#include "common/policy/kinds/compilation.h"
#include "gateway/v1/policy.pb.h"

namespace gateway {

// A row of the table: plain functions; one that a kind does not need is null.
struct Kind {
  v1::Resource::KindCase number;
  // For people, beside the kind's name and its plural: "cb".
  std::vector<std::string_view> short_names = {};
  const Labels& (*labels)(const v1::Resource& resource);
  // What one resource can get wrong by itself, beyond the rules of its fields in the proto.
  void (*check)(const Report& report, const v1::Resource& resource) = nullptr;
  // What a resource can get wrong about others. All of them are in `compilation->bodies`.
  void (*check_references)(const Report& report, const v1::Resource& resource, Compilation* compilation) = nullptr;
  // What all resources of the kind can get wrong together.
  void (*check_all)(Compilation* compilation) = nullptr;
  // Fills in its part of `compilation`. REQUIRES: nothing is wrong with the set; what precedes it in Kinds() is there.
  void (*compile)(Compilation* compilation) = nullptr;
};

// In the order in which they are compiled.
std::span<const Kind> Kinds();

// Null if `resource` holds nothing that this version knows.
const Kind* KindOf(const v1::Resource& resource);

// Checks one resource by itself: names, ranges and forms, no references. Appends to `errors`.
void CheckResource(const v1::Resource& resource, std::vector<v1::PolicyError>* errors);

// Each in its own file.
Kind RateLimitKind();
Kind CircuitBreakerKind();
Kind RetryKind();
Kind AuthKind();
Kind ConsumerKind();
Kind CorsKind();
Kind IpAccessKind();
Kind ServiceKind();
Kind RouteKind();
Kind CertificateKind();
Kind DefaultsKind();

}  // namespace gateway

#endif  // GATEWAY_COMMON_POLICY_KINDS_KINDS_H_
