#include "controlplane/acme/messages.h"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/fetched_url.h"
#include "common/base/strict_json.h"

namespace gateway::controlplane::acme {
namespace {

using nlohmann::json;

constexpr char kNamespace[] = "urn:ietf:params:acme:error:";
constexpr size_t kSubproblemsTold = 5;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::Status Wrong(std::string_view object, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the CA's ", View(object), " cannot be read: ", View(what)));
}

absl::StatusOr<json> ReadObject(std::string_view object, std::string_view body) {
  if (body.size() > kBodyBytesMax) return Wrong(object, "it is too long");
  absl::StatusOr<json> read = ParseJsonObject(body);
  if (!read.ok()) return Wrong(object, {read.status().message().data(), read.status().message().size()});
  return read;
}

// A URL to talk to; empty if it is missing and not required.
absl::StatusOr<std::string> ReadUrl(std::string_view object, const json& in, const char* name, bool required) {
  const std::string* const text = FindString(in, name);
  if (text == nullptr) {
    if (!required && !in.contains(name)) return std::string();
    return Wrong(object, absl::StrCat(name, " is missing or no text"));
  }
  if (text->size() > kUrlBytesMax || !CheckFetchedUrl(*text, "certificates").ok()) {
    return Wrong(object, absl::StrCat(name, " is not a URL of https"));
  }
  return *text;
}

std::optional<Progress> ProgressOf(const json& in) {
  const std::string* const text = FindString(in, "status");
  if (text == nullptr) return std::nullopt;
  if (*text == "pending") return Progress::kPending;
  if (*text == "ready") return Progress::kReady;
  if (*text == "processing") return Progress::kProcessing;
  if (*text == "valid") return Progress::kValid;
  // An authorization also ends as expired, revoked or deactivated.
  if (*text == "invalid" || *text == "expired" || *text == "revoked" || *text == "deactivated")
    return Progress::kInvalid;
  return std::nullopt;
}

std::string TextOf(const json& problem) {
  const std::string* const detail = FindString(problem, "detail");
  const std::string* const type = FindString(problem, "type");
  std::string text = detail != nullptr && !detail->empty() ? *detail : type != nullptr ? *type : "";
  if (type != nullptr && detail != nullptr && !detail->empty()) {
    absl::string_view short_type = *type;
    absl::ConsumePrefix(&short_type, kNamespace);
    absl::StrAppend(&text, " (", short_type, ")");
  }
  return text;
}

std::string ProblemText(const json& problem) {
  std::string text = TextOf(problem);
  if (const auto found = problem.find("subproblems"); found != problem.end() && found->is_array()) {
    for (size_t i = 0; i < found->size() && i < kSubproblemsTold; ++i) {
      const json& each = (*found)[i];
      if (!each.is_object()) continue;
      std::string host;
      if (const auto identifier = each.find("identifier"); identifier != each.end() && identifier->is_object()) {
        if (const std::string* const value = FindString(*identifier, "value")) host = *value;
      }
      absl::StrAppend(&text, "; ", host, host.empty() ? "" : ": ", TextOf(each));
    }
  }
  return Printable(text);
}

std::string ErrorOf(const json& in) {
  const auto found = in.find("error");
  return found != in.end() && found->is_object() ? ProblemText(*found) : "";
}

}  // namespace

std::string Printable(std::string_view text) {
  std::string printable(text.substr(0, kErrorBytesMax));
  for (char& c : printable) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = ' ';  // no half characters either
  }
  return printable;
}

absl::StatusOr<Directory> ParseDirectory(std::string_view body) {
  constexpr char kObject[] = "directory";
  const absl::StatusOr<json> in = ReadObject(kObject, body);
  if (!in.ok()) return in.status();
  Directory directory;
  for (auto [to, name, required] :
       {std::tuple{&directory.new_nonce, "newNonce", true}, std::tuple{&directory.new_account, "newAccount", true},
        std::tuple{&directory.new_order, "newOrder", true},
        std::tuple{&directory.renewal_info, "renewalInfo", false}}) {
    absl::StatusOr<std::string> url = ReadUrl(kObject, *in, name, required);
    if (!url.ok()) return url.status();
    *to = *std::move(url);
  }
  if (const auto meta = in->find("meta"); meta != in->end() && meta->is_object()) {
    const auto external = meta->find("externalAccountRequired");
    directory.external_account_required = external != meta->end() && external->is_boolean() && external->get<bool>();
  }
  return directory;
}

