// Headers of HTTP/1.1 messages, written.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_WRITER_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_WRITER_H_

#include <charconv>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "common/policy/snapshot.h"
#include "dataplane/net/buffer_pool.h"

namespace gateway::dataplane::http1 {

// Writes into space for everything: the caller knows a bound.
class HeadWriter {
 public:
  explicit HeadWriter(char* at) : at_(at) {}

  HeadWriter& operator<<(std::string_view text) {
    std::memcpy(at_, text.data(), text.size());
    at_ += text.size();
    return *this;
  }
  HeadWriter& operator<<(uint64_t number) {
    at_ = std::to_chars(at_, at_ + 20, number).ptr;
    return *this;
  }
  void Field(std::string_view name, std::string_view value) { *this << name << ": " << value << "\r\n"; }
  void Fields(std::span<const FieldView> fields) {
    for (const FieldView& field : fields) Field(field.name, field.value);
  }
  // The end of what was written. Where others write; MoveTo says how far they came.
  char* at() const { return at_; }
  void MoveTo(char* end) { at_ = end; }

 private:
  char* at_;
};

// What Fields writes.
inline size_t FieldBytes(std::span<const FieldView> fields) {
  size_t bytes = 0;
  for (const FieldView& field : fields) bytes += field.name.size() + field.value.size() + 4;
  return bytes;
}

// Room for `bytes` in `out`, which is empty or a block of `pool`. False: the budget is spent.
inline bool MakeRoom(BufferPool* pool, Buffer* out, size_t bytes) {
  if (!*out) *out = pool->Acquire(BufferPool::kSmall);
  return *out && (out->room() >= bytes || (bytes <= BufferPool::kSizes.back() && pool->Grow(out, bytes)));
}

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_HEAD_WRITER_H_
