// Secrets of policy (fields with rules.secret) as they are shown: "redacted:" and a fingerprint. Applied again, that
// means "unchanged".
//
// What is stored is already a hash of a key or of a password; but a weak password can be found from its hash, and a
// hash works as the credential for anyone who can write policy elsewhere. So it is never shown.
#ifndef GATEWAY_COMMON_CONFIG_REDACTION_H_
#define GATEWAY_COMMON_CONFIG_REDACTION_H_

#include <string>
#include <string_view>
#include <vector>

#include "common/config/codec.h"
#include "google/protobuf/message.h"

namespace gateway {

inline constexpr std::string_view kRedactedPrefix = "redacted:";

// "redacted:9f86d081884c7d65"; redacted text stays as it is, empty text is empty.
std::string RedactedText(std::string_view secret);
bool IsRedacted(std::string_view text);

// Whether a message of this type has a secret field; with `below`, also in messages within it. Text next to such a
// field may be a misplaced secret, so error messages do not repeat it.
bool HasSecrets(const google::protobuf::Descriptor* type, bool below = true);

// Replaces every secret in `message` and below it. Idempotent.
void RedactSecrets(google::protobuf::Message* message);

// Replaces redacted secrets in `message` by those of `current` (of the same type; null: no such resource is stored)
// that have the same field and the same fingerprint, at any position of a list. Appends a problem for each that is not
// found.
void RestoreSecrets(const google::protobuf::Message* current, google::protobuf::Message* message,
                    std::vector<FieldProblem>* problems);

}  // namespace gateway

#endif  // GATEWAY_COMMON_CONFIG_REDACTION_H_
