// The main thread's loop while a data plane runs: it waits for signals and events and watches the workers.
#ifndef GATEWAY_DATAPLANE_SERVER_SIGNAL_LOOP_H_
#define GATEWAY_DATAPLANE_SERVER_SIGNAL_LOOP_H_

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "dataplane/server/tls_listeners.h"
#include "dataplane/server/watchdog.h"
#include "dataplane/server/worker.h"
#include "dataplane/telemetry/access_log.h"

namespace gateway::dataplane {

// SIGTERM and SIGINT end a wait; SIGHUP and SIGUSR1 read certificates again and reopen the access log; SIGUSR2 is
// Wake's own. Lives on the thread that makes it, before any other thread is started: all of them inherit its signal
// mask.
class SignalLoop {
 public:
  enum class End { kDone, kDeadline, kSignal };
  static constexpr std::chrono::milliseconds kWatchInterval{250};

  SignalLoop();
  SignalLoop(const SignalLoop&) = delete;
  SignalLoop& operator=(const SignalLoop&) = delete;

  // From here on each wait also watches `workers` and the files of `tls`, and reloads read those again and reopen `log`
  // (may be null).
  void LookAfter(const std::vector<std::unique_ptr<Worker>>* workers, Watchdog* watchdog, AccessLog* log,
                 TlsListeners* tls);

  // Until `done` (asked after each Wake, and every `interval` at least), the deadline, or a signal to end.
  End Until(TimePoint deadline, const std::function<bool()>& done, std::chrono::milliseconds interval = kWatchInterval);
  // Any thread.
  void Wake() { pthread_kill(self_, kWake); }

  // From here on SIGTERM and SIGINT end the process at once, by their default action. The others stay blocked: their
  // default action would end it too.
  void LetSignalsEnd();

 private:
  static constexpr int kWake = SIGUSR2;

  static constexpr std::chrono::milliseconds kRefreshInterval{1000};  // how often files of certificates are looked at

  void Reload(const char* signal);
  void RefreshTls(bool forced);
  void Watch();

  const pthread_t self_;
  sigset_t signals_;
  const std::vector<std::unique_ptr<Worker>>* workers_ = nullptr;
  Watchdog* watchdog_ = nullptr;
  AccessLog* log_ = nullptr;
  TlsListeners* tls_ = nullptr;
  TimePoint refresh_at_{};
  std::vector<TimePoint> turns_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_SIGNAL_LOOP_H_
