#include "common/base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace gateway {
namespace {

constexpr size_t kNameBytesMax = 15;  // prctl(2), PR_SET_NAME

// Relative to the main thread, not to the starting thread, which may be in the background itself. A value above the
// maximum becomes the maximum; lowering the priority needs no privilege.
void GoToBackground() {
  const auto main = static_cast<id_t>(getpid());
  const auto self = static_cast<id_t>(gettid());
  (void)setpriority(PRIO_PROCESS, self, getpriority(PRIO_PROCESS, main) + kBackgroundNice);
}

}  // namespace

std::thread StartThread(std::string name, ThreadPriority priority, std::function<void()> run) {
  name.resize(std::min(name.size(), kNameBytesMax));
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  struct Restore {
    const sigset_t* mask;
    ~Restore() { pthread_sigmask(SIG_SETMASK, mask, nullptr); }
  } const restore{&before};
  return std::thread([name = std::move(name), priority, run = std::move(run)] {
    (void)pthread_setname_np(pthread_self(), name.c_str());
    if (priority == ThreadPriority::kBackground) GoToBackground();
    run();
  });
}

}  // namespace gateway
