#include "dataplane/policy/hash_on.h"

#include <algorithm>
#include <cmath>

#include "common/base/hash.h"
#include "common/base/text.h"

namespace gateway::dataplane {
namespace {

// Of one Cookie header: pairs with "; " between them.
std::string_view CookieIn(std::string_view field, std::string_view name) {
  while (!field.empty()) {
    const size_t end = std::min(field.find(';'), field.size());
    std::string_view pair = field.substr(0, end);
    field.remove_prefix(std::min(end + 1, field.size()));
    pair.remove_prefix(std::min(pair.find_first_not_of(" \t"), pair.size()));
    if (pair.size() <= name.size() || pair[name.size()] != '=' || !pair.starts_with(name)) continue;
    std::string_view value = pair.substr(name.size() + 1);
    while (!value.empty() && (value.back() == ' ' || value.back() == '\t')) value.remove_suffix(1);
    if (value.size() >= 2 && value.front() == '"' && value.back() == '"') value = value.substr(1, value.size() - 2);
    if (!value.empty()) return value;
  }
  return {};
}

}  // namespace

std::string_view FindCookie(std::span<const FieldView> fields, std::string_view name) {
  for (const FieldView& field : fields) {
    if (!EqualsIgnoreCase(field.name, "cookie")) continue;
    if (const std::string_view value = CookieIn(field.value, name); !value.empty()) return value;
  }
  return {};
}

std::optional<uint64_t> HashOf(const HashOnPolicy& on, std::span<const FieldView> fields, const in6_addr& client,
                               std::string_view path) {
  std::string_view bytes;
  switch (on.kind) {
    case HashOnPolicy::Kind::kNothing:
      break;
    case HashOnPolicy::Kind::kHeader: {
      const auto found = std::find_if(fields.begin(), fields.end(), [&](const FieldView& field) {
        return EqualsIgnoreCase(field.name, on.name) && !field.value.empty();
      });
      if (found != fields.end()) bytes = found->value;
      break;
    }
    case HashOnPolicy::Kind::kCookie:
      bytes = FindCookie(fields, on.name);
      break;
    case HashOnPolicy::Kind::kClientIp:
      bytes = {reinterpret_cast<const char*>(client.s6_addr), sizeof client.s6_addr};
      break;
    case HashOnPolicy::Kind::kPath:
      bytes = path;
      break;
  }
  if (bytes.empty()) return std::nullopt;
  return StableHash(bytes);
}

size_t ChooseTarget(std::span<const SplitTarget> targets, std::span<const ServicePolicy> services, uint64_t hash) {
  size_t best = 0;
  double best_score = 0;
  uint32_t before = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    const uint32_t weight = targets[i].upto - before;
    before = targets[i].upto;
    // Uniform in (0, 1): 53 bits, never 0. The exponential draw -ln(u) / weight is the smallest with a probability in
    // proportion to the weight.
    const uint64_t bits = StableHash(services[targets[i].service].name, hash) >> 11;
    const double score = -std::log((static_cast<double>(bits) + 0.5) * 0x1p-53) / weight;
    if (i == 0 || score < best_score) {
      best = i;
      best_score = score;
    }
  }
  return best;
}

}  // namespace gateway::dataplane
