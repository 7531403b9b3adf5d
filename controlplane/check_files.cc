#include "controlplane/check_files.h"

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/pki.h"
#include "controlplane/identity/joining.h"

namespace gateway::controlplane {

int CheckFiles(const v1::Bootstrap& config) {
  const v1::ControlPlaneSection& section = config.control_plane();
  std::vector<std::string> problems;
  std::string client_ca;  // of data planes
  for (const auto& [key, tls] : {std::pair{"control_plane.stream_tls", &section.stream_tls()},
                                 {"control_plane.admin_tls", &section.admin_tls()}}) {
    if (tls->cert().empty()) continue;
    const absl::StatusOr<TlsMaterial> files =
        ReadTlsFiles({.cert = tls->cert(), .key = tls->key(), .ca = tls->client_ca()}, absl::Now());
    if (!files.ok()) problems.push_back(absl::StrCat(key, ": ", files.status().message()));
    if (files.ok() && tls == &section.stream_tls()) client_ca = files->ca;
  }
  if (!section.join().ca_cert().empty() && !client_ca.empty()) {
    const absl::Status status = Joining::Open(
                                    Joining::OptionsOf(section), [&client_ca] { return client_ca; }, nullptr)
                                    .status();
    if (!status.ok()) problems.emplace_back(status.message());
  }
  for (const std::string& problem : problems) std::fprintf(stderr, "%s\n", problem.c_str());
  return problems.empty() ? 0 : 1;
}

}  // namespace gateway::controlplane
