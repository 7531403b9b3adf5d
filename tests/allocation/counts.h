// What library/count_allocations.cc, loaded into a program, reports to the test that started it: one page of shared
// memory.
#ifndef GATEWAY_TESTS_ALLOCATION_COUNTS_H_
#define GATEWAY_TESTS_ALLOCATION_COUNTS_H_

#include <array>
#include <atomic>
#include <cstdint>

namespace gateway::fixtures {

// Names the file that the test has filled with sizeof(AllocationCounts) zeros.
inline constexpr char kAllocationCountsVariable[] = "GATEWAY_TEST_ALLOCATION_COUNTS";

struct AllocationCounts {
  static constexpr uint32_t kStacksMax = 16;
  static constexpr uint32_t kDepthMax = 24;

  std::atomic<uint32_t> loaded;         // 1: the library is loaded and counts
  std::atomic<uint64_t> of_workers;     // calls of malloc and its relatives on threads named "worker-..."
  std::atomic<uint64_t> of_others;      // on any other thread
  std::atomic<uintptr_t> program_base;  // load address of the program: subtract it for addr2line
  std::atomic<uint32_t> take_stacks;    // set to 1 by the test: keep stacks from then on
  std::atomic<uint32_t> stacks_taken;
  std::array<std::array<uintptr_t, kDepthMax>, kStacksMax> stacks;  // of workers; 0 after the last
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

}  // namespace gateway::fixtures

#endif  // GATEWAY_TESTS_ALLOCATION_COUNTS_H_
