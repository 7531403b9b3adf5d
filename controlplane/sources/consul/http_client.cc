#include "controlplane/sources/consul/http_client.h"

#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "common/base/host_port.h"
#include "controlplane/sources/consul/decoder.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Request = http::request<http::string_body>;
using Endpoints = std::vector<asio::ip::tcp::endpoint>;

constexpr uint32_t kHeadBytesMax = 64 * 1024;
constexpr size_t kDescribedBytesMax = 200;

}  // namespace

struct ConsulHttp::Impl {
  asio::io_context& io;
  const std::string address;
  const std::string token;
  std::optional<beast::tcp_stream> stream;  // connected, or being connected
  beast::flat_buffer buffer;
  std::shared_ptr<asio::steady_timer> resolving;
  bool closed = false;

  Impl(asio::io_context& io_context, std::string agent, std::string acl_token)
      : io(io_context), address(std::move(agent)), token(std::move(acl_token)) {}

  absl::Status Failure(const char* what, const error_code& ec) const {
    if (closed) return absl::CancelledError("closed");
    if (ec == beast::error::timeout)
      return absl::DeadlineExceededError(absl::StrCat(address, ": ", what, ": timed out"));
    if (ec == http::error::body_limit || ec == http::error::header_limit || ec == http::error::buffer_overflow) {
      return absl::ResourceExhaustedError(absl::StrCat(address, ": ", what, ": ", ec.message()));
    }
    return absl::UnavailableError(absl::StrCat(address, ": ", what, ": ", ec.message()));
  }

  void Drop() {
    if (stream) stream->close();
    stream.reset();
    buffer.clear();
  }

  // Resolves `address`. A name server that hangs can't be interrupted, only left behind, so that the deadline holds.
  asio::awaitable<absl::StatusOr<Endpoints>> Resolve(Clock::time_point deadline) {
    const absl::StatusOr<HostPort> parsed = ParseHostPort(address);
    if (!parsed.ok()) co_return parsed.status();
    error_code ec;
    const asio::ip::address literal = asio::ip::make_address(parsed->host, ec);
    if (!ec) co_return Endpoints{{literal, parsed->port}};

    struct Lookup {
      explicit Lookup(asio::io_context& io) : resolver(io) {}
      asio::ip::tcp::resolver resolver;
      bool done = false;
      error_code ec;
      Endpoints endpoints;
    };
    const auto lookup = std::make_shared<Lookup>(io);
    resolving = std::make_shared<asio::steady_timer>(io, deadline);
    lookup->resolver.async_resolve(parsed->host, std::to_string(parsed->port),
                                   [lookup, wake = resolving](const error_code& error, const auto& results) {
                                     lookup->done = true;
                                     lookup->ec = error;
                                     for (const auto& result : results) lookup->endpoints.push_back(result.endpoint());
                                     wake->cancel();
                                   });
    co_await resolving->async_wait(asio::redirect_error(asio::use_awaitable, ec));
    resolving.reset();
    if (closed) co_return absl::CancelledError("closed");
    if (!lookup->done) {
      lookup->resolver.cancel();
      co_return Failure("resolving its name", beast::error::timeout);
    }
    if (lookup->ec) co_return Failure("resolving its name", lookup->ec);
    co_return std::move(lookup->endpoints);
  }

  asio::awaitable<absl::Status> Connect(Clock::time_point deadline) {
    absl::StatusOr<Endpoints> endpoints = co_await Resolve(deadline);
    if (!endpoints.ok()) co_return endpoints.status();
    stream.emplace(io);
    stream->expires_at(deadline);
    error_code ec;
    co_await stream->async_connect(*endpoints, asio::redirect_error(asio::use_awaitable, ec));
    if (ec) {
      Drop();
      co_return Failure("connecting", ec);
    }
    error_code ignored;  // a socket that is gone already says so at the first write
    stream->socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    co_return absl::OkStatus();
  }

  asio::awaitable<absl::StatusOr<ConsulAnswer>> Send(Request request, std::chrono::milliseconds timeout) {
    const auto deadline = Clock::now() + timeout;
    request.version(11);
    request.set(http::field::host, address);
    request.set(http::field::user_agent, "gateway-controlplane");
    if (!token.empty()) request.set("X-Consul-Token", token);
    request.prepare_payload();

    for (;;) {
      if (closed) co_return absl::CancelledError("closed");
      const bool kept = stream.has_value();
      if (!kept) {
        absl::Status connected = co_await Connect(deadline);
        if (!connected.ok()) co_return connected;
      }
      stream->expires_at(deadline);
      error_code ec;
      http::response_parser<http::string_body> parser;
      parser.header_limit(kHeadBytesMax);
      parser.body_limit(kAnswerBytesMax);
      co_await http::async_write(*stream, request, asio::redirect_error(asio::use_awaitable, ec));
      if (!ec) co_await http::async_read(*stream, buffer, parser, asio::redirect_error(asio::use_awaitable, ec));
      if (ec || closed) {
        const bool answered = parser.got_some();
        Drop();
        // Consul closes connections that were unused for a while; that says nothing about Consul.
        if (kept && !answered && !closed && ec != beast::error::timeout) continue;
        co_return Failure("reading", ec);
      }
      auto& response = parser.get();
      ConsulAnswer answer;
      answer.status = static_cast<int>(response.result_int());
      const auto index = response["X-Consul-Index"];
      if (!absl::SimpleAtoi(absl::string_view(index.data(), index.size()), &answer.index)) answer.index = 0;
      const auto leader = response["X-Consul-KnownLeader"];
      answer.known_leader = !absl::EqualsIgnoreCase(absl::string_view(leader.data(), leader.size()), "false");
      answer.body = std::move(response.body());
      // Bytes that nobody asked for would be read as the next answer.
      if (!response.keep_alive() || buffer.size() > 0) Drop();
      co_return answer;
    }
  }
};

ConsulHttp::ConsulHttp(asio::io_context& io, std::string address, std::string token)
    : impl_(std::make_unique<Impl>(io, std::move(address), std::move(token))) {}

ConsulHttp::~ConsulHttp() = default;

asio::awaitable<absl::StatusOr<ConsulAnswer>> ConsulHttp::Get(std::string_view target,
                                                              std::chrono::milliseconds timeout) {
  Request request;
  request.method(http::verb::get);
  request.target(target);
  return impl_->Send(std::move(request), timeout);
}

asio::awaitable<absl::StatusOr<ConsulAnswer>> ConsulHttp::Put(std::string_view target, std::string body,
                                                              std::chrono::milliseconds timeout) {
  Request request;
  request.method(http::verb::put);
  request.target(target);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = std::move(body);
  return impl_->Send(std::move(request), timeout);
}

void ConsulHttp::Close() {
  impl_->closed = true;
  if (impl_->stream) impl_->stream->close();
  if (impl_->resolving) impl_->resolving->cancel();
}

std::string DescribeAnswer(const ConsulAnswer& answer) {
  std::string text = absl::StrCat(answer.status, ": ");
  for (const unsigned char c : std::string_view(answer.body).substr(0, kDescribedBytesMax)) {
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
