// TLS over one connection: OpenSSL's state machine between plaintext above and a Wire below.
#ifndef GATEWAY_DATAPLANE_NET_TLS_SESSION_H_
#define GATEWAY_DATAPLANE_NET_TLS_SESSION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/base/openssl_ptr.h"
#include "dataplane/net/wire.h"

namespace gateway::dataplane::tls {

enum class HandshakeStep : uint8_t {
  kDone,
  kWantRead,   // call again when the wire is readable
  kWantWrite,  // call again when the wire is writable
  kFailed,     // error() says why; the alert has been sent as far as the wire took it
};

// Why a handshake failed, as the label `result` of gateway_tls_handshakes_total.
enum class HandshakeError : uint8_t {
  kNone,
  kClosed,              // the peer closed or reset the connection
  kTimeout,             // set by the caller: the deadline passed
  kNotTls,              // no TLS at all
  kPlainHttp,           // an HTTP request in cleartext
  kProtocol,            // no common version, cipher, group or ALPN protocol
  kNoCertificate,       // the peer sent none, and one is required
  kCertificateName,     // the peer's certificate is for another name
  kCertificateExpired,  // or not valid yet
  kUnknownCa,           // the peer's certificate has no chain to a CA that is trusted here
  kCertificateRevoked,
  kCertificate,  // any other fault of the peer's certificate
  kPeerAlert,    // the peer rejected the handshake with an alert
  kOther,
};
std::string_view HandshakeErrorName(HandshakeError error);
// The same for people, of an endpoint: "the certificate is for another name".
const char* HandshakeErrorText(HandshakeError error);

// Owns the SSL object of one connection. Belongs to the connection's worker; not movable (OpenSSL points at it).
//
// Records are read straight into OpenSSL's buffer with read-ahead, and the records of one Write leave in one system
// call. What the wire does not take at once is kept here and sent by the next Write.
class Session {
 public:
  // How much ciphertext one Write produces before it is sent: four records of 16 KiB.
  static constexpr size_t kStagedBytesMax = 66 * 1024;
  // Ciphertext that waits for the wire; a connection that needs more is broken.
  static constexpr size_t kUnsentBytesMax = 2 * kStagedBytesMax;

  // `ssl`: in accept or connect state. `wire` outlives the session. `keep`: what the callbacks of `ssl` point at.
  Session(SslPtr ssl, Wire* wire, std::shared_ptr<const void> keep);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Bytes that were read from the wire already; before the handshake.
  void Preload(std::string_view bytes) { early_.assign(bytes); }

  HandshakeStep Handshake();
  bool established() const { return established_; }
  HandshakeError error() const { return error_; }
  // For people, after kFailed: "certificate has expired (CN=orders)".
  const std::string& error_text() const { return error_text_; }

  // Plaintext. At most one system call. kEnd: the peer sent close_notify; kError: anything else, also a wire that ended
  // without one (RFC 8446, section 6.1), so a body that ends with the connection can't be truncated unseen.
  Io Read(char* data, size_t size, size_t* moved);
  // True: Read has something to return without the wire.
  bool pending() const { return pending_; }

  // Encrypts and sends `parts`, moving them on past what was encrypted. kAgain: ciphertext is left, wait until the wire
  // is writable and call again, with whatever is left of `parts` (maybe nothing). `flags`: those of send(2). `last`:
  // close_notify follows in the same system call.
  Io Write(std::span<iovec>* parts, int flags, bool last, size_t* moved);
  // Sends close_notify as far as the wire takes it; once.
  void SendClose();

  // No data of the application is waiting and the peer has not ended its side. Handles records that carry none
  // (session tickets, key updates).
  bool Quiet();
  // Data of the application is waiting.
  bool HasData();

  // "TLSv1.3"; a literal.
  std::string_view version() const { return SSL_get_version(ssl_.get()); }
  // "h2", "http/1.1"; empty: none was negotiated.
  std::string_view protocol() const;
  bool resumed() const { return SSL_session_reused(ssl_.get()) != 0; }
  // The name the client asked for (SNI), lower case; empty: none. Server side.
  const std::string& server_name() const { return server_name_; }
  void set_server_name(std::string name) { server_name_ = std::move(name); }
  // The peer's certificate; null: it sent none.
  X509Ptr peer_certificate() const { return X509Ptr(SSL_get1_peer_certificate(ssl_.get())); }
  SSL* ssl() const { return ssl_.get(); }

  // The session that owns `ssl`.
  static Session* Of(const SSL* ssl) { return static_cast<Session*>(SSL_get_app_data(ssl)); }

 private:
  friend struct WireBio;
  Io Flush(int flags);
  Io SendStaged(int flags);
  // What OpenSSL's last call failed with; sets ended_ or failed_ unless it only waits.
  void Failed(int result);
  void DescribeFailure();
  size_t RecordSize();

  SslPtr ssl_;
  Wire* const wire_;
  const std::shared_ptr<const void> keep_;
  std::string early_;
  std::string server_name_;
  std::string error_text_;
  std::unique_ptr<char[]> unsent_;  // ciphertext that the wire did not take
  uint32_t unsent_at_ = 0;
  uint32_t unsent_size_ = 0;
  uint32_t sent_since_read_ = 0;
  HandshakeError error_ = HandshakeError::kNone;
  bool may_receive_ = false;  // one system call a turn
  bool wire_empty_ = false;
  bool wire_ended_ = false;
  bool wire_failed_ = false;
  bool established_ = false;
  bool pending_ = false;
  bool ended_ = false;
  bool failed_ = false;
  bool close_sent_ = false;
  bool slow_ = false;  // the wire did not take all of the last Write
};

}  // namespace gateway::dataplane::tls

#endif  // GATEWAY_DATAPLANE_NET_TLS_SESSION_H_
