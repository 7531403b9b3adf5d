// A client's certificate as services see it.
#ifndef GATEWAY_DATAPLANE_AUTH_CERTIFICATE_FIELDS_H_
#define GATEWAY_DATAPLANE_AUTH_CERTIFICATE_FIELDS_H_

#include <string>
#include <string_view>

#include "dataplane/http/connection_info.h"

namespace gateway::dataplane {

// Appends field lines to `fields`. With the name Client-Cert, as RFC 9440 has it, and Client-Cert-Chain where the
// client sent one. With any other name as Envoy writes X-Forwarded-Client-Cert:
// `Hash=...;Subject="...";URI=...;DNS=...; Cert="..."`, URI and DNS once for each name. Whatever a certificate holds,
// it ends no value and begins no key.
void AppendClientCertificate(std::string_view name, const http::ClientCertificate& certificate, std::string* fields);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_AUTH_CERTIFICATE_FIELDS_H_
