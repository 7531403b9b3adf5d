// An LD_PRELOAD library: counts the allocations of a program's threads, by thread name, in a page that it shares with
// the test that started the program (counts.h).
//
// libstdc++'s operator new calls malloc, so it is counted too. Memory comes from glibc, through the functions that it
// exports for this purpose.
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tests/allocation/counts.h"

using gateway::fixtures::AllocationCounts;

// NOLINTBEGIN(bugprone-reserved-identifier): glibc's own
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* block, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
}
// NOLINTEND(bugprone-reserved-identifier)

namespace {

AllocationCounts* counts = nullptr;

// backtrace itself may allocate.
__attribute__((tls_model("initial-exec"))) thread_local bool in_backtrace = false;

void TakeStack() {
  const uint32_t at = counts->stacks_taken.fetch_add(1);
  if (at >= AllocationCounts::kStacksMax) return;
  void* frames[AllocationCounts::kDepthMax];
  in_backtrace = true;
  const int depth = backtrace(frames, AllocationCounts::kDepthMax);
  in_backtrace = false;
  for (int i = 0; i < depth; ++i) counts->stacks[at][static_cast<size_t>(i)] = reinterpret_cast<uintptr_t>(frames[i]);
}

void Count() {
  if (counts == nullptr || in_backtrace) return;
  const int saved = errno;
  char name[16] = "";  // of the calling thread, which may be renamed at any time
  prctl(PR_GET_NAME, name);
  if (std::strncmp(name, "worker-", 7) == 0) {
    counts->of_workers.fetch_add(1);
    if (counts->take_stacks.load() != 0) TakeStack();
  } else {
    counts->of_others.fetch_add(1);
  }
  errno = saved;
}

__attribute__((constructor)) void Load() {
  const char* path = getenv(gateway::fixtures::kAllocationCountsVariable);
  const int fd = path == nullptr ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void* page = mmap(nullptr, sizeof(AllocationCounts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (page == MAP_FAILED) return;
  void* frame;
  backtrace(&frame, 1);  // loads the unwinder now
  counts = static_cast<AllocationCounts*>(page);
  // The first object is the program itself.
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        counts->program_base.store(info->dlpi_addr);
        return 1;
      },
      nullptr);
  counts->loaded.store(1);
}

}  // namespace

extern "C" {

void* malloc(size_t bytes) {
  Count();
  return __libc_malloc(bytes);
}

void* calloc(size_t count, size_t bytes) {
  Count();
  return __libc_calloc(count, bytes);
}

void* realloc(void* block, size_t bytes) {
  Count();
  return __libc_realloc(block, bytes);
}

void* memalign(size_t alignment, size_t bytes) {
  Count();
  return __libc_memalign(alignment, bytes);
}

void* aligned_alloc(size_t alignment, size_t bytes) {
  Count();
  return __libc_memalign(alignment, bytes);
}

int posix_memalign(void** block, size_t alignment, size_t bytes) {
  Count();
  void* const made = __libc_memalign(alignment, bytes);
  if (made == nullptr) return ENOMEM;
  *block = made;
  return 0;
}

}  // extern "C"
