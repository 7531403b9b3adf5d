// The admin API's reads of policy and of its history.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_POLICY_READS_H_
#define GATEWAY_CONTROLPLANE_ADMIN_POLICY_READS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "controlplane/acme/issuer.h"
#include "controlplane/publish/publisher.h"
#include "gateway/v1/admin.pb.h"

namespace gateway::controlplane {

inline constexpr uint32_t kListPageDefault = 500;
inline constexpr uint32_t kListPageMax = 5'000;
inline constexpr uint32_t kHistoryPageDefault = 100;
inline constexpr uint32_t kHistoryPageMax = 1'000;
// A page of List ends here, below gRPC's limit of 4 MiB a message.
inline constexpr size_t kListPageBytesMax = 3u << 20;

// As in admin.proto; secrets are redacted. Thread-safe. The calls that read history block on the database.
class PolicyReads {
 public:
  // `acme`: null if certificates with `acme` have no state.
  PolicyReads(Publisher* publisher, const AcmeIssuer* acme) : publisher_(publisher), acme_(acme) {}

  absl::Status Get(const v1::GetRequest& request, v1::GetResponse* response) const;
  absl::Status List(const v1::ListRequest& request, bool with_secrets, v1::ListResponse* response) const;
  absl::Status Lint(v1::LintResponse* response) const;

  absl::Status History(const v1::HistoryRequest& request, v1::HistoryResponse* response) const;
  absl::Status ResourceHistory(const v1::ResourceHistoryRequest& request, v1::ResourceHistoryResponse* response) const;
  absl::Status GetRevision(const v1::GetRevisionRequest& request, v1::GetRevisionResponse* response) const;

 private:
  Publisher* const publisher_;
  const AcmeIssuer* const acme_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_POLICY_READS_H_
