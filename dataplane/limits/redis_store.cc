#include "dataplane/limits/redis_store.h"

#include <arpa/inet.h>
#include <hiredis/read.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/time/time.h"
#include "common/base/text.h"
#include "common/base/thread.h"
#include "dataplane/limits/redis_script.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

constexpr milliseconds kResolvePoll{4};
constexpr std::chrono::seconds kWarnPause{10};

std::vector<RedisDirectory::Address> Resolve(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list) != 0) return {};
  std::vector<RedisDirectory::Address> addresses;
  for (const addrinfo* entry = list; entry != nullptr && addresses.size() < 8; entry = entry->ai_next) {
    RedisDirectory::Address& address = addresses.emplace_back();
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    address.length = entry->ai_addrlen;
  }
  freeaddrinfo(list);
  return addresses;
}

bool ParseLiteral(const std::string& host, uint16_t port, RedisDirectory::Address* address) {
  auto& v4 = reinterpret_cast<sockaddr_in&>(address->storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(address->storage);
  if (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    address->length = sizeof v4;
    return true;
  }
  if (inet_pton(AF_INET6, host.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    address->length = sizeof v6;
    return true;
  }
  return false;
}

// What Redis knows a script by.
std::string Sha1Hex(std::string_view text) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(text.data(), text.size(), digest, &size, EVP_sha1(), nullptr);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return hex;
}

// RESP's requests: arrays of bulk strings.
void AppendArray(std::string* out, size_t count) { Append(out, "*", count, "\r\n"); }
void AppendBulk(std::string* out, std::string_view bytes) { Append(out, "$", bytes.size(), "\r\n", bytes, "\r\n"); }
void AppendNumber(std::string* out, int64_t number) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  AppendBulk(out, std::string_view(digits, static_cast<size_t>(end - digits)));
}

std::string_view LetterOf(LimitAlgorithm algorithm) {
  switch (algorithm) {
    case LimitAlgorithm::kTokenBucket:
      return "t";
    case LimitAlgorithm::kFixedWindow:
      return "f";
    case LimitAlgorithm::kSlidingWindow:
      break;
  }
  return "s";
}

void Increment(std::atomic<uint64_t>& counter, uint64_t by = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

}  // namespace

RedisDirectory::RedisDirectory(std::string host, uint16_t port, Resolver resolver)
    : host_(std::move(host)), port_(port), resolver_(resolver ? std::move(resolver) : Resolver(Resolve)) {
  Address address;
  absl::MutexLock lock(&mutex_);
  literal_ = ParseLiteral(host_, port_, &address);
  if (literal_) addresses_.push_back(address);
}

RedisDirectory::~RedisDirectory() {
  std::thread thread;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    thread.swap(thread_);
  }
  if (thread.joinable()) thread.join();
}

std::string RedisDirectory::name() const {
  return host_.find(':') == std::string::npos ? Concat(host_, ":", port_) : Concat("[", host_, "]:", port_);
}

std::vector<RedisDirectory::Address> RedisDirectory::Find() {
  absl::MutexLock lock(&mutex_);
  if (!literal_ && (addresses_.empty() || std::chrono::steady_clock::now() - answered_ >= kAskPause)) {
    asked_ = true;
    if (!thread_.joinable()) thread_ = StartThread("redis-names", ThreadPriority::kServing, [this] { Live(); });
  }
  return addresses_;
}

void RedisDirectory::Live() {
  absl::MutexLock lock(&mutex_);
  for (;;) {
    const auto called = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return asked_ || stopped_; };
    mutex_.Await(absl::Condition(&called));
    if (stopped_) return;
    mutex_.Unlock();
    std::vector<Address> found = resolver_(host_, port_);
    mutex_.Lock();
    answered_ = std::chrono::steady_clock::now();
    asked_ = false;
    if (!found.empty()) {
      addresses_ = std::move(found);
      continue;
    }
    // A resolver that fails at once is not asked in a circle.
    const auto stopped = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_; };
    (void)mutex_.AwaitWithTimeout(absl::Condition(&stopped), absl::FromChrono(kAskPause));
  }
}

