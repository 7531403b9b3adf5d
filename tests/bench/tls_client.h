// TLS 1.3 for the benchmark's clients: one version, cipher suite and group, so that every proxy does the same work.
#ifndef GATEWAY_TESTS_BENCH_TLS_CLIENT_H_
#define GATEWAY_TESTS_BENCH_TLS_CLIENT_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "common/base/openssl_ptr.h"

namespace gateway::bench {

// One connection over a non-blocking socket, which it does not own.
class TlsConnection {
 public:
  enum class Step : uint8_t { kDone, kAgain, kFailed };

  ~TlsConnection();

  // Continues the handshake.
  Step Handshake();
  bool established() const { return established_; }
  bool resumed() const { return SSL_session_reused(ssl_.get()) == 1; }

  // As recv(2) and send(2), errno included; EPROTO: TLS failed.
  ssize_t Read(char* data, size_t size);
  ssize_t Write(const iovec& part);

 private:
  friend class TlsClient;
  explicit TlsConnection(SslPtr ssl) : ssl_(std::move(ssl)) {}
  ssize_t Failed(int result);

  const SslPtr ssl_;
  bool established_ = false;
};

// The settings of all connections, and the sessions that they may resume. One thread.
class TlsClient {
 public:
  // `certificate`: a PEM file; the server must have it, for the name localhost. `protocol`: of ALPN; a server that does
  // not choose it fails the handshake. Exits with a message if the file is of no use.
  TlsClient(const std::string& certificate, const std::string& protocol);

  // `resume`: with the oldest session that no other connection has taken, if there is one (RFC 8446, appendix C.4).
  std::unique_ptr<TlsConnection> Open(int fd, bool resume);

 private:
  static constexpr size_t kSessionsMax = 4096;
  static int OnSession(SSL* ssl, SSL_SESSION* session);

  ContextPtr context_;
  std::deque<SessionPtr> sessions_;
  const std::string protocol_;
};

}  // namespace gateway::bench

#endif  // GATEWAY_TESTS_BENCH_TLS_CLIENT_H_
