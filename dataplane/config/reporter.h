// What a data plane reports about itself on the configuration stream (v1::Report).
#ifndef GATEWAY_DATAPLANE_CONFIG_REPORTER_H_
#define GATEWAY_DATAPLANE_CONFIG_REPORTER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "common/base/time.h"
#include "dataplane/state/runtime_state.h"
#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// Collects reports from the runtime state; only those with news are sent. One thread's; never reads a clock.
class Reporter {
 public:
  static constexpr int kEntriesMax = 10'000;       // of each list
  static constexpr size_t kBytesMax = 768u << 10;  // the control plane takes 1 MiB
  static constexpr size_t kBusyServicesMax = 1'000;
  static constexpr size_t kSidesBytesMax = 384u << 10;         // of the routes that are watched by their sides
  static constexpr std::chrono::seconds kTrafficInterval{10};  // over which requests of services are counted

  // `runtime` must outlive it. `redis_away`: whether limits of scope redis use their on_unavailable; null: they do.
  Reporter(const RuntimeState* runtime, std::function<bool()> redis_away)
      : runtime_(runtime), redis_away_(std::move(redis_away)) {}

  // What the configuration thread knows.
  struct Facts {
    uint64_t operations_version = 0;  // of this stream; 0: none has arrived
    v1::LoggingSection::Level log_level = v1::LoggingSection::LEVEL_UNSPECIFIED;
    bool drained = false;
  };

  // A stream starts: it has seen no report.
  void Restart() { last_.clear(); }
  // The report of `now`; empty if it says what the last one said.
  std::optional<v1::DataPlaneMessage> Next(const Facts& facts, TimePoint now);

 private:
  struct Traffic {
    uint64_t total = 0;   // requests
    uint64_t recent = 0;  // of the last kTrafficInterval, or what is left of earlier ones
  };
  using Service = std::pair<std::string, std::string>;  // datacenter, name

  void CountTraffic(TimePoint now);
  v1::Report Make(const Facts& facts, TimePoint now) const;
  void AddTraffic(v1::Report* report) const;
  void AddWatched(v1::Report* report) const;
  void AddWatchedSides(v1::Report* report) const;

  const RuntimeState* const runtime_;
  const std::function<bool()> redis_away_;
  std::string last_;  // of this stream, as sent
  std::map<Service, Traffic> traffic_;
  TimePoint traffic_at_{};
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_REPORTER_H_
