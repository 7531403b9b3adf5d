#include "common/base/endpoint_name.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "common/base/text.h"

namespace gateway {

std::string EndpointName(std::string_view host, uint32_t port) {
  const std::string text(host);
  in_addr v4;
  in6_addr v6;
  char spelled[INET6_ADDRSTRLEN] = "";
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return Concat(text, ":", port);
  if (inet_pton(AF_INET6, text.c_str(), &v6) == 1 && inet_ntop(AF_INET6, &v6, spelled, sizeof spelled) != nullptr) {
    return Concat("[", std::string_view(spelled), "]:", port);
  }
  return Concat(text, ":", port);
}

}  // namespace gateway
