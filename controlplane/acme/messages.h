// What an ACME server says (RFC 8555, section 7.1; RFC 9773), read from JSON with limits. Everything here is text of a
// stranger: nothing is taken that is not of its form, and lengths are bounded.
#ifndef GATEWAY_CONTROLPLANE_ACME_MESSAGES_H_
#define GATEWAY_CONTROLPLANE_ACME_MESSAGES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace gateway::controlplane::acme {

inline constexpr size_t kBodyBytesMax = 256u << 10;  // of a response
inline constexpr size_t kUrlBytesMax = 2048;
inline constexpr size_t kAuthorizationsMax = 100;  // as many hosts has a Certificate
inline constexpr size_t kChallengesMax = 16;       // of an authorization
inline constexpr size_t kTokenBytesMax = 256;
inline constexpr size_t kErrorBytesMax = 1024;  // of what a CA says is wrong

struct Directory {
  std::string new_nonce, new_account, new_order;
  std::string renewal_info;  // empty: not offered
  bool external_account_required = false;
};

enum class Progress { kPending, kReady, kProcessing, kValid, kInvalid };

struct Order {
  Progress status = Progress::kPending;
  std::vector<std::string> authorizations;
  std::string finalize;
  std::string certificate;  // empty: not yet
  std::string error;        // for people; empty: none
};

struct ServerChallenge {
  std::string type;  // "http-01"
  std::string url;
  std::string token;
  std::string error;
};

struct Authorization {
  Progress status = Progress::kPending;
  std::string host;
  std::vector<ServerChallenge> challenges;
};

struct Problem {
  std::string type;  // "rateLimited": without its namespace; empty: not a problem document
  std::string text;  // for people: the CA's own words
};

struct RenewalInfo {
  absl::Time start, end;
};

// InvalidArgument describes what is missing or wrong.
absl::StatusOr<Directory> ParseDirectory(std::string_view body);
absl::StatusOr<Order> ParseOrder(std::string_view body);
absl::StatusOr<Authorization> ParseAuthorization(std::string_view body);
absl::StatusOr<RenewalInfo> ParseRenewalInfo(std::string_view body);
// Never fails: what cannot be read is told as such.
Problem ParseProblem(std::string_view body);

// The time that `field` ("120", or a date of RFC 9110, section 5.6.7) asks to wait, at least 0; nothing: it is neither.
std::optional<absl::Duration> ParseRetryAfter(std::string_view field, absl::Time now);

// What of `text` may stand in a log and on a terminal: printable ASCII, the rest as spaces, cut at kErrorBytesMax.
std::string Printable(std::string_view text);

}  // namespace gateway::controlplane::acme

#endif  // GATEWAY_CONTROLPLANE_ACME_MESSAGES_H_
