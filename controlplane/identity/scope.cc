#include "controlplane/identity/scope.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gateway/v1/rules.pb.h"
#include "google/protobuf/descriptor.h"

namespace gateway::controlplane {
namespace {

void Collect(const google::protobuf::Message& message, std::set<ResourceKey>* found) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->is_map()) continue;  // labels
    const bool is_message = field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE;
    const std::string& kind = field->options().GetExtension(v1::rules).reference();
    if (!is_message && kind.empty()) continue;
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (is_message) {
        Collect(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                     : reflection->GetMessage(message, field),
                found);
        continue;
      }
      std::string name = field->is_repeated() ? reflection->GetRepeatedString(message, field, i)
                                              : reflection->GetString(message, field);
      if (!name.empty() && name != "none") found->insert({kind, std::move(name)});
    }
  }
}

bool HasLabels(const v1::Resource& resource, const std::map<std::string, std::string>& only) {
  const auto& labels = LabelsOf(resource);
  for (const auto& [label, value] : only) {
    const auto own = labels.find(label);
    if (own == labels.end() || own->second != value) return false;
  }
  return true;
}

bool IsShared(const v1::Resource& resource) {
  const auto& labels = LabelsOf(resource);
  const auto own = labels.find(kSharedLabel);
  return own != labels.end() && own->second == kSharedValue;
}

}  // namespace

std::set<ResourceKey> ReferencesOf(const v1::Resource& resource) {
  std::set<ResourceKey> found;
  Collect(resource, &found);
  return found;
}

absl::Status Scope::CheckEdit(const ResourceKey& key, const Known& before, const v1::Resource* after,
                              const Lookup& find) const {
  const std::string wanted = absl::StrJoin(
      only, ", ", [](std::string* out, const auto& label) { absl::StrAppend(out, label.first, "=", label.second); });
  if (!kinds.empty() && !kinds.contains(key.kind)) {
    return absl::PermissionDeniedError(
        absl::StrCat(key.ToString(), ": not yours to change; you may change ", absl::StrJoin(kinds, ", ")));
  }
  if (only.empty()) return absl::OkStatus();
  if (before.resource != nullptr && (before.built_in || !HasLabels(*before.resource, only))) {
    return absl::PermissionDeniedError(
        absl::StrCat(key.ToString(), ": not yours to change; you may change resources with the labels ", wanted));
  }
  if (after == nullptr) return absl::OkStatus();
  if (!HasLabels(*after, only)) {
    return absl::PermissionDeniedError(
        absl::StrCat(key.ToString(), ": expected the labels ", wanted, ", which all that is yours has"));
  }
  const std::set<ResourceKey> had =
      before.resource == nullptr ? std::set<ResourceKey>() : ReferencesOf(*before.resource);
  for (const ResourceKey& reference : ReferencesOf(*after)) {
    const Known known = find(reference);
    // What is not there is an error of its own, with a better message.
    if (known.resource == nullptr || known.built_in || had.contains(reference)) continue;
    if (HasLabels(*known.resource, only) || IsShared(*known.resource)) continue;
    return absl::PermissionDeniedError(absl::StrCat(key.ToString(), ": refers to ", reference.ToString(),
                                                    ", which is neither yours (", wanted, ") nor labelled ",
                                                    kSharedLabel, ": \"", kSharedValue, "\""));
  }
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
