#include "dataplane/net/buffer_pool.h"

#include <cstring>
#include <new>

namespace gateway::dataplane {

void Buffer::Reset() {
  if (data_ == nullptr) return;
  pool_->Release(data_, capacity_);
  pool_ = nullptr;
  data_ = nullptr;
  capacity_ = begin_ = end_ = 0;
}

void Buffer::Compact() {
  if (begin_ == 0) return;
  std::memmove(data_, data_ + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
}

BufferPool::~BufferPool() { GiveUpFree(); }

void BufferPool::GiveUpFree() {
  for (size_t i = 0; i < free_.size(); ++i) {
    for (char* block : free_[i]) {
      ::operator delete(block);
      budget_->Give(kSizes[i]);
    }
    free_[i].clear();
  }
}

size_t BufferPool::IndexOf(size_t bytes) {
  size_t index = 0;
  while (index + 1 < kSizes.size() && kSizes[index] < bytes) ++index;
  return index;
}

Buffer BufferPool::Acquire(size_t bytes) {
  const size_t index = IndexOf(bytes);
  auto& free = free_[index];
  Buffer buffer;
  if (!free.empty()) {
    buffer.data_ = free.back();
    free.pop_back();
  } else {
    if (!budget_->Take(kSizes[index])) {
      // What this worker keeps in other sizes counts too.
      GiveUpFree();
      if (!budget_->Take(kSizes[index])) return buffer;
    }
    buffer.data_ = static_cast<char*>(::operator new(kSizes[index]));
    if (free.capacity() == 0) free.reserve(kKeptMax[index]);
  }
  buffer.pool_ = this;
  buffer.capacity_ = kSizes[index];
  in_use_.Add(static_cast<int64_t>(kSizes[index]));
  return buffer;
}

bool BufferPool::Grow(Buffer* buffer, size_t bytes) {
  Buffer larger = Acquire(bytes);
  if (!larger) return false;
  std::memcpy(larger.data_, buffer->data(), buffer->size());
  larger.end_ = buffer->size();
  *buffer = std::move(larger);
  return true;
}

void BufferPool::Shrink(Buffer* buffer) {
  if (IndexOf(buffer->size()) < IndexOf(buffer->capacity())) (void)Grow(buffer, buffer->size());  // else it stays
}

void BufferPool::Release(char* data, size_t capacity) {
  const size_t index = IndexOf(capacity);
  in_use_.Add(-static_cast<int64_t>(capacity));
  if (free_[index].size() < kKeptMax[index] && !budget_->scarce()) {
    free_[index].push_back(data);
    return;
  }
  ::operator delete(data);
  budget_->Give(capacity);
}

}  // namespace gateway::dataplane
