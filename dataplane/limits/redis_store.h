// Rate limits that are counted in Redis: one worker's connection, and where Redis is.
#ifndef GATEWAY_DATAPLANE_LIMITS_REDIS_STORE_H_
#define GATEWAY_DATAPLANE_LIMITS_REDIS_STORE_H_

#include <sys/socket.h>

#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "dataplane/limits/rate_limiter.h"
#include "dataplane/net/event_loop.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"
#include "prometheus/metric_family.h"

struct redisReader;

namespace gateway::dataplane {

// Finds Redis' address without making anybody wait: a thread of its own asks the resolver, from the first time that
// somebody wants to know. Thread-safe.
class RedisDirectory {
 public:
  struct Address {
    sockaddr_storage storage{};
    socklen_t length = 0;
  };
  // Blocks; called on the directory's thread.
  using Resolver = std::function<std::vector<Address>(const std::string& host, uint16_t port)>;
  static constexpr std::chrono::seconds kAskPause{1};

  // `host`: a name or an IP literal (without brackets).
  RedisDirectory(std::string host, uint16_t port, Resolver resolver = nullptr);
  ~RedisDirectory();

  // The last good result; empty before the first. Asks the resolver again, unless that was just done.
  std::vector<Address> Find();
  std::string name() const;  // "redis.internal:6379", for logs

 private:
  void Live();
  const std::string host_;
  const uint16_t port_;
  const Resolver resolver_;
  mutable absl::Mutex mutex_;
  std::vector<Address> addresses_ ABSL_GUARDED_BY(mutex_);
  bool literal_ ABSL_GUARDED_BY(mutex_) = false;
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  TimePoint answered_ ABSL_GUARDED_BY(mutex_){};
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

// One limit of a request, and what Redis said of it.
struct RedisLimit {
  LimitAlgorithm algorithm = LimitAlgorithm::kSlidingWindow;
  uint32_t requests = 0;
  std::chrono::milliseconds window{};
  uint32_t burst = 0;  // never 0
  bool shadow = false;
  std::string_view name;  // of the RateLimit
  std::string_view key;   // of the bucket
  RateLimitDecision decision{};
};

// Owns one connection, over which all of a worker's calls are pipelined. Belongs to the worker's loop; never blocks it:
// a call is over after kPatience at the latest, and while Redis does not respond, or is not connected, calls fail at
// once. Connects when it is first needed, and again with a growing pause; at once where Redis has ended a connection
// that worked (its `timeout` for idle clients): what was sent on it, or comes meanwhile, is sent on the new one.
class RedisStore {
 public:
  struct Options {
    std::string username;  // empty: Redis' default user
    std::string password;  // empty: no AUTH
    uint32_t db = 0;
  };
  static constexpr std::chrono::milliseconds kPatience{20};  // of one call
  // Of a connection that owes a response, and of connecting (with AUTH and SELECT): then it is replaced.
  static constexpr std::chrono::milliseconds kSilenceMax{1000};
  static constexpr std::chrono::milliseconds kPauseMin{50}, kPauseMax{2000};
  // A connection that ends sooner after its setup is no idle one: the shortest `timeout` of Redis is a second.
  static constexpr std::chrono::milliseconds kIdleMin{500};
  static constexpr size_t kInFlightMax = 1024;         // calls; further ones fail at once
  static constexpr size_t kReplyBytesMax = 64 * 1024;  // unread ones; ours are below 1 KiB
  static constexpr size_t kLimitsMax = 32;             // of one call
  static constexpr std::string_view kPrefix = "gateway:limit:";

  RedisStore(EventLoop* loop, const Options& options, RedisDirectory* directory);
  ~RedisStore();
  RedisStore(const RedisStore&) = delete;
  RedisStore& operator=(const RedisStore&) = delete;

  // Connects, unless it has.
  void Prepare();

