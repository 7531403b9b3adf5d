#include "dataplane/net/tls/settings.h"

#include <openssl/ssl.h>

#include "common/base/certificate.h"
#include "common/base/text.h"

namespace gateway::dataplane::tls {
namespace {

// Enough for one wake-up of a bulk transfer; released while a connection is idle.
constexpr size_t kReadAheadBytes = 32 * 1024;
constexpr int kSecurityLevel = 2;  // at least 112 bits, as RSA 2048 has

}  // namespace

absl::Status Rejected(std::string_view setting) {
  return absl::InvalidArgumentError(Concat(std::string(setting), ": ", OpensslError()));
}

absl::Status UseCommonSettings(SSL_CTX* context, bool tls13_only, const std::string& ciphers,
                               const std::string& groups) {
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_security_level(context, kSecurityLevel);
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
