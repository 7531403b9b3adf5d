#include "controlplane/admin/call_context.h"

#include "absl/strings/str_cat.h"

namespace gateway::controlplane {

const std::string& DoerOf(const Caller& caller, const v1::ChangeContext& context) {
  return !caller.name.empty() ? caller.name : !context.actor().empty() ? context.actor() : caller.address;
}

Author AuthorOf(const Caller& caller) { return {caller.address, caller.name, caller.action, caller.scope}; }

absl::Status CheckContext(const v1::ChangeContext& context) {
  if (context.actor().size() <= kActorBytesMax && context.comment().size() <= kCommentBytesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("context: expected an actor of at most ", kActorBytesMax,
                                                 " bytes and a comment of at most ", kCommentBytesMax));
}

}  // namespace gateway::controlplane
