#include "common/base/certificate.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/time/time.h"
#include "common/base/address_set.h"
#include "common/base/base64.h"
#include "common/base/fetched_url.h"
#include "common/base/host_port.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/config/redaction.h"
#include "common/policy/kinds/checks.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/policy_texts.h"
#include "common/policy/route/route_pattern.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr size_t kCertificatesMax = 1000;
constexpr absl::Duration kCertificateExpiresSoon = absl::Hours(24 * 30);

void CheckAcme(const Report& report, const v1::Acme& acme) {
  std::set<std::string_view> seen;
  for (int i = 0; i < acme.hosts_size(); ++i) {
    const std::string& host = acme.hosts(i);
    const std::string_view name = std::string_view(host).substr(host.starts_with("*.") ? 2 : 0);
    in6_addr address;
    if (const absl::Status status = CheckHost(name); !status.ok() && !ParseIp(name, &address)) {
      report.Add(At("acme.hosts", i), std::string(status.message()));
    } else if (!seen.insert(host).second) {
      report.Add(At("acme.hosts", i), fmt::format("{} is given twice", QuoteForMessage(host)));
    }
  }
  if (!acme.directory().empty()) report.AddIfBad("acme.directory", CheckFetchedUrl(acme.directory(), "directories"));
  const std::string& email = acme.email();
  const size_t at = email.find('@');
  if (!email.empty() && (email.size() > 254 || at == 0 || at == email.npos || at + 1 == email.size() ||
                         email.find('@', at + 1) != email.npos || !std::all_of(email.begin(), email.end(), [](char c) {
                           return absl::ascii_isgraph(static_cast<unsigned char>(c)) && c != ',' && c != '?';
                         }))) {
    report.Add("acme.email",
               fmt::format("{} is not an address; expected one like ops@example.com", QuoteForMessage(email)));
  }
  CheckEnum(report, "acme.challenge", acme.challenge(), v1::Acme::Challenge_IsValid);
  if (acme.ca().has_file()) {
    report.Add("acme.ca.file", "is read by gatewayctl, which puts its text in `inline`; send that");
  } else if (acme.has_ca()) {
    if (const auto read = ReadCertificates(acme.ca().inline_()); !read.ok()) {
      report.Add("acme.ca", std::string(read.status().message()));
    }
  }
}

// Everything except the PEM, which CheckCertificates reads once, for its checks and for its use.
void CheckCertificate(const Report& report, const v1::Certificate& certificate) {
  if (certificate.has_acme()) {
    CheckAcme(report, certificate.acme());
    if (certificate.has_certificate() != certificate.has_key()) {
      report.Add(certificate.has_key() ? "key" : "certificate", "is set by the control plane alone if there is acme");
    }
    if (certificate.hosts_size() > 0) report.Add("hosts", "has no effect with acme; acme.hosts names them");
    if (certificate.has_ocsp()) report.Add("ocsp", "is of one certificate, and acme gets a new one each time");
  } else {
    if (!certificate.has_certificate()) report.Add("certificate", "is required, unless there is acme");
    if (!certificate.has_key()) report.Add("key", "is required, unless there is acme");
  }
  if (certificate.ocsp().has_file()) {
    report.Add("ocsp.file", "is read by gatewayctl, which puts its bytes in `inline`; send that");
  } else if (certificate.has_ocsp() && certificate.ocsp().inline_().empty()) {
    report.Add("ocsp", "needs one of file and inline");
  }
  if (certificate.certificate().has_file()) {
    report.Add("certificate.file", "is read by gatewayctl, which puts its text in `inline`; send that");
  } else if (certificate.has_certificate() && certificate.certificate().inline_().empty()) {
    report.Add("certificate", "needs one of file and inline");
  }
  if (certificate.key().has_file()) {
    report.Add("key.file", "is read by gatewayctl, which puts its text in `inline`; send that");
  } else if (certificate.has_key() && certificate.key().inline_().empty()) {
    report.Add("key", "needs one of file and inline");
  }
  for (int i = 0; i < certificate.hosts_size(); ++i) {
    const std::string& host = certificate.hosts(i);
    const std::string_view name = std::string_view(host).substr(host.starts_with("*.") ? 2 : 0);
    if (const absl::Status status = CheckHost(name); !status.ok()) {
      report.Add(At("hosts", i), std::string(status.message()));
    } else if (ParseHostPort(Concat(name, ":1")).ok() && name.find_first_not_of("0123456789.[]:") == name.npos) {
      report.Add(At("hosts", i), fmt::format("{} is an address; clients request only names", QuoteForMessage(host)));
    }
  }
}

