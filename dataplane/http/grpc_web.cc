#include "dataplane/http/grpc_web.h"

#include <algorithm>

#include "common/base/base64.h"
#include "common/base/text.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http {
namespace {

constexpr char kTrailersFlag = '\x80';  // of a message that is none

int DigitOf(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

// Behind `*out`: the fields as lines, in a message.
void AppendTrailers(std::span<const FieldView> trailers, std::string* out) {
  std::string lines;
  for (const FieldView& field : trailers) Append(&lines, field.name, ":", field.value, "\r\n");
  out->push_back(kTrailersFlag);
  for (const int shift : {24, 16, 8, 0}) out->push_back(static_cast<char>(lines.size() >> shift));
  *out += lines;
}

}  // namespace

std::optional<GrpcWebType> ParseGrpcWebType(std::string_view content_type) {
  constexpr std::string_view kWeb = "application/grpc-web";
  constexpr std::string_view kText = "-text";
  if (!http1::EqualsIgnoreCase(content_type.substr(0, kWeb.size()), kWeb)) return std::nullopt;
  GrpcWebType type;
  type.suffix = content_type.substr(kWeb.size());
  type.text = http1::EqualsIgnoreCase(type.suffix.substr(0, kText.size()), kText);
  if (type.text) type.suffix.remove_prefix(kText.size());
  const bool ends = type.suffix.empty() || type.suffix[0] == '+' || type.suffix[0] == ';' || type.suffix[0] == ' ';
  return ends ? std::optional(type) : std::nullopt;
}

bool Base64Reader::Read(std::string_view text, std::string* out) {
  for (const char c : text) {
    if (c == '=') {
      ++padding_;
      if (count_ < 2 || count_ + padding_ > 4) return false;
      if (count_ + padding_ == 4 && !Finish(out)) return false;
      continue;
    }
    const int digit = DigitOf(c);
    if (digit < 0 || padding_ > 0) return false;
    bits_ = bits_ << 6 | static_cast<uint32_t>(digit);
    if (++count_ < 4) continue;
    for (const int shift : {16, 8, 0}) out->push_back(static_cast<char>(bits_ >> shift));
    bits_ = 0;
    count_ = 0;
  }
  return true;
}

bool Base64Reader::Finish(std::string* out) {
  if (count_ == 1) return false;
  if (count_ >= 2) out->push_back(static_cast<char>(bits_ >> (count_ == 2 ? 4 : 10)));
  if (count_ == 3) out->push_back(static_cast<char>(bits_ >> 2));
  bits_ = 0;
  count_ = padding_ = 0;
  return true;
}

BodyRead GrpcWebSource::Read(BodyForms, BodyPiece* piece) {
  for (;;) {
    const BodyRead read = source_.Read({}, piece);
    if (read != BodyRead::kPiece) return read;
    decoded_.clear();
    if (!reader_.Read(piece->bytes, &decoded_) || (piece->last && !reader_.Finish(&decoded_))) {
      detail_ = "a gRPC-Web body that is not base64";
      return BodyRead::kInvalid;
    }
    if (decoded_.empty() && !piece->last) continue;
    const bool last = piece->last;
    *piece = {};
    piece->bytes = decoded_;
    piece->payload = decoded_.size();
    piece->last = last;
    return BodyRead::kPiece;
  }
}

BodyPiece GrpcWebSink::Encode(const BodyPiece& piece) {
  if (!text_ && !piece.last) return piece;
  std::string_view payload = piece.bytes;
  std::string whole;
  if (piece.last) {
    whole.assign(piece.bytes);
    AppendTrailers(piece.trailers, &whole);
    payload = whole;
  }
  if (text_) {
    encoded_ = EncodeBase64(Base64::kStandard, payload);
    encoded_.resize((encoded_.size() + 3) / 4 * 4, '=');
  } else {
    encoded_ = std::move(whole);
  }
  BodyPiece out;
  out.bytes = encoded_;
  out.payload = encoded_.size();
  out.last = piece.last;
  return out;
}

}  // namespace gateway::dataplane::http
