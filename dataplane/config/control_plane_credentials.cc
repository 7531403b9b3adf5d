#include "dataplane/config/control_plane_credentials.h"

#include <utility>

#include "spdlog/spdlog.h"

namespace gateway::dataplane {

ControlPlaneCredentials::ControlPlaneCredentials(const v1::ClientTlsSection& tls)
    : files_{tls.cert(), tls.key(), tls.ca()}, server_name_(tls.server_name()) {}

absl::StatusOr<TlsMaterial> ControlPlaneCredentials::Read(absl::Time now) {
  absl::MutexLock lock(&mu_);
  std::string stamp = TlsFilesStamp(files_);
  const bool good = !material_.ca.empty();
  if (good && stamp == stamp_ && material_.not_after > now) return material_;
  absl::StatusOr<TlsMaterial> read = ReadTlsFiles(files_, now);
  if (read.ok()) {
    material_ = *read;
    stamp_ = std::move(stamp);
    return read;
  }
  const absl::Status problem(read.status().code(), "data_plane.tls: " + std::string(read.status().message()));
  if (!good || material_.not_after <= now) return problem;
  if (stamp != stamp_) spdlog::warn("{}; the files of before stay in use", std::string(problem.message()));
  stamp_ = std::move(stamp);
  return material_;
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ControlPlaneCredentials::ForConnection(
    absl::Time now, grpc::ChannelArguments* arguments) {
  if (files_.ca.empty()) return grpc::InsecureChannelCredentials();
  absl::StatusOr<TlsMaterial> material = Read(now);
  if (!material.ok()) return material.status();
  if (!server_name_.empty()) arguments->SetSslTargetNameOverride(server_name_);
  return grpc::SslCredentials({material->ca, material->private_key, material->certificate_chain});
}

absl::StatusOr<std::string> ControlPlaneCredentials::Name(absl::Time now) {
  if (files_.ca.empty()) return "";
  absl::StatusOr<TlsMaterial> material = Read(now);
  if (!material.ok()) return material.status();
  absl::StatusOr<CertificateInfo> info = DescribeCertificate(material->certificate_chain);
  if (!info.ok()) return info.status();
  if (!info->names.dns.empty()) return info->names.dns.front();
  return info->names.uris.empty() ? "" : info->names.uris.front();
}

}  // namespace gateway::dataplane
