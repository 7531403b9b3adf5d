// Heads of HTTP/1.1 messages: found, checked and taken apart in place (RFC 9112, RFC 9110).
//
// HeadScanner refuses what servers are known to read differently (bare LF, bare CR, obs-fold, control bytes); what it
// lets through is taken apart line by line, under framing rules that are stricter than the RFC allows recipients to be.
// Every head that is accepted here Boost.Beast's parser reads the same way: tests/fuzz/*_differential_fuzz.cc.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "common/policy/snapshot.h"
#include "dataplane/http/fields.h"
#include "dataplane/proxy/failure.h"

namespace gateway::dataplane::http1 {

inline constexpr size_t kMethodBytesMax = 64;         // longer: 501; the longest registered one has 17
inline constexpr size_t kTargetBytesMax = 16 * 1024;  // longer: 414
inline constexpr size_t kFieldsMax = 200;             // more: 431
inline constexpr size_t kNominatedMax = 32;           // fields that Connection names; more: 400
inline constexpr uint64_t kLengthMax = INT64_MAX;     // of a body; more is no length to who counts in signed numbers

using http::ClassifyField;
using http::FieldKind;

// The framing and the fields of either head. Views point into the buffer that was parsed.
struct Head {
  absl::InlinedVector<FieldView, 24> fields;
  absl::InlinedVector<FieldKind, 24> kinds;  // of each field
  absl::InlinedVector<std::string_view, 4>
      nominated;          // fields that Connection names, but for close, keep-alive, upgrade
  int minor_version = 1;  // 0 or 1: a later one is read as 1 (RFC 9110, section 2.5)
  bool chunked = false;
  bool has_length = false;
  uint64_t length = 0;
  bool close = false;       // Connection: close
  bool keep_alive = false;  // Connection: keep-alive
  bool upgrade = false;     // Connection: upgrade
  size_t bytes = 0;

  // Empty again, for the next head.
  void Clear() {
    fields.clear();
    kinds.clear();
    nominated.clear();
    minor_version = 1;
    chunked = has_length = close = keep_alive = upgrade = false;
    length = bytes = 0;
  }

  // Whether it asks for, or agrees to, a change to WebSocket (RFC 9110, section 7.8; RFC 6455, section 4).
  bool NamesWebSocket() const;
  // Whether Connection takes this field away with it. Host, Content-Length, Authorization and the forwarding fields it
  // can't.
  bool Nominates(std::string_view name) const;
};

struct RequestHead : Head {
  std::string_view method;
  std::string_view target;  // as sent
  std::string_view path;    // of the target, as sent; "*" in asterisk form
  std::string_view query;   // without '?'
  bool has_query = false;
  std::string_view host;  // of an absolute-form target, else of Host; with port, as sent; empty: none (HTTP/1.0)
  bool expect_continue = false;
  bool secure_target = false;            // absolute form, with https
  std::optional<uint64_t> max_forwards;  // of OPTIONS (RFC 9110, section 7.6.2)

  bool HasBody() const { return chunked || length > 0; }
  // Whether this connection may carry another request after this one.
  bool Persistent() const { return minor_version == 0 ? keep_alive && !close : !close; }
};

struct ResponseHead : Head {
  int status = 0;
  std::string_view phrase;
  bool Persistent() const { return minor_version == 0 ? keep_alive && !close : !close; }
};

// Why a head is refused. `detail` is a constant, for the log.
struct HeadError {
  Reason reason = Reason::kNone;
  const char* detail = "";
  explicit operator bool() const { return reason != Reason::kNone; }
};

// Finds the end of a head in bytes that arrive bit by bit; sees each byte once. Start with a fresh one for each head.
// Refuses a first line that is none of HTTP/x.y as soon as it is there: what follows it may never come.
class HeadScanner {
 public:
  enum class Result : uint8_t { kMore, kComplete, kRefused };
  // `data` begins at the head's first byte and only grows between two calls.
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

// `head` is what the scanner found. On an error the head is unspecified, but for method and target where they could be
// read.
HeadError ParseRequestHead(std::string_view head, RequestHead* out);
HeadError ParseResponseHead(std::string_view head, ResponseHead* out);

// Whether `host` is uri-host [":" port] (RFC 3986, section 3.2.2), no userinfo.
bool IsValidHost(std::string_view host);

bool IsToken(std::string_view text);

// Without the spaces and tabs around it (OWS).
std::string_view Trim(std::string_view text);

// RFC 9110, section 9.2.2, of the registered methods.
bool IsIdempotent(std::string_view method);

// Of equal length. (The two below are asked of each field of a head: nearly all differ in length already.)
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