// What the parser calls: the numbers, or the text, of a response are kept; no object is made.
struct RedisStore::ReplyFunctions {
  static Reply* Of(const redisReadTask* task) {
    auto* reply = static_cast<Reply*>(task->privdata);
    if (task->parent == nullptr) {
      reply->error = false;
      reply->text_size = reply->count = 0;
    }
    return reply;
  }
  static redisReplyObjectFunctions* Table() {
    static redisReplyObjectFunctions table = [] {
      redisReplyObjectFunctions functions{};
      functions.createString = [](const redisReadTask* task, char* text, size_t size) -> void* {
        Reply* reply = Of(task);
        if (task->type == REDIS_REPLY_ERROR) reply->error = true;
        reply->text_size = std::min(size, reply->text.size());
        std::memcpy(reply->text.data(), text, reply->text_size);
        return reply;
      };
      // (newer versions of the library count elements with another type)
      functions.createArray = [](const redisReadTask* task, auto) -> void* { return Of(task); };
      functions.createInteger = [](const redisReadTask* task, long long number) -> void* {
        Reply* reply = Of(task);
        if (reply->count < reply->numbers.size()) reply->numbers[reply->count++] = number;
        return reply;
      };
      functions.createNil = [](const redisReadTask* task) -> void* { return Of(task); };
      functions.freeObject = [](void*) {};
      return functions;
    }();
    return &table;
  }
};

// Awaited by Live between two attempts.
class RedisStore::Pause {
 public:
  Pause(RedisStore* store, milliseconds time) : store_(store), time_(time) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> caller) {
    store_->paused_ = caller;
    store_->pause_timer_.Arm(store_->loop_->now() + time_);
  }
  void await_resume() const noexcept {}

 private:
  RedisStore* store_;
  milliseconds time_;
};

RedisStore::RedisStore(EventLoop* loop, const Options& options, RedisDirectory* directory)
    : loop_(loop),
      options_(options),
      directory_(directory),
      script_sha_(Sha1Hex(kRedisScript)),
      reader_(nullptr, redisReaderFree),
      slots_(kInFlightMax + 8),  // and the connection's own
      overdue_timer_(loop, &RedisStore::OnOverdue, this),
      pause_timer_(loop, &RedisStore::OnPauseEnd, this) {}

RedisStore::~RedisStore() {
  life_.reset();
  rest_.reset();
}

void RedisStore::Prepare() {
  if (state_ != State::kUnused) return;
  state_ = State::kPaused;
  life_.emplace(Live());
  life_->Start();
}

void RedisStore::OnPauseEnd(void* self) {
  auto* store = static_cast<RedisStore*>(self);
  if (store->paused_) std::exchange(store->paused_, nullptr).resume();
}

// The connection's life, over and over.
Task<void> RedisStore::Live() {
  std::vector<Slot> unanswered;  // of the connection before
  for (;;) {
    state_ = State::kConnecting;
    reader_.reset(redisReaderCreateWithFunctions(ReplyFunctions::Table()));
    reader_->privdata = &reply_;
    why_.clear();
    ended_ = false;
    AppendSetup();
    for (const Slot& slot : std::exchange(unanswered, {})) {
      AppendCall(*slot.call);
      Push({.call = slot.call, .again = true, .sent = loop_->now(), .due = slot.due});
    }
    if (co_await Connect()) {
      connected_ = true;
      QueueFlush();
      co_await Read();
    }
    if (ended_ && state_ == State::kReady && loop_->now() - ready_at_ >= kIdleMin) {
      unanswered = Replace();
      continue;
    }
    Fail(why_);
    // Not all workers at once, and not again and again.
    const auto pause = milliseconds(absl::Uniform<int64_t>(random_, pause_.count() / 2, pause_.count() * 3 / 2));
    pause_ = std::min(pause_ * 2, kPauseMax);
    co_await Pause(this, pause);
  }
}

