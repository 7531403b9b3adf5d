// One account at one CA: the protocol of RFC 8555 from the account to the certificate.
#ifndef GATEWAY_CONTROLPLANE_ACME_CLIENT_H_
#define GATEWAY_CONTROLPLANE_ACME_CLIENT_H_

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controlplane/acme/http.h"
#include "controlplane/acme/keys.h"
#include "controlplane/acme/messages.h"
#include "gateway/v1/config_stream.pb.h"
#include "gateway/v1/policy.pb.h"

namespace gateway::controlplane::acme {

// Not thread-safe; every call blocks for as long as the CA takes, within the limits below. Errors are told in the CA's
// own words. ResourceExhausted: a rate limit of the CA; Unavailable: it cannot be reached, or fails (5xx);
// FailedPrecondition: it refuses; DeadlineExceeded: it does not decide in time; Cancelled: this process ends.
class Client {
 public:
  static constexpr absl::Duration kDecisionWait = absl::Minutes(2);  // for challenges, and for the certificate
  static constexpr absl::Duration kPollMin = absl::Milliseconds(500);
  static constexpr absl::Duration kPollMax = absl::Seconds(15);
  static constexpr int kNonceTriesMax = 20;

  struct Options {
    std::string directory;
    std::string ca_pem;
    std::string email;
    HttpTransport transport;
    std::function<absl::Time()> now;
    // Waits; false: this process ends.
    std::function<bool(absl::Duration)> wait;
  };
  // `account`: its URL at the CA; empty: not registered yet.
  Client(Options options, AccountKey key, std::string account)
      : options_(std::move(options)), key_(std::move(key)), account_(std::move(account)) {}

  struct Issued {
    std::string chain_pem, key_pem;
  };
  // Data planes respond to `challenges` (none: to no more) when it returns OK.
  using Present = std::function<absl::Status(std::vector<v1::Challenge> challenges)>;
  // Orders a certificate for `hosts`. `replaces`: the chain that it succeeds; may be empty.
  absl::StatusOr<Issued> Order(const std::vector<std::string>& hosts, v1::Acme::Challenge type,
                               const std::string& replaces, const Present& present);

  // When the CA wants the leaf of `chain_pem` renewed, and how long that holds; nothing: it does not say.
  struct Window {
    RenewalInfo window;
    absl::Duration holds;
  };
  absl::StatusOr<std::optional<Window>> RenewalWindow(const std::string& chain_pem);

  const AccountKey& key() const { return key_; }
  const std::string& account() const { return account_; }
  // What the last error asked to wait; nothing: it did not say.
  std::optional<absl::Duration> retry_after() const { return retry_after_; }

 private:
  absl::Status ReadDirectory();
  absl::Status Register();
  absl::StatusOr<std::string> TakeNonce();
  // A signed request; with `by_key`, the account's URL is not known yet. Repeats it where the CA does not take the
  // nonce.
  absl::StatusOr<HttpResponse> Post(const std::string& url, std::string_view payload, bool by_key = false);
  absl::Status Refused(const HttpResponse& response);
  absl::StatusOr<HttpResponse> Send(const HttpRequest& request);
  // How long to wait before the next poll, if `response` decided nothing.
  absl::Duration PollWait(const HttpResponse& response) const;
  absl::StatusOr<std::pair<std::string, acme::Order>> Begin(const std::vector<std::string>& hosts,
                                                            const std::string& replaces);
  absl::Status Prove(const acme::Order& order, v1::Acme::Challenge type, const Present& present);
  absl::Status AwaitAuthorization(const std::string& url, absl::Time deadline, std::string_view type);
  absl::StatusOr<std::string> Fetch(const std::string& order_url, acme::Order order, const std::string& csr_der);

  const Options options_;
  const AccountKey key_;
  std::string account_;
  std::optional<Directory> directory_;
  std::string nonce_;
  std::optional<absl::Duration> retry_after_;
};

}  // namespace gateway::controlplane::acme

#endif  // GATEWAY_CONTROLPLANE_ACME_CLIENT_H_
