#include "tools/gatewayctl/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/host_port.h"
#include "common/base/jwk.h"
#include "common/base/pki.h"
#include "common/config/codec.h"
#include "common/config/yaml.h"

namespace gateway::ctl {
namespace {

constexpr size_t kContextsBytesMax = 1u << 20;
constexpr size_t kTokenBytesMax = CompactJws::kTextBytesMax;  // an issuer's are the longest

absl::StatusOr<std::string> ContextsPath(const Environment& environment) {
  const std::string home = environment("HOME").value_or("");
  if (home.empty()) return absl::InvalidArgumentError("HOME is not set, so there is no place for contexts");
  return home + "/.config/gatewayctl/config.yaml";
}

absl::StatusOr<std::string> ReadText(const std::string& path, size_t bytes_max) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::string text(bytes_max + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (!in.is_open() || in.bad()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read: ", strerror(errno == 0 ? EIO : errno)));
  }
  if (text.size() > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected at most ", bytes_max, " bytes"));
  }
  return text;
}

absl::Status CheckToken(const std::string& token, const std::string& from) {
  const bool sendable = !token.empty() && token.size() <= kTokenBytesMax &&
                        std::all_of(token.begin(), token.end(), [](char c) { return absl::ascii_isgraph(c); });
  if (sendable) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(from, ": expected one token without spaces or line breaks"));
}

bool StaysOnThisMachine(const std::string& server) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(server);
  const std::string host = parsed.ok() ? parsed->host : server;  // without a port, it is the default one
  in_addr address;
  const bool v4 = inet_pton(AF_INET, host.c_str(), &address) == 1;  // "127.example.com" is another machine
  return host == "localhost" || host == "::1" || host == "[::1]" || (v4 && ntohl(address.s_addr) >> 24 == 127);
}

}  // namespace

absl::Status WriteFileWhole(const std::string& path, const std::string& content, unsigned mode) {
  const std::string next = absl::StrCat(path, ".", getpid(), ".new");
  const auto failed = [&next](absl::string_view what) {
    const absl::Status status = absl::InternalError(absl::StrCat(what, ": ", strerror(errno)));
    (void)unlink(next.c_str());  // what is wrong already matters more
    return status;
  };
  const int fd = open(next.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
  if (fd < 0) return absl::InternalError(absl::StrCat(next, ": ", strerror(errno)));
  size_t written = 0;
  while (written < content.size()) {
    const ssize_t bytes = write(fd, content.data() + written, content.size() - written);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) {
      const absl::Status status = failed(next);
      close(fd);
      return status;
    }
    written += static_cast<size_t>(bytes);
  }
  // The mode whatever the umask is, and on disk before it has its name.
  const bool kept = fchmod(fd, mode) == 0 && fsync(fd) == 0;
  if (close(fd) != 0 || !kept) return failed(next);
  if (rename(next.c_str(), path.c_str()) != 0) return failed(path);
  return absl::OkStatus();
}

absl::StatusOr<v1::ClientContexts> LoadContexts(const Environment& environment) {
  const absl::StatusOr<std::string> path = ContextsPath(environment);
  if (!path.ok()) return path.status();
  std::error_code error;
  if (!std::filesystem::exists(*path, error)) return v1::ClientContexts();
  const absl::StatusOr<std::string> text = ReadText(*path, kContextsBytesMax);
  if (!text.ok()) return text.status();
  std::vector<YamlProblem> yaml_problems;
  const std::vector<YamlNode> documents = ParseYaml(*text, &yaml_problems);
  const auto at = [&path](YamlPosition position) {
    return position.line > 0 ? absl::StrCat(*path, ":", position.line, ":", position.column) : *path;
  };
  if (!yaml_problems.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(at(yaml_problems[0].position), ": ", yaml_problems[0].message));
  }
  v1::ClientContexts contexts;
  if (documents.empty() || documents[0].kind == YamlNode::Kind::kNull) return contexts;
  std::vector<FieldProblem> problems;
  DecodeYaml(documents[0], &contexts, &problems);
  if (!problems.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(at(problems[0].position), ": ", problems[0].field, ": ", problems[0].message));
  }
  std::set<std::string> names;
  for (const v1::ClientContext& context : contexts.contexts()) {
    if (!names.insert(context.name()).second) {
      return absl::InvalidArgumentError(absl::StrCat(*path, ": context '", context.name(), "' is given twice"));
    }
  }
  return contexts;
}

