#include "dataplane/net/tls/session.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <utility>

namespace gateway::dataplane::tls {
namespace {

// RFC 8446, section 5.1. What a record adds: header, explicit nonce (TLS 1.2), content type, tag.
constexpr size_t kRecordBytesMax = 16 * 1024;
constexpr size_t kRecordOverheadMax = 64;
// The first records of a response are small, so that the client can use what has come after one packet and not after
// twelve (a record is readable only whole).
constexpr size_t kSmallRecordBytes = 4 * 1024;
constexpr size_t kSmallRecordsUntil = 16 * 1024;

// Ciphertext of the call that is under way on this thread; empty between calls.
struct Staging {
  std::array<char, Session::kStagedBytesMax> bytes;
  size_t size = 0;
};
thread_local Staging staging;
// Several small parts as the plaintext of one record.
thread_local std::array<char, kRecordBytesMax> gathered;

}  // namespace

// OpenSSL's view of the wire: reads go through, writes are staged.
struct WireBio {
  static int Read(BIO* bio, char* data, int size) {
    auto* session = static_cast<Session*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    if (!session->early_.empty()) {
      const size_t n = std::min(static_cast<size_t>(size), session->early_.size());
      std::memcpy(data, session->early_.data(), n);
      session->early_.erase(0, n);
      return static_cast<int>(n);
    }
    if (session->wire_ended_) return 0;
    if (session->wire_failed_) return -1;
    size_t moved = 0;
    if (!session->may_receive_) {
      BIO_set_retry_read(bio);
      return -1;
    }
    session->may_receive_ = false;
    switch (session->wire_->ReceiveBytes(data, static_cast<size_t>(size), &moved)) {
      case Io::kDone:
        return static_cast<int>(moved);
      case Io::kAgain:
        session->wire_empty_ = true;
        BIO_set_retry_read(bio);
        return -1;
      case Io::kEnd:
        session->wire_ended_ = true;
        return 0;
      case Io::kError:
        break;
    }
    session->wire_failed_ = true;
    return -1;
  }

  static int Write(BIO* bio, const char* data, int size) {
    auto* session = static_cast<Session*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    // A handshake's flight may be larger than a stage (a long chain).
    if (staging.size + static_cast<size_t>(size) > staging.bytes.size() && session->SendStaged(0) == Io::kError)
      return -1;
    const size_t n = std::min(static_cast<size_t>(size), staging.bytes.size() - staging.size);
    if (n == 0) {
      BIO_set_retry_write(bio);
      return -1;
    }
    std::memcpy(staging.bytes.data() + staging.size, data, n);
    staging.size += n;
    return static_cast<int>(n);
  }

  static long Control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