// Reads each Certificate once, for its errors and for its use.
void CheckCertificates(Compilation* compilation) {
  const Documents<v1::Certificate> certificates = compilation->All<v1::Certificate>();
  if (certificates.size() > kCertificatesMax) {
    const ResourceKey key{"Certificate", std::string(certificates.name(certificates.size() - 1))};
    Report(key, &compilation->errors).Add("", fmt::format("is one certificate too many: at most {}", kCertificatesMax));
    return;
  }
  for (size_t i = 0; i < certificates.size(); ++i) {
    const v1::Certificate& document = certificates[i];
    const ResourceKey key{"Certificate", document.name()};
    const Report report(key, &compilation->errors);
    const std::string& chain = document.certificate().inline_();
    const std::string& secret = document.key().inline_();
    if (chain.empty() || secret.empty()) continue;  // reported by CheckCertificate
    if (const auto parsed = ReadCertificates(chain); !parsed.ok()) {
      report.Add("certificate", std::string(parsed.status().message()));
      continue;
    }
    if (IsRedacted(secret)) continue;  // kept from this data plane
    if (const auto parsed = ReadPrivateKey(secret); !parsed.ok()) {
      report.Add("key", std::string(parsed.status().message()));
      continue;
    }
    const std::string title = key.ToString();
    std::string ocsp;
    if (document.has_ocsp() && !document.ocsp().inline_().empty()) {
      ocsp = DecodeBase64(Base64::kStandard, document.ocsp().inline_()).value_or("");
      if (ocsp.empty() || absl::IsInvalidArgument(CheckOcsp(ocsp, chain, compilation->options.now).status())) {
        report.Add("ocsp", "can't be read; expected a successful OCSP response, DER in base64");
        ocsp.clear();
      }
    }
    auto certificate = ParseCertificate(
        {.name = title, .chain_pem = chain, .key_pem = secret, .ocsp_der = std::move(ocsp)}, compilation->options.now);
    if (!certificate.ok()) {
      const absl::string_view text = certificate.status().message();
      std::string_view message(text.data(), text.size());
      if (message.starts_with(title)) message.remove_prefix(title.size() + 2);
      report.Add("certificate", message);
      continue;
    }
    // One that renews itself has a metric for that.
    if (!document.has_acme() && certificate->not_after > compilation->options.now &&
        certificate->not_after <= compilation->options.now + kCertificateExpiresSoon) {
      certificate->warnings.push_back(
          fmt::format("{}: expires soon, on {}", title, absl::FormatTime(certificate->not_after, absl::UTCTimeZone())));
    }
    if (document.hosts_size() > 0) {
      const std::vector<std::string> names =
          std::exchange(certificate->dns_names, {document.hosts().begin(), document.hosts().end()});
      for (const std::string& host : certificate->dns_names) {
        if (std::any_of(names.begin(), names.end(), [&host](const std::string& n) { return NameCovers(n, host); })) {
          continue;
        }
        certificate->warnings.push_back(fmt::format(
            "{}: hosts has {}, which the certificate is not for: clients reject it", title, QuoteForMessage(host)));
      }
    }
    compilation->certificates.push_back(std::make_shared<const Certificate>(*std::move(certificate)));
  }
}

// Whether some host is one of `name`'s, a certificate's, and of a route's `pattern`.
bool Overlap(std::string_view name, std::string_view pattern) {
  if (NameCovers(name, pattern)) return true;
  if (!pattern.starts_with("*.")) return false;
  const std::string_view suffix = pattern.substr(1);  // of any number of labels
  return name.ends_with(suffix);
}

