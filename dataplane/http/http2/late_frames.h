// What a client may not send, since it has itself closed the stream. nghttp2 forgets streams that are closed, and
// passes over such frames without a word.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_LATE_FRAMES_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_LATE_FRAMES_H_

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gateway::dataplane::http2 {

// RFC 9113, sections 5.1, 5.1.1 and 6.3. Looks at heads of frames alone, as they come. Remembers the last streams that
// the client ended: whatever else comes for a stream that is gone may have been on its way when it was reset.
class LateFrames {
 public:
  static constexpr size_t kRemembered = 32;

  // How many of these bytes are to be taken: all of them, or those before a frame that is wrong, with `*error` set.
  size_t Check(std::string_view bytes, uint32_t* error) {
    size_t at = 0;
    while (at < bytes.size()) {
      if (skip_ > 0) {
        const size_t skipped = std::min(skip_, bytes.size() - at);
        skip_ -= skipped;
        at += skipped;
        continue;
      }
      const size_t begins = at;
      while (head_size_ < head_.size() && at < bytes.size()) head_[head_size_++] = static_cast<uint8_t>(bytes[at++]);
      if (head_size_ < head_.size()) break;
      head_size_ = 0;
      skip_ = size_t{head_[0]} << 16 | size_t{head_[1]} << 8 | head_[2];
      const uint32_t id =
          (uint32_t{head_[5]} & 0x7f) << 24 | uint32_t{head_[6]} << 16 | uint32_t{head_[7]} << 8 | head_[8];
      *error = CheckHead(head_[3], head_[4], id);
      if (*error != NGHTTP2_NO_ERROR) return begins;
    }
    return bytes.size();
  }

 private:
  uint32_t CheckHead(uint8_t type, uint8_t flags, uint32_t id) {
    if (type == NGHTTP2_PRIORITY && id == 0) return NGHTTP2_PROTOCOL_ERROR;
    const bool carries = type == NGHTTP2_HEADERS || type == NGHTTP2_DATA;
    if (id == 0) return NGHTTP2_NO_ERROR;  // nghttp2 knows what of it is wrong
    if (carries && std::find(ended_.begin(), ended_.end(), id) != ended_.end()) return NGHTTP2_STREAM_CLOSED;
    if (type == NGHTTP2_HEADERS) {
      // Those between the last one and this are closed by it.
      if (id >= skipped_from_ && id < skipped_to_) return NGHTTP2_PROTOCOL_ERROR;
      if (id > last_ + 2) {
        skipped_from_ = last_ + 1;
        skipped_to_ = id;
      }
      last_ = std::max(last_, id);
    }
    if (type == NGHTTP2_RST_STREAM || (carries && (flags & NGHTTP2_FLAG_END_STREAM) != 0)) {
      ended_[next_++ % kRemembered] = id;
    }
    return NGHTTP2_NO_ERROR;
  }

  size_t skip_ = NGHTTP2_CLIENT_MAGIC_LEN;  // the preface; then payloads
  std::array<uint8_t, 9> head_{};
  size_t head_size_ = 0;
  std::array<uint32_t, kRemembered> ended_{};
  size_t next_ = 0;
  uint32_t last_ = 0;
  uint32_t skipped_from_ = 0;
  uint32_t skipped_to_ = 0;
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_LATE_FRAMES_H_