absl::Status SaveContexts(const v1::ClientContexts& contexts, const Environment& environment) {
  const absl::StatusOr<std::string> path = ContextsPath(environment);
  if (!path.ok()) return path.status();
  const std::filesystem::path folder = std::filesystem::path(*path).parent_path();
  std::error_code error;
  std::filesystem::create_directories(folder.parent_path(), error);
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return absl::InternalError(absl::StrCat(folder.string(), ": ", strerror(errno)));
  }
  return WriteFileWhole(*path, EncodeYaml(contexts), 0600);
}

absl::StatusOr<Connection> ResolveConnection(const ConnectionFlags& flags, const Environment& environment) {
  ConnectionFlags used = flags;
  Connection connection;
  connection.token = flags.token_file.empty() ? environment("GATEWAY_TOKEN").value_or("") : "";
  if (!connection.token.empty()) {
    if (absl::Status status = CheckToken(connection.token, "GATEWAY_TOKEN"); !status.ok()) return status;
  }
  const std::optional<std::string> server = environment("GATEWAY_SERVER");
  if (server && server->empty()) return absl::InvalidArgumentError("GATEWAY_SERVER is empty");
  if (used.server.empty()) used.server = server.value_or("");
  if (used.ca.empty()) used.ca = environment("GATEWAY_CA").value_or("");
  if (used.server.empty() && environment("HOME").has_value()) {
    const absl::StatusOr<v1::ClientContexts> contexts = LoadContexts(environment);
    if (!contexts.ok()) return contexts.status();
    for (const v1::ClientContext& context : contexts->contexts()) {
      if (context.name() != contexts->current()) continue;
      used.server = context.server();
      if (used.ca.empty()) used.ca = context.ca();
      // Credentials are one thing: those of the flags or the environment take the place of all that the context has.
      if (connection.token.empty() && used.token_file.empty() && used.cert.empty()) {
        used.token_file = context.token_file();
        used.cert = context.cert();
        used.key = context.key();
      }
    }
  }
  if (!used.server.empty()) connection.server = used.server;
  if (used.cert.empty() != used.key.empty()) {
    return absl::InvalidArgumentError("--cert and --key: expected both, or neither");
  }
  if (!used.cert.empty() && used.ca.empty()) {
    return absl::InvalidArgumentError("--cert needs --ca (or GATEWAY_CA): without it there is no TLS");
  }
  absl::StatusOr<TlsMaterial> material = ReadTlsFiles({used.cert, used.key, used.ca}, absl::Now());
  if (!material.ok()) return absl::InvalidArgumentError(material.status().message());
  connection.ca = std::move(material->ca);
  connection.certificate = std::move(material->certificate_chain);
  connection.key = std::move(material->private_key);
  if (!used.token_file.empty()) {
    absl::StatusOr<std::string> text = ReadText(used.token_file, kTokenBytesMax);
    if (!text.ok()) return text.status();
    connection.token = std::string(absl::StripAsciiWhitespace(*text));
    if (absl::Status status = CheckToken(connection.token, used.token_file); !status.ok()) return status;
  }
  if (!connection.token.empty() && !connection.tls() && !StaysOnThisMachine(connection.server)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the token would go to ", connection.server, " in cleartext; give --ca (or GATEWAY_CA) for TLS"));
  }
  return connection;
}

}  // namespace gateway::ctl
