#include <memory>
#include <string>

#include "common/base/address_set.h"
#include "common/policy/kinds/kinds.h"

namespace gateway {
namespace {

void CheckAccess(const Report& report, const v1::IpAccess& access) {
  if (access.allow_size() == 0 && access.deny_size() == 0) report.Add("", "has neither allow nor deny");
  AddressSet scratch;
  for (int i = 0; i < access.allow_size(); ++i) report.AddIfBad(At("allow", i), scratch.Add(access.allow(i)));
  for (int i = 0; i < access.deny_size(); ++i) report.AddIfBad(At("deny", i), scratch.Add(access.deny(i)));
}

std::shared_ptr<const AccessPolicy> CompileAccess(const v1::IpAccess& access) {
  auto policy = std::make_shared<AccessPolicy>();
  policy->name = access.name();
  // Checked before, so Add cannot fail.
  for (const std::string& block : access.allow()) policy->allow.Add(block).IgnoreError();
  for (const std::string& block : access.deny()) policy->deny.Add(block).IgnoreError();
  policy->allow.Seal();
  policy->deny.Seal();
  return policy;
}

void CompileAccesses(Compilation* compilation) {
  const Documents<v1::IpAccess> all = compilation->All<v1::IpAccess>();
  for (size_t i = 0; i < all.size(); ++i) compilation->accesses.push_back(CompileAccess(all[i]));
}

}  // namespace

Kind IpAccessKind() {
  return {
      .number = v1::Resource::kIpAccess,
      .short_names = {"access", "ip"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.ip_access().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckAccess(report, resource.ip_access()); },
      .compile = &CompileAccesses,
  };
}

}  // namespace gateway
