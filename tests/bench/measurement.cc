#include "tests/bench/measurement.h"

#include <sys/resource.h>
#include <time.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>

namespace gateway::bench {

int64_t NowNs() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

std::string Histogram::Json() const {
  std::array<char, 160> text{};
  (void)std::snprintf(text.data(), text.size(),
                      R"({"p50": %.1f, "p90": %.1f, "p99": %.1f, "p999": %.1f, "max": %.1f, "count": %)" PRIu64 "}",
                      Micros(0.5), Micros(0.9), Micros(0.99), Micros(0.999), static_cast<double>(max_) / 1e3, count_);
  return text.data();
}

Usage UsageOf(const std::vector<int>& pids) {
  Usage usage;
  for (const int pid : pids) {
    const std::string folder = "/proc/" + std::to_string(pid);
    std::error_code error;
    for (const auto& task : std::filesystem::directory_iterator(folder + "/task", error)) {
      uint64_t running_ns = 0;  // finer than the clock ticks of /proc/PID/stat, same sum
      std::ifstream(task.path() / "schedstat") >> running_ns;
      usage.cpu_seconds += static_cast<double>(running_ns) / 1e9;
    }
    std::ifstream memory(folder + "/smaps_rollup");  // exact; statm may lag behind
    for (std::string word; memory >> word;) {
      uint64_t kib = 0;
      if (word == "Rss:" && memory >> kib) usage.rss_bytes += kib * 1024;
    }
  }
  return usage;
}

double OwnCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

}  // namespace gateway::bench
