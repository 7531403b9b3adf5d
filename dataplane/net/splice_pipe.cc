#include "dataplane/net/splice_pipe.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>

namespace gateway::dataplane {

void SplicePipe::Reset() {
  if (pool_ == nullptr) return;
  const SplicePipePool::Ends ends{read_end_, write_end_};
  if (held_ == 0 && pool_->free_.size() < SplicePipePool::kKeptMax) {
    pool_->free_.push_back(ends);
  } else {
    SplicePipePool::Close(ends);
  }
  --pool_->in_use_;
  pool_->budget_->Give(kBytesMax);
  pool_->bytes_in_use_.Add(-static_cast<int64_t>(kBytesMax));
  pool_ = nullptr;
  read_end_ = write_end_ = -1;
  held_ = 0;
}

SplicePipePool::~SplicePipePool() {
  for (const Ends ends : free_) Close(ends);
}

void SplicePipePool::Close(Ends ends) {
  close(ends.read);
  close(ends.write);
}

SplicePipe SplicePipePool::Acquire() {
  SplicePipe pipe;
  if (in_use_ >= kInUseMax || !budget_->Take(SplicePipe::kBytesMax)) return pipe;
  Ends ends{};
  if (!free_.empty()) {
    ends = free_.back();
    free_.pop_back();
  } else {
    int both[2];
    if (pipe2(both, O_NONBLOCK | O_CLOEXEC) != 0) {
      budget_->Give(SplicePipe::kBytesMax);
      return pipe;
    }
    ends = {both[0], both[1]};
    // It has as many slots as that has pages; the kernel's own 16 suffice if it allows no more.
    (void)fcntl(ends.write, F_SETPIPE_SZ, static_cast<int>(SplicePipe::kBytesMax));
    if (free_.capacity() == 0) free_.reserve(kKeptMax);
  }
  ++in_use_;
  bytes_in_use_.Add(static_cast<int64_t>(SplicePipe::kBytesMax));
  pipe.pool_ = this;
  pipe.read_end_ = ends.read;
  pipe.write_end_ = ends.write;
  return pipe;
}

}  // namespace gateway::dataplane
