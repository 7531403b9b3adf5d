#include "controlplane/sources/consul/http_client.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "common/base/text.h"
#include "controlplane/sources/consul/decoder.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Response = http::response_parser<http::string_body>;

constexpr size_t kDescribedBytesMax = 200;

template <typename Stream>
asio::awaitable<error_code> Converse(Stream& stream, const http::request<http::string_body>& request,
                                     beast::flat_buffer* buffer, Response* response) {
  error_code ec;
  co_await http::async_write(stream, request, asio::redirect_error(asio::use_awaitable, ec));
  if (!ec) co_await http::async_read(stream, *buffer, *response, asio::redirect_error(asio::use_awaitable, ec));
  co_return ec;
}

}  // namespace

struct ConsulHttp::Impl {
  const std::shared_ptr<AgentConnections> agent;
  AgentLink link;  // kept between requests unless it is shared
  beast::flat_buffer buffer;
  std::shared_ptr<AgentConnections::Waiting> waiting;  // for a connection
  std::shared_ptr<Http2Connection::Call> call;         // under way on a shared one
  bool closed = false;

  explicit Impl(std::shared_ptr<AgentConnections> connections) : agent(std::move(connections)) {}

  beast::tcp_stream* tcp() const { return link.secure != nullptr ? &link.secure->next_layer() : link.plain.get(); }

  void Drop() {
    if (tcp() != nullptr) tcp()->close();
    link = {};
    buffer.clear();
  }

  absl::Status Failure(const error_code& ec) const {
    const std::string what = absl::StrCat(agent->address(), ": reading: ");
    if (closed) return absl::CancelledError("closed");
    if (ec == beast::error::timeout) return absl::DeadlineExceededError(absl::StrCat(what, "timed out"));
    if (ec == http::error::body_limit || ec == http::error::header_limit || ec == http::error::buffer_overflow) {
      return absl::ResourceExhaustedError(absl::StrCat(what, ec.message()));
    }
    return absl::UnavailableError(absl::StrCat(what, ec.message()));
  }

  // On a connection of its own. Aborted: a kept one broke before a byte of the response.
  asio::awaitable<absl::StatusOr<ConsulResponse>> ExchangeAlone(const ConsulRequest& asked, bool kept,
                                                                Clock::time_point deadline) {
    http::request<http::string_body> request;
    request.version(11);
    request.method_string(asked.method);
    request.target(asked.target);
    request.set(http::field::host, agent->address());
    request.set(http::field::user_agent, kConsulUserAgent);
    if (!asked.token.empty()) request.set("X-Consul-Token", asked.token);
    if (!asked.body.empty()) request.set(http::field::content_type, "application/json");
    request.body() = asked.body;
    request.prepare_payload();
    Response response;
    response.header_limit(kConsulHeaderBytesMax);
    response.body_limit(kResponseBytesMax);
    tcp()->expires_at(deadline);
    error_code ec;
    if (link.secure != nullptr) {
      ec = co_await Converse(*link.secure, request, &buffer, &response);
    } else {
      ec = co_await Converse(*link.plain, request, &buffer, &response);
    }
    if (ec || closed) {
      const bool begun = response.got_some();
      Drop();
      // Consul closes connections that were unused for a while; that says nothing about Consul.
      if (kept && !begun && !closed && ec != beast::error::timeout) co_return absl::AbortedError(ec.message());
      co_return Failure(ec);
    }
    ConsulResponse result;
    result.status = static_cast<int>(response.get().result_int());
    for (const auto& field : response.get()) {
      SetResponseHeader(&result, {field.name_string().data(), field.name_string().size()},
                        {field.value().data(), field.value().size()});
    }
    result.body = std::move(response.get().body());
    // Unsolicited bytes would be read as the next response.
    if (!response.get().keep_alive() || buffer.size() > 0) Drop();
    co_return result;
  }

