// PEM of any bytes: certificates, keys, revocation lists; and the certificate fields sent to services.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"
#include "common/base/certificate.h"
#include "dataplane/auth/certificate_fields.h"

namespace {

void CheckNames(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (name.empty()) std::abort();
    for (const char c : name) {
      if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway;
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  (void)ReadCrls(text);
  const auto key = ReadPrivateKey(text);
  const auto chain = ReadCertificates(text);
  const auto whole = ParseCertificate({.name = "input", .chain_pem = std::string(text), .key_pem = std::string(text)},
                                      absl::FromUnixSeconds(1'700'000'000));
  if (whole.ok() && (!chain.ok() || !key.ok() || whole->fingerprint.size() != 64)) std::abort();
  if (!whole.ok() && whole.status().message().substr(0, 7) != "input: ") std::abort();
  if (!chain.ok()) return 0;
  for (const X509Ptr& each : *chain) {
    const AlternativeNames names = AlternativeNamesOf(each.get());
    CheckNames(names.dns);
    CheckNames(names.uris);
    CheckNames(names.emails);
    (void)ExpiryOf(each.get());
    dataplane::http::ClientCertificate certificate;
    certificate.fingerprint = FingerprintOf(each.get());
    certificate.subject = SubjectOf(each.get());
    certificate.san_uris = names.uris;
    certificate.san_dns_names = names.dns;
    std::string fields;
    dataplane::AppendClientCertificate("X-Forwarded-Client-Cert", certificate, &fields);
    // One line, and only the quotes that the gateway itself writes.
    if (fields.find('\r') != fields.size() - 2 || fields.find('\n') != fields.size() - 1) std::abort();
    size_t quotes = 0;
    for (const char c : fields) quotes += c == '"' ? 1 : 0;
    size_t expected = 4;
    for (const auto* all : {&names.uris, &names.dns}) {
      for (const std::string& name : *all) expected += name.find_first_of(",;=\"") == std::string::npos ? 0 : 2;
    }
    if (quotes != expected) std::abort();
  }
  return 0;
}
