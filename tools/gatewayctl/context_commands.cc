// context, pki: gatewayctl's own files; they ask no server.
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/pki.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/connection.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

constexpr absl::Duration kAuthorityLifetime = absl::Hours(24 * 3650);
constexpr int kContextsMax = 100;  // as the file's schema has it

// Where a later command is run, a relative path would mean another file.
std::string Absolute(const std::string& path) {
  return path.empty() ? "" : std::filesystem::absolute(path).lexically_normal().string();
}

ExitCode SetContext(Session& session, v1::ClientContexts contexts) {
  const Options& options = session.options;
  if (options.name.empty() || options.server.empty()) {
    return session.Refuse("context set: expected a NAME and --server HOST:PORT");
  }
  if (options.cert.empty() != options.key.empty() || (!options.cert.empty() && options.ca.empty())) {
    return session.Refuse("context set: expected --cert, --key and --ca together");
  }
  v1::ClientContext context;
  context.set_name(options.name);
  context.set_server(options.server);
  context.set_ca(Absolute(options.ca));
  context.set_token_file(Absolute(options.token_file));
  context.set_cert(Absolute(options.cert));
  context.set_key(Absolute(options.key));
  bool known = false;
  for (v1::ClientContext& each : *contexts.mutable_contexts()) {
    if (each.name() != options.name) continue;
    each = context;
    known = true;
  }
  if (!known && contexts.contexts_size() == kContextsMax) {
    return session.Refuse(absl::StrCat("context set: there are ", kContextsMax, " contexts already"));
  }
  if (!known) *contexts.add_contexts() = context;
  // The first one is what one wants to use.
  if (contexts.current().empty()) contexts.set_current(options.name);
  if (const absl::Status status = SaveContexts(contexts, session.terminal.environment); !status.ok()) {
    return session.Fail(status);
  }
  session.out() << "context " << options.name << (known ? " changed" : " added")
                << (contexts.current() == options.name ? ", in use" : "") << "\n";
  return kDone;
}

ExitCode UseContext(Session& session, v1::ClientContexts contexts) {
  std::vector<std::string> names;
  bool known = false;
  for (const v1::ClientContext& each : contexts.contexts()) {
    names.push_back(each.name());
    known = known || each.name() == session.options.name;
  }
  if (session.options.name.empty()) return session.Refuse("context use: expected a NAME");
  if (!known) {
    return session.Fail(
        absl::NotFoundError(absl::StrCat("there is no context '", session.options.name, "'",
                                         names.empty() ? "" : "; there are: ", absl::StrJoin(names, ", "))));
  }
  contexts.set_current(session.options.name);
  if (const absl::Status status = SaveContexts(contexts, session.terminal.environment); !status.ok()) {
    return session.Fail(status);
  }
  session.out() << "context " << session.options.name << " in use\n";
  return kDone;
}

ExitCode ListContexts(Session& session, const v1::ClientContexts& contexts) {
  Json items = Json::array();
  for (const v1::ClientContext& each : contexts.contexts()) {
    Json item = MessageJson(each);
    item["in_use"] = each.name() == contexts.current();
    items.push_back(std::move(item));
  }
  Json list = Json::object();
  list["items"] = std::move(items);
  if (session.PrintStructured(list)) return kDone;
  if (session.options.output == "name") {
    for (const v1::ClientContext& each : contexts.contexts()) session.out() << each.name() << "\n";
    return kDone;
  }
  if (contexts.contexts().empty()) {
    session.err() << "no contexts; 'gatewayctl context set NAME --server HOST:PORT' adds one\n";
    return kDone;
  }
  Table table({"IN USE", "NAME", "SERVER", "CA", "CREDENTIAL"});
  for (const v1::ClientContext& each : contexts.contexts()) {
    table.AddRow({each.name() == contexts.current() ? "*" : "", each.name(), each.server(), each.ca(),
                  each.token_file().empty() ? each.cert() : each.token_file()});
  }
  session.out() << table.ToString();
  return kDone;
}

// A certificate's name as a file's.
std::string FileNameOf(const std::string& name) {
  std::string file = absl::StrReplaceAll(name, {{"://", "-"}, {"/", "-"}, {"*", "_"}});
  return file.starts_with('.') ? "_" + file : file;
}

