// What is known of each service, and telling it: the catalog for the data planes, the state file, the history.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PUBLICATION_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PUBLICATION_H_

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/thread_pool.hpp"
#include "controlplane/sources/consul/history.h"
#include "controlplane/sources/consul/watch_state.h"

namespace gateway::controlplane {

v1::EndpointSet EmptySet(const EndpointKey& key, v1::EndpointSet::State state);

// Every change of a set goes through Store, which schedules a publication. Belongs to the watcher's thread, except
// current() and history(); has a thread that writes the file, as a slow disk must not delay a publication.
class Publication {
 public:
  static constexpr size_t kFrozenMax = 1'000;

  Publication(WatchState* state, EndpointSource::Publish publish)
      : state_(*state), publish_(std::move(publish)), timer_(state->io), file_timer_(state->io) {}

  void Schedule();
  // A set left `tracked`.
  void Removed();
  // `reason` is for the history: why, if Consul did not simply say so.
  void Store(const EndpointKey& key, Tracked& service, v1::EndpointSet set, const std::string& reason = "");
  // Keeps what there was, and says why.
  void Hold(const EndpointKey& key, Tracked& service, const std::string& alarm);
  // A read of one service failed.
  void Fail(const EndpointKey& key, const absl::Status& status);
  // A read of what concerns a whole datacenter, or of one service, succeeded or failed.
  void SetReachable(const Datacenter& dc, const absl::Status& status);

  // What operators decide. `done` is called on the watcher's thread once it is on disk.
  void Freeze(const EndpointSource::Decision& decision, EndpointSource::DecideDone done);
  void Thaw(const EndpointSource::Decision& decision, EndpointSource::DecideDone done);
  void RecordAccepted(const EndpointSource::Decision& decision, const Tracked* service);
  bool IsFrozen(const EndpointKey& key) const { return frozen_.contains(key); }
  const std::map<EndpointKey, std::shared_ptr<const v1::EndpointSet>>& frozen() const { return frozen_; }
  // What is served for it; null: nothing.
  std::shared_ptr<const v1::EndpointSet> Served(const EndpointKey& key) const;

  // Reads the state file: its sets wait in `loaded` until somebody is interested in them.
  void Load();
  std::map<EndpointKey, std::shared_ptr<const v1::EndpointSet>>& loaded() { return loaded_; }
  // Cancels what is scheduled, and writes the file a last time.
  void Stop();
  // Waits until what is to be written is written; on any thread, after the watcher's has ended.
  void JoinWriter() { writer_.join(); }

  std::shared_ptr<const EndpointCatalog> current() const;
  const EndpointHistory& history() const { return history_; }

 private:
  using Clock = WatchState::Clock;

  void PublishNow();
  void ScheduleFile();
  // Then calls `written`, which may be null, on the watcher's thread.
  void WriteFile(std::function<void(const absl::Status&)> written);
  void Record(v1::EndpointEvent event);
  void RecordDecision(const EndpointSource::Decision& decision, v1::EndpointEvent::Kind kind,
                      const v1::EndpointSet& set);

  WatchState& state_;
  const EndpointSource::Publish publish_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const EndpointCatalog> current_ ABSL_GUARDED_BY(mutex_) = std::make_shared<EndpointCatalog>();
  EndpointHistory history_;
  std::map<EndpointKey, std::shared_ptr<const v1::EndpointSet>> loaded_;  // of the state file, not claimed yet
  std::map<EndpointKey, std::shared_ptr<const v1::EndpointSet>> frozen_;  // at most kFrozenMax
  bool reachable_ = false;
  std::string error_;
  bool changed_ = false;  // a set, since the last publication
  bool scheduled_ = false;
  Clock::time_point published_{};  // the last publication
  boost::asio::steady_timer timer_;
  bool dirty_ = false;  // the file is older than what is known
  bool file_scheduled_ = false;
  Clock::time_point file_written_{};
  boost::asio::steady_timer file_timer_;
  boost::asio::thread_pool writer_{1};
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_PUBLICATION_H_