// The names of the certificates that services and templates show to their endpoints.
std::set<std::string_view> ShownToEndpoints(const Compilation& compilation) {
  std::set<std::string_view> shown;
  const auto add = [&shown](const ServicePolicy& service) {
    if (service.tls != nullptr) shown.insert(service.tls->certificate);
  };
  for (const ServicePolicy& service : compilation.services) add(service);
  for (const auto& route : compilation.routes) {
    if (route->consul_service != nullptr) add(route->consul_service->service);
  }
  return shown;
}

bool AnyOverlaps(const std::vector<std::string_view>& hosts, std::string_view name) {
  return std::any_of(hosts.begin(), hosts.end(), [&](std::string_view host) { return Overlap(name, host); });
}

// What a CA will not issue, or no client asks for. `hosts`: of routes; empty: one of them serves any host.
void WarnOfAcme(const v1::Certificate& document, const std::vector<std::string_view>& hosts, bool shown,
                std::vector<std::string>* warnings) {
  const std::string title = fmt::format("Certificate/{}: acme", document.name());
  if (!document.has_certificate()) {
    warnings->push_back(fmt::format("{}: no certificate is issued yet; see `gatewayctl describe certificate {}`", title,
                                    document.name()));
  }
  for (const std::string& host : document.acme().hosts()) {
    in6_addr address;
    if (ParseIp(host, &address)) {
      warnings->push_back(
          fmt::format("{}: {} is an address: few CAs issue for one, and clients request only names", title, host));
    } else if (host.starts_with("*.")) {
      warnings->push_back(fmt::format(
          "{}: {} is a wildcard, for which CAs take neither http-01 nor tls-alpn-01 (RFC 8555, section 8.3)", title,
          host));
    }
    if (!hosts.empty() && !shown && !AnyOverlaps(hosts, host)) {
      warnings->push_back(fmt::format("{}: no route serves {}", title, QuoteForMessage(host)));
    }
  }
}

void CompileCertificates(Compilation* compilation) {
  const Documents<v1::Certificate> certificates = compilation->All<v1::Certificate>();
  const Documents<v1::Route> routes = compilation->All<v1::Route>();
  const std::set<std::string_view> shown = ShownToEndpoints(*compilation);
  std::vector<std::string_view> hosts;  // of routes; empty: one of them serves any host
  for (size_t i = 0; i < routes.size(); ++i) {
    const v1::RouteMatch& match = routes[i].match();
    if (match.hosts().empty() && match.scheme() != v1::RouteMatch::HTTP) {
      hosts.clear();
      break;
    }
    hosts.insert(hosts.end(), match.hosts().begin(), match.hosts().end());
  }
  size_t served = 0;
  for (size_t i = 0; i < certificates.size(); ++i) {
    const v1::Certificate& document = certificates[i];
    if (document.has_acme()) {
      WarnOfAcme(document, hosts, shown.contains(certificates.name(i)), &compilation->warnings);
      if (!document.has_certificate()) continue;  // not issued yet
    }
    if (served == compilation->certificates.size() ||
        compilation->certificates[served]->source.name != Concat("Certificate/", certificates.name(i))) {
      ++compilation->keys_lacking;
      compilation->warnings.push_back(fmt::format(
          "Certificate/{}: has no key here and is not served: a stream that is neither TLS nor loopback does "
          "not carry it, a cache may not have it, and exports redact it",
          certificates.name(i)));
      continue;
    }
    const std::shared_ptr<const Certificate>& certificate = compilation->certificates[served++];
    compilation->warnings.insert(compilation->warnings.end(), certificate->warnings.begin(),
                                 certificate->warnings.end());
    const auto serves = [&hosts](const std::string& name) { return AnyOverlaps(hosts, name); };
    if (document.has_acme() || hosts.empty() || shown.contains(certificates.name(i)) ||
        std::any_of(certificate->dns_names.begin(), certificate->dns_names.end(), serves)) {
      continue;
    }
    compilation->warnings.push_back(
        fmt::format("Certificate/{}: no route serves any of its hosts", certificates.name(i)));
  }
}

}  // namespace

Kind CertificateKind() {
  return {
      .number = v1::Resource::kCertificate,
      .short_names = {"cert"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.certificate().labels(); },
      .check = [](const Report& report,
                  const v1::Resource& resource) { CheckCertificate(report, resource.certificate()); },
      .check_all = &CheckCertificates,
      .compile = &CompileCertificates,
  };
}

}  // namespace gateway
