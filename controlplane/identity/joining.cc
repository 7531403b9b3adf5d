#include "controlplane/identity/joining.h"

#include <arpa/inet.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/digest.h"
#include "common/base/timestamp.h"
#include "controlplane/identity/own_actors.h"
#include "controlplane/identity/secret.h"

namespace gateway::controlplane {
namespace {

constexpr char kPrefix[] = "gwj_";  // so that scanners for leaked secrets find it
constexpr size_t kSecretTextBytesMax = 256;
// As a data plane may be called (CheckHello), and fits into a certificate's common name (RFC 5280, appendix A.1).
constexpr size_t kNameBytesMax = 64;

absl::Status CheckName(const std::string& name) {
  const bool good = !name.empty() && name.size() <= kNameBytesMax && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
  if (IsOwnActor(name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("name: '", name, "' is the control plane itself in history and audit"));
  }
  in_addr address;  // would be no DNS name of a certificate
  if (good && inet_pton(AF_INET, name.c_str(), &address) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("name: expected 1 to ", kNameBytesMax, " of letters, digits, '.', '_' and '-', and no IP address"));
}

}  // namespace

Joining::Options Joining::OptionsOf(const v1::ControlPlaneSection& section) {
  return {.authority = {.cert = section.join().ca_cert(), .key = section.join().ca_key()},
          .server_certificate = section.stream_tls().cert(),
          .lifetime = absl::Seconds(section.join().lifetime().seconds()) +
                      absl::Nanoseconds(section.join().lifetime().nanos())};
}

absl::StatusOr<std::unique_ptr<Joining>> Joining::Open(Options options, std::function<std::string()> client_ca,
                                                       Store* store) {
  std::unique_ptr<Joining> joining(new Joining(std::move(options), std::move(client_ca), store));
  if (absl::Status s = joining->Authority(absl::Now()).status(); !s.ok()) return s;
  return joining;
}

absl::StatusOr<CertificateAndKey> Joining::Authority(absl::Time now) const {
  absl::StatusOr<TlsMaterial> files = ReadTlsFiles(options_.authority, now);
  if (!files.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("control_plane.join: ", files.status().message()));
  }
  if (!IsAuthority(files->certificate_chain)) {
    return absl::FailedPreconditionError(
        absl::StrCat("control_plane.join.ca_cert: ", options_.authority.cert, ": is not the certificate of a CA"));
  }
  // Certificates of another CA would be refused by this very listener, which then could not renew them either.
  if (!ShareCertificate(files->certificate_chain, client_ca_())) {
    return absl::FailedPreconditionError(
        absl::StrCat("control_plane.join.ca_cert: ", options_.authority.cert,
                     ": is not in control_plane.stream_tls.client_ca, by which data planes are verified"));
  }
  return CertificateAndKey{std::move(files->certificate_chain), std::move(files->private_key)};
}

std::string Joining::CaOfServer(const CertificateAndKey& authority) const {
  const absl::StatusOr<std::string> chain = ReadPemFile(options_.server_certificate);
  return chain.ok() && IsIssuedBy(*chain, authority.certificate) ? authority.certificate : "";
}

absl::StatusOr<v1::CreateJoinTokenResponse> Joining::CreateToken(const v1::CreateJoinTokenRequest& request,
                                                                 absl::Time now) {
  if (absl::Status s = CheckName(request.name()); !s.ok()) return s;
  absl::Duration lifetime = kJoinTokenLifetime;
  if (request.has_expires_in()) {
    lifetime = absl::Seconds(request.expires_in().seconds()) + absl::Nanoseconds(request.expires_in().nanos());
  }
  if (lifetime <= absl::ZeroDuration() || lifetime > kJoinTokenLifetimeMax) {
    return absl::InvalidArgumentError("expires_in: expected more than nothing and at most 30 days");
  }
  const absl::StatusOr<CertificateAndKey> authority = Authority(now);
  if (!authority.ok()) return authority.status();
  const absl::StatusOr<std::string> secret = NewSecret(kPrefix);
  if (!secret.ok()) return secret.status();
  const absl::Time expires = absl::FromUnixMicros(absl::ToUnixMicros(now + lifetime));
  if (absl::Status s = store_->PutJoinToken({Sha256(*secret), request.name(), expires}, now); !s.ok()) return s;
  v1::CreateJoinTokenResponse response;
  response.set_secret(*secret);
  SetTime(expires, response.mutable_expires());
  response.set_ca(CaOfServer(*authority));
  return response;
}

absl::Status Joining::Enroll(const v1::EnrollRequest& request, absl::Time now, std::string* name,
                             v1::EnrollResponse* response) {
  if (request.token().empty() || request.token().size() > kSecretTextBytesMax) {
    return absl::UnauthenticatedError("the join token is not known");
  }
  const Digest digest = Sha256(request.token());
  absl::StatusOr<std::string> owner = store_->FindJoinToken(digest, now);
  if (!owner.ok()) return owner.status();
  *name = *owner;
  const absl::StatusOr<Digest> key = SigningRequestKey(request.certificate_request());
  if (!key.ok()) return key.status();
  // A certificate that is made and not sent does no harm; a token that is spent without one would.
  v1::EnrollResponse issued;
  if (absl::Status s = Issue(request.certificate_request(), {*owner}, now, &issued); !s.ok()) return s;
  if (absl::Status s = store_->SpendJoinToken(digest, *key, now); !s.ok()) return s;
  *response = std::move(issued);
  return absl::OkStatus();
}

absl::Status Joining::Renew(const v1::RenewRequest& request, const std::string& certificate, absl::Time now,
                            std::string* name, v1::EnrollResponse* response) {
  const absl::StatusOr<CertificateInfo> info = DescribeCertificate(certificate);
  if (!info.ok()) return absl::UnauthenticatedError("the data plane has shown no certificate");
  std::vector<std::string> names = info->names.dns;
  names.insert(names.end(), info->names.uris.begin(), info->names.uris.end());
  if (names.empty()) return absl::PermissionDeniedError("the certificate has no subject alternative name");
  *name = names.front();
  return Issue(request.certificate_request(), std::move(names), now, response);
}

absl::Status Joining::Issue(const std::string& signing_request, std::vector<std::string> names, absl::Time now,
                            v1::EnrollResponse* response) const {
  const absl::StatusOr<CertificateAndKey> authority = Authority(now);
  if (!authority.ok()) return authority.status();
  CertificateRequest leaf{.client = true, .lifetime = options_.lifetime};
  leaf.organizational_unit = "data-plane";  // never an operator's: AdminGate
  leaf.common_name = names.front().substr(0, kNameBytesMax);
  leaf.names = std::move(names);
  absl::StatusOr<std::string> certificate = IssueForRequest(*authority, leaf, signing_request, now);
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<CertificateInfo> info = DescribeCertificate(*certificate);
  if (!info.ok()) return absl::InternalError("the certificate that was issued cannot be read");
  SetTime(info->not_after, response->mutable_not_after());
  response->set_certificate(absl::StrCat(*certificate, IntermediatesOf(authority->certificate)));
  response->set_ca(CaOfServer(*authority));
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
