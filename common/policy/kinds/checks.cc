#include "common/policy/kinds/checks.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "common/base/host_port.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/policy/policy_texts.h"
#include "common/policy/route/route_pattern.h"

namespace gateway {
namespace {

// Fields that frame a message or belong to one connection: written by the gateway alone.
bool IsReservedField(std::string_view name) {
  static constexpr std::array<std::string_view, 14> kReserved = {"connection",
                                                                 "content-length",
                                                                 "expect",
                                                                 "host",
                                                                 "http2-settings",
                                                                 "keep-alive",
                                                                 "proxy-authenticate",
                                                                 "proxy-connection",
                                                                 "proxy-authorization",
                                                                 "te",
                                                                 "trailer",
                                                                 "transfer-encoding",
                                                                 "upgrade",
                                                                 "via"};
  const std::string lower = absl::AsciiStrToLower(std::string(name));
  return std::find(kReserved.begin(), kReserved.end(), lower) != kReserved.end();
}

std::string NoMethod(std::string_view method) {
  return fmt::format("{} is not a method; expected one like GET, of at most 32 bytes", QuoteForMessage(method));
}

}  // namespace

void Report::Add(std::string_view field, std::string_view message) const {
  v1::PolicyError& error = errors_->emplace_back();
  error.set_kind(key_.kind);
  error.set_name(key_.name);
  error.set_field(std::string(field));
  error.set_message(std::string(message));
}

void Report::AddIfBad(std::string_view field, const absl::Status& status) const {
  if (!status.ok()) Add(field, std::string(status.message()));
}

std::string At(std::string_view list, int index, std::string_view field) {
  return fmt::format("{}[{}]{}", list, index, field);
}

std::string NoFieldName(std::string_view name) {
  return fmt::format("{} is not a header name; expected letters, digits and !#$%&'*+-.^_`|~, as in X-Tenant",
                     QuoteForMessage(name));
}

// Methods have a case, as RFC 9110 has it: another one than a client's would never be met.
void CheckMethodName(const Report& report, const std::string& field, std::string_view method) {
  const std::string upper = absl::AsciiStrToUpper(std::string(method));
  if (!IsToken(method) || method.size() > 32) {
    report.Add(field, NoMethod(method));
  } else if (upper != method) {
    report.Add(field, fmt::format("methods have a case; {} can never match; write {}", QuoteForMessage(method),
                                  QuoteForMessage(upper)));
  }
}

void CheckFieldName(const Report& report, const std::string& field, std::string_view name) {
  if (!IsToken(name) || name.size() > 256) {
    report.Add(field, NoFieldName(name));
  } else if (IsReservedField(name)) {
    report.Add(field, fmt::format("{} is the gateway's own to write{}", QuoteForMessage(name),
                                  absl::AsciiStrToLower(std::string(name)) == "host" ? "; see rewrite.host" : ""));
  }
}

void CheckPlainText(const Report& report, const std::string& field, const std::string& text) {
  if (text.find("${") != std::string::npos) {
    report.Add(field, fmt::format("{} has a variable, but is sent literally; expected text without ${{",
                                  QuoteForMessage(text)));
  } else {
    report.AddIfBad(field, ParseText(text, {}, true, 256).status());
  }
}

void CheckRead(const Report& report, const std::string& field, std::string_view name) {
  if (!IsIdentityField(name)) return;
  report.Add(field, fmt::format("{} is removed from every request: services are told their callers in it",
                                QuoteForMessage(name)));
}

void CheckHostWithPort(const Report& report, const std::string& field, std::string_view host) {
  const size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && host.back() != ']') {
    absl::StatusOr<HostPort> address = ParseHostPort(host);
    if (!address.ok()) {
      report.Add(field, std::string(address.status().message()));
      return;
    }
    host = host.substr(0, colon);
  }
  report.AddIfBad(field, CheckHost(absl::AsciiStrToLower(std::string(host))));
}

bool IsTargetText(std::string_view path) {
  return std::all_of(path.begin(), path.end(),
                     [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
}

}  // namespace gateway
