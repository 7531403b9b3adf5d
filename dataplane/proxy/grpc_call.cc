// What sets calls of gRPC apart from other requests: their deadline, how they are refused, and how they end. Messages
// pass as any body does, at once in both directions.
#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <utility>

#include "common/base/grpc_code.h"
#include "common/base/text.h"
#include "dataplane/http/grpc.h"
#include "dataplane/http/grpc_web.h"
#include "dataplane/http/http1/head.h"
#include "dataplane/proxy/exchange.h"

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

}  // namespace

void Exchange::ReadCall() {
  // HTTP/1.1 can't carry a call: what looks like one there is a request like others.
  if (head_.version != http::Version::kHttp2 || head_.method != "POST") return;
  if (!http::IsGrpcContentType(http::FindFieldValue(head_.field_views(), "content-type"))) return;
  grpc_ = true;
  const std::string_view timeout = http::FindFieldValue(head_.field_views(), "grpc-timeout");
  if (timeout.empty()) return;
  if (const auto parsed = http::ParseGrpcTimeout(timeout)) grpc_timeout_ = *parsed;
}

Reason Exchange::ReadWebCall() {
  if (grpc_ || head_.method != "POST") return Reason::kNone;
  for (size_t i = 0; i < head_.fields.size(); ++i) {
    FieldView& field = head_.fields[i];
    if (!http1::EqualsIgnoreCase(field.name, "content-type")) continue;
    const std::optional<http::GrpcWebType> type = http::ParseGrpcWebType(field.value);
    if (!type) return Reason::kNone;
    grpc_ = true;
    web_type_ = Concat("application/grpc-web", type->text ? "-text" : "", type->suffix);
    grpc_type_ = Concat("application/grpc", type->suffix);
    field.value = grpc_type_;
    const std::string_view timeout = http::FindFieldValue(head_.field_views(), "grpc-timeout");
    if (const auto parsed = http::ParseGrpcTimeout(timeout)) grpc_timeout_ = *parsed;
    if (!type->text || !head_.has_body) return Reason::kNone;
    head_.length.reset();
    http::Base64Reader reader;
    if (!reader.Read(buffered_body_, &web_body_) || (body_complete_ && !reader.Finish(&web_body_))) {
      body_detail_ = "a gRPC-Web body that is not base64";
      return Reason::kBadRequest;
    }
    buffered_body_ = web_body_;
    body_bytes_ = web_body_.size();
    web_source_.emplace(&stream_, reader);
    return Reason::kNone;
  }
  return Reason::kNone;
}

// A response without a message has its status in its head, where browsers see it; one that is none of gRPC stays as it
// is.
bool Exchange::AdaptToWeb(http::Response* response, http::OutgoingResponse* head) {
  if (web_type_.empty() || !answers_call_) return false;
  for (FieldView& field : response->fields) {
    if (!http1::EqualsIgnoreCase(field.name, "content-type")) continue;
    field.value = web_type_;
    if (!head->has_body) return false;
    head->length.reset();
    web_sink_.emplace(&stream_, web_type_.find("-text") != std::string::npos);
    return true;
  }
  return false;
}

// A call's messages flow as they come, since its client may wait for an answer before it sends the next one. While they
// are short they are kept, so that the call can be made again.
void Exchange::KeepForRetry(const http::BodyPiece& piece) {
  BufferPool& buffers = worker_->buffers();
  const std::string_view before = body_room_ ? std::string_view() : buffered_body_;
  const size_t held = body_room_ ? body_room_.size() : before.size();
  const auto append = [this](std::string_view bytes) {
    std::memcpy(body_room_.space(), bytes.data(), bytes.size());
    body_room_.Filled(bytes.size());
  };
  bool room = held + piece.bytes.size() <= retry_->max_body_bytes;
  if (room && !body_room_) body_room_ = buffers.Acquire(std::max<size_t>(held + piece.bytes.size(), 1));
  room =
      room && body_room_ &&
      (body_room_.room() >= before.size() + piece.bytes.size() || buffers.Grow(&body_room_, held + piece.bytes.size()));
  if (!room) {
    keeps_body_ = false;
    body_room_.Reset();
    return;
  }
  append(before);
  append(piece.bytes);
  // Trailers of a request are not kept.
  if (!piece.last || !piece.trailers.empty()) return;
  keeps_body_ = false;
  buffered_body_ = {body_room_.data(), body_room_.size()};
  replayable_ = true;
}

void Exchange::NoteCallStatus(std::span<const FieldView> fields) {
  if (!grpc_ || grpc_status_ >= 0) return;
  grpc_status_ = http::FindGrpcStatus(fields);
}

int Exchange::OutcomeStatus(int status) const {
  return grpc_status_ < 0 || status != 200 ? status : http::StatusOfGrpcCode(grpc_status_);
}

// As a response without a message: its head says it all (grpc/doc/PROTOCOL-HTTP2.md, "Trailers-Only").
Task<void> Exchange::RefuseCall(Reason reason, std::string_view fields) {
  grpc_status_ = http::GrpcCodeOfStatus(InfoOf(reason).status);
  const std::string all =
      Concat(fields, "grpc-status: ", grpc_status_, "\r\ngrpc-message: ", CallMessage(reason), "\r\n");
  co_await Reply(200, {}, all, CallType());
}

// Its trailers say why, which tells a client more than a reset.
Task<void> Exchange::EndCall(Reason reason) {
  const bool web = !web_type_.empty();
  if (reason == Reason::kClientClosed || answer_bounded_ || end_ == http::End::kReset || (web && !web_sink_)) co_return;
  const int code = http::GrpcCodeOfStatus(InfoOf(reason).status);
  std::array<char, 4> digits;
  const char* const end = std::to_chars(digits.data(), digits.data() + digits.size(), code).ptr;
  const std::string message = CallMessage(reason);
  const std::array<FieldView, 2> trailers = {
      {{"grpc-status", {digits.data(), static_cast<size_t>(end - digits.data())}}, {"grpc-message", message}}};
  http::BodyPiece piece;
  piece.last = true;
  piece.trailers = trailers;
  Io io = web ? web_sink_->Write(piece) : stream_.Write(piece);
  if (io == Io::kAgain) io = co_await stream_.Flush(kLastWordsTimeout, TimePoint::max());
  if (io != Io::kDone) co_return;
  grpc_status_ = code;
  end_ = http::End::kComplete;
}

}  // namespace gateway::dataplane
