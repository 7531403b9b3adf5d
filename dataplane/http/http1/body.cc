#include "dataplane/http/http1/body.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

#include "common/base/text.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http1 {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// A byte that may stand in an extension or in a trailer's value.
bool IsText(char c) { return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f); }

}  // namespace

bool IsForbiddenTrailer(std::string_view name) {
  switch (ClassifyField(name)) {
    case FieldKind::kHopByHop:
    case FieldKind::kForwardedFor:
    case FieldKind::kForwardedProto:
    case FieldKind::kForwardedHost:
    case FieldKind::kForwardedOther:
    case FieldKind::kLookalike:
    case FieldKind::kGateway:
    case FieldKind::kIdentity:
      return true;
    default:
      break;
  }
  static constexpr std::string_view kForbidden[] = {"content-length",
                                                    "transfer-encoding",
                                                    "host",
                                                    "trailer",
                                                    "te",
                                                    "connection",
                                                    "expect",
                                                    "range",
                                                    "content-type",
                                                    "content-range",
                                                    "authorization",
                                                    "cookie",
                                                    "set-cookie",
                                                    "content-encoding",
                                                    "cache-control",
                                                    "max-forwards",
                                                    "upgrade"};
  return std::any_of(std::begin(kForbidden), std::end(kForbidden),
                     [&](std::string_view each) { return EqualsIgnoreCase(each, name); });
}

size_t BodyDecoder::ReadableBytes() const {
  if (mode_ == Mode::kLength) return static_cast<size_t>(std::min<uint64_t>(left_, std::numeric_limits<size_t>::max()));
  return mode_ == Mode::kNone ? 0 : std::numeric_limits<size_t>::max();
}

BodyDecoder::Result BodyDecoder::Decode(char* data, size_t size) {
  switch (mode_) {
    case Mode::kNone:
      return {};
    case Mode::kUntilClose:
      return {.payload = size, .consumed = size, .kept = {data, size}};
    case Mode::kLength: {
      const size_t take = static_cast<size_t>(std::min<uint64_t>(left_, size));
      left_ -= take;
      if (left_ == 0) done_ = true;
      return {.payload = take, .consumed = take, .kept = {data, take}};
    }
    case Mode::kChunked:
      return ReadChunks(data, size, false);
  }
  return {};
}

// The size that the next chunk sent on has, of which `here` bytes are there already.
uint64_t BodyDecoder::Promise(size_t here) {
  head_sent_ = true;
  promised_ = left_ <= kKeptChunkBytesMax ? left_ : std::min<uint64_t>(left_, here);
  return promised_;
}

bool BodyDecoder::EndTrailerLine() {
  const size_t colon = trailer_line_.find(':');
  const std::string_view name = std::string_view(trailer_line_).substr(0, colon);
  if (colon == std::string::npos || !IsToken(name)) {
    detail_ = "an invalid trailer field";
    return false;
  }
  if (!any_trailer_ && IsForbiddenTrailer(name)) {
    detail_ = "a forbidden trailer field";
    return false;
  }
  trailer_line_.clear();
  return true;
}

// One byte of a chunk's extensions, but for the end of their line. Nothing here is passed on; it is read strictly
// because servers that are lax about it have disagreed on where the line ends.
bool BodyDecoder::NextOfExtension(char c) {
  const bool is_space = c == ' ' || c == '\t';
  const bool is_token = IsToken({&c, 1});
  const auto go = [this](Extension next) {
    extension_ = next;
    return true;
  };
  switch (extension_) {
    case Extension::kNameBegin:
      return is_space || (is_token && go(Extension::kName));
    case Extension::kName:
      if (is_token) return true;
      if (is_space) return go(Extension::kNameEnd);
      break;
    case Extension::kNameEnd:
      if (is_space) return true;
      break;
    case Extension::kValueBegin:
      if (is_space) return true;
      return c == '"' ? go(Extension::kQuoted) : is_token && go(Extension::kToken);
    case Extension::kToken:
      if (is_token) return true;
      [[fallthrough]];
    case Extension::kValueEnd:
      if (is_space) return go(Extension::kSpace);
      return c == ';' && go(Extension::kNameBegin);
    case Extension::kQuoted:
      if (c == '"') return go(Extension::kValueEnd);
      if (c == '\\') return go(Extension::kQuotedPair);
      return IsText(c);
    case Extension::kQuotedPair:
      return IsText(c) && go(Extension::kQuoted);
    case Extension::kSpace:  // behind a value
      return is_space || (c == ';' && go(Extension::kNameBegin));
  }
  // Behind a name.
  if (c == '=') return go(Extension::kValueBegin);
  return c == ';' && go(Extension::kNameBegin);
}

