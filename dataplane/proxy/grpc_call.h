// What sets calls of gRPC apart from other requests: their deadline, how they are refused, and how they end. Messages
// pass as any body does, at once in both directions.
#ifndef GATEWAY_DATAPLANE_PROXY_GRPC_CALL_H_
#define GATEWAY_DATAPLANE_PROXY_GRPC_CALL_H_

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/policy/policy.h"
#include "dataplane/http/grpc_web.h"
#include "dataplane/http/reason.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/task.h"
#include "dataplane/proxy/refusal.h"

namespace gateway::dataplane {

struct RequestBody;

// Of a call that came as gRPC-Web.
struct GrpcWebCall {
  std::string response_type;                  // the Content-Type of its response
  std::string request_type;                   // and of its request, as gRPC
  std::string body;                           // what of the body came with the header, decoded
  std::optional<http::GrpcWebSource> source;  // if the body is base64
  std::optional<http::GrpcWebSink> sink;      // once a response of gRPC is relayed

  bool is_text() const { return response_type.find("-text") != std::string::npos; }
};

struct GrpcCall {
  bool is_call = false;                  // else nothing below is set
  std::chrono::nanoseconds timeout{-1};  // grpc-timeout; below 0: it has no deadline
  int status = -1;                       // of its response, so far; -1: none was said
  bool relays_response = false;          // the response that is relayed is one of gRPC
  std::unique_ptr<GrpcWebCall> web;      // null: plain gRPC

  std::string_view response_type() const {
    return web == nullptr ? std::string_view("application/grpc") : std::string_view(web->response_type);
  }
  // Takes the status, the first that there is, from a header or trailers.
  void NoteStatus(std::span<const FieldView> fields);
  // The HTTP status that stands for the response in breakers, ejection and metrics.
  int OutcomeStatus(int http_status) const;
  // Whether `retry` has conditions of its own for it.
  bool IsFor(const RetryPolicy& retry) const { return is_call && retry.grpc_codes.any(); }
};

// Recognizes a call, and reads its deadline.
void ReadCall(const http::Request& request, GrpcCall* call);

// The same of gRPC-Web, for a route that takes it: from here on the request is gRPC. What of the body has come is
// decoded.
std::optional<Refusal> ReadWebCall(http::Request* request, http::DownstreamStream* stream, RequestBody* body,
                                   GrpcCall* call);

// Makes a response of gRPC one of gRPC-Web, if the call was one, and begins call->web->sink. False: it is relayed as it
// is. A response without a message has its status in its header, which browsers see.
bool AdaptToWeb(http::DownstreamStream* stream, GrpcCall* call, http::Response* response,
                http::OutgoingResponse* header);

// The fields of a response without a message that refuses a call: its header says it all
// (grpc/doc/PROTOCOL-HTTP2.md, "Trailers-Only"). Notes the status in `call`.
std::string RefusedCallFields(Reason reason, std::string_view fields, GrpcCall* call);

// `lines` with the status that a response without a message and without grpc-status lacks: UNKNOWN, as clients of gRPC
// take it. Notes it in `call`.
std::string MissingStatusFields(std::string_view lines, GrpcCall* call);

// Ends a call whose response breaks off with trailers that say why, which tells a client more than a reset. False: they
// could not be sent.
Task<bool> EndCall(http::DownstreamStream* stream, GrpcCall* call, Reason reason);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_GRPC_CALL_H_
