// token, join-token, audit: who may, and who did.
#include <iostream>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/policy/resource.h"
#include "google/protobuf/util/time_util.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

using google::protobuf::util::TimeUtil;

std::string RoleText(v1::Token::Role role) { return absl::AsciiStrToLower(v1::Token::Role_Name(role)); }

std::string StateText(const v1::Token& token, absl::Time now) {
  if (token.has_revoked_at()) return "revoked";
  if (!token.has_expires_at()) return "in force";
  const absl::Time end = absl::FromUnixMicros(TimeUtil::TimestampToMicroseconds(token.expires_at()));
  return end <= now ? "expired" : "in force";
}

std::string BoundText(const v1::Token& token) {
  std::vector<std::string> words;
  for (const auto& [label, value] : std::map<std::string, std::string>(token.only().begin(), token.only().end())) {
    words.push_back(absl::StrCat(label, "=", value));
  }
  for (const std::string& kind : token.kinds()) words.push_back(kind);
  return absl::StrJoin(words, ", ");
}

ExitCode CreateToken(Session& session) {
  const Options& options = session.options;
  if (options.name.empty() || options.role.empty()) {
    return session.Refuse("token create: expected a NAME and --role viewer|operator|editor|admin");
  }
  v1::CreateTokenRequest request;
  request.set_name(options.name);
  v1::Token::Role role;
  if (v1::Token::Role_Parse(absl::AsciiStrToUpper(options.role), &role)) request.set_role(role);
  for (const std::string& label : options.only) {
    const size_t equals = label.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return session.Refuse(absl::StrCat("--only: expected label=value,..., found '", label, "'"));
    }
    (*request.mutable_only())[label.substr(0, equals)] = label.substr(equals + 1);
  }
  for (const std::string& word : options.kinds) {
    const absl::StatusOr<std::string> kind = CanonicalKind(word);
    if (!kind.ok()) return session.Refuse(absl::StrCat("--kinds: ", kind.status().message()));
    request.add_kinds(*kind);
  }
  if (!options.expires.empty()) {
    const absl::StatusOr<absl::Duration> lifetime = ParseAge(options.expires);
    if (!lifetime.ok()) return session.Refuse(absl::StrCat("--expires: ", lifetime.status().message()));
    *request.mutable_expires_in() = TimeUtil::MicrosecondsToDuration(absl::ToInt64Microseconds(*lifetime));
  }
  const absl::StatusOr<v1::CreateTokenResponse> created = session.client.CreateToken(request);
  if (!created.ok()) return session.Fail(created.status());
  if (session.PrintStructured(MessageJson(*created))) return kDone;
  // The token alone goes to standard output, so that it can go straight into a file.
  session.out() << created->secret() << "\n";
  session.err() << "token " << options.name << ", " << RoleText(created->token().role())
                << (created->token().has_expires_at()
                        ? absl::StrCat(", expires ", FormatTime(created->token().expires_at()))
                        : "")
                << "; it is shown only now\n";
  return kDone;
}

ExitCode ListTokens(Session& session) {
  const absl::StatusOr<v1::ListTokensResponse> tokens = session.client.ListTokens();
  if (!tokens.ok()) return session.Fail(tokens.status());
  Json items = Json::array();
  for (const v1::Token& token : tokens->tokens()) items.push_back(MessageJson(token));
  Json list = Json::object();
  list["items"] = std::move(items);
  if (session.PrintStructured(list)) return kDone;
  if (session.options.output == "name") {
    for (const v1::Token& token : tokens->tokens()) session.out() << token.name() << "\n";
    return kDone;
  }
  Table table({"NAME", "ROLE", "BOUND TO", "STATE", "CREATED", "BY", "EXPIRES"});
  for (const v1::Token& token : tokens->tokens()) {
    table.AddRow({token.name(), RoleText(token.role()), Printable(BoundText(token)),
                  StateText(token, session.terminal.now()), FormatTime(token.created_at()),
                  Printable(token.created_by()), token.has_expires_at() ? FormatTime(token.expires_at()) : "never"});
  }
  if (table.empty()) {
    session.err() << "no tokens\n";
  } else {
    session.out() << table.ToString();
  }
  return kDone;
}

