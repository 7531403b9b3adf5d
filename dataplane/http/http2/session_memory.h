// Memory of HTTP/2 sessions: nghttp2 allocates a few blocks for each stream and frame, which are recycled here, so that
// a warm request allocates nothing.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_MEMORY_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_MEMORY_H_

#include <nghttp2/nghttp2.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace gateway::dataplane::http2 {

// Freed blocks by size, kept for reuse up to kKeptBytesMax. One worker's, not thread-safe; outlives its sessions.
class SessionMemory {
 public:
  static constexpr size_t kKeptBytesMax = 4 << 20;

  SessionMemory();
  ~SessionMemory();
  SessionMemory(const SessionMemory&) = delete;
  SessionMemory& operator=(const SessionMemory&) = delete;

  // What a session is made with. Valid as long as this is.
  nghttp2_mem* functions() { return &functions_; }

  // As malloc, free and realloc; null where the system has no memory.
  void* Allocate(size_t bytes);
  void Free(void* block);
  void* Reallocate(void* block, size_t bytes);

  size_t kept_bytes() const { return kept_bytes_; }

 private:
  struct Header;  // in front of each block
  struct FreeBlock {
    FreeBlock* next;
  };
  // Multiples of 64 bytes up to 1 KiB, then doubled; the largest but one holds nghttp2's buffer of one frame (16 KiB
  // and a little), the only large block that each session has.
  static constexpr size_t kStep = 64;
  static constexpr size_t kSmallClasses = 16;
  static constexpr std::array<size_t, 5> kLargeClasses = {2048, 4096, 8192, 16 * 1024 + 512, 32 * 1024};
  static constexpr size_t kClasses = kSmallClasses + kLargeClasses.size();

  static size_t ClassOf(size_t bytes);  // kClasses: none is large enough
  static size_t BytesOf(size_t index) {
    return index < kSmallClasses ? (index + 1) * kStep : kLargeClasses[index - kSmallClasses];
  }

  nghttp2_mem functions_;
  std::array<FreeBlock*, kClasses> free_{};
  size_t kept_bytes_ = 0;
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_SESSION_MEMORY_H_
