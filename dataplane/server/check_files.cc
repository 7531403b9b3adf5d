#include "dataplane/server/check_files.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "common/base/pki.h"
#include "dataplane/config/config_client.h"
#include "dataplane/config/control_plane_credentials.h"
#include "dataplane/server/tls_listeners.h"

namespace gateway::dataplane {

int CheckFiles(const v1::Bootstrap& config) {
  std::vector<std::string> warnings, more;
  std::vector<absl::Status> checks = {ConfigClient::CheckPolicyFiles(config, &warnings),
                                      TlsListeners::Check(config.server(), &more)};
  // Of one that joins with a token, certificate and key are made later, even if old ones exist.
  const v1::ClientTlsSection& tls = config.data_plane().tls();
  checks.push_back(tls.join_token_file().empty() ? ControlPlaneCredentials(tls).Name(absl::Now()).status()
                                                 : ReadTlsFiles({.ca = tls.ca()}, absl::Now()).status());
  warnings.insert(warnings.end(), more.begin(), more.end());
  for (const std::string& warning : warnings) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  int code = 0;
  for (const absl::Status& status : checks) {
    if (status.ok()) continue;
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    code = 1;
  }
  return code;
}

}  // namespace gateway::dataplane