// `framed`: the chunks' heads and ends stay with their payload; else the payload alone stays, at the front.
BodyDecoder::Result BodyDecoder::ReadChunks(char* data, size_t size, bool framed) {
  constexpr size_t kNowhere = SIZE_MAX;
  Result result;
  size_t in = 0;
  size_t begin = 0;  // what stays is data[begin, out)
  size_t out = 0;
  size_t line = kNowhere;  // where the current chunk's size begins, if in `data`
  // data[in, in + bytes) stays, right behind what stays already.
  const auto keep = [&](size_t bytes) {
    if (framed && out == begin) begin = out = in;
    if (out != in) std::memmove(data + out, data + in, bytes);
    out += bytes;
    in += bytes;
  };
  const auto end_of_chunk = [&] {
    if (head_sent_) {
      keep(1);
    } else {
      ++in;
    }
  };
  const auto end = [&](bool refused) {
    result.kept = {data + begin, out - begin};
    result.consumed = in;
    result.refused = refused;
    return result;
  };
  const auto refuse = [&](const char* detail) {
    detail_ = detail;
    return end(true);
  };
  while (in < size && !done_) {
    const char c = data[in];
    switch (state_) {
      case State::kSize: {
        const int digit = HexDigit(c);
        if (digit >= 0) {
          if (digits_ == 0) line = in;
          if (++digits_ > kSizeDigitsMax) return refuse("a chunk size that is too long");
          left_ = left_ * 16 + static_cast<uint64_t>(digit);
          if (left_ > kChunkBytesMax) return refuse("a chunk size that is too large");
          ++in;
          break;
        }
        if (digits_ == 0) return refuse("a chunk size that is not hexadecimal");
        if (c == ';') {
          state_ = State::kExtension;
          extension_ = Extension::kNameBegin;
        } else if (c == '\r') {
          state_ = State::kSizeLf;
        } else {
          return refuse("a chunk size that is not hexadecimal");
        }
        ++in;
        break;
      }
      case State::kExtension:
        if (c == '\r' &&
            (extension_ == Extension::kName || extension_ == Extension::kToken || extension_ == Extension::kValueEnd)) {
          state_ = State::kSizeLf;
        } else if (!NextOfExtension(c)) {
          return refuse("an invalid chunk extension");
        } else if (++extension_bytes_ > kExtensionBytesMax) {
          return refuse("chunk extensions that are too long");
        }
        ++in;
        break;
      case State::kSizeLf:
        if (c != '\n') return refuse("a chunk size that does not end in CRLF");
        ++in;
        digits_ = 0;
        state_ = left_ == 0 ? State::kTrailer : State::kData;
        if (framed && left_ > 0 && line != kNowhere && (in < size || left_ <= kKeptChunkBytesMax)) {
          // Never longer than the line was, so it fits in front of the payload; as long, and nothing has to move.
          std::array<char, 20> room;
          const std::string_view head = ChunkHead(Promise(size - in), &room);
          if (out == begin) begin = out = line;
          std::memcpy(data + out, head.data(), head.size());
          out += head.size();
        }
        break;
      case State::kData: {
        const size_t take = static_cast<size_t>(std::min<uint64_t>(left_, size - in));
        // The size came with bytes that are gone: its line was split, or this is the rest of a chunk.
        if (framed && !head_sent_) result.before = ChunkHead(Promise(take), &head_room_);
        keep(take);
        result.payload += take;
        left_ -= take;
        if (left_ == 0) state_ = State::kDataCr;
        if (framed) promised_ -= take;
        if (framed && promised_ == 0 && left_ > 0) {
          head_sent_ = false;
          result.after = kChunkEnd;
        }
        break;
      }
      case State::kDataCr:
        if (c != '\r') return refuse("a chunk that does not end in CRLF");
        state_ = State::kDataLf;
        end_of_chunk();
        break;
      case State::kDataLf:
        if (c != '\n') return refuse("a chunk that does not end in CRLF");
        state_ = State::kSize;
        end_of_chunk();
        head_sent_ = false;
        break;
      case State::kTrailer:
        if (c == '\r') {
          state_ = trailer_line_.empty() ? State::kEndLf : State::kTrailerLf;
        } else if (!IsText(c) || (trailer_line_.empty() && (c == ' ' || c == '\t'))) {
          return refuse("an invalid trailer field");
        } else if (++trailer_bytes_ > kTrailerBytesMax) {
          return refuse("trailer fields that are too long");
        } else {
          trailer_line_.push_back(c);
        }
        ++in;
        break;
      case State::kTrailerLf:
        if (c != '\n') return refuse("an invalid trailer field");
        if (!EndTrailerLine()) return end(true);
        ++in;
        state_ = State::kTrailer;
        break;
      case State::kEndLf:
        if (c != '\n') return refuse("a body that does not end in CRLF");
        ++in;
        done_ = true;
        if (framed) result.after = kLastChunk;
        break;
    }
  }
  return end(false);
}

std::string_view ChunkHead(size_t bytes, std::array<char, 20>* room) {
  const auto [end, error] = std::to_chars(room->data(), room->data() + 16, bytes, 16);
  (void)error;  // 16 digits hold any size
  end[0] = '\r';
  end[1] = '\n';
  return {room->data(), static_cast<size_t>(end + 2 - room->data())};
}

}  // namespace gateway::dataplane::http1