Task<bool> RedisStore::Connect() {
  const TimePoint until = loop_->now() + kSilenceMax;
  std::vector<RedisDirectory::Address> addresses = directory_->Find();
  while (addresses.empty() && loop_->now() < until) {
    co_await Pause(this, kResolvePoll);
    addresses = directory_->Find();
  }
  if (addresses.empty()) why_ = "its name has no address";
  for (const RedisDirectory::Address& address : addresses) {
    socket_.emplace(loop_);
    if (!socket_->StartConnect(reinterpret_cast<const sockaddr*>(&address.storage), address.length)) {
      why_ = std::strerror(errno);
      continue;
    }
    const Wait wait = co_await socket_->Writable(until);
    if (wait == Wait::kTimeout) {
      why_ = "it can't be connected in time";
      continue;
    }
    const int error = socket_->ConnectError();
    if (wait == Wait::kReady && error == 0) co_return true;
    why_ = std::strerror(error);
  }
  co_return false;
}

Task<void> RedisStore::Read() {
  for (;;) {
    size_t moved = 0;
    switch (socket_->Read(input_.data(), input_.size(), &moved)) {
      case Io::kDone:
        if (!Feed(input_.data(), moved)) co_return;
        continue;
      case Io::kEnd:
        why_ = "it ended the connection";
        ended_ = true;
        co_return;
      case Io::kError:
        why_ = "the connection broke";
        ended_ = true;
        co_return;
      case Io::kAgain:
        break;
    }
    const bool owing = next_reply_ < next_slot_;
    const TimePoint until = owing ? SlotAt(next_reply_).sent + kSilenceMax : loop_->now() + std::chrono::hours(1);
    if (until <= loop_->now() || write_failed_) {
      why_ = "it does not respond";
      co_return;
    }
    if (co_await socket_->Readable(until) == Wait::kCancelled) {
      why_ = "the connection broke";
      co_return;
    }
  }
}

void RedisStore::AppendSetup() {
  setup_left_ = 0;
  const auto expect = [this] {
    ++setup_left_;
    Push({.setup = true, .sent = loop_->now()});
  };
  if (!options_.password.empty()) {
    AppendArray(&out_, options_.username.empty() ? 2 : 3);
    AppendBulk(&out_, "AUTH");
    if (!options_.username.empty()) AppendBulk(&out_, options_.username);
    AppendBulk(&out_, options_.password);
    expect();
  }
  if (options_.db != 0) {
    AppendArray(&out_, 2);
    AppendBulk(&out_, "SELECT");
    AppendNumber(&out_, options_.db);
    expect();
  }
  AppendLoad();
  expect();
}

void RedisStore::AppendLoad() {
  AppendArray(&out_, 3);
  AppendBulk(&out_, "SCRIPT");
  AppendBulk(&out_, "LOAD");
  AppendBulk(&out_, kRedisScript);
}

void RedisStore::AppendCall(const Call& call) {
  AppendArray(&out_, 3 + 6 * call.limits_.size());
  AppendBulk(&out_, "EVALSHA");
  AppendBulk(&out_, script_sha_);
  AppendNumber(&out_, static_cast<int64_t>(call.limits_.size()));
  for (const RedisLimit& limit : call.limits_) {
    // With the algorithm in the name, since each keeps something else under it.
    const std::string_view letter = LetterOf(limit.algorithm);
    Append(&out_, "$", kPrefix.size() + limit.name.size() + limit.key.size() + 3, "\r\n", kPrefix, limit.name, ":",
           letter, ":", limit.key, "\r\n");
  }
  for (const RedisLimit& limit : call.limits_) {
    AppendBulk(&out_, LetterOf(limit.algorithm));
    AppendNumber(&out_, limit.requests);
    AppendNumber(&out_, std::chrono::microseconds(limit.window).count());
    AppendNumber(&out_, limit.burst);
    AppendBulk(&out_, limit.shadow ? "1" : "0");
  }
}

