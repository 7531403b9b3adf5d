// What a control plane does with signals.
#ifndef GATEWAY_CONTROLPLANE_SERVER_SIGNALS_H_
#define GATEWAY_CONTROLPLANE_SERVER_SIGNALS_H_

#include <signal.h>

#include <functional>

namespace gateway::controlplane {

// SIGTERM and SIGINT end the process, SIGHUP has certificates read again; SIGUSR1 and SIGUSR2 are only logged. Lives on
// the main thread, made before any other thread is: all of them leave the signals to this one.
class Signals {
 public:
  Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // Returns with the first signal to end. From then on a second one ends the process at once. `reload`: of a SIGHUP.
  void AwaitEnd(const std::function<void()>& reload);

 private:
  sigset_t ending_;
  sigset_t handled_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SERVER_SIGNALS_H_