  // Awaited: true, and every decision is filled in, consumed where none of those that are no shadow refuses; false:
  // Redis did not say in time (it may have consumed nevertheless). Lives in the caller's frame.
  //   RedisStore::Call call(store, limits);
  //   const bool decided = co_await call;
  class Call {
   public:
    Call(RedisStore* store, std::span<RedisLimit> limits) : store_(store), limits_(limits) {}
    ~Call() {
      if (waiting_) store_->Abandon(this);
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    bool await_ready() { return !store_->Send(this); }
    void await_suspend(std::coroutine_handle<> caller) { caller_ = caller; }
    bool await_resume() const { return decided_; }

   private:
    friend class RedisStore;
    RedisStore* store_;
    std::span<RedisLimit> limits_;
    std::coroutine_handle<> caller_;
    uint64_t number_ = 0;
    bool waiting_ = false;
    bool decided_ = false;
  };

  // Written by the worker, read by anybody.
  static constexpr std::array<double, 7> kBoundSeconds = {0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02};
  struct Counters {
    std::atomic<bool> up{false};
    std::atomic<uint64_t> answered{0}, timeouts{0}, errors{0}, unavailable{0}, connects{0}, replaced{0};
    std::array<std::atomic<uint64_t>, kBoundSeconds.size() + 1> buckets{};
    std::atomic<uint64_t> nanos{0};
  };
  const Counters& counters() const { return counters_; }

 private:
  enum class State : uint8_t { kUnused, kPaused, kConnecting, kReady };
  struct Slot {
    Call* call = nullptr;  // null: its caller no longer waits
    bool setup = false;    // AUTH, SELECT, SCRIPT LOAD
    bool again = false;    // sent a second time: without the script, or on a connection that had ended
    TimePoint sent;
    TimePoint due{};  // of a call: kPatience after it was sent first
  };
  // What the parser made of one response.
  struct Reply {
    bool error = false;
    std::array<char, 160> text;
    size_t text_size = 0;
    std::array<int64_t, 3 * kLimitsMax> numbers;
    size_t count = 0;
  };
  struct ReplyFunctions;
  class Pause;

  bool Send(Call* call);
  void Abandon(Call* call) { SlotAt(call->number_).call = nullptr; }
  Task<void> Live();
  Task<bool> Connect();
  Task<void> Read();
  Task<void> WriteRest();
  bool WriteSome();
  void QueueFlush();
  void AppendSetup();
  void AppendCall(const Call& call);
  void AppendLoad();
  void Push(Slot slot);
  Slot& SlotAt(uint64_t number) { return slots_[number % slots_.size()]; }
  bool Feed(const char* data, size_t size);
  bool TakeReply();
  void Fail(std::string_view why);
  std::vector<Slot> Replace();
  void Disconnect();
  static void FinishCall(Call* call, bool decided);
  void ArmOverdue(TimePoint at);
  static void OnOverdue(void* self);
  static void OnPauseEnd(void* self);

  EventLoop* const loop_;
  const Options options_;
  RedisDirectory* const directory_;
  const std::string script_sha_;
  absl::InsecureBitGen random_;
  State state_ = State::kUnused;
  size_t setup_left_ = 0;
  bool loading_script_ = false;
  bool connected_ = false;
  bool ended_ = false;  // by Redis, or on the way
  TimePoint ready_at_{};
  bool write_failed_ = false;
  bool flush_queued_ = false;
  bool told_ = false;  // that it is away
  TimePoint warned_at_{};
  std::chrono::milliseconds pause_ = kPauseMin;
  std::optional<Socket> socket_;
  std::string out_;  // from written_ on it waits to be written
  size_t written_ = 0;
  std::string why_;  // the connection ended
  std::array<char, 4096> input_;
  std::unique_ptr<redisReader, void (*)(redisReader*)> reader_;
  Reply reply_;
  // The responses that are awaited, oldest first, by their numbers: [next_reply_, next_slot_).
  std::vector<Slot> slots_;
  uint64_t next_reply_ = 0;
  uint64_t next_slot_ = 0;
  Timer overdue_timer_;
  TimePoint overdue_at_ = TimePoint::max();  // when the timer looks at them
  Timer pause_timer_;
  std::coroutine_handle<> paused_;
  Counters counters_;
  std::optional<Task<void>> rest_;  // WriteRest
  std::optional<Task<void>> life_;
};

// gateway_redis_*, over all workers. `stores` are alive.
std::vector<prometheus::MetricFamily> RedisFamilies(std::span<const RedisStore* const> stores);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_LIMITS_REDIS_STORE_H_
