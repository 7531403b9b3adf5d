#include "dataplane/proxy/grpc_call.h"

#include <array>
#include <charconv>
#include <string>

#include "common/base/grpc_code.h"
#include "common/base/text.h"
#include "dataplane/http/grpc.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/proxy/request_context.h"

namespace gateway::dataplane {
namespace {

constexpr std::chrono::seconds kLastWordsTimeout{1};

// "Rate limit exceeded (rate_limited)".
std::string CallMessage(Reason reason) {
  const ReasonInfo& info = InfoOf(reason);
  std::string message;
  http::AppendGrpcMessage(&message, Concat(info.message, " (", info.word, ")"));
  return message;
}

void ReadTimeout(const http::Request& request, GrpcCall* call) {
  const std::string_view timeout = http::FindFieldValue(request.field_views(), "grpc-timeout");
  if (timeout.empty()) return;
  if (const auto parsed = http::ParseGrpcTimeout(timeout)) call->timeout = *parsed;
}

}  // namespace

void GrpcCall::NoteStatus(std::span<const FieldView> fields) {
  if (!is_call || status >= 0) return;
  status = http::FindGrpcStatus(fields);
}

int GrpcCall::OutcomeStatus(int http_status) const {
  return status < 0 || http_status != 200 ? http_status : http::StatusOfGrpcCode(status);
}

void ReadCall(const http::Request& request, GrpcCall* call) {
  // HTTP/1.1 cannot carry a call: what looks like one there is a request like others.
  if (request.version != http::Version::kHttp2 || request.method != "POST") return;
  if (!http::IsGrpcContentType(http::FindFieldValue(request.field_views(), "content-type"))) return;
  call->is_call = true;
  ReadTimeout(request, call);
}

std::optional<Refusal> ReadWebCall(http::Request* request, http::DownstreamStream* stream, RequestBody* body,
                                   GrpcCall* call) {
  if (call->is_call || request->method != "POST") return std::nullopt;
  for (FieldView& field : request->fields) {
    if (!http1::EqualsIgnoreCase(field.name, "content-type")) continue;
    const std::optional<http::GrpcWebType> type = http::ParseGrpcWebType(field.value);
    if (!type) return std::nullopt;
    call->is_call = true;
    call->web = std::make_unique<GrpcWebCall>();
    GrpcWebCall& web = *call->web;
    web.response_type = Concat("application/grpc-web", type->text ? "-text" : "", type->suffix);
    web.request_type = Concat("application/grpc", type->suffix);
    field.value = web.request_type;
    ReadTimeout(*request, call);
    if (!type->text || !request->has_body) return std::nullopt;
    request->length.reset();
    http::Base64Reader reader;
    if (!reader.Read(body->buffered, &web.body) || (body->complete && !reader.Finish(&web.body))) {
      return Refusal{Reason::kBadRequest, "a gRPC-Web body that is not base64"};
    }
    body->buffered = web.body;
    body->bytes = web.body.size();
    web.source.emplace(stream, reader);
    return std::nullopt;
  }
  return std::nullopt;
}

bool AdaptToWeb(http::DownstreamStream* stream, GrpcCall* call, http::Response* response,
                http::OutgoingResponse* header) {
  if (call->web == nullptr || !call->relays_response) return false;
  GrpcWebCall& web = *call->web;
  for (FieldView& field : response->fields) {
    if (!http1::EqualsIgnoreCase(field.name, "content-type")) continue;
    field.value = web.response_type;
    if (!header->has_body) return false;
    header->length.reset();
    web.sink.emplace(stream, web.is_text());
    return true;
  }
  return false;
}

std::string RefusedCallFields(Reason reason, std::string_view fields, GrpcCall* call) {
  call->status = http::GrpcCodeOfStatus(InfoOf(reason).status);
  return Concat(fields, "grpc-status: ", call->status, "\r\ngrpc-message: ", CallMessage(reason), "\r\n");
}

std::string MissingStatusFields(std::string_view lines, GrpcCall* call) {
  call->status = kGrpcUnknown;
  return Concat(lines, "grpc-status: ", call->status, "\r\ngrpc-message: ", http::GrpcEndSink::kMessage, "\r\n");
}

Task<bool> EndCall(http::DownstreamStream* stream, GrpcCall* call, Reason reason) {
  if (call->web != nullptr && !call->web->sink) co_return false;
  const int code = http::GrpcCodeOfStatus(InfoOf(reason).status);
  std::array<char, 4> digits;
  const char* const end = std::to_chars(digits.data(), digits.data() + digits.size(), code).ptr;
  const std::string message = CallMessage(reason);
  const std::array<FieldView, 2> trailers = {
      {{"grpc-status", {digits.data(), static_cast<size_t>(end - digits.data())}}, {"grpc-message", message}}};
  http::BodyPiece piece;
  piece.last = true;
  piece.trailers = trailers;
  Io io = call->web != nullptr ? call->web->sink->Write(piece) : stream->Write(piece);
  if (io == Io::kAgain) io = co_await stream->Flush(kLastWordsTimeout, TimePoint::max());
  if (io != Io::kDone) co_return false;
  call->status = code;
  co_return true;
}

}  // namespace gateway::dataplane
