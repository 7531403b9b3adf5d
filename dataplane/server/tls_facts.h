// What a client's TLS handshake established, as requests see it.
#ifndef GATEWAY_DATAPLANE_SERVER_TLS_FACTS_H_
#define GATEWAY_DATAPLANE_SERVER_TLS_FACTS_H_

#include <memory>

#include "dataplane/http/connection_info.h"
#include "dataplane/net/tls/session.h"

namespace gateway::dataplane {

// Owns what ConnectionInfo::tls points at. Made once, after the handshake.
struct TlsFacts {
  explicit TlsFacts(const tls::Session& session);
  TlsFacts(const TlsFacts&) = delete;
  TlsFacts& operator=(const TlsFacts&) = delete;

  http::TlsInfo info;

 private:
  std::unique_ptr<const http::ClientCertificate> certificate_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_TLS_FACTS_H_
