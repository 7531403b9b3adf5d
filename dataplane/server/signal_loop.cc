#include "dataplane/server/signal_loop.h"

#include <algorithm>
#include <csignal>
#include <utility>

#include "spdlog/spdlog.h"

namespace gateway::dataplane {

using std::chrono::milliseconds;

SignalLoop::SignalLoop() : self_(pthread_self()) {
  sigemptyset(&signals_);
  for (const int each : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, kWake}) sigaddset(&signals_, each);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

void SignalLoop::LookAfter(const std::vector<std::unique_ptr<Worker>>* workers, Watchdog* watchdog, AccessLog* log,
                           TlsListeners* tls) {
  tls_ = tls;
  workers_ = workers;
  watchdog_ = watchdog;
  log_ = log;
}

SignalLoop::End SignalLoop::Until(TimePoint deadline, const std::function<bool()>& done, milliseconds interval) {
  for (;;) {
    if (done()) return End::kDone;
    const TimePoint now = std::chrono::steady_clock::now();
    if (now >= deadline) return End::kDeadline;
    const auto wait = std::min<TimePoint::duration>(deadline - now, interval);
    const timespec left{0, static_cast<long>(std::chrono::nanoseconds(wait).count())};  // below a second
    const int signal = sigtimedwait(&signals_, nullptr, &left);
    Watch();
    if (signal == SIGHUP || signal == SIGUSR1) Reload(signal == SIGHUP ? "SIGHUP" : "SIGUSR1");
    if (signal == SIGTERM || signal == SIGINT) return End::kSignal;
  }
}

void SignalLoop::LetSignalsEnd() {
  sigset_t ending;
  sigemptyset(&ending);
  for (const int each : {SIGTERM, SIGINT}) {
    std::signal(each, SIG_DFL);
    sigaddset(&ending, each);
    sigdelset(&signals_, each);
  }
  pthread_sigmask(SIG_UNBLOCK, &ending, nullptr);
}

// What changes without a restart. The bootstrap file is not read again.
void SignalLoop::Reload(const char* signal) {
  spdlog::info("{}: reading certificates again", signal);
  RefreshTls(true);
  if (log_ == nullptr) return;
  spdlog::info("{}: reopening the access log", signal);
  log_->Reopen();
}

void SignalLoop::RefreshTls(bool forced) {
  if (tls_ == nullptr) return;
  tls_->Refresh(forced, [this](int worker, TlsContexts contexts) {
    (*workers_)[static_cast<size_t>(worker)]->InstallTls(std::move(contexts));
  });
}

void SignalLoop::Watch() {
  if (workers_ == nullptr) return;
  if (const TimePoint now = std::chrono::steady_clock::now(); now >= refresh_at_) {
    RefreshTls(false);
    refresh_at_ = now + kRefreshInterval;
  }
  turns_.clear();
  for (const auto& worker : *workers_) turns_.push_back(worker->loop().last_turn());
  for (const Watchdog::Change& each : watchdog_->Check(std::chrono::steady_clock::now(), turns_)) {
    if (each.stalled) {
      spdlog::error("worker {} is stalled: its loop has not run for {} ms", each.worker, each.standing.count());
    } else {
      spdlog::warn("worker {} turns its loop again, after {} ms", each.worker, each.standing.count());
    }
  }
}

}  // namespace gateway::dataplane
