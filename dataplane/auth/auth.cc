#include "dataplane/auth/auth.h"

#include <algorithm>
#include <utility>

#include "dataplane/http/fields.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane {

IdentityFields::IdentityFields(std::span<const std::string> names) {
  for (std::string name : names) {
    std::replace(name.begin(), name.end(), '_', '-');
    if (http::ClassifyField(name) == http::FieldKind::kIdentity) continue;
    sizes_.set(std::min(name.size(), sizes_.size() - 1));
    names_.push_back(std::move(name));
  }
}

bool IdentityFields::Has(std::string_view name) const {
  return sizes_.test(std::min(name.size(), sizes_.size() - 1)) &&
         std::any_of(names_.begin(), names_.end(),
                     [name](const std::string& known) { return http1::EqualsFolded(name, known); });
}

}  // namespace gateway::dataplane
