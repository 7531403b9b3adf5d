// Documents of policy that commands read, send and blame.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_DOCUMENTS_H_
#define GATEWAY_TOOLS_GATEWAYCTL_DOCUMENTS_H_

#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/policy/policy_files.h"
#include "gateway/v1/admin.pb.h"
#include "tools/gatewayctl/commands.h"

namespace gateway::ctl {

inline constexpr std::string_view kThePolicy = "the policy";

// The documents of --file. On any error in them: prints all errors, also those that only the server can find, sets
// `code`, and returns nothing.
std::optional<std::vector<PolicyDocument>> ReadDocuments(Session& session, ExitCode* code);
// As ReadDocuments, without asking the server: what can be read by itself.
std::optional<std::vector<PolicyDocument>> ReadFilesAlone(Session& session, ExitCode* code);

v1::ApplyRequest RequestOf(const std::vector<PolicyDocument>& documents);

// Prints why the server refused a change: each error where it stands in `documents`. `what` would not be valid.
ExitCode FailApply(Session& session, const absl::Status& status, const std::vector<PolicyDocument>& documents,
                   std::string_view what = kThePolicy);

// Those that change something.
std::vector<v1::Change> RealChanges(const google::protobuf::RepeatedPtrField<v1::Change>& changes);

std::string ActorOf(const Session& session);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_DOCUMENTS_H_
