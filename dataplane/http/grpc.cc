#include "dataplane/http/grpc.h"

#include <charconv>

#include "common/base/grpc_code.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http {

bool IsGrpcContentType(std::string_view content_type) {
  constexpr std::string_view kGrpc = "application/grpc";
  if (!http1::EqualsIgnoreCase(content_type.substr(0, kGrpc.size()), kGrpc)) return false;
  content_type.remove_prefix(kGrpc.size());
  return content_type.empty() || content_type[0] == '+' || content_type[0] == ';' || content_type[0] == ' ';
}

std::string_view FindFieldValue(std::span<const FieldView> fields, std::string_view name) {
  for (const FieldView& field : fields) {
    if (http1::EqualsIgnoreCase(field.name, name)) return field.value;
  }
  return {};
}

std::optional<std::chrono::nanoseconds> ParseGrpcTimeout(std::string_view text) {
  if (text.size() < 2 || text.size() > 9) return std::nullopt;  // 8 digits and a unit
  int64_t number = 0;
  const char* const end = text.data() + text.size() - 1;
  const auto [stop, code] = std::from_chars(text.data(), end, number);
  if (code != std::errc() || stop != end || number < 0) return std::nullopt;
  const auto bounded = [number](auto unit) {
    constexpr std::chrono::nanoseconds kMax = kGrpcTimeoutMax;
    return number > kMax / unit ? kMax : number * std::chrono::nanoseconds(unit);
  };
  switch (text.back()) {
    case 'H':
      return bounded(std::chrono::hours(1));
    case 'M':
      return bounded(std::chrono::minutes(1));
    case 'S':
      return bounded(std::chrono::seconds(1));
    case 'm':
      return bounded(std::chrono::milliseconds(1));
    case 'u':
      return bounded(std::chrono::microseconds(1));
    case 'n':
      return bounded(std::chrono::nanoseconds(1));
    default:
      return std::nullopt;
  }
}

int FindGrpcStatus(std::span<const FieldView> fields) {
  for (const FieldView& field : fields) {
    if (!http1::EqualsIgnoreCase(field.name, "grpc-status")) continue;
    int code = 0;
    const char* const end = field.value.data() + field.value.size();
    const auto [stop, error] = std::from_chars(field.value.data(), end, code);
    const bool known = error == std::errc() && stop == end && code >= 0 && code < kGrpcCodesMax;
    return known ? code : kGrpcUnknown;
  }
  return -1;
}

int GrpcCodeOfStatus(int status) {
  switch (status) {
    case 200:
      return kGrpcOk;
    case 400:
      return kGrpcInternal;
    case 401:
      return kGrpcUnauthenticated;
    case 403:
      return kGrpcPermissionDenied;
    case 404:
      return kGrpcUnimplemented;
    case 429:
      return kGrpcResourceExhausted;
    case 502:
    case 503:
      return kGrpcUnavailable;
    case 504:
      return kGrpcDeadlineExceeded;
    default:
      return kGrpcUnknown;
  }
}

int StatusOfGrpcCode(int code) {
  switch (code) {
    case kGrpcUnknown:  // what a handler that throws leads to
    case kGrpcInternal:
    case kGrpcDataLoss:
      return 500;
    case kGrpcUnavailable:
      return 503;
    case kGrpcDeadlineExceeded:
      return 504;
    default:
      return 200;
  }
}

void AppendGrpcMessage(std::string* out, std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '%') {
      *out += c;
    } else {
      *out += '%';
      *out += kDigits[byte >> 4];
      *out += kDigits[byte & 0xf];
    }
  }
}

BodyPiece GrpcEndSink::Complete(const BodyPiece& piece) {
  if (!piece.last || FindGrpcStatus(piece.trailers) >= 0) return piece;
  given_ = piece.trailers.empty() ? kGrpcInternal : kGrpcUnknown;
  trailers_.assign(piece.trailers.begin(), piece.trailers.end());
  trailers_.push_back({"grpc-status", given_ == kGrpcInternal ? "13" : "2"});
  trailers_.push_back({"grpc-message", kMessage});
  BodyPiece completed = piece;
  completed.trailers = trailers_;
  return completed;
}

}  // namespace gateway::dataplane::http
