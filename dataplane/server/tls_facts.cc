#include "dataplane/server/tls_facts.h"

#include <openssl/pem.h>

#include <utility>

#include "common/base/certificate.h"

namespace gateway::dataplane {
namespace {

// What a peer may make us keep of its chain for each connection.
constexpr int kChainCertificatesKept = 8;

std::string PemOf(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate) != 1) return "";
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(size)};
}

std::unique_ptr<const http::ClientCertificate> ReadCertificate(const tls::Session& session) {
  const X509Ptr leaf = session.peer_certificate();
  if (leaf == nullptr) return nullptr;
  auto certificate = std::make_unique<http::ClientCertificate>();
  certificate->fingerprint = FingerprintOf(leaf.get());
  certificate->subject = SubjectOf(leaf.get());
  certificate->common_name = SubjectEntryOf(leaf.get(), NID_commonName).value_or("");
  AlternativeNames names = AlternativeNamesOf(leaf.get());
  certificate->san_uris = std::move(names.uris);
  certificate->san_dns_names = std::move(names.dns);
  certificate->san_emails = std::move(names.emails);
  certificate->pem = PemOf(leaf.get());
  // On the server's side the chain is what was sent behind the leaf. A resumed session has none.
  STACK_OF(X509)* const chain = SSL_get_peer_cert_chain(session.ssl());
  for (int i = 0; i < sk_X509_num(chain) && i < kChainCertificatesKept; ++i) {
    X509* const each = sk_X509_value(chain, i);
    if (X509_cmp(each, leaf.get()) != 0) certificate->chain_pem += PemOf(each);
  }
  return certificate;
}

}  // namespace

TlsFacts::TlsFacts(const tls::Session& session) : certificate_(ReadCertificate(session)) {
  info.version = session.version();
  info.cipher = SSL_get_cipher_name(session.ssl());
  info.server_name = session.server_name();
  info.alpn = std::string(session.protocol());
  info.resumed = session.resumed();
  info.asks_certificate = (SSL_get_verify_mode(session.ssl()) & SSL_VERIFY_PEER) != 0;
  info.certificate = certificate_.get();
}

}  // namespace gateway::dataplane
