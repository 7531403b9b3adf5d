// How secrets of policy (fields with rules.secret) are shown: "redacted:" and a fingerprint. Applied again, that means
// "unchanged".
//
// Only hashes of keys and passwords are stored. But a weak hash can be guessed, and with write access to policy
// elsewhere a hash is a credential, so none is ever shown.
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

// "redacted:9f86d081884c7d65"; redacted text stays as it is, and empty text stays empty.
std::string RedactedText(std::string_view secret);
bool IsRedacted(std::string_view text);

// Whether a message of this type has a secret itself; with `below`, or inside any member. A value in such a place may
// be a misplaced secret, so no message repeats it.
bool HasSecrets(const google::protobuf::Descriptor* type, bool below = true);

// Replaces every secret in `message`, at any depth. Idempotent.
void RedactSecrets(google::protobuf::Message* message);

// Restores the redacted secrets of `resource` from `current` (null: no such resource): the secret with that fingerprint
// among those in the same field of the same message, at any position in a list. Appends an error for each that is
// missing.
void RestoreSecrets(const v1::Resource* current, v1::Resource* resource, std::vector<v1::PolicyError>* errors);

}  // namespace gateway

#endif  // GATEWAY_COMMON_DOCUMENT_REDACTION_H_
