#include "dataplane/http/reason.h"

#include <array>
#include <cstddef>

#include "boost/beast/http/status.hpp"

namespace gateway::dataplane {
namespace {

constexpr std::array<ReasonInfo, kReasonCount> kReasons = {{
    {0, "", ""},
    {400, "bad_request", "Bad request"},
    {401, "unauthenticated", "Authentication required"},
    {403, "forbidden", "Forbidden"},
    {404, "no_route", "No route matches"},
    {404, "unknown_service", "No service instances found"},
    {405, "method_not_allowed", "Method not allowed"},
    {408, "request_timeout", "Request timeout"},
    {413, "body_too_large", "Request body too large"},
    {414, "target_too_long", "Request target too long"},
    {417, "expectation_failed", "Expectation failed"},
    {431, "headers_too_large", "Request header fields too large"},
    {421, "misdirected_request", "Misdirected request"},
    {429, "rate_limited", "Rate limit exceeded"},
    {500, "internal", "Internal server error"},
    {501, "not_implemented", "Not implemented"},
    {505, "http_version", "HTTP version not supported"},
    {502, "upstream_reset", "Bad gateway"},
    {502, "upstream_invalid", "Bad gateway"},
    {502, "upstream_connect_failed", "Bad gateway"},
    {502, "upstream_tls_failed", "Bad gateway"},
    {503, "no_healthy_endpoint", "Service not available"},
    {503, "discovery_unavailable", "Service not available"},
    {503, "breaker_open", "Service temporarily unavailable"},
    {503, "concurrency_limit", "Service temporarily unavailable"},
    {503, "overloaded", "Service temporarily unavailable"},
    {503, "draining", "Service temporarily unavailable"},
    {504, "upstream_timeout", "Gateway timeout"},
    {504, "request_deadline", "Gateway timeout"},
    {508, "loop_detected", "Loop detected"},
    {499, "client_closed", "Client closed request"},
}};

}  // namespace

const ReasonInfo& InfoOf(Reason reason) { return kReasons[static_cast<size_t>(reason)]; }

std::string_view StatusPhrase(int status) {
  const auto known = boost::beast::http::int_to_status(static_cast<unsigned>(status));
  if (known == boost::beast::http::status::unknown) return "";
  const auto phrase = boost::beast::http::obsolete_reason(known);
  return {phrase.data(), phrase.size()};
}

}  // namespace gateway::dataplane
