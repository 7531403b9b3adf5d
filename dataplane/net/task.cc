#include "dataplane/net/task.h"

#include <array>
#include <vector>

namespace gateway::dataplane {

struct FramePool::Lists {
  std::array<std::vector<void*>, kClasses> free;
  ~Lists() {
    for (auto& list : free) {
      for (void* frame : list) ::operator delete(frame);
    }
  }
};

FramePool::Lists& FramePool::Of() {
  thread_local Lists lists;
  return lists;
}

void* FramePool::Allocate(size_t bytes) {
  const size_t index = (bytes - 1) / kClassBytes;
  if (index >= kClasses) return ::operator new(bytes);
  auto& list = Of().free[index];
  if (list.empty()) return ::operator new((index + 1) * kClassBytes);
  void* frame = list.back();
  list.pop_back();
  return frame;
}

void FramePool::Free(void* frame, size_t bytes) noexcept {
  const size_t index = (bytes - 1) / kClassBytes;
  if (index < kClasses) {
    auto& list = Of().free[index];
    if (list.capacity() == 0) list.reserve(kFreePerClassMax);
    if (list.size() < kFreePerClassMax) {
      list.push_back(frame);
      return;
    }
  }
  ::operator delete(frame);
}

}  // namespace gateway::dataplane
