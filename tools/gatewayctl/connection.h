// Which control plane gatewayctl speaks to, and who it is there: flags, then the environment, then the context in use.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_CONNECTION_H_
#define GATEWAY_TOOLS_GATEWAYCTL_CONNECTION_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/v1/client.pb.h"

namespace gateway::ctl {

// Ready to be used: the files are read.
struct Connection {
  std::string server = "127.0.0.1:7400";
  std::string ca;                // PEM; "": cleartext
  std::string certificate, key;  // PEM; "": none
  std::string token;             // "": none
  bool tls() const { return !ca.empty(); }
};

// What the flags said; "": nothing.
struct ConnectionFlags {
  std::string server = {}, ca = {}, cert = {}, key = {}, token_file = {};
};

using Environment = std::function<std::optional<std::string>(const std::string& name)>;

// Each of server, CA and credentials is that of the flags, else of GATEWAY_SERVER, GATEWAY_CA and GATEWAY_TOKEN, else
// of the context in use, else 127.0.0.1:7400 without any. A context serves its own server only: where flags or
// environment name a server, nothing is taken from it. InvalidArgument says which file or variable is wrong, also where
// a token would leave this machine in cleartext.
absl::StatusOr<Connection> ResolveConnection(const ConnectionFlags& flags, const Environment& environment);

// ~/.config/gatewayctl/config.yaml. No file: no contexts. Errors name file, line and column.
absl::StatusOr<v1::ClientContexts> LoadContexts(const Environment& environment);
// As a whole or not at all, mode 0600, its folder 0700.
absl::Status SaveContexts(const v1::ClientContexts& contexts, const Environment& environment);

// `content` under `path`, by a file beside it that takes its name, so that no reader sees half of it.
absl::Status WriteFileWhole(const std::string& path, const std::string& content, unsigned mode);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_CONNECTION_H_
