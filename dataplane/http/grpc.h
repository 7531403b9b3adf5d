// What of gRPC over HTTP/2 a proxy has to know (grpc/doc/PROTOCOL-HTTP2.md): nothing of messages but their end.
#ifndef GATEWAY_DATAPLANE_HTTP_GRPC_H_
#define GATEWAY_DATAPLANE_HTTP_GRPC_H_

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/policy/snapshot.h"

namespace gateway::dataplane::http {

// A Content-Type: "application/grpc", also with "+proto" and the like, or parameters. Not gRPC-Web's.
bool IsGrpcContentType(std::string_view content_type);

// The value of the field in lower case letters `name`; empty: not among them.
std::string_view FindFieldValue(std::span<const FieldView> fields, std::string_view name);

// A grpc-timeout: "100m", at most kGrpcTimeoutMax. Nothing: it is not one.
inline constexpr std::chrono::hours kGrpcTimeoutMax{24 * 365};
std::optional<std::chrono::nanoseconds> ParseGrpcTimeout(std::string_view text);

// A grpc-status among `fields`; -1: not among them. One that is not a number, or not a code, is UNKNOWN (2).
int FindGrpcStatus(std::span<const FieldView> fields);

// The code of a response of ours with this HTTP status (POLICY.md, "TLS, HTTP/2 and gRPC").
int GrpcCodeOfStatus(int status);

// The HTTP status that a service would have said instead, as breakers, ejection and metrics count: of 500 and above it
// is a failure of the service's.
int StatusOfGrpcCode(int code);

// Appends `text` as grpc-message has it: percent-encoded if it is not printable ASCII, or a percent sign.
void AppendGrpcMessage(std::string* out, std::string_view text);

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_GRPC_H_
