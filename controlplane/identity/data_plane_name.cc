#include "controlplane/identity/data_plane_name.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/pki.h"
#include "grpc/grpc_security_constants.h"

namespace gateway::controlplane {

std::string PeerCertificate(const grpc::AuthContext& context) {
  if (!context.IsPeerAuthenticated()) return "";
  const std::vector<grpc::string_ref> pem = context.FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME);
  return pem.empty() ? "" : std::string(pem.front().data(), pem.front().size());
}

absl::Status CheckHasCertificate(const grpc::AuthContext& context) {
  if (!PeerCertificate(context).empty()) return absl::OkStatus();
  return absl::PermissionDeniedError("name: the data plane has shown no certificate");
}

absl::Status CheckDataPlaneName(const std::string& name, const std::string& certificate) {
  const absl::StatusOr<CertificateInfo> info = DescribeCertificate(certificate);
  if (!info.ok()) return absl::PermissionDeniedError("name: the data plane has shown no certificate");
  std::vector<std::string> names = info->names.dns;
  names.insert(names.end(), info->names.uris.begin(), info->names.uris.end());
  if (std::find(names.begin(), names.end(), name) != names.end()) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("name: this data plane calls itself '", name, "', but its certificate is for ",
                   names.empty() ? "nobody (it has no subject alternative name)" : absl::StrJoin(names, ", ")));
}

}  // namespace gateway::controlplane
