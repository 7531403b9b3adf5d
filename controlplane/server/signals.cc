#include "controlplane/server/signals.h"

#include <pthread.h>
#include <unistd.h>

#include <thread>

#include "spdlog/spdlog.h"

namespace gateway::controlplane {

Signals::Signals() {
  sigemptyset(&ending_);
  sigaddset(&ending_, SIGTERM);
  sigaddset(&ending_, SIGINT);
  handled_ = ending_;
  for (const int each : {SIGHUP, SIGUSR1, SIGUSR2}) sigaddset(&handled_, each);
  pthread_sigmask(SIG_BLOCK, &handled_, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // past a limit of file size, writes fail like on a full disk
}

void Signals::AwaitEnd(const std::function<void()>& reload) {
  int received = 0;
  while (true) {
    sigwait(&handled_, &received);
    if (sigismember(&ending_, received) == 1) break;
    if (received == SIGHUP) {
      reload();
    } else {
      spdlog::info("{}: nothing to do", received == SIGUSR1 ? "SIGUSR1" : "SIGUSR2");
    }
  }
  spdlog::info("{}: ending; once more ends at once", received == SIGTERM ? "SIGTERM" : "SIGINT");
  std::thread impatient([ending = ending_] {
    int again = 0;
    sigwait(&ending, &again);
    _exit(128 + again);
  });
  impatient.detach();  // waits for a signal that need not come
}

}  // namespace gateway::controlplane