absl::StatusOr<Order> ParseOrder(std::string_view body) {
  constexpr char kObject[] = "order";
  const absl::StatusOr<json> in = ReadObject(kObject, body);
  if (!in.ok()) return in.status();
  Order order;
  const std::optional<Progress> status = ProgressOf(*in);
  if (!status.has_value()) return Wrong(kObject, "status is missing or unknown");
  order.status = *status;
  const auto list = in->find("authorizations");
  if (list == in->end() || !list->is_array()) return Wrong(kObject, "authorizations are missing");
  if (list->size() > kAuthorizationsMax) return Wrong(kObject, "it has too many authorizations");
  for (const json& each : *list) {
    const json one = {{"authorization", each}};
    absl::StatusOr<std::string> url = ReadUrl(kObject, one, "authorization", true);
    if (!url.ok()) return url.status();
    order.authorizations.push_back(*std::move(url));
  }
  absl::StatusOr<std::string> finalize = ReadUrl(kObject, *in, "finalize", true);
  if (!finalize.ok()) return finalize.status();
  order.finalize = *std::move(finalize);
  absl::StatusOr<std::string> certificate = ReadUrl(kObject, *in, "certificate", false);
  if (!certificate.ok()) return certificate.status();
  order.certificate = *std::move(certificate);
  order.error = ErrorOf(*in);
  return order;
}

absl::StatusOr<Authorization> ParseAuthorization(std::string_view body) {
  constexpr char kObject[] = "authorization";
  const absl::StatusOr<json> in = ReadObject(kObject, body);
  if (!in.ok()) return in.status();
  Authorization authorization;
  const std::optional<Progress> status = ProgressOf(*in);
  if (!status.has_value()) return Wrong(kObject, "status is missing or unknown");
  authorization.status = *status;
  const auto identifier = in->find("identifier");
  const std::string* const host =
      identifier == in->end() || !identifier->is_object() ? nullptr : FindString(*identifier, "value");
  if (host == nullptr || host->empty() || host->size() > 255) return Wrong(kObject, "identifier is missing");
  authorization.host = absl::AsciiStrToLower(Printable(*host));
  const auto list = in->find("challenges");
  if (list == in->end() || !list->is_array()) return Wrong(kObject, "challenges are missing");
  if (list->size() > kChallengesMax) return Wrong(kObject, "it has too many challenges");
  for (const json& each : *list) {
    if (!each.is_object()) return Wrong(kObject, "a challenge is not an object");
    ServerChallenge challenge;
    const std::string* const type = FindString(each, "type");
    if (type == nullptr) return Wrong(kObject, "a challenge has no type");
    challenge.type = *type;
    absl::StatusOr<std::string> url = ReadUrl(kObject, each, "url", true);
    if (!url.ok()) return url.status();
    challenge.url = *std::move(url);
    challenge.error = ErrorOf(each);
    // Other types need none. It becomes a part of a path and of a text that is signed.
    if (const std::string* const token = FindString(each, "token"); token != nullptr) {
      const bool plain = !token->empty() && token->size() <= kTokenBytesMax &&
                         std::all_of(token->begin(), token->end(),
                                     [](unsigned char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_'; });
      if (!plain) return Wrong(kObject, "a token is not base64url");
      challenge.token = *token;
    }
    authorization.challenges.push_back(std::move(challenge));
  }
  return authorization;
}

absl::StatusOr<RenewalInfo> ParseRenewalInfo(std::string_view body) {
  constexpr char kObject[] = "renewalInfo";
  const absl::StatusOr<json> in = ReadObject(kObject, body);
  if (!in.ok()) return in.status();
  const auto window = in->find("suggestedWindow");
  if (window == in->end() || !window->is_object()) return Wrong(kObject, "suggestedWindow is missing");
  RenewalInfo info;
  for (auto [to, name] : {std::pair{&info.start, "start"}, std::pair{&info.end, "end"}}) {
    const std::string* const text = FindString(*window, name);
    std::string error;
    if (text == nullptr || text->size() > 64 || !absl::ParseTime(absl::RFC3339_full, *text, to, &error)) {
      return Wrong(kObject, absl::StrCat(name, " is not a time"));
    }
  }
  if (info.end < info.start) return Wrong(kObject, "its end is before its start");
  return info;
}

Problem ParseProblem(std::string_view body) {
  Problem problem;
  if (body.size() > kBodyBytesMax) return problem;
  const absl::StatusOr<json> in = ParseJsonObject(body);
  if (!in.ok()) return problem;
  const std::string* const type = FindString(*in, "type");
  if (type == nullptr) return problem;
  absl::string_view short_type = *type;
  absl::ConsumePrefix(&short_type, kNamespace);
  problem.type = Printable({short_type.data(), short_type.size()});
  problem.text = ProblemText(*in);
  return problem;
}

std::optional<absl::Duration> ParseRetryAfter(std::string_view field, absl::Time now) {
  const absl::string_view text = absl::StripAsciiWhitespace(View(field));
  uint32_t seconds = 0;
  if (absl::SimpleAtoi(text, &seconds)) return absl::Seconds(seconds);
  absl::Time at;
  std::string error;
  if (text.size() > 64 || !absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", text, &at, &error)) return std::nullopt;
  return std::max(at - now, absl::ZeroDuration());
}

}  // namespace gateway::controlplane::acme
