// The memory through which a body flows: nothing while it is idle, and from 16 to 256 KiB while bytes come. A
// flow that has filled the largest buffer goes through a pipe instead, uncopied, if its bytes are not looked at and
// much of it is still to come.
#ifndef GATEWAY_DATAPLANE_HTTP_FLOW_H_
#define GATEWAY_DATAPLANE_HTTP_FLOW_H_

#include <cstddef>
#include <cstdint>

#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/splice_pipe.h"

namespace gateway::dataplane::http {

// Of one direction of one stream. Holds a buffer or a pipe, or neither.
class Flow {
 public:
  // Shorter rests of a body are copied: a pipe has its cost too.
  static constexpr uint64_t kSplicedBytesMin = 2 * SplicePipe::kBytesMax;

  Flow(BufferPool* buffers, SplicePipePool* pipes) : buffers_(buffers), pipes_(pipes) {}

  // The first buffer's size.
  void Start(size_t bytes) { wanted_ = bytes; }

  // Room for a read, in `pipe` or `buffer`, which is empty. `spliceable`: so many bytes may go through a pipe. False:
  // the budget is spent.
  bool MakeRoom(uint64_t spliceable) {
    if (buffer && buffer.capacity() < wanted_) buffer.Reset();
    if (!pipe && wanted_ == BufferPool::kLarge && spliceable >= kSplicedBytesMin) {
      buffer.Reset();
      pipe = pipes_->Acquire();
    }
    if (!pipe && !buffer) buffer = buffers_->AcquireUpTo(wanted_);
    return pipe || buffer;
  }
  size_t room() const { return pipe ? SplicePipe::kBytesMax : buffer.room(); }

  // Bytes were read into the buffer. Filled to the brim: the next read may take more.
  void Filled(size_t bytes) {
    buffer.Filled(bytes);
    if (bytes == buffer.capacity()) wanted_ = BufferPool::LargerForFlow(buffer.capacity());
  }

  void GiveBack() {
    buffer.Reset();
    pipe.Reset();
  }

  Buffer buffer;
  SplicePipe pipe;

 private:
  BufferPool* const buffers_;
  SplicePipePool* const pipes_;
  size_t wanted_ = BufferPool::kSmall;
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_FLOW_H_