  asio::awaitable<absl::StatusOr<ConsulResponse>> Send(ConsulRequest request, std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    request.token = agent->token();
    for (bool again = false;; again = true) {
      if (closed) co_return absl::CancelledError("closed");
      const bool kept = tcp() != nullptr;
      if (!kept) {
        waiting = std::make_shared<AgentConnections::Waiting>(agent->io());
        absl::StatusOr<AgentLink> acquired = co_await agent->Acquire(deadline, waiting);
        waiting = nullptr;
        if (closed) co_return absl::CancelledError("closed");
        if (!acquired.ok()) co_return acquired.status();
        link = *std::move(acquired);
      }
      absl::StatusOr<ConsulResponse> response = absl::UnknownError("");
      if (link.shared != nullptr) {
        const std::shared_ptr<Http2Connection> shared = std::exchange(link, {}).shared;
        call = shared->NewCall();
        response = co_await shared->Exchange(call, request, deadline);
        call = nullptr;
      } else {
        response = co_await ExchangeAlone(request, kept, deadline);
      }
      if (closed) co_return absl::CancelledError("closed");
      if (!absl::IsAborted(response.status())) co_return response;
      // Breaking a second time is the agent's failure: this connection had not been idle.
      if (again) co_return absl::UnavailableError(response.status().message());
    }
  }
};

void SetResponseHeader(ConsulResponse* response, std::string_view name, std::string_view value) {
  if (absl::EqualsIgnoreCase(AbslView(name), "X-Consul-Index")) {
    if (!absl::SimpleAtoi(AbslView(value), &response->index)) response->index = 0;
  } else if (absl::EqualsIgnoreCase(AbslView(name), "X-Consul-KnownLeader")) {
    response->known_leader = !absl::EqualsIgnoreCase(AbslView(value), "false");
  }
}

ConsulHttp::ConsulHttp(std::shared_ptr<AgentConnections> agent) : impl_(std::make_unique<Impl>(std::move(agent))) {}

ConsulHttp::~ConsulHttp() = default;

asio::awaitable<absl::StatusOr<ConsulResponse>> ConsulHttp::Get(std::string target, std::chrono::milliseconds timeout) {
  return impl_->Send({.method = "GET", .target = std::move(target)}, timeout);
}

asio::awaitable<absl::StatusOr<ConsulResponse>> ConsulHttp::Put(std::string target, std::string body,
                                                                std::chrono::milliseconds timeout) {
  return impl_->Send({.method = "PUT", .target = std::move(target), .body = std::move(body)}, timeout);
}

void ConsulHttp::Close() {
  impl_->closed = true;
  if (impl_->tcp() != nullptr) impl_->tcp()->close();
  if (impl_->waiting != nullptr) impl_->waiting->Cancel();
  if (impl_->call != nullptr) impl_->call->Cancel();
}

absl::Status CheckResponse(const absl::StatusOr<ConsulResponse>& response) {
  if (!response.ok()) return response.status();
  switch (response->status) {
    case 200:
      return absl::OkStatus();
    case 403:
      return absl::PermissionDeniedError(
          absl::StrCat("Consul refuses the token (", DescribeResponse(*response),
                       "); expected one with service:read and node:read in consul.token or consul.token_file"));
    case 404:
      return absl::NotFoundError(
          absl::StrCat(DescribeResponse(*response), "; expected Consul's API at consul.address"));
    default:
      return absl::InternalError(DescribeResponse(*response));
  }
}

std::string DescribeResponse(const ConsulResponse& response) {
  std::string text = absl::StrCat(response.status, ": ");
  for (const unsigned char c : std::string_view(response.body).substr(0, kDescribedBytesMax)) {
    text += absl::ascii_isprint(c) ? static_cast<char>(c) : ' ';
  }
  absl::StripTrailingAsciiWhitespace(&text);
  return text;
}

std::string EscapeUrl(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string escaped;
  for (const unsigned char c : text) {
    if (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      escaped += static_cast<char>(c);
    } else {
      escaped += {'%', kHex[c >> 4], kHex[c & 15]};
    }
  }
  return escaped;
}

}  // namespace gateway::controlplane
