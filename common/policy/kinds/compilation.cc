#include "common/policy/kinds/compilation.h"

#include <algorithm>

#include "common/base/quote.h"
#include "common/base/units.h"

namespace gateway {
namespace {

// Each costs a pass over all names; a set with more wrong references than this has one cause, and the first show it.
constexpr int kSuggestionsMax = 50;

}  // namespace

bool NamedBodies::Add(std::string_view name, const google::protobuf::Message* body) {
  sorted.emplace_back(name, body);
  return index.emplace(name, 0).second;
}

void NamedBodies::Sort() {
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  sorted.erase(
      std::unique(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first == b.first; }),
      sorted.end());
  index.clear();
  for (uint32_t i = 0; i < sorted.size(); ++i) index.emplace(sorted[i].first, i);
}

const NamedBodies& Compilation::BodiesOf(const google::protobuf::Descriptor* kind) const {
  static const auto* const kNothing = new NamedBodies;
  const auto found = bodies.find(kind);
  return found == bodies.end() ? *kNothing : found->second;
}

const v1::Defaults& Compilation::defaults() const {
  const Documents<v1::Defaults> all = All<v1::Defaults>();
  return all.Contains(kDefaultName) ? all.Named(kDefaultName) : v1::Defaults::default_instance();
}

void Compilation::ReportUndefined(const Report& report, const std::string& field, std::string_view noun,
                                  const std::string& name, const NamedBodies& all) {
  std::string near;
  if (++suggestions <= kSuggestionsMax) {
    std::vector<std::string> names;
    names.reserve(all.sorted.size());
    for (const auto& [each, body] : all.sorted) names.emplace_back(each);
    near = NearestName(name, names);
  }
  report.Add(field, fmt::format("{} {} is not defined{}", noun, QuoteForMessage(name),
                                near.empty() ? "" : fmt::format("; did you mean {}?", QuoteForMessage(near))));
}

}  // namespace gateway
