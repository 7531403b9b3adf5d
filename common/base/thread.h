// How threads are started: with signals blocked, a name, and a priority.
#ifndef GATEWAY_COMMON_BASE_THREAD_H_
#define GATEWAY_COMMON_BASE_THREAD_H_

#include <functional>
#include <string>
#include <thread>

namespace gateway {

enum class ThreadPriority {
  kServing,     // inherited from the starting thread
  kBackground,  // kBackgroundNice above the main thread's: serving threads go first
};

// When serving threads would use a whole core, a background thread still gets a tenth (sched(7): each step of nice is a
// factor of 1.25), so that policy changes are applied under overload too.
constexpr int kBackgroundNice = 10;

// Runs `run` on a thread with all signals blocked (the main thread handles them) and a name for `top -H` (15 bytes; the
// rest is cut). A compilation in the background delays a worker that wakes less often by the rest of a time slice, some
// 4 ms, if no core is free. On Linux, nice belongs to a thread and is inherited by the threads that it starts; most of
// gRPC's are started in the background. Throws std::system_error if no thread can be started.
std::thread StartThread(std::string name, ThreadPriority priority, std::function<void()> run);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_THREAD_H_
