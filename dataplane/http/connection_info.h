// What is known of a client's connection, whatever protocol it speaks.
#ifndef GATEWAY_DATAPLANE_HTTP_CONNECTION_INFO_H_
#define GATEWAY_DATAPLANE_HTTP_CONNECTION_INFO_H_

#include <netinet/in.h>

#include <string>
#include <string_view>
#include <vector>

namespace gateway::dataplane::http {

// A client certificate that was verified. Every text is free of control bytes.
struct ClientCertificate {
  std::string fingerprint;  // SHA-256 of the DER form, lower-case hexadecimal
  std::string subject;      // RFC 4514
  std::string common_name;  // of the subject; empty: none
  std::vector<std::string> san_uris;
  std::vector<std::string> san_dns_names;
  std::vector<std::string> san_emails;
  std::string pem;        // the leaf
  std::string chain_pem;  // what the client sent behind it, in order
};

// What the handshake agreed on. Immutable once the handshake has ended.
struct TlsInfo {
  std::string_view version;  // a constant: "TLSv1.3"
  std::string_view cipher;   // a constant
  std::string server_name;   // SNI, in lower case; empty: none
  std::string alpn;          // empty: none was agreed on
  bool resumed = false;
  bool asks_certificate = false;                   // the listener wants one of clients, or requires it
  const ClientCertificate* certificate = nullptr;  // null: none was given, or none was asked for
};

// Owned by the connection, which outlives each of its streams. Changes only before the first request.
struct ConnectionInfo {
  // The address at the other end, or the one that a PROXY header gave: the client, unless a trusted peer's
  // X-Forwarded-For names another.
  in6_addr peer{};               // IPv4 as IPv4-mapped
  std::string peer_ip;           // the same as text
  bool peer_trusted = false;     // X-Forwarded-* of this peer are believed
  const TlsInfo* tls = nullptr;  // null: cleartext

  std::string_view scheme() const { return tls != nullptr ? "https" : "http"; }
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_CONNECTION_INFO_H_
