#include "controlplane/sources/consul/agent_connections.h"

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/beast/core/error.hpp"
#include "common/base/host_port.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;
using Endpoints = std::vector<asio::ip::tcp::endpoint>;

constexpr std::chrono::seconds kSharedDialTimeout{10};

void Rethrow(const std::exception_ptr& error) {
  if (error) std::rethrow_exception(error);
}

}  // namespace

void AgentConnections::Waiting::Cancel() {
  cancelled_ = true;
  timer_.cancel();
  if (stream_ != nullptr) stream_->close();
}

AgentConnections::AgentConnections(asio::io_context& io, ConsulAccess access)
    : io_(io), access_(std::move(access)), token_(access_) {}

size_t AgentConnections::open() const { return connections_.size(); }

void AgentConnections::Close() {
  closed_ = true;
  for (const auto& connection : connections_) connection->Close();
  connections_.clear();
  if (attempt_wait_ != nullptr) attempt_wait_->Cancel();
}

absl::Status AgentConnections::Failure(const char* what, const error_code& ec, bool cancelled) const {
  if (cancelled) return absl::CancelledError("closed");
  if (ec == beast::error::timeout) {
    return absl::DeadlineExceededError(absl::StrCat(access_.address, ": ", what, ": timed out"));
  }
  return absl::UnavailableError(absl::StrCat(access_.address, ": ", what, ": ", ec.message()));
}

absl::Status AgentConnections::HandshakeFailure(SSL* ssl, const std::string& name, const error_code& ec) const {
  const long verified = SSL_get_verify_result(ssl);
  std::string why;
  switch (verified) {
    case X509_V_OK:
      why = ec.message();
      if (ERR_GET_REASON(static_cast<unsigned long>(ec.value())) == SSL_R_WRONG_VERSION_NUMBER) {
        absl::StrAppend(&why, "; does the agent speak TLS on this port (ports.https)?");
      }
      break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      why = absl::StrCat("the agent's certificate is not for '", name,
                         "'; expected that name in it, or consul.tls.server_name to have the name that is");
      break;
    default:
      why = absl::StrCat("the agent's certificate is not trusted: ", X509_verify_cert_error_string(verified),
                         access_.tls.files.ca.empty()
                             ? "; expected one that the system's CAs issued, or consul.tls.ca"
                             : absl::StrCat("; expected one issued by consul.tls.ca, ", access_.tls.files.ca));
  }
  return absl::UnavailableError(absl::StrCat(access_.address, ": TLS handshake: ", why));
}