ExitCode RevokeToken(Session& session) {
  if (session.options.name.empty()) return session.Refuse("token revoke: expected a NAME");
  if (const absl::Status status = session.client.RevokeToken(session.options.name); !status.ok()) {
    return session.Fail(status);
  }
  session.out() << "token " << session.options.name << " revoked\n";
  return kDone;
}

}  // namespace

ExitCode Token(Session& session) {
  if (session.options.verb == "create") return CreateToken(session);
  if (session.options.verb == "revoke") return RevokeToken(session);
  if (!session.options.name.empty()) {
    return session.Refuse(absl::StrCat("token list: unexpected '", session.options.name, "'"));
  }
  return ListTokens(session);
}

ExitCode JoinToken(Session& session) {
  const Options& options = session.options;
  v1::CreateJoinTokenRequest request;
  request.set_name(options.data_plane);
  request.mutable_context()->set_actor(options.actor.empty() ? session.terminal.actor : options.actor);
  request.mutable_context()->set_comment(options.comment);
  if (!options.expires.empty()) {
    const absl::StatusOr<absl::Duration> lifetime = ParseAge(options.expires);
    if (!lifetime.ok()) return session.Refuse(absl::StrCat("--expires: ", lifetime.status().message()));
    *request.mutable_expires_in() = TimeUtil::MicrosecondsToDuration(absl::ToInt64Microseconds(*lifetime));
  }
  const absl::StatusOr<v1::CreateJoinTokenResponse> created = session.client.CreateJoinToken(request);
  if (!created.ok()) return session.Fail(created.status());
  if (session.PrintStructured(MessageJson(*created))) return kDone;
  // The token alone goes to standard output, so that it can go straight into a file.
  session.out() << created->secret() << "\n";
  session.err() << "join token for data plane " << Printable(options.data_plane) << ", expires "
                << FormatTime(created->expires())
                << "; it is shown only now. On its machine: data_plane.name and data_plane.tls { ca, cert, key, "
                   "join_token_file }\n";
  return kDone;
}

ExitCode Audit(Session& session) {
  v1::ListAuditRequest request;
  request.set_actor(session.options.actor);
  if (!session.options.since.empty()) {
    const absl::StatusOr<absl::Duration> age = ParseAge(session.options.since);
    if (!age.ok()) return session.Refuse(absl::StrCat("--since: ", age.status().message()));
    *request.mutable_since() = TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(session.terminal.now() - *age));
  }
  const absl::StatusOr<v1::ListAuditResponse> audit = session.client.ListAudit(request, session.options.limit);
  if (!audit.ok()) return session.Fail(audit.status());
  Json items = Json::array();
  for (const v1::AuditEntry& entry : audit->entries()) items.push_back(MessageJson(entry));
  Json list = Json::object();
  list["items"] = std::move(items);
  if (session.PrintStructured(list)) return kDone;
  if (session.options.output == "name") {
    for (const v1::AuditEntry& entry : audit->entries()) session.out() << entry.number() << "\n";
    return kDone;
  }
  Table table({"TIME", "ACTOR", "ADDRESS", "ACTION", "OUTCOME", "REVISION", "DETAIL"});
  for (const v1::AuditEntry& entry : audit->entries()) {
    table.AddRow({FormatTime(entry.time()), Printable(entry.actor()), Printable(entry.address()),
                  Printable(entry.action()), absl::AsciiStrToLower(v1::AuditEntry::Outcome_Name(entry.outcome())),
                  entry.revision() == 0 ? "" : absl::StrCat(entry.revision()), Printable(entry.detail())});
  }
  if (table.empty()) {
    session.err() << "no entries\n";
  } else {
    session.out() << table.ToString();
  }
  return kDone;
}

}  // namespace gateway::ctl
