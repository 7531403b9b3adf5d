// Shared by soak and overload: services as processes, and measurements of a process from outside.
#ifndef GATEWAY_TESTS_SOAK_STAGE_H_
#define GATEWAY_TESTS_SOAK_STAGE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "tests/fixtures/process.h"

namespace gateway::soak {

// A process `soak upstream`, on a port that stays the same over restarts. Not thread-safe.
class Service {
 public:
  Service();
  void Start();  // returns when it serves; throws std::runtime_error if it does not
  void Kill() { process_.reset(); }
  void Signal(int signal) { process_->Signal(signal); }
  std::string address() const;

 private:
  uint16_t port_;
  std::unique_ptr<fixtures::Process> process_;
};

struct Usage {
  int64_t rss_kib = 0;
  int descriptors = 0;
  double cpu_seconds = 0;
};
Usage UsageOf(pid_t pid);

// Waits for `time`. False: the user interrupted it (SIGINT, SIGTERM).
bool WaitUnlessStopped(std::chrono::milliseconds time);
void CatchStop();

// Exit code 0: every limit held.
int RunOverload(const std::string& only);

}  // namespace gateway::soak

#endif  // GATEWAY_TESTS_SOAK_STAGE_H_
