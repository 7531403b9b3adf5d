// What connections to endpoints are made with: trust, identity, and the sessions that may be resumed.
#ifndef GATEWAY_DATAPLANE_NET_TLS_CLIENT_CONTEXT_H_
#define GATEWAY_DATAPLANE_NET_TLS_CLIENT_CONTEXT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/openssl_ptr.h"
#include "common/policy/policy.h"

namespace gateway::dataplane::tls {

// What is offered to an endpoint, as ALPN encodes it (RFC 7301, section 3.1).
inline constexpr std::string_view kAlpnHttp1 = "\x08http/1.1";
inline constexpr std::string_view kAlpnHttp2 = "\x02h2";
inline constexpr std::string_view kAlpnEither = "\x02h2\x08http/1.1";

// The newest session with one endpoint under one ClientContext. Any thread.
class SessionStore {
 public:
  void Put(SessionPtr session);
  SessionPtr Get() const;

 private:
  mutable absl::Mutex mutex_;
  SessionPtr session_ ABSL_GUARDED_BY(mutex_);
};

// OpenSSL's state for the connections of one UpstreamTlsPolicy, shared by all workers: connections are reused, so
// handshakes are rare here. Immutable, any thread.
class ClientContext : public std::enable_shared_from_this<ClientContext> {
 public:
  // InvalidArgument where OpenSSL rejects a setting.
  static absl::StatusOr<std::shared_ptr<const ClientContext>> Create(const UpstreamTlsPolicy& policy);

  // A new connection's, in connect state; its session is stored in `sessions`, which outlives the connection. `host`:
  // what the endpoint is called where the policy has no server_name: a host name or an address. `alpn`: one of those
  // above. Null: out of memory.
  SslPtr NewSsl(std::string_view host, std::string_view alpn, SessionStore* sessions) const;

 private:
  ClientContext() = default;
  static int OnNewSession(SSL* ssl, SSL_SESSION* session);

  ContextPtr context_;
  std::string server_name_;
  bool check_name_ = true;
};

// TLS to one endpoint. Any thread.
class EndpointTls {
 public:
  // `context` null: it could not be made, and no connection is (never in cleartext instead). `alpn`: a constant of
  // those above.
  EndpointTls(std::shared_ptr<const ClientContext> context, std::string host, std::string_view alpn = kAlpnHttp1)
      : context_(std::move(context)), host_(std::move(host)), alpn_(alpn) {}
  // A new connection's. Null: OpenSSL failed.
  SslPtr NewSsl() { return NewSsl(alpn_); }
  // The same with other protocols than those of requests.
  SslPtr NewSsl(std::string_view alpn) {
    return context_ == nullptr ? nullptr : context_->NewSsl(host_, alpn, &sessions_);
  }

 private:
  const std::shared_ptr<const ClientContext> context_;
  const std::string host_;
  const std::string_view alpn_;
  SessionStore sessions_;
};

}  // namespace gateway::dataplane::tls

#endif  // GATEWAY_DATAPLANE_NET_TLS_CLIENT_CONTEXT_H_
