// What a CA says: documents of ACME, problems, Retry-After, and the chain that it issues.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "common/base/certificate.h"
#include "controlplane/acme/messages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway;
  using namespace gateway::controlplane::acme;
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  const auto bounded = [](const std::string& printable) {
    if (printable.size() > kErrorBytesMax) std::abort();
    for (const char c : printable) {
      if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) std::abort();
    }
  };
  const auto url = [](const std::string& link) {
    if (link.size() > kUrlBytesMax || (!link.starts_with("https://") && !link.starts_with("http://"))) std::abort();
  };
  if (const auto directory = ParseDirectory(text); directory.ok()) {
    url(directory->new_nonce);
    url(directory->new_account);
    url(directory->new_order);
  }
  if (const auto order = ParseOrder(text); order.ok()) {
    if (order->authorizations.size() > kAuthorizationsMax) std::abort();
    for (const std::string& each : order->authorizations) url(each);
    url(order->finalize);
    bounded(order->error);
  }
  if (const auto authorization = ParseAuthorization(text); authorization.ok()) {
    bounded(authorization->host);
    for (const ServerChallenge& each : authorization->challenges) {
      url(each.url);
      bounded(each.error);
      // A part of a path: neither a slash nor a dot.
      if (each.token.size() > kTokenBytesMax || each.token.find_first_of("/.%\r\n") != std::string::npos) std::abort();
    }
  }
  if (const auto info = ParseRenewalInfo(text); info.ok() && info->end < info->start) std::abort();
  const Problem problem = ParseProblem(text);
  bounded(problem.type);
  bounded(problem.text);
  if (const auto wait = ParseRetryAfter(text, absl::FromUnixSeconds(1'800'000'000));
      wait && *wait < absl::ZeroDuration()) {
    std::abort();
  }
  (void)CheckOcsp(text, text, absl::FromUnixSeconds(1'800'000'000));
  return 0;
}