absl::Status WritePair(const std::string& base, const CertificateAndKey& pair) {
  if (absl::Status status = WriteFileWhole(base + ".key", pair.private_key, 0600); !status.ok()) return status;
  return WriteFileWhole(base + ".crt", pair.certificate, 0644);
}

}  // namespace

ExitCode Context(Session& session) {
  absl::StatusOr<v1::ClientContexts> contexts = LoadContexts(session.terminal.environment);
  if (!contexts.ok()) return session.Fail(contexts.status());
  if (session.options.verb == "set") return SetContext(session, *std::move(contexts));
  if (session.options.verb == "use") return UseContext(session, *std::move(contexts));
  if (!session.options.name.empty()) {
    return session.Refuse(absl::StrCat("context list: unexpected '", session.options.name, "'"));
  }
  return ListContexts(session, *contexts);
}

ExitCode Pki(Session& session) {
  const Options& options = session.options;
  const std::string authority = options.directory + "/ca";
  const absl::Time now = session.terminal.now();
  if (options.verb == "init") {
    if (mkdir(options.directory.c_str(), 0700) != 0 && errno != EEXIST) {
      return session.Fail(absl::InternalError(absl::StrCat(options.directory, ": ", strerror(errno))));
    }
    if (std::filesystem::exists(authority + ".key") || std::filesystem::exists(authority + ".crt")) {
      return session.Fail(absl::AlreadyExistsError(
          absl::StrCat(authority, ".key: there is a CA already; nothing would trust the certificates of another one")));
    }
    const absl::StatusOr<CertificateAndKey> made = MakeAuthority("gateway lab CA", now, kAuthorityLifetime);
    if (!made.ok()) return session.Fail(made.status());
    if (const absl::Status status = WritePair(authority, *made); !status.ok()) return session.Fail(status);
    session.out() << authority << ".crt\n" << authority << ".key\n";
    return kDone;
  }

  const int roles = !options.server_names.empty() + !options.data_plane.empty() + !options.operator_name.empty();
  if (roles != 1) {
    return session.Refuse("pki issue: expected one of --server NAME,..., --data-plane NAME and --operator NAME");
  }
  if (!options.role.empty() && options.operator_name.empty()) {
    return session.Refuse("pki issue: --role goes with --operator");
  }
  const absl::StatusOr<absl::Duration> lifetime = ParseAge(options.expires.empty() ? "90d" : options.expires);
  if (!lifetime.ok()) return session.Refuse(absl::StrCat("--expires: ", lifetime.status().message()));
  const absl::StatusOr<TlsMaterial> files = ReadTlsFiles({authority + ".crt", authority + ".key", ""}, now);
  if (!files.ok()) {
    return session.Fail(absl::NotFoundError(
        absl::StrCat(files.status().message(), "; 'gatewayctl pki init ", options.directory, "' makes a CA")));
  }
  CertificateRequest request;
  request.lifetime = *lifetime;
  if (!options.server_names.empty()) {
    request.common_name = options.server_names.front();
    request.names = options.server_names;
    request.server = true;
  } else if (!options.data_plane.empty()) {
    request.common_name = options.data_plane;
    request.organizational_unit = "data-plane";
    request.names = {options.data_plane};
    request.client = true;
  } else {
    request.common_name = options.operator_name;
    request.organizational_unit = options.role.empty() ? "admin" : options.role;
    request.client = true;
  }
  // A name may be longer than what a subject holds; who reads certificates reads the alternative names.
  constexpr size_t kSubjectBytesMax = 64;
  if (!request.names.empty() && request.common_name.size() > kSubjectBytesMax)
    request.common_name.resize(kSubjectBytesMax);
  const absl::StatusOr<CertificateAndKey> made =
      IssueCertificate({files->certificate_chain, files->private_key}, request, now);
  if (!made.ok()) return session.Fail(made.status());
  const std::string& name = !request.names.empty() ? request.names.front() : request.common_name;
  const std::string base = absl::StrCat(options.directory, "/", FileNameOf(name));
  if (base == authority) return session.Refuse("pki issue: 'ca' is the authority's own name");
  if (const absl::Status status = WritePair(base, *made); !status.ok()) return session.Fail(status);
  session.out() << base << ".crt\n" << base << ".key\n";
  return kDone;
}

}  // namespace gateway::ctl
