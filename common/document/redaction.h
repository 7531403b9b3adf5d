// Secrets of policy (fields with rules.secret) as they are shown: "redacted:" and a fingerprint. Applied again, that
// means "unchanged".
//
// What is kept is a hash already, of a key or of a password; but a hash can be guessed at where it is weak, and is the
// credential itself to whoever can write policy elsewhere. So nothing gives it out.
#ifndef GATEWAY_COMMON_DOCUMENT_REDACTION_H_
#define GATEWAY_COMMON_DOCUMENT_REDACTION_H_

#include <string>
#include <string_view>
#include <vector>

#include "gateway/v1/admin.pb.h"
#include "gateway/v1/policy.pb.h"
#include "google/protobuf/message.h"

namespace gateway {

inline constexpr std::string_view kRedactedPrefix = "redacted:";

// "redacted:9f86d081884c7d65"; of what is redacted already, that; of nothing, nothing.
std::string RedactedText(std::string_view secret);
bool IsRedacted(std::string_view text);

// Whether a message of this type holds a secret itself; with `below`, or anything in it does. What is written where one
// belongs may be a secret in the wrong place, so no message repeats it.
bool HasSecrets(const google::protobuf::Descriptor* type, bool below = true);

// Replaces every secret in `message` and below it. Idempotent.
void RedactSecrets(google::protobuf::Message* message);

// Puts back what `resource` has redacted, from the secrets of `current` (null: there is no such resource): of those in
// the same field of the same message, the one with that fingerprint, wherever in a list it stands. Appends an error for
// each that is not there.
void RestoreSecrets(const v1::Resource* current, v1::Resource* resource, std::vector<v1::PolicyError>* errors);

}  // namespace gateway

#endif  // GATEWAY_COMMON_DOCUMENT_REDACTION_H_
