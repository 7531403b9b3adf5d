// What a listener's TLS connections are accepted with, compiled for one worker.
#ifndef GATEWAY_DATAPLANE_NET_TLS_SERVER_CONTEXT_H_
#define GATEWAY_DATAPLANE_NET_TLS_SERVER_CONTEXT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "common/base/certificate.h"
#include "common/base/digest.h"
#include "common/base/openssl_ptr.h"
#include "dataplane/net/tls/acme_challenges.h"
#include "dataplane/net/tls/ticket_keys.h"

namespace gateway::dataplane::tls {

enum class ClientCertificate : uint8_t { kNone, kOptional, kRequired };

// One listener's settings, read and checked. Immutable, any thread.
struct ServerSettings {
  std::vector<std::shared_ptr<const Certificate>> certificates;  // the first one serves clients that name no other
  bool tls13_only = false;
  std::string ciphers;  // of TLS 1.2, OpenSSL's syntax; empty: Mozilla intermediate
  std::string groups;   // empty: X25519:P-256:P-384
  ClientCertificate client_certificate = ClientCertificate::kNone;
  std::string client_ca_pem;
  std::string client_crl_pem;          // may be empty
  std::vector<std::string> protocols;  // ALPN, in the order of preference: "h2", "http/1.1"
};

// OpenSSL's state for one listener of one worker. Each worker has a library context of its own: OpenSSL 3.0's locks
// would serialise their handshakes otherwise (openssl issue 20286). Sessions keep it alive.
class ServerContext : public std::enable_shared_from_this<ServerContext> {
 public:
  // InvalidArgument where OpenSSL rejects a setting: says which. All but `settings` outlive it.
  static absl::StatusOr<std::shared_ptr<const ServerContext>> Create(OSSL_LIB_CTX* library,
                                                                     std::shared_ptr<const ServerSettings> settings,
                                                                     TicketKeys* tickets,
                                                                     const AcmeChallenges* challenges);

  // A new connection's, in accept state. Null: out of memory.
  SslPtr NewSsl() const;

 private:
  // Certificates that serve one set of names: at most one of each key type.
  struct Set {
    std::vector<const Certificate*> certificates;
    ContextPtr context;
  };

  ServerContext() = default;
  absl::Status Compile();
  absl::StatusOr<ContextPtr> NewContext(const std::vector<const Certificate*>& certificates);
  absl::Status UseClientCertificates(SSL_CTX* context);
  SSL_CTX* Find(std::string_view server_name) const;
  // Lets `ssl` respond to the tls-alpn-01 challenge for `host`: with that certificate alone, without tickets, and
  // without asking for a client certificate. False: not pending.
  bool RespondToChallenge(SSL* ssl, const std::string& host) const;

  static int OnClientHello(SSL* ssl, int* alert, void* self);
  static int OnSelectProtocol(SSL* ssl, const unsigned char** chosen, unsigned char* chosen_size,
                              const unsigned char* offered, unsigned int offered_size, void* self);
  static int OnSelectAcme(SSL* ssl, const unsigned char** chosen, unsigned char* chosen_size,
                          const unsigned char* offered, unsigned int offered_size, void*);
  static int OnTicketKey(SSL* ssl, unsigned char* name, unsigned char* iv, EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac,
                         int encrypt);
  static int OnStatusRequest(SSL* ssl, void* certificate);

  OSSL_LIB_CTX* library_ = nullptr;
  TicketKeys* tickets_ = nullptr;
  const AcmeChallenges* challenges_ = nullptr;
  std::shared_ptr<const ServerSettings> settings_;
  Digest session_context_{};  // whose sessions are resumed
  CipherPtr ticket_cipher_;
  std::string protocols_;  // as ALPN encodes them
  std::vector<Set> sets_;  // the first is the default
  absl::flat_hash_map<std::string, SSL_CTX*> exact_;
  absl::flat_hash_map<std::string, SSL_CTX*> wildcard_;  // "example.com" for "*.example.com"
};

// The host name of a server_name extension's body (RFC 6066, section 3) in lower case; empty: none, or a malformed one.
std::string ParseServerName(std::string_view extension);

}  // namespace gateway::dataplane::tls

#endif  // GATEWAY_DATAPLANE_NET_TLS_SERVER_CONTEXT_H_
