// HTTP messages without the bytes of any protocol: what the request path reads and writes. HTTP/1 and HTTP/2 turn their
// own bytes into these and back.
#ifndef GATEWAY_DATAPLANE_HTTP_MESSAGE_H_
#define GATEWAY_DATAPLANE_HTTP_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "common/policy/snapshot.h"
#include "dataplane/http/fields.h"
#include "dataplane/http/reason.h"

namespace gateway::dataplane::http {

enum class Version : uint8_t { kHttp10, kHttp11, kHttp2 };

// What requests and responses have in common, as they were received. Views point into memory of the stream that read
// them; the stream says how long they hold.
//
// Of the fields a stream leaves out none, so that policy sees what was sent, but it classifies each one: `kHopByHop`
// are those that end here, also for being named by a Connection field. Pseudo fields are not among them.
struct Head {
  absl::InlinedVector<FieldView, 24> fields;
  absl::InlinedVector<FieldKind, 24> kinds;  // of each field
  Version version = Version::kHttp11;
  bool has_body = false;           // a body follows; false: the message ends with its header
  std::optional<uint64_t> length;  // announced (Content-Length); also of a response without a body (to HEAD, 304)
  size_t bytes = 0;                // at least what the fields take as text: "name: value\r\n" each

  void Clear() {
    fields.clear();
    kinds.clear();
    version = Version::kHttp11;
    has_body = false;
    length.reset();
    bytes = 0;
  }
  std::span<const FieldView> field_views() const { return {fields.data(), fields.size()}; }
};

struct Request : Head {
  std::string_view method;     // of an extended CONNECT: GET, with `protocol`
  std::string_view scheme;     // "http" or "https" where the request says it; empty: it does not
  std::string_view authority;  // with port, as sent; empty: none (HTTP/1.0)
  std::string_view target;     // as sent, for the log
  std::string_view path;       // of the target, as sent; "*" in asterisk form
  std::string_view query;      // without '?'
  bool has_query = false;
  // "websocket": the client asks to change to it, in a request that may (RFC 6455, section 4.1; RFC 8441). Then
  // Response::status 101 accepts, whatever the protocol writes for it. Empty: nothing of the kind.
  std::string_view protocol;
  bool expect_continue = false;          // it waits for a 100 before it sends its body
  std::optional<uint64_t> max_forwards;  // of OPTIONS (RFC 9110, section 7.6.2)
};

struct Response : Head {
  int status = 0;           // 101: it changes its protocol
  std::string_view phrase;  // empty in HTTP/2
};

// A request or a response on its way out. Views hold during the call that takes it, no longer.
//
// Neither `fields` nor `lines` hold what a protocol says in its own way: Host or :authority, Content-Length,
// Transfer-Encoding, Connection and the other hop-by-hop fields, Upgrade. The stream writes those.
struct OutgoingHead {
  std::span<const FieldView> fields;  // those of the other side that are passed on
  // Those of the gateway, rendered: "Name: value\r\n" each. Names are tokens, values hold no control bytes. HTTP/1
  // copies them; others take them apart with ForEachLine.
  std::string_view lines;
  bool has_body = false;
  std::optional<uint64_t> length;  // unknown with a body: chunks, or DATA frames until the end
};

struct OutgoingRequest : OutgoingHead {
  std::string_view method;
  std::string_view scheme;     // of the upstream connection
  std::string_view authority;  // never empty
  std::string_view path;       // "*" for OPTIONS
  std::string_view query;      // without '?'
  bool has_query = false;
  std::string_view protocol;    // as Request::protocol
  bool takes_trailers = false;  // the client understands them (TE); HTTP/1 drops trailers, and does not say so
};

struct OutgoingResponse : OutgoingHead {
  int status = 0;
  std::string_view phrase;  // for HTTP/1; empty: the registered one
};

// Why a message cannot be read.
struct Rejection {
  Reason reason = Reason::kNone;
  const char* detail = "";  // a constant, for the log
  explicit operator bool() const { return reason != Reason::kNone; }
};

// Calls `take(name, value)` for each of OutgoingHead::lines.
template <typename Take>
void ForEachLine(std::string_view lines, Take take) {
  while (!lines.empty()) {
    const size_t end = lines.find("\r\n");
    const std::string_view line = lines.substr(0, end);
    lines = end == std::string_view::npos ? std::string_view() : lines.substr(end + 2);
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    take(line.substr(0, colon), line.substr(colon + 1 < line.size() && line[colon + 1] == ' ' ? colon + 2 : colon + 1));
  }
}

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_MESSAGE_H_