void RedisStore::Push(Slot slot) {
  const uint64_t number = next_slot_++;
  SlotAt(number) = slot;
  if (slot.call != nullptr) {
    slot.call->number_ = number;
    slot.call->waiting_ = true;
    ArmOverdue(slot.due);
  }
  if (next_reply_ == number && connected_) socket_->ExtendRead(loop_->now() + kSilenceMax);
}

bool RedisStore::Send(Call* call) {
  Prepare();
  const bool open = state_ == State::kReady || state_ == State::kConnecting;
  // What is sent after an overdue response would only wait for it.
  const bool overdue = next_reply_ < next_slot_ && loop_->now() - SlotAt(next_reply_).sent >= kPatience;
  if (!open || overdue || write_failed_ || next_slot_ - next_reply_ >= kInFlightMax ||
      call->limits_.size() > kLimitsMax) {
    Increment(counters_.unavailable);
    return false;
  }
  AppendCall(*call);
  Push({.call = call, .sent = loop_->now(), .due = loop_->now() + kPatience});
  QueueFlush();
  return true;
}

// Once a turn, so that what many requests ask for goes in one write.
void RedisStore::QueueFlush() {
  if (flush_queued_) return;
  flush_queued_ = true;
  loop_->Defer([this] {
    flush_queued_ = false;
    if (!connected_ || (rest_ && !rest_->done())) return;
    if (!WriteSome()) return;
    rest_.emplace(WriteRest());
    rest_->Start();
  });
}

// Whether there is more to write, which has to wait.
bool RedisStore::WriteSome() {
  while (written_ < out_.size()) {
    iovec part{out_.data() + written_, out_.size() - written_};
    std::span<iovec> parts(&part, 1);
    size_t moved = 0;
    const Io io = socket_->Write(&parts, &moved);
    written_ += moved;
    if (io == Io::kAgain) return true;
    if (io == Io::kError) {
      write_failed_ = true;  // reading ends with the same news
      socket_->ExtendRead(loop_->now());
      return false;
    }
  }
  out_.clear();
  written_ = 0;
  return false;
}

Task<void> RedisStore::WriteRest() {
  do {
    if (co_await socket_->Writable(loop_->now() + kSilenceMax) != Wait::kReady) {
      write_failed_ = true;
      break;
    }
  } while (WriteSome());
}

bool RedisStore::Feed(const char* data, size_t size) {
  if (redisReaderFeed(reader_.get(), data, size) != 0) {
    why_ = reader_->errstr;
    return false;
  }
  for (;;) {
    void* reply = nullptr;
    if (redisReaderGetReply(reader_.get(), &reply) != 0) {
      why_ = Concat("it does not speak Redis' protocol: ", std::string_view(reader_->errstr));
      return false;
    }
    if (reply == nullptr) break;
    if (!TakeReply()) return false;
  }
  if (reader_->len - reader_->pos <= kReplyBytesMax) return true;
  why_ = "a reply is too long";
  return false;
}

