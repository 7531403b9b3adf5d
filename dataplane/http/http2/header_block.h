// The fields of one HTTP/2 header section as they come out of HPACK, and the message that they make (RFC 9113, section
// 8).
//
// Fields are checked as strictly as those of HTTP/1.1 (http1/head.h): what is accepted here reads the same after it was
// written as HTTP/1.1.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_HEADER_BLOCK_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_HEADER_BLOCK_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/container/inlined_vector.h"
#include "dataplane/http/message.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"

namespace gateway::dataplane::http2 {

// Owns the bytes of names and values: a few hundred of them in itself, more in a buffer of the pool. Belongs to a
// stream; reused by the next one.
class HeaderBlock {
 public:
  static constexpr size_t kInlineBytes = 1024;
  static constexpr size_t kFieldsMax = 200;  // as of HTTP/1.1; pseudo-header fields come on top
  // RFC 9113, section 6.5.2: what a field counts besides its bytes.
  static constexpr size_t kFieldOverhead = 32;

  // Empty again; gives its buffer back.
  void Clear();

  enum class Added : uint8_t {
    kYes,
    kTooLarge,  // the list is longer than `list_bytes_max`, or has more than kFieldsMax fields
    kNoMemory,  // the buffer budget is spent
  };
  // Copies a field. `list_bytes_max`: of all fields with kFieldOverhead each; at most 1 MiB.
  Added Add(std::string_view name, std::string_view value, size_t list_bytes_max, BufferPool* pool);

  size_t size() const { return entries_.size(); }
  // With kFieldOverhead for each field, those that were not kept included.
  size_t list_bytes() const { return list_bytes_; }
  // Valid until the next Add or Clear.
  std::string_view name(size_t i) const { return {data() + entries_[i].at, entries_[i].name_bytes}; }
  std::string_view value(size_t i) const {
    return {data() + entries_[i].at + entries_[i].name_bytes, entries_[i].value_bytes};
  }

  // Copies `bytes` behind the fields, as no field. Moves what views point to. False: the buffer budget is spent.
  bool Append(std::string_view bytes, BufferPool* pool);
  std::string_view Appended(size_t from) const { return {data() + from, bytes_ - from}; }
  size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    uint32_t at;
    uint32_t name_bytes;
    uint32_t value_bytes;
  };
  const char* data() const { return buffer_ ? buffer_.data() : inline_.data(); }
  bool Reserve(size_t more, BufferPool* pool);

  std::array<char, kInlineBytes> inline_;
  Buffer buffer_;
  size_t bytes_ = 0;
  size_t list_bytes_ = 0;
  absl::InlinedVector<Entry, 32> entries_;
};

// Makes the request of a header section that has come whole. Views point into `block`, which may get further bytes
// (cookies are joined). `ended`: the stream ends with it, there is no body. On a rejection `out` is unspecified, except
// method and target if they could be read. Extended CONNECT (RFC 8441) for WebSocket is a GET with `protocol`.
http::Rejection MakeRequest(HeaderBlock* block, bool ended, BufferPool* pool, http::Request* out);

// Makes the response of a header section that has come whole (RFC 9113, section 8.3.2). Views point into `block`.
// `to_head`: the request was a HEAD; `ended` as above. Of a rejection `detail` counts alone. A 101 is rejected: there
// is none in HTTP/2.
http::Rejection MakeResponse(const HeaderBlock& block, bool to_head, bool ended, http::Response* out);

// Whether fields may stand behind a request's body: the rules are those of chunked bodies. `detail` says what is wrong.
bool CheckTrailers(const HeaderBlock& block, const char** detail);

// The same of a response, whose forbidden trailers are left out later: whether all of them are fields.
bool CheckResponseTrailers(const HeaderBlock& block, const char** detail);

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_HEADER_BLOCK_H_
