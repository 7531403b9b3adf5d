#include "dataplane/auth/certificate_fields.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "common/base/text.h"

namespace gateway::dataplane {
namespace {

constexpr std::string_view kHexDigits = "0123456789ABCDEF";

void AppendPercentEncoded(char c, std::string* out) {
  const auto byte = static_cast<unsigned char>(c);
  *out += '%';
  *out += kHexDigits[byte >> 4];
  *out += kHexDigits[byte & 15];
}

// PEM, percent-encoded except unreserved characters.
void AppendEncodedPem(std::string_view pem, std::string* out) {
  for (const char c : pem) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_' || c == '~') {
      *out += c;
    } else {
      AppendPercentEncoded(c, out);
    }
  }
}

// A URI or a host name; in quotes where a parser would take a part of it for the next key.
void AppendName(std::string_view name, std::string* out) {
  const bool quoted = name.find_first_of(",;=\"") != std::string_view::npos;
  if (quoted) *out += '"';
  for (const char c : name) {
    if (c == '"' || c == '\\') {
      AppendPercentEncoded(c, out);
    } else {
      *out += c;
    }
  }
  if (quoted) *out += '"';
}

// Of RFC 4514, with \22 for an escaped quote and \5C for an escaped backslash: parsers differ in what those two mean
// before the closing quote.
void AppendSubject(std::string_view subject, std::string* out) {
  for (size_t i = 0; i < subject.size(); ++i) {
    const bool escape = subject[i] == '\\' && i + 1 < subject.size();
    if (escape && (subject[i + 1] == '\\' || subject[i + 1] == '"')) {
      *out += subject[++i] == '"' ? "\\22" : "\\5C";
    } else if (subject[i] == '"') {
      *out += "\\22";
    } else {
      *out += subject[i];
    }
  }
}

// RFC 9440, section 2.1: the base64 of each certificate of `pem` between colons, in a list.
void AppendBinary(std::string_view pem, std::string* out) {
  bool any = false;
  while (!pem.empty()) {
    const size_t end = pem.find('\n');
    const std::string_view line = pem.substr(0, end);
    pem = end == std::string_view::npos ? std::string_view() : pem.substr(end + 1);
    if (line.starts_with("-----BEGIN")) {
      *out += any ? ", :" : ":";
      any = true;
    } else if (line.starts_with("-----END")) {
      *out += ':';
    } else {
      *out += line;
    }
  }
}

}  // namespace

void AppendClientCertificate(std::string_view name, const http::ClientCertificate& certificate, std::string* fields) {
  Append(fields, name, ": ");
  if (absl::EqualsIgnoreCase({name.data(), name.size()}, "Client-Cert")) {
    AppendBinary(certificate.pem, fields);
    if (!certificate.chain_pem.empty()) {
      Append(fields, "\r\n", name, "-Chain: ");
      AppendBinary(certificate.chain_pem, fields);
    }
    *fields += "\r\n";
    return;
  }
  Append(fields, "Hash=", certificate.fingerprint, ";Subject=\"");
  AppendSubject(certificate.subject, fields);
  *fields += '"';
  for (const std::string& uri : certificate.san_uris) {
    *fields += ";URI=";
    AppendName(uri, fields);
  }
  for (const std::string& dns : certificate.san_dns_names) {
    *fields += ";DNS=";
    AppendName(dns, fields);
  }
  *fields += ";Cert=\"";
  AppendEncodedPem(certificate.pem, fields);
  *fields += "\"\r\n";
}

}  // namespace gateway::dataplane