bool RedisStore::TakeReply() {
  const std::string_view text(reply_.text.data(), reply_.text_size);
  if (next_reply_ == next_slot_) {
    why_ = Concat("it sent an unsolicited reply: ", text);
    return false;
  }
  const Slot slot = SlotAt(next_reply_++);
  if (slot.setup) {
    if (reply_.error) {
      why_ = text;
      return false;
    }
    loading_script_ = false;
    if (setup_left_ == 0 || --setup_left_ > 0) return true;
    state_ = State::kReady;
    ready_at_ = loop_->now();
    counters_.up.store(true, std::memory_order_relaxed);
    Increment(counters_.connects);
    if (std::exchange(told_, false)) spdlog::info("redis at {} responds again", directory_->name());
    return true;
  }
  if (reply_.error && text.starts_with("NOSCRIPT")) {
    // SCRIPT FLUSH, or a failover to one that never had it: nothing was counted. Once it is loaded the same call goes
    // again, in what is left of its time.
    if (!std::exchange(loading_script_, true)) {
      AppendLoad();
      Push({.setup = true, .sent = loop_->now()});
    }
    QueueFlush();
    if (slot.call != nullptr && !slot.again && loop_->now() < slot.due) {
      AppendCall(*slot.call);
      Push({.call = slot.call, .again = true, .sent = loop_->now(), .due = slot.due});
      return true;
    }
  }
  const auto took = std::chrono::duration_cast<nanoseconds>(loop_->now() - slot.sent);
  const double seconds = static_cast<double>(took.count()) / 1e9;
  size_t bucket = 0;
  while (bucket < kBoundSeconds.size() && seconds > kBoundSeconds[bucket]) ++bucket;
  Increment(counters_.buckets[bucket]);
  Increment(counters_.nanos, static_cast<uint64_t>(took.count()));
  bool usable = true;
  bool decided = false;
  if (reply_.error) {
    Increment(counters_.errors);
    if (text.starts_with("READONLY") || text.starts_with("LOADING") || text.starts_with("MASTERDOWN")) {
      // A replica by now, or not ready: another one may be found under the name.
      why_ = text;
      usable = false;
    } else if (!text.starts_with("NOSCRIPT") && loop_->now() - warned_at_ >= kWarnPause) {
      warned_at_ = loop_->now();
      spdlog::warn("redis at {} rejects calls: {}", directory_->name(), text);
    }
  } else if (slot.call != nullptr && reply_.count == 3 * slot.call->limits_.size()) {
    decided = true;
    pause_ = kPauseMin;
    Increment(counters_.answered);
    const int64_t* number = reply_.numbers.data();
    for (RedisLimit& limit : slot.call->limits_) {
      limit.decision.limit = limit.algorithm == LimitAlgorithm::kTokenBucket ? limit.burst : limit.requests;
      limit.decision.allowed = *number++ != 0;
      limit.decision.remaining = static_cast<uint32_t>(std::clamp<int64_t>(*number++, 0, limit.decision.limit));
      limit.decision.reset = milliseconds(std::max<int64_t>(0, *number++));
    }
  }
  if (slot.call != nullptr) FinishCall(slot.call, decided);
  return usable;
}

void RedisStore::FinishCall(Call* call, bool decided) {
  call->waiting_ = false;
  call->decided_ = decided;
  call->caller_.resume();
}

void RedisStore::ArmOverdue(TimePoint at) {
  if (at >= overdue_at_) return;
  overdue_at_ = at;
  overdue_timer_.Arm(at);
}

// (All of them, since one that was sent again is due before others in front of it.)
void RedisStore::OnOverdue(void* self) {
  auto* store = static_cast<RedisStore*>(self);
  const TimePoint now = store->loop_->now();
  store->overdue_at_ = TimePoint::max();
  for (uint64_t number = store->next_reply_; number < store->next_slot_; ++number) {
    Slot& slot = store->SlotAt(number);
    if (slot.call == nullptr) continue;
    if (slot.due > now) {
      store->ArmOverdue(slot.due);
      continue;
    }
    Increment(store->counters_.timeouts);
    FinishCall(std::exchange(slot.call, nullptr), false);
  }
}

// The connection is gone: nothing waits for it.
void RedisStore::Fail(std::string_view why) {
  state_ = State::kPaused;
  counters_.up.store(false, std::memory_order_relaxed);
  if (!std::exchange(told_, true)) {
    spdlog::warn("redis at {}: {}; until it is back, limits of scope redis apply their on_unavailable",
                 directory_->name(), why);
  }
  Disconnect();
  while (next_reply_ < next_slot_) {
    if (Call* const call = SlotAt(next_reply_++).call) {
      Increment(counters_.unavailable);
      FinishCall(call, false);
    }
  }
}