  static const BIO_METHOD* Method() {
    static const BIO_METHOD* const method = [] {
      BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire");
      if (made == nullptr) throw std::bad_alloc();
      BIO_meth_set_read(made, &Read);
      BIO_meth_set_write(made, &Write);
      BIO_meth_set_ctrl(made, &Control);
      return made;
    }();
    return method;
  }
};

std::string_view HandshakeErrorName(HandshakeError error) {
  switch (error) {
    case HandshakeError::kNone:
      return "ok";
    case HandshakeError::kClosed:
      return "closed";
    case HandshakeError::kTimeout:
      return "timeout";
    case HandshakeError::kNotTls:
      return "not_tls";
    case HandshakeError::kPlainHttp:
      return "plain_http";
    case HandshakeError::kProtocol:
      return "protocol";
    case HandshakeError::kNoCertificate:
      return "no_certificate";
    case HandshakeError::kCertificateName:
      return "certificate_name";
    case HandshakeError::kCertificateExpired:
      return "certificate_expired";
    case HandshakeError::kUnknownCa:
      return "unknown_ca";
    case HandshakeError::kCertificateRevoked:
      return "certificate_revoked";
    case HandshakeError::kCertificate:
      return "certificate";
    case HandshakeError::kPeerAlert:
      return "peer_alert";
    case HandshakeError::kOther:
      break;
  }
  return "other";
}

const char* HandshakeErrorText(HandshakeError error) {
  switch (error) {
    case HandshakeError::kNone:
      return "";
    case HandshakeError::kClosed:
      return "the connection was closed during the TLS handshake";
    case HandshakeError::kTimeout:
      return "the TLS handshake did not end in time";
    case HandshakeError::kNotTls:
    case HandshakeError::kPlainHttp:
      return "the peer does not speak TLS";
    case HandshakeError::kProtocol:
      return "no common TLS version, cipher or application protocol";
    case HandshakeError::kNoCertificate:
      return "the peer sent no certificate";
    case HandshakeError::kCertificateName:
      return "the certificate is for another name";
    case HandshakeError::kCertificateExpired:
      return "the certificate has expired, or is not valid yet";
    case HandshakeError::kUnknownCa:
      return "the certificate was issued by an unknown CA";
    case HandshakeError::kCertificateRevoked:
      return "the certificate has been revoked";
    case HandshakeError::kCertificate:
      return "the certificate is not valid";
    case HandshakeError::kPeerAlert:
      return "the peer rejected the TLS handshake";
    case HandshakeError::kOther:
      break;
  }
  return "the TLS handshake failed";
}

Session::Session(SslPtr ssl, Wire* wire, std::shared_ptr<const void> keep)
    : ssl_(std::move(ssl)), wire_(wire), keep_(std::move(keep)) {
  BIO* bio = BIO_new(WireBio::Method());
  if (bio == nullptr) throw std::bad_alloc();
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  if (SSL_set_app_data(ssl_.get(), this) != 1) throw std::bad_alloc();
}

Session::~Session() {
  // Else OpenSSL takes the end for a failure, and the session that was stored could not be resumed.
  if (established_ && !failed_) SSL_set_shutdown(ssl_.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
}

HandshakeStep Session::Handshake() {
  for (;;) {
    if (const Io io = Flush(0); io != Io::kDone) {
      if (io == Io::kAgain) return HandshakeStep::kWantWrite;
      error_ = HandshakeError::kClosed;
      return HandshakeStep::kFailed;
    }
    if (established_) return HandshakeStep::kDone;
    may_receive_ = true;
    wire_empty_ = false;
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) {
      established_ = true;
      pending_ = SSL_has_pending(ssl_.get()) == 1 || !early_.empty();
      (void)SendStaged(0);
      continue;
    }
    const int error = SSL_get_error(ssl_.get(), result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
      ERR_clear_error();
      const Io io = SendStaged(0);
      if (io == Io::kAgain) return HandshakeStep::kWantWrite;
      if (io == Io::kDone && error == SSL_ERROR_WANT_READ && wire_empty_) return HandshakeStep::kWantRead;
      if (io == Io::kDone) continue;
    }
    DescribeFailure();
    (void)SendStaged(0);  // the alert
    failed_ = true;
    return HandshakeStep::kFailed;
  }
}

void Session::DescribeFailure() {
  const unsigned long code = ERR_peek_error();
  const long verify = SSL_get_verify_result(ssl_.get());
  const char* reason = ERR_reason_error_string(code);
  if (verify != X509_V_OK) {
    error_text_ = X509_verify_cert_error_string(verify);
    switch (verify) {
      case X509_V_ERR_HOSTNAME_MISMATCH:
      case X509_V_ERR_IP_ADDRESS_MISMATCH:
        error_ = HandshakeError::kCertificateName;
        break;
      case X509_V_ERR_CERT_HAS_EXPIRED:
      case X509_V_ERR_CERT_NOT_YET_VALID:
        error_ = HandshakeError::kCertificateExpired;
        break;
      case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
      case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
      case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
      case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
      case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        error_ = HandshakeError::kUnknownCa;
        break;
      case X509_V_ERR_CERT_REVOKED:
        error_ = HandshakeError::kCertificateRevoked;
        break;
      default:
        error_ = HandshakeError::kCertificate;
    }
  } else if (wire_ended_ || wire_failed_) {
    error_ = HandshakeError::kClosed;
    error_text_ = "the peer closed the connection";
  } else {
    error_text_ = reason != nullptr ? reason : "unknown error";
    const int number = ERR_GET_REASON(code);
    switch (ERR_GET_LIB(code) == ERR_LIB_SSL ? number : 0) {
      case SSL_R_HTTP_REQUEST:
      case SSL_R_HTTPS_PROXY_REQUEST:
        error_ = HandshakeError::kPlainHttp;
        break;
      case SSL_R_WRONG_VERSION_NUMBER:
      case SSL_R_PACKET_LENGTH_TOO_LONG:
      case SSL_R_UNKNOWN_PROTOCOL:
      case SSL_R_UNEXPECTED_MESSAGE:
        error_ = HandshakeError::kNotTls;
        break;
      case SSL_R_NO_SHARED_CIPHER:
      case SSL_R_UNSUPPORTED_PROTOCOL:
      case SSL_R_NO_SUITABLE_KEY_SHARE:
      case SSL_R_NO_SUITABLE_GROUPS:
      case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
      case SSL_R_NO_APPLICATION_PROTOCOL:
      case SSL_R_VERSION_TOO_LOW:
        error_ = HandshakeError::kProtocol;
        break;
      case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        error_ = HandshakeError::kNoCertificate;
        break;
      default:
        // Alerts of the peer are numbered from 1000 (SSL_AD_REASON_OFFSET).
        error_ = number >= SSL_AD_REASON_OFFSET ? HandshakeError::kPeerAlert : HandshakeError::kOther;
    }
  }
  ERR_clear_error();
}

void Session::Failed(int result) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      break;
    case SSL_ERROR_ZERO_RETURN:
      ended_ = true;
      break;
    default:
      failed_ = true;
  }
  ERR_clear_error();
}

