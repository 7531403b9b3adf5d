#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/route/route_pattern.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

// "https://app.example.com[:8443]", as browsers send it (lower case, no default port), with a "*." in front of the host
// or without.
struct Origin {
  std::string scheme;  // "https://"
  std::string host;    // "app.example.com:8443"; of a wildcard ".example.com"
  bool wildcard = false;
};

// InvalidArgument says what was expected.
absl::StatusOr<Origin> ParseOrigin(std::string_view text) {
  Origin origin;
  const auto bad = [text](std::string_view why) {
    return absl::InvalidArgumentError(fmt::format(
        "{} {}; expected an origin like https://app.example.com or https://*.example.com", QuoteForMessage(text), why));
  };
  const size_t colon = text.find("://");
  if (colon == std::string_view::npos || colon == 0) return bad("has no scheme");
  origin.scheme = absl::AsciiStrToLower(std::string(text.substr(0, colon + 3)));
  if (!std::all_of(origin.scheme.begin(), origin.scheme.end() - 3, [](char c) {
        return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '+' || c == '-' || c == '.';
      })) {
    return bad("has a bad scheme");
  }
  std::string rest = absl::AsciiStrToLower(std::string(text.substr(colon + 3)));
  if (rest.find('/') != std::string::npos) return bad("has a path; browsers send none");
  if (rest.starts_with("*.")) {
    origin.wildcard = true;
    rest.erase(0, 2);
  }
  std::string host = rest;
  std::string port;
  if (const size_t at = rest.rfind(':'); at != std::string::npos && rest.back() != ']') {
    host = rest.substr(0, at);
    port = rest.substr(at + 1);
    int number = 0;
    if (!absl::SimpleAtoi(port, &number) || number < 1 || number > 65535) return bad("has a bad port");
    if ((origin.scheme == "https://" && number == 443) || (origin.scheme == "http://" && number == 80)) port.clear();
  }
  if (absl::Status status = CheckHost(host); !status.ok()) return bad(std::string(status.message()));
  origin.host = Concat(origin.wildcard ? "." : "", host, port.empty() ? "" : ":", port);
  return origin;
}

void CheckCors(const Report& report, const v1::Cors& cors) {
  for (int i = 0; i < cors.origins_size(); ++i) {
    if (cors.origins(i) == "*") {
      if (cors.origins_size() > 1) report.Add(At("origins", i), "'*' must be the only entry");
      if (cors.credentials()) report.Add(At("origins", i), "'*' never goes with credentials; name the origins");
      continue;
    }
    if (cors.origins(i) == "null") {
      report.Add(At("origins", i), "'null' is what any sandboxed page sends; it cannot be let in by name");
      continue;
    }
    report.AddIfBad(At("origins", i), ParseOrigin(cors.origins(i)).status());
  }
  const auto check = [&report](const std::string& field, const google::protobuf::RepeatedPtrField<std::string>& names) {
    for (int i = 0; i < names.size(); ++i) {
      if (names[i] == "*") {
        if (names.size() > 1) report.Add(At(field, i), "'*' must be the only entry");
      } else if (field == "methods") {
        CheckMethodName(report, At(field, i), names[i]);
      } else if (!IsToken(names[i])) {
        report.Add(At(field, i), NoFieldName(names[i]));
      }
    }
  };
  check("methods", cors.methods());
  check("headers", cors.headers());
  check("expose_headers", cors.expose_headers());
  if (cors.credentials() && cors.expose_headers_size() > 0 && cors.expose_headers(0) == "*") {
    report.Add("expose_headers[0]", "'*' has no meaning for browsers with credentials; list the headers");
  }
}

std::shared_ptr<const CorsPolicy> CompileCors(const v1::Cors& cors) {
  auto policy = std::make_shared<CorsPolicy>();
  policy->name = cors.name();
  for (const std::string& text : cors.origins()) {
    if (text == "*") {
      policy->any_origin = true;
      continue;
    }
    Origin origin = ParseOrigin(text).value();
    if (origin.wildcard) {
      policy->wildcards.emplace_back(std::move(origin.scheme), std::move(origin.host));
    } else {
      policy->origins.push_back(origin.scheme + origin.host);
    }
  }
  std::sort(policy->origins.begin(), policy->origins.end());
  policy->methods.assign(cors.methods().begin(), cors.methods().end());
  policy->any_method = std::find(policy->methods.begin(), policy->methods.end(), "*") != policy->methods.end();
  if (policy->methods.empty()) policy->methods = {"GET", "HEAD", "POST"};
  for (const std::string& header : cors.headers()) {
    if (header == "*") policy->any_header = true;
    policy->headers.push_back(absl::AsciiStrToLower(header));
  }
  for (const std::string& header : cors.expose_headers()) {
    Append(&policy->expose_headers, policy->expose_headers.empty() ? "" : ", ", header);
  }
  policy->credentials = cors.credentials();
  if (cors.has_max_age()) {
    policy->max_age = std::chrono::duration_cast<std::chrono::seconds>(ToMillis(cors.max_age()));
  }
  return policy;
}

void CompileAllCors(Compilation* compilation) {
  const Documents<v1::Cors> all = compilation->All<v1::Cors>();
  for (size_t i = 0; i < all.size(); ++i) compilation->cors.push_back(CompileCors(all[i]));
}

}  // namespace

Kind CorsKind() {
  return {
      .number = v1::Resource::kCors,
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.cors().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckCors(report, resource.cors()); },
      .compile = &CompileAllCors,
  };
}

}  // namespace gateway
