// HTTP as ACME needs it, by libcurl.
#ifndef GATEWAY_CONTROLPLANE_ACME_HTTP_H_
#define GATEWAY_CONTROLPLANE_ACME_HTTP_H_

#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace gateway::controlplane::acme {

struct HttpRequest {
  enum class Method { kGet, kHead, kPost };
  Method method = Method::kGet;
  std::string url;
  std::string body = {};    // of a POST: application/jose+json
  std::string ca_pem = {};  // whom to trust; empty: the system's CAs
};

struct HttpResponse {
  long status = 0;
  std::string body;
  // Of the header; empty: they were not there, or longer than kUrlBytesMax.
  std::string location, nonce, retry_after;
};

// Unavailable: no connection, no TLS, no response in time; InvalidArgument: a response that is too long. Blocks.
using HttpTransport = std::function<absl::StatusOr<HttpResponse>(const HttpRequest&)>;

// https (certificates checked), http of this host only; follows no redirects; at most kBodyBytesMax, 10 s to connect
// and 30 s in all. `stopping` is asked about once a second: true ends the request.
HttpTransport CurlTransport(std::function<bool()> stopping);

}  // namespace gateway::controlplane::acme

#endif  // GATEWAY_CONTROLPLANE_ACME_HTTP_H_
