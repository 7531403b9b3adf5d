#include "common/config/redaction.h"

#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "common/base/digest.h"
#include "common/base/text.h"
#include "gateway/v1/rules.pb.h"

namespace gateway {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kFingerprintDigits = 16;

bool IsSecret(const FieldDescriptor* field) {
  return field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && field->options().GetExtension(v1::rules).secret();
}

constexpr int kDepthMax = 16;  // of types in types

bool HasSecretsWithin(const google::protobuf::Descriptor* type, int depth) {
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (IsSecret(field)) return true;
    if (depth > 0 && field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
        HasSecretsWithin(field->message_type(), depth - 1)) {
      return true;
    }
  }
  return false;
}

using Visitor = std::function<void(const FieldDescriptor* field, const std::string& path, const std::string& value,
                                   const std::function<void(std::string)>& set)>;

// Calls `visit` with every secret that is not empty.
void Visit(Message* message, const std::string& path, const Visitor& visit) {
  const Reflection* reflection = message->GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(*message, &fields);
  for (const FieldDescriptor* field : fields) {
    const bool below = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (below ? !HasSecrets(field->message_type()) : !IsSecret(field)) continue;
    const std::string name = path.empty() ? field->name() : Concat(path, ".", field->name());
    const int count = field->is_repeated() ? reflection->FieldSize(*message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const std::string where = field->is_repeated() ? Concat(name, "[", i, "]") : name;
      if (below) {
        Visit(field->is_repeated() ? reflection->MutableRepeatedMessage(message, field, i)
                                   : reflection->MutableMessage(message, field),
              where, visit);
        continue;
      }
      const std::string value = field->is_repeated() ? reflection->GetRepeatedString(*message, field, i)
                                                     : reflection->GetString(*message, field);
      if (value.empty()) continue;
      visit(field, where, value, [&](std::string other) {
        if (field->is_repeated()) {
          reflection->SetRepeatedString(message, field, i, std::move(other));
        } else {
          reflection->SetString(message, field, std::move(other));
        }
      });
    }
  }
}

}  // namespace

// (Most kinds of policy have none, and are not walked.)
bool HasSecrets(const google::protobuf::Descriptor* type, bool below) {
  return HasSecretsWithin(type, below ? kDepthMax : 0);
}

bool IsRedacted(std::string_view text) { return text.substr(0, kRedactedPrefix.size()) == kRedactedPrefix; }

std::string RedactedText(std::string_view secret) {
  if (secret.empty() || IsRedacted(secret)) return std::string(secret);
  return Concat(kRedactedPrefix, Hex(Sha256(Concat("gateway secret\n", secret))).substr(0, kFingerprintDigits));
}

void RedactSecrets(Message* message) {
  if (!HasSecrets(message->GetDescriptor())) return;
  Visit(message, "",
        [](const FieldDescriptor*, const std::string&, const std::string& value,
           const std::function<void(std::string)>& set) { set(RedactedText(value)); });
}

void RestoreSecrets(const Message* current, Message* message, std::vector<FieldProblem>* problems) {
  if (!HasSecrets(message->GetDescriptor())) return;
  // Collected only if they are needed; from a copy, since only a mutable message can be walked.
  std::map<std::pair<const FieldDescriptor*, std::string>, std::string> known;
  bool collected = false;
  Visit(message, "",
        [&](const FieldDescriptor* field, const std::string& path, const std::string& value,
            const std::function<void(std::string)>& set) {
          if (!IsRedacted(value)) return;
          if (!collected && current != nullptr) {
            const std::unique_ptr<Message> copy(current->New());
            copy->CopyFrom(*current);
            Visit(copy.get(), "",
                  [&](const FieldDescriptor* each, const std::string&, const std::string& secret,
                      const std::function<void(std::string)>&) {
                    known[{each, RedactedText(secret)}] = secret;
                  });
          }
          collected = true;
          const auto found = known.find({field, value});
          if (found != known.end()) return set(found->second);
          problems->push_back(
              {.position = {},
               .field = path,
               .message =
                   current == nullptr
                       ? "is redacted, but there is no such resource yet to take the secret from; expected the secret"
                       : "is redacted, but is not one of the secrets of this resource; expected the secret itself"});
        });
}

}  // namespace gateway
