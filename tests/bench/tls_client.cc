#include "tests/bench/tls_client.h"

#include <openssl/err.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace gateway::bench {
namespace {

constexpr char kServerName[] = "localhost";

void Require(bool done, const char* what) {
  if (done) return;
  (void)std::fprintf(stderr, "TLS of the load: %s\n", what);
  std::exit(1);
}

}  // namespace

TlsConnection::~TlsConnection() {
  // Else OpenSSL takes the end for a failure, and the session could not be resumed.
  if (established_) SSL_set_shutdown(ssl_.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
}

TlsConnection::Step TlsConnection::Handshake() {
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    established_ = true;
    // A server without the protocol may leave it out.
    const unsigned char* chosen = nullptr;
    unsigned int size = 0;
    SSL_get0_alpn_selected(ssl_.get(), &chosen, &size);
    return size > 0 ? Step::kDone : Step::kFailed;
  }
  return Failed(result) < 0 && errno == EAGAIN ? Step::kAgain : Step::kFailed;
}

ssize_t TlsConnection::Failed(int result) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      errno = EAGAIN;
      return -1;
    case SSL_ERROR_ZERO_RETURN:
      return 0;
    case SSL_ERROR_SYSCALL:
      if (errno == 0) errno = ECONNRESET;
      return -1;
    default:
      ERR_clear_error();
      errno = EPROTO;
      return -1;
  }
}

ssize_t TlsConnection::Read(char* data, size_t size) {
  size_t read = 0;
  errno = 0;
  const int result = SSL_read_ex(ssl_.get(), data, size, &read);
  return result == 1 ? static_cast<ssize_t>(read) : Failed(result);
}

ssize_t TlsConnection::Write(const iovec& part) {
  size_t written = 0;
  errno = 0;
  const int result = SSL_write_ex(ssl_.get(), part.iov_base, part.iov_len, &written);
  return result == 1 ? static_cast<ssize_t>(written) : Failed(result);
}

TlsClient::TlsClient(const std::string& certificate, const std::string& protocol)
    : context_(SSL_CTX_new(TLS_client_method())), protocol_(static_cast<char>(protocol.size()) + protocol) {
  SSL_CTX* const context = context_.get();
  Require(context != nullptr, "no context");
  Require(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
              SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") == 1 &&
              SSL_CTX_set1_groups_list(context, "X25519") == 1,
          "version, cipher suite or group");
  Require(SSL_CTX_load_verify_file(context, certificate.c_str()) == 1, "the certificate is not readable");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context,
                   SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  Require(SSL_CTX_set_alpn_protos(context, reinterpret_cast<const unsigned char*>(protocol_.data()),
                                  static_cast<unsigned int>(protocol_.size())) == 0,
          "ALPN");
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_set_app_data(context, this);
  SSL_CTX_sess_set_new_cb(context, &TlsClient::OnSession);
}

int TlsClient::OnSession(SSL* ssl, SSL_SESSION* session) {
  auto* const self = static_cast<TlsClient*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  if (self->sessions_.size() >= kSessionsMax) return 0;  // OpenSSL frees it
  self->sessions_.emplace_back(session);
  return 1;
}

std::unique_ptr<TlsConnection> TlsClient::Open(int fd, bool resume) {
  SslPtr ssl(SSL_new(context_.get()));
  Require(ssl != nullptr && SSL_set_fd(ssl.get(), fd) == 1, "no memory");
  Require(SSL_set_tlsext_host_name(ssl.get(), kServerName) == 1 && SSL_set1_host(ssl.get(), kServerName) == 1,
          "no memory");
  if (resume && !sessions_.empty()) {
    Require(SSL_set_session(ssl.get(), sessions_.front().get()) == 1, "a session is not usable");
    sessions_.pop_front();
  }
  SSL_set_connect_state(ssl.get());
  return std::unique_ptr<TlsConnection>(new TlsConnection(std::move(ssl)));
}

}  // namespace gateway::bench
