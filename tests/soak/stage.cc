#include "tests/soak/stage.h"

#include <dirent.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "common/base/text.h"
#include "tests/fixtures/ports.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::soak {
namespace {

std::atomic<bool> stopped{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // a signal handler writes it

}  // namespace

Service::Service() : port_(fixtures::FreePort()) { Start(); }

void Service::Start() {
  process_ = std::make_unique<fixtures::Process>(
      std::vector<std::string>{fixtures::BinaryPath("soak"), "upstream", std::to_string(port_)});
  if (!process_->WaitForLine("upstream ready")) {
    throw std::runtime_error("a service did not start: " + process_->output());
  }
}

std::string Service::address() const { return Concat("127.0.0.1:", port_); }

Usage UsageOf(pid_t pid) {
  Usage usage;
  std::ifstream status(Concat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) usage.rss_kib = std::stoll(line.substr(6));
  }
  if (DIR* directory = opendir(Concat("/proc/", pid, "/fd").c_str())) {
    while (readdir(directory) != nullptr) ++usage.descriptors;
    closedir(directory);
    usage.descriptors -= 2;  // . and ..
  }
  std::ifstream stat(Concat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(stat, line);
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;  // up to utime, the 14th (proc(5))
  double user = 0, system = 0;
  fields >> user >> system;
  usage.cpu_seconds = (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  return usage;
}

bool WaitUnlessStopped(std::chrono::milliseconds time) {
  return !fixtures::WaitFor([] { return stopped.load(); }, time);
}

void CatchStop() {
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, [](int) { stopped = true; });
}

}  // namespace gateway::soak
