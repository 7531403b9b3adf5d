// What the gateway's TLS has in common towards clients and endpoints.
#ifndef GATEWAY_DATAPLANE_NET_TLS_SETTINGS_H_
#define GATEWAY_DATAPLANE_NET_TLS_SETTINGS_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/base/openssl_ptr.h"

namespace gateway::dataplane::tls {

// Mozilla's intermediate configuration, version 5.7.
inline constexpr const char* kIntermediateCiphers =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
inline constexpr const char* kIntermediateGroups = "X25519:P-256:P-384";
inline constexpr const char* kCipherSuites =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

// Versions (1.2 or 1.3, or 1.3 alone), ciphers of TLS 1.2 and groups in OpenSSL's notation (empty: Mozilla
// intermediate), no renegotiation, no compression, and the buffering that Session needs. InvalidArgument names the
// setting that OpenSSL rejects.
absl::Status UseCommonSettings(SSL_CTX* context, bool tls13_only, const std::string& ciphers,
                               const std::string& groups);

// A certificate (the leaf first) and its key. False: OpenSSL rejects them.
bool UseChain(const std::vector<X509Ptr>& chain, EVP_PKEY* key, SSL_CTX* context);

// InvalidArgument: "ciphers: no cipher match", with OpenSSL's last error.
absl::Status Rejected(std::string_view setting);

}  // namespace gateway::dataplane::tls

#endif  // GATEWAY_DATAPLANE_NET_TLS_SETTINGS_H_