// The calls that it owes, in their order; those that were sent a second time fail. (Redis may have counted what it did
// not respond; counting a request twice is the safe side.)
std::vector<RedisStore::Slot> RedisStore::Replace() {
  Increment(counters_.replaced);
  state_ = State::kPaused;  // nothing is sent before the setup of the next connection
  Disconnect();
  std::vector<Slot> unanswered;
  while (next_reply_ < next_slot_) {
    const Slot slot = SlotAt(next_reply_++);
    if (slot.call == nullptr) continue;
    if (slot.again) {
      Increment(counters_.unavailable);
      FinishCall(slot.call, false);
    } else {
      unanswered.push_back(slot);
    }
  }
  return unanswered;
}

void RedisStore::Disconnect() {
  connected_ = false;
  rest_.reset();
  socket_.reset();
  reader_.reset();
  out_.clear();
  written_ = 0;
  write_failed_ = false;
  loading_script_ = false;
}

std::vector<prometheus::MetricFamily> RedisFamilies(std::span<const RedisStore* const> stores) {
  using prometheus::ClientMetric;
  using prometheus::MetricType;
  prometheus::MetricFamily up{
      "gateway_redis_up", "Workers that are connected to Redis, of those that asked for it", MetricType::Gauge, {}};
  prometheus::MetricFamily calls{"gateway_redis_calls_total",
                                 "Calls for limits of scope redis: answered, timeout (20 ms), error (from Redis), "
                                 "unavailable (not connected, or behind a reply that is overdue)",
                                 MetricType::Counter,
                                 {}};
  prometheus::MetricFamily times{
      "gateway_redis_call_seconds", "From a call to its reply, late ones too", MetricType::Histogram, {}};
  double connected = 0;
  std::array<uint64_t, 4> counts{};
  ClientMetric time;
  uint64_t nanos = 0;
  std::array<uint64_t, RedisStore::kBoundSeconds.size() + 1> buckets{};
  for (const RedisStore* store : stores) {
    const RedisStore::Counters& counters = store->counters();
    connected += counters.up.load(std::memory_order_relaxed) ? 1 : 0;
    counts[0] += counters.answered.load(std::memory_order_relaxed);
    counts[1] += counters.timeouts.load(std::memory_order_relaxed);
    counts[2] += counters.errors.load(std::memory_order_relaxed);
    counts[3] += counters.unavailable.load(std::memory_order_relaxed);
    nanos += counters.nanos.load(std::memory_order_relaxed);
    for (size_t i = 0; i < buckets.size(); ++i) buckets[i] += counters.buckets[i].load(std::memory_order_relaxed);
  }
  ClientMetric gauge;
  gauge.gauge.value = connected;
  up.metric.push_back(gauge);
  static constexpr std::array<const char*, 4> kResults = {"answered", "timeout", "error", "unavailable"};
  for (size_t i = 0; i < counts.size(); ++i) {
    ClientMetric metric;
    metric.label = {{"result", kResults[i]}};
    metric.counter.value = static_cast<double>(counts[i]);
    calls.metric.push_back(std::move(metric));
  }
  uint64_t so_far = 0;
  for (size_t i = 0; i < buckets.size(); ++i) {
    so_far += buckets[i];
    time.histogram.bucket.push_back({so_far, i < RedisStore::kBoundSeconds.size()
                                                 ? RedisStore::kBoundSeconds[i]
                                                 : std::numeric_limits<double>::infinity()});
  }
  time.histogram.sample_count = so_far;
  time.histogram.sample_sum = static_cast<double>(nanos) / 1e9;
  times.metric.push_back(std::move(time));
  return {std::move(up), std::move(calls), std::move(times)};
}

}  // namespace gateway::dataplane
