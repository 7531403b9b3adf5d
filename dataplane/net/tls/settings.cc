#include "dataplane/net/tls/settings.h"

#include <openssl/ssl.h>

#include "common/base/certificate.h"
#include "common/base/text.h"

namespace gateway::dataplane::tls {
namespace {

// Enough for one wake-up of a bulk transfer; released while a connection is idle.
constexpr size_t kReadAheadBytes = 32 * 1024;

}  // namespace

bool UseChain(const std::vector<X509Ptr>& chain, EVP_PKEY* key, SSL_CTX* context) {
  STACK_OF(X509)* issuers = sk_X509_new_null();
  for (size_t i = 1; i < chain.size(); ++i) sk_X509_push(issuers, chain[i].get());
  const int used = SSL_CTX_use_cert_and_key(context, chain.front().get(), key, issuers, 0);
  sk_X509_free(issuers);
  return used == 1;
}

absl::Status Rejected(std::string_view setting) {
  return absl::InvalidArgumentError(Concat(std::string(setting), ": ", OpensslError()));
}

absl::Status UseCommonSettings(SSL_CTX* context, bool tls13_only, const std::string& ciphers,
                               const std::string& groups) {
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_security_level(context, kTlsSecurityLevel);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, kReadAheadBytes);
  if (SSL_CTX_set_min_proto_version(context, tls13_only ? TLS1_3_VERSION : TLS1_2_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) != 1) {
    return Rejected("min_version");
  }
  if (SSL_CTX_set_cipher_list(context, ciphers.empty() ? kIntermediateCiphers : ciphers.c_str()) != 1) {
    return Rejected("ciphers");
  }
  if (SSL_CTX_set_ciphersuites(context, kCipherSuites) != 1) return Rejected("TLS 1.3 cipher suites");
  if (SSL_CTX_set1_groups_list(context, groups.empty() ? kIntermediateGroups : groups.c_str()) != 1) {
    return Rejected("groups");
  }
  return absl::OkStatus();
}

}  // namespace gateway::dataplane::tls