Io Session::Read(char* data, size_t size, size_t* moved) {
  *moved = 0;
  may_receive_ = true;
  sent_since_read_ = 0;
  while (!ended_ && !failed_ && *moved < size) {
    size_t n = 0;
    const int result = SSL_read_ex(ssl_.get(), data + *moved, size - *moved, &n);
    if (result != 1) {
      Failed(result);
      pending_ = false;
      break;
    }
    *moved += n;
    pending_ = SSL_has_pending(ssl_.get()) == 1;
    if (!pending_) break;
  }
  // An alert, or the response to a key update.
  if (staging.size > 0 && SendStaged(0) == Io::kError) failed_ = true;
  if (*moved > 0) {
    if (ended_ || failed_) pending_ = true;  // the next call says so
    return Io::kDone;
  }
  return ended_ ? Io::kEnd : failed_ ? Io::kError : Io::kAgain;
}

size_t Session::RecordSize() {
  if (sent_since_read_ >= kSmallRecordsUntil) return kRecordBytesMax;
  return kSmallRecordBytes;
}

Io Session::Write(std::span<iovec>* parts, int flags, bool last, size_t* moved) {
  *moved = 0;
  if (failed_ || close_sent_) return parts->empty() && close_sent_ ? Flush(flags) : Io::kError;
  if (const Io io = Flush(flags); io != Io::kDone) return io;
  Advance(parts, 0);
  while (!parts->empty()) {
    // A reader that has stalled gets record by record, so that little is held for it.
    const size_t stage_max = slow_ ? 1 : kStagedBytesMax - kRecordBytesMax - 2 * kRecordOverheadMax;
    do {
      const size_t record = RecordSize();
      const char* data = static_cast<const char*>(parts->front().iov_base);
      size_t size = std::min(record, parts->front().iov_len);
      if (size < record && parts->size() > 1) {
        size = 0;
        for (const iovec& part : *parts) {
          const size_t n = std::min(record - size, part.iov_len);
          std::memcpy(gathered.data() + size, part.iov_base, n);
          size += n;
          if (size == record) break;
        }
        data = gathered.data();
      }
      size_t written = 0;
      if (SSL_write_ex(ssl_.get(), data, size, &written) != 1 || written != size) {
        ERR_clear_error();
        staging.size = 0;
        failed_ = true;
        return Io::kError;
      }
      sent_since_read_ += static_cast<uint32_t>(std::min(size, kRecordBytesMax));
      if (sent_since_read_ > kSmallRecordsUntil) sent_since_read_ = kSmallRecordsUntil;
      *moved += size;
      Advance(parts, size);
      Advance(parts, 0);
    } while (!parts->empty() && staging.size < stage_max);
    if (last && parts->empty()) {
      close_sent_ = true;
      (void)SSL_shutdown(ssl_.get());
      ERR_clear_error();
    }
    const Io io = SendStaged(flags);
    slow_ = io == Io::kAgain;
    if (io != Io::kDone) return io;
  }
  return Io::kDone;
}

