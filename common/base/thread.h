// How a data plane starts its threads: out of signals' way, with a name, and with a priority.
#ifndef GATEWAY_COMMON_BASE_THREAD_H_
#define GATEWAY_COMMON_BASE_THREAD_H_

#include <functional>
#include <string>
#include <thread>

namespace gateway {

enum class ThreadPriority {
  kServing,     // as the thread that starts it
  kBackground,  // kBackgroundNice above the main thread's: serving threads go first
};

// Of a core that serving threads would take whole, one in the background still gets a tenth (sched(7): each step of
// nice is a factor of 1.25), so that a change of policy comes through under overload too.
constexpr int kBackgroundNice = 10;

// `run` on a thread with all signals blocked (they are the main thread's), under a name for people (`top -H`; 15 bytes
// at most, the rest is cut). Background work delays a worker that wakes less often for the rest of a time slice, some
// 4 ms, if no core is free. On Linux nice belongs to a thread and is inherited by the threads that it starts: gRPC's
// are mostly started in the background. Throws std::system_error if no further thread can be created.
std::thread StartThread(std::string name, ThreadPriority priority, std::function<void()> run);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_THREAD_H_