// A name server that hangs cannot be interrupted, only left behind, so that the deadline holds.
asio::awaitable<absl::StatusOr<AgentLink>> AgentConnections::Dial(Clock::time_point deadline,
                                                                  std::shared_ptr<Waiting> waiting) {
  const absl::StatusOr<HostPort> parsed = ParseHostPort(access_.address);
  if (!parsed.ok()) co_return parsed.status();
  std::shared_ptr<asio::ssl::context> context;
  if (access_.tls.on) {
    absl::StatusOr<std::shared_ptr<asio::ssl::context>> made = MakeConsulTlsContext(access_.tls);
    if (!made.ok()) co_return made.status();
    context = *std::move(made);
  }
  error_code ec;
  Endpoints endpoints;
  const asio::ip::address literal = asio::ip::make_address(parsed->host, ec);
  const bool is_address = !ec;
  if (is_address) {
    endpoints.emplace_back(literal, parsed->port);
  } else {
    struct Lookup {
      explicit Lookup(asio::io_context& io) : resolver(io) {}
      asio::ip::tcp::resolver resolver;
      bool done = false;
      error_code ec;
      Endpoints endpoints;
    };
    const auto lookup = std::make_shared<Lookup>(io_);
    waiting->timer_.expires_at(deadline);
    lookup->resolver.async_resolve(parsed->host, std::to_string(parsed->port),
                                   [lookup, waiting](const error_code& error, const auto& results) {
                                     lookup->done = true;
                                     lookup->ec = error;
                                     for (const auto& result : results) lookup->endpoints.push_back(result.endpoint());
                                     waiting->timer_.cancel();
                                   });
    co_await waiting->timer_.async_wait(asio::redirect_error(asio::use_awaitable, ec));
    if (!lookup->done) {
      lookup->resolver.cancel();
      co_return Failure("resolving its name", beast::error::timeout, waiting->cancelled_);
    }
    if (lookup->ec) co_return Failure("resolving its name", lookup->ec, waiting->cancelled_);
    endpoints = std::move(lookup->endpoints);
  }
  if (waiting->cancelled_) co_return absl::CancelledError("closed");

  AgentLink link;
  if (context != nullptr) {
    link.secure = std::make_unique<ConsulTlsStream>(io_, *context);
  } else {
    link.plain = std::make_unique<beast::tcp_stream>(io_);
  }
  beast::tcp_stream& tcp = link.secure != nullptr ? link.secure->next_layer() : *link.plain;
  waiting->stream_ = &tcp;
  tcp.expires_at(deadline);
  co_await tcp.async_connect(endpoints, asio::redirect_error(asio::use_awaitable, ec));
  if (ec || waiting->cancelled_) {
    waiting->stream_ = nullptr;
    co_return Failure("connecting", ec, waiting->cancelled_);
  }
  error_code ignored;  // a socket that is gone already says so at the first write
  tcp.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  tcp.socket().set_option(asio::socket_base::keep_alive(true), ignored);
  if (link.secure != nullptr) {
    SSL* ssl = link.secure->native_handle();
    const std::string name = access_.tls.server_name.empty() ? parsed->host : access_.tls.server_name;
    asio::ip::make_address(name, ec);
    if (!ec) {
      X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.c_str());
    } else {
      SSL_set_tlsext_host_name(ssl, name.c_str());
      SSL_set1_host(ssl, name.c_str());
    }
    ec = {};
    co_await link.secure->async_handshake(asio::ssl::stream_base::client,
                                          asio::redirect_error(asio::use_awaitable, ec));
    if (ec && ec != beast::error::timeout && !waiting->cancelled_) {
      waiting->stream_ = nullptr;
      co_return HandshakeFailure(ssl, name, ec);
    }
  }
  waiting->stream_ = nullptr;
  if (ec || waiting->cancelled_) co_return Failure("TLS handshake", ec, waiting->cancelled_);
  if (link.secure != nullptr) {
    const unsigned char* protocol = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(link.secure->native_handle(), &protocol, &size);
    shared_ = std::string_view(reinterpret_cast<const char*>(protocol), size) == "h2";
    separate_ = !shared_;
    if (shared_) {
      link.shared = std::make_shared<Http2Connection>(io_, std::move(link.secure), access_.address);
      connections_.push_back(link.shared);
      link.shared->Start();
      if (absl::Status status = co_await link.shared->Settled(deadline); !status.ok()) co_return status;
    }
  }
  co_return std::move(link);
}

asio::awaitable<void> AgentConnections::DialForAll(std::shared_ptr<Attempt> attempt) {
  attempt_wait_ = std::make_shared<Waiting>(io_);
  absl::StatusOr<AgentLink> link = co_await Dial(Clock::now() + kSharedDialTimeout, attempt_wait_);
  attempt->done = true;
  attempt->status = link.status();
  if (link.ok()) attempt->unclaimed = std::move(link->secure);
  attempt_ = nullptr;
  attempt_wait_ = nullptr;
  for (const auto& each : attempt->waiting) each->timer_.cancel();
}

asio::awaitable<absl::StatusOr<AgentLink>> AgentConnections::Acquire(Clock::time_point deadline,
                                                                     std::shared_ptr<Waiting> waiting) {
  while (!closed_ && access_.tls.on && !separate_) {
    std::erase_if(connections_, [](const auto& each) { return each->ended(); });
    for (const auto& each : connections_) {
      if (each->usable()) co_return AgentLink{.plain = nullptr, .secure = nullptr, .shared = each};
    }
    std::shared_ptr<Attempt> attempt = attempt_;
    if (attempt == nullptr) {
      attempt_ = attempt = std::make_shared<Attempt>();
      asio::co_spawn(io_, DialForAll(attempt), Rethrow);
    }
    if (!attempt->done) {  // it may have failed at once
      attempt->waiting.push_back(waiting);
      waiting->timer_.expires_at(deadline);
      error_code ignored;  // cancelled: it is done, or not wanted any more
      co_await waiting->timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
    if (waiting->cancelled_) co_return absl::CancelledError("closed");
    if (!attempt->done) co_return Failure("connecting", beast::error::timeout, false);
    if (!attempt->status.ok()) co_return attempt->status;
    if (attempt->unclaimed != nullptr) {
      co_return AgentLink{.plain = nullptr, .secure = std::move(attempt->unclaimed), .shared = nullptr};
    }
  }
  if (closed_) co_return absl::CancelledError("closed");
  co_return co_await Dial(deadline, std::move(waiting));
}

}  // namespace gateway::controlplane
