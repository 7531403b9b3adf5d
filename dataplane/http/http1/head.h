// Headers of HTTP/1.1 messages: found, checked and taken apart in place (RFC 9112, RFC 9110).
//
// HeadScanner refuses what servers are known to read differently (bare LF, bare CR, obs-fold, control bytes); what it
// lets through is taken apart line by line, under framing rules that are stricter than the RFC allows recipients to be.
// Every header that is accepted here Boost.Beast's parser reads the same way: tests/fuzz/*_differential_fuzz.cc.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "common/policy/snapshot.h"
#include "dataplane/http/fields.h"
#include "dataplane/http/message.h"

namespace gateway::dataplane::http1 {

inline constexpr size_t kMethodBytesMax = 64;         // longer: 501; the longest registered one has 17
inline constexpr size_t kTargetBytesMax = 16 * 1024;  // longer: 414
inline constexpr size_t kFieldsMax = 200;             // more: 431
inline constexpr size_t kNominatedMax = 32;           // fields that Connection names; more: 400
inline constexpr uint64_t kLengthMax =
    INT64_MAX;  // of a body; more is not a length for receivers that count in signed numbers

using http::ClassifyField;
using http::FieldKind;

// What a header of HTTP/1 says beside the message itself: how it is framed, and of its connection. Views point into the
// buffer that was parsed.
struct Framing {
  // Fields that Connection names, except close, keep-alive and upgrade. They are kHopByHop in Head::kinds, where
  // Connection can take them away.
  absl::InlinedVector<std::string_view, 4> nominated;
  bool chunked = false;
  bool close = false;       // Connection: close
  bool keep_alive = false;  // Connection: keep-alive
  bool upgrade = false;     // Connection: upgrade

  void Clear() {
    nominated.clear();
    chunked = close = keep_alive = upgrade = false;
  }
};

// A version above 1.1 is read as that (RFC 9110, section 2.5). `bytes` is the header as it was received.
struct RequestHead : http::Request {
  Framing framing;

  // Whether this connection may carry another request after this one.
  bool Persistent() const {
    return version == http::Version::kHttp10 ? framing.keep_alive && !framing.close : !framing.close;
  }
};

struct ResponseHead : http::Response {
  Framing framing;

  void Clear() {
    http::Response::Clear();
    framing.Clear();
  }
  bool Persistent() const {
    return version == http::Version::kHttp10 ? framing.keep_alive && !framing.close : !framing.close;
  }
  // Whether it agrees to a change to WebSocket (RFC 9110, section 7.8; RFC 6455, section 4).
  bool NamesWebSocket() const;
};

// Finds the end of a header in bytes that arrive bit by bit; sees each byte once. Start with a fresh one for each
// header. Refuses a first line that is not HTTP/x.y as soon as it is there: what follows it may never come.
class HeadScanner {
 public:
  enum class Result : uint8_t { kMore, kComplete, kRefused };
  // `data` begins at the header's first byte and only grows between two calls.
  Result Scan(const char* data, size_t size);
  size_t head_bytes() const { return position_; }  // after kComplete: with the empty line
  bool line_seen() const { return line_seen_; }    // the first line is whole
  const char* detail() const { return detail_; }   // after kRefused

 private:
  Result Refuse(const char* detail) {
    detail_ = detail;
    return Result::kRefused;
  }
  size_t position_ = 0;
  size_t line_start_ = 0;
  bool line_seen_ = false;
  const char* detail_ = "";
};

// `head` is what the scanner found. On an error the header is unspecified, except method and target if they could be
// read.
http::Rejection ParseRequestHead(std::string_view head, RequestHead* out);
http::Rejection ParseResponseHead(std::string_view head, ResponseHead* out);

// Whether `host` is uri-host [":" port] (RFC 3986, section 3.2.2), no userinfo.
bool IsValidHost(std::string_view host);

bool IsToken(std::string_view text);

// Whether it is a registered method but for the case of its letters. Methods have a case (RFC 9110, section 9.1), but a
// service that knows none would serve it, past a route of the method itself.
bool IsMisspeltMethod(std::string_view method);

// Without the spaces and tabs around it (OWS).
std::string_view Trim(std::string_view text);

// Of equal length. (The two below are asked of each field of a header: nearly all differ in length already.)
bool BytesEqualIgnoringCase(const char* a, const char* b, size_t size);
bool BytesEqualFolded(const char* name, const char* known, size_t size);

inline bool EqualsIgnoreCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && BytesEqualIgnoringCase(a.data(), b.data(), a.size());
}
// `name` in lower case and with '-' for each '_' is `known`, which is lower case: what services that know fields by
// variables (CGI, WSGI) can't tell apart.
inline bool EqualsFolded(std::string_view name, std::string_view known) {
  return name.size() == known.size() && BytesEqualFolded(name.data(), known.data(), name.size());
}

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_H_