void Session::SendClose() {
  if (!established_ || failed_ || close_sent_) return;
  close_sent_ = true;
  // Behind ciphertext that the wire has not taken, nothing can follow.
  if (Flush(0) != Io::kDone) return;
  (void)SSL_shutdown(ssl_.get());
  ERR_clear_error();
  (void)SendStaged(0);
}

bool Session::HasData() {
  if (ended_ || failed_) return false;
  char byte = 0;
  size_t n = 0;
  may_receive_ = true;
  const int result = SSL_peek_ex(ssl_.get(), &byte, 1, &n);
  if (result != 1) Failed(result);
  if (staging.size > 0 && SendStaged(0) == Io::kError) failed_ = true;
  pending_ = result == 1 || ended_ || failed_;
  return result == 1;
}

bool Session::Quiet() { return !HasData() && !ended_ && !failed_ && SSL_has_pending(ssl_.get()) == 0; }

std::string_view Session::protocol() const {
  const unsigned char* name = nullptr;
  unsigned int size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &name, &size);
  return {reinterpret_cast<const char*>(name), size};
}

Io Session::Flush(int flags) {
  if (unsent_size_ == 0) return Io::kDone;
  iovec part{unsent_.get() + unsent_at_, unsent_size_};
  std::span<iovec> rest(&part, 1);
  size_t moved = 0;
  const Io io = wire_->SendBytes(flags, &rest, &moved);
  unsent_at_ += static_cast<uint32_t>(moved);
  unsent_size_ -= static_cast<uint32_t>(moved);
  if (unsent_size_ == 0) unsent_.reset();
  return io;
}

Io Session::SendStaged(int flags) {
  if (staging.size == 0) return Io::kDone;
  const size_t size = std::exchange(staging.size, 0);
  size_t moved = 0;
  Io io = Io::kAgain;
  if (unsent_size_ == 0) {
    iovec part{staging.bytes.data(), size};
    std::span<iovec> rest(&part, 1);
    io = wire_->SendBytes(flags, &rest, &moved);
    if (io != Io::kAgain) return io;
  }
  const size_t left = size - moved;
  if (unsent_size_ + left > kUnsentBytesMax) return Io::kError;  // responses to key updates that the peer never reads
  auto kept = std::make_unique_for_overwrite<char[]>(unsent_size_ + left);
  if (unsent_size_ > 0) std::memcpy(kept.get(), unsent_.get() + unsent_at_, unsent_size_);
  std::memcpy(kept.get() + unsent_size_, staging.bytes.data() + moved, left);
  unsent_ = std::move(kept);
  unsent_at_ = 0;
  unsent_size_ += static_cast<uint32_t>(left);
  return io;
}

}  // namespace gateway::dataplane::tls
