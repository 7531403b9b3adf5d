#include "dataplane/http/http2/header_block.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/random/random.h"
#include "common/base/base64.h"
#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http2 {
namespace {

using http::FieldKind;
using http::Rejection;
using http::Request;

// A byte that may stand in a value: no control but the tab (RFC 9110, section 5.5).
bool IsText(char c) { return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f); }

// Names are tokens in lower case (RFC 9113, section 8.2.1).
bool IsName(std::string_view name) {
  return http1::IsToken(name) && std::none_of(name.begin(), name.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

bool IsValue(std::string_view value) {
  return http1::Trim(value).size() == value.size() && std::all_of(value.begin(), value.end(), IsText);
}

// What the pseudo-header fields say (RFC 9113, section 8.3.1; RFC 8441, section 4).
struct PseudoFields {
  std::optional<std::string_view> method, scheme, authority, path, protocol;

  // False: unknown, or there twice.
  bool Set(std::string_view name, std::string_view value) {
    std::optional<std::string_view>* const field = name == ":method"      ? &method
                                                   : name == ":scheme"    ? &scheme
                                                   : name == ":authority" ? &authority
                                                   : name == ":path"      ? &path
                                                   : name == ":protocol"  ? &protocol
                                                                          : nullptr;
    if (field == nullptr || *field) return false;
    *field = value;
    return true;
  }
};

Rejection Malformed(const char* detail) { return {Reason::kBadRequest, detail}; }

void AddField(http::Head* out, std::string_view name, std::string_view value, FieldKind kind) {
  out->fields.push_back({name, value});
  out->kinds.push_back(kind);
  out->bytes += name.size() + value.size() + 4;
}

Rejection ReadLength(std::string_view value, http::Head* out) {
  if (out->length) return Malformed("more than one Content-Length");
  const char* const end = value.data() + value.size();
  uint64_t length = 0;
  const auto [stop, code] = std::from_chars(value.data(), end, length);
  // from_chars takes no sign for an unsigned number, and no leading space.
  if (value.empty() || code != std::errc() || stop != end || length > http1::kLengthMax) {
    return Malformed("Content-Length is not a number");
  }
  out->length = length;
  return {};
}

// `host` null: of a response.
Rejection ReadField(std::string_view name, std::string_view value, http::Head* out,
                    std::optional<std::string_view>* host) {
  const FieldKind kind = http::ClassifyField(name);
  switch (kind) {
    case FieldKind::kConnection:
    case FieldKind::kTransferEncoding:
    case FieldKind::kUpgrade:
      return Malformed("a field of HTTP/1.1 connections");
    case FieldKind::kHopByHop:
      if (name == "keep-alive" || name == "proxy-connection" || name == "http2-settings") {
        return Malformed("a field of HTTP/1.1 connections");
      }
      if (name == "te" && !http1::EqualsIgnoreCase(value, "trailers")) return Malformed("TE is not trailers");
      break;
    case FieldKind::kContentLength:
      if (const Rejection error = ReadLength(value, out)) return error;
      break;
    case FieldKind::kHost:
      if (host == nullptr) break;
      if (*host) return Malformed("more than one Host");
      *host = value;
      return {};  // is sent first, whatever its origin
    default:
      break;
  }
  AddField(out, name, value, kind);
  return {};
}

// Joins what HTTP/2 may split (RFC 9113, section 8.2.3): servers of HTTP/1.1 read one field only.
bool JoinCookies(HeaderBlock* block, BufferPool* pool, size_t* at) {
  size_t count = 0;
  for (size_t i = 0; i < block->size(); ++i) count += block->name(i) == "cookie" ? 1 : 0;
  *at = 0;
  if (count < 2) return true;
  *at = block->bytes();
  bool first = true;
  for (size_t i = 0; i < block->size(); ++i) {
    if (block->name(i) != "cookie") continue;
    if (!first && !block->Append("; ", pool)) return false;
    first = false;
    // (Append may move the bytes that a view of them points to.)
    char piece[256];
    for (size_t from = 0; from < block->value(i).size(); from += sizeof piece) {
      const size_t length = block->value(i).copy(piece, sizeof piece, from);
      if (!block->Append({piece, length}, pool)) return false;
    }
  }
  return true;
}

// Extended CONNECT comes without the nonce that servers of HTTP/1.1 ask for (RFC 8441, section 5; RFC 6455, section
// 4.1). Behind the fields; `*at` is 0 if there is no need.
bool AppendWebSocketKey(HeaderBlock* block, BufferPool* pool, size_t* at) {
  *at = 0;
  bool extended = false;
  for (size_t i = 0; i < block->size(); ++i) {
    if (block->name(i) == ":protocol") extended = true;
    if (block->name(i) == "sec-websocket-key") return true;
  }
  if (!extended) return true;
  static thread_local absl::InsecureBitGen random;
  std::array<char, 16> nonce;
  for (char& each : nonce) each = static_cast<char>(absl::Uniform<uint8_t>(random));
  *at = block->bytes();
  return block->Append(EncodeBase64(Base64::kStandard, {nonce.data(), nonce.size()}) + "==", pool);
}

Rejection ReadTarget(const PseudoFields& pseudo, Request* out) {
  const std::string_view path = *pseudo.path;
  if (path.size() > http1::kTargetBytesMax) return {Reason::kTargetTooLong, "the target is too long"};
  out->target = path;
  if (path == "*") {
    if (out->method != "OPTIONS") return Malformed("asterisk form is for OPTIONS only");
    out->path = path;
    return {};
  }
  if (path.empty() || path[0] != '/') return Malformed(":path does not begin with a slash");
  for (const char c : path) {
    if (c <= ' ' || c == 0x7f) return Malformed("an invalid byte in the target");  // (above 0x7f it is negative)
    if (c == '#') return Malformed("a fragment in the target");
  }
  const size_t question = path.find('?');
  out->path = path.substr(0, question);
  if (question != std::string_view::npos) {
    out->has_query = true;
    out->query = path.substr(question + 1);
  }
  return {};
}

Rejection ReadAuthority(const PseudoFields& pseudo, const std::optional<std::string_view>& host, Request* out) {
  if (!pseudo.authority && !host) return Malformed("neither :authority nor Host");
  out->authority = pseudo.authority ? *pseudo.authority : *host;
  if (!http1::IsValidHost(out->authority)) return Malformed(":authority is not a host");
  if (host && !http1::EqualsIgnoreCase(*host, out->authority)) return Malformed(":authority and Host differ");
  out->fields.insert(out->fields.begin(), {"host", out->authority});
  out->kinds.insert(out->kinds.begin(), FieldKind::kHost);
  return {};
}

Rejection ReadMethod(const PseudoFields& pseudo, bool ended, Request* out) {
  out->method = *pseudo.method;
  if (!http1::IsToken(out->method)) return Malformed(":method is not a token");
  if (out->method.size() > http1::kMethodBytesMax) return {Reason::kNotImplemented, "the method is too long"};
  if (http1::IsMisspeltMethod(out->method)) return {Reason::kBadRequest, "a known method with lower-case letters"};
  if (pseudo.protocol) {
    // Extended CONNECT; nghttp2 has seen that there are :scheme and :path.
    if (out->method != "CONNECT") return Malformed(":protocol without CONNECT");
    if (!http1::EqualsIgnoreCase(*pseudo.protocol, "websocket")) {
      return {Reason::kNotImplemented, "a :protocol other than websocket"};
    }
    if (ended || out->length) return Malformed("extended CONNECT with the end of the stream or a length");
    out->method = "GET";
    out->protocol = "websocket";
    out->has_body = false;  // what follows is the tunnel
  }
  if (out->method == "CONNECT" || out->method == "TRACE") {
    return {Reason::kMethodNotAllowed, "CONNECT and TRACE are not served"};
  }
  return {};
}

// RFC 9110, section 10.1.1: a list, of which 100-continue is the only member that anybody knows. Section 7.6.2: only
// OPTIONS is counted down; what is not a number is passed on as it is.
Rejection ReadExpectations(Request* out) {
  for (size_t i = 0; i < out->fields.size(); ++i) {
    if (out->kinds[i] == FieldKind::kMaxForwards && out->method == "OPTIONS") {
      const std::string_view value = out->fields[i].value;
      uint64_t left = 0;
      const auto [stop, code] = std::from_chars(value.data(), value.data() + value.size(), left);
      if (code == std::errc() && stop == value.data() + value.size()) {
        out->max_forwards = std::min(left, out->max_forwards.value_or(left));
      }
    }
    if (out->kinds[i] != FieldKind::kExpect) continue;
    std::string_view list = out->fields[i].value;
    while (!list.empty()) {
      const size_t comma = std::min(list.find(','), list.size());
      const std::string_view each = http1::Trim(list.substr(0, comma));
      list.remove_prefix(std::min(comma + 1, list.size()));
      if (each.empty()) continue;
      if (!http1::EqualsIgnoreCase(each, "100-continue")) {
        return {Reason::kExpectationFailed, "an unknown expectation"};
      }
      out->expect_continue = out->has_body;
    }
  }
  return {};
}

}  // namespace

void HeaderBlock::Clear() {
  entries_.clear();
  buffer_.Reset();
  bytes_ = list_bytes_ = 0;
}

bool HeaderBlock::Reserve(size_t more, BufferPool* pool) {
  const size_t needed = bytes_ + more;
  if (needed <= (buffer_ ? buffer_.capacity() : kInlineBytes)) return true;
  if (buffer_) return pool->Grow(&buffer_, needed);
  buffer_ = pool->Acquire(needed);
  if (!buffer_) return false;
  std::memcpy(buffer_.space(), inline_.data(), bytes_);
  buffer_.Filled(bytes_);
  return true;
}

bool HeaderBlock::Append(std::string_view bytes, BufferPool* pool) {
  if (bytes.empty()) return true;
  if (!Reserve(bytes.size(), pool)) return false;
  if (buffer_) {
    std::memcpy(buffer_.space(), bytes.data(), bytes.size());
    buffer_.Filled(bytes.size());
  } else {
    std::memcpy(inline_.data() + bytes_, bytes.data(), bytes.size());
  }
  bytes_ += bytes.size();
  return true;
}

HeaderBlock::Added HeaderBlock::Add(std::string_view name, std::string_view value, size_t list_bytes_max,
                                    BufferPool* pool) {
  list_bytes_ += name.size() + value.size() + kFieldOverhead;
  // (Four pseudo-header fields, and :protocol, come on top.)
  if (list_bytes_ > list_bytes_max || entries_.size() >= kFieldsMax + 5) return Added::kTooLarge;
  const auto at = static_cast<uint32_t>(bytes_);
  if (!Append(name, pool) || !Append(value, pool)) return Added::kNoMemory;
  entries_.push_back({at, static_cast<uint32_t>(name.size()), static_cast<uint32_t>(value.size())});
  return Added::kYes;
}

Rejection MakeRequest(HeaderBlock* block, bool ended, BufferPool* pool, Request* out) {
  size_t cookies_at = 0;
  size_t key_at = 0;
  if (!JoinCookies(block, pool, &cookies_at)) return {Reason::kOverloaded, "no room for the cookies"};
  const size_t cookies_end = block->bytes();
  if (!AppendWebSocketKey(block, pool, &key_at)) return {Reason::kOverloaded, "no room for the head"};
  out->version = http::Version::kHttp2;
  out->has_body = !ended;
  PseudoFields pseudo;
  std::optional<std::string_view> host;
  Rejection error;
  bool joined = false;
  bool regular = false;  // a regular field has come
  for (size_t i = 0; i < block->size(); ++i) {
    const std::string_view name = block->name(i);
    std::string_view value = block->value(i);
    if (name.starts_with(':')) {
      if (regular && !error) error = Malformed("a pseudo-header field behind others");
      if (!pseudo.Set(name, value) && !error) error = Malformed("an unknown pseudo-header field, or one twice");
      continue;
    }
    regular = true;
    if (error) continue;  // method and path are still looked for: for the log
    if (cookies_at > 0 && name == "cookie") {
      if (std::exchange(joined, true)) continue;
      value = block->Appended(cookies_at).substr(0, cookies_end - cookies_at);
    }
    if (!IsName(name) || !IsValue(value)) {
      error = Malformed("an invalid field in the head");
    } else if (out->fields.size() >= HeaderBlock::kFieldsMax) {
      error = {Reason::kHeadersTooLarge, "too many fields"};
    } else {
      error = ReadField(name, value, out, &host);
    }
  }
  out->method = pseudo.method.value_or(std::string_view());
  out->target = pseudo.path.value_or(std::string_view());
  if (error) return error;
  if (pseudo.method == "CONNECT" && !pseudo.protocol) {
    return {Reason::kMethodNotAllowed, "CONNECT and TRACE are not served"};
  }
  if (!pseudo.method || !pseudo.scheme || !pseudo.path) return Malformed("a pseudo-header field is missing");
  if (!http1::EqualsIgnoreCase(*pseudo.scheme, "http") && !http1::EqualsIgnoreCase(*pseudo.scheme, "https")) {
    return Malformed(":scheme is neither http nor https");
  }
  out->scheme = pseudo.scheme->size() == 4 ? "http" : "https";
  if (error = ReadMethod(pseudo, ended, out); error) return error;
  if (key_at > 0) AddField(out, "sec-websocket-key", block->Appended(key_at), FieldKind::kOther);
  if (error = ReadTarget(pseudo, out); error) return error;
  if (error = ReadAuthority(pseudo, host, out); error) return error;
  if (ended && out->length.value_or(0) > 0) return Malformed("Content-Length without a body");
  return ReadExpectations(out);
}

Rejection MakeResponse(const HeaderBlock& block, bool to_head, bool ended, http::Response* out) {
  const auto invalid = [](const char* detail) { return Rejection{Reason::kUpstreamInvalid, detail}; };
  out->Clear();
  out->version = http::Version::kHttp2;
  out->status = 0;
  out->phrase = {};
  bool regular = false;
  for (size_t i = 0; i < block.size(); ++i) {
    const std::string_view name = block.name(i);
    const std::string_view value = block.value(i);
    if (name.starts_with(':')) {
      if (regular) return invalid("a pseudo-header field behind others");
      if (name != ":status" || out->status != 0) return invalid("an unknown pseudo-header field, or one twice");
      const auto [stop, code] = std::from_chars(value.data(), value.data() + value.size(), out->status);
      if (value.size() != 3 || code != std::errc() || stop != value.data() + 3 || out->status < 100 ||
          out->status > 599) {
        return invalid("the response has an invalid status");
      }
      continue;
    }
    regular = true;
    if (!IsName(name) || !IsValue(value)) return invalid("an invalid field in the response header");
    if (out->fields.size() >= HeaderBlock::kFieldsMax) return invalid("too many fields in the response header");
    if (const Rejection error = ReadField(name, value, out, nullptr)) return invalid(error.detail);
  }
  if (out->status == 0) return invalid("a response without :status");
  if (out->status == 101) return invalid("a 101 in HTTP/2");
  if (out->status < 200 && ended) return invalid("an interim response ends the stream");
  const bool bodyless = to_head || out->status == 204 || out->status == 304;
  out->has_body = !ended && !bodyless && out->status >= 200;
  if (ended && !bodyless && out->length.value_or(0) > 0) return invalid("Content-Length without a body");
  return {};
}

bool CheckResponseTrailers(const HeaderBlock& block, const char** detail) {
  for (size_t i = 0; i < block.size(); ++i) {
    if (IsName(block.name(i)) && IsValue(block.value(i))) continue;
    *detail = "an invalid trailer field";
    return false;
  }
  return true;
}

bool CheckTrailers(const HeaderBlock& block, const char** detail) {
  if (!CheckResponseTrailers(block, detail)) return false;
  for (size_t i = 0; i < block.size(); ++i) {
    if (http1::IsForbiddenTrailer(block.name(i))) {
      *detail = "a forbidden trailer field";
      return false;
    }
  }
  return true;
}

}  // namespace gateway::dataplane::http2
