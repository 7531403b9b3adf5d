#include "dataplane/server/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>
#include <utility>

#include "common/base/thread.h"
#include "dataplane/http/http2/server_session.h"
#include "dataplane/server/connection.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr std::chrono::milliseconds kAcceptRetry{100};    // after running out of descriptors
constexpr std::chrono::milliseconds kAcceptRetrySoon{4};  // where some are about to be free
constexpr std::chrono::seconds kWarnInterval{1};
constexpr int kAcceptsPerTurnMax = 256;  // then those who are connected have their turn
constexpr std::chrono::milliseconds kBeatMax{1000};
constexpr int kNoDescriptor = std::numeric_limits<int>::max();

int64_t OpenDescriptors() {
  std::error_code error;
  std::filesystem::directory_iterator each("/proc/self/fd", error);
  return error ? 0 : std::distance(std::filesystem::begin(each), std::filesystem::end(each));
}

// The lowest descriptor that is free.
int LowestFreeDescriptor() {
  const int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
  if (fd >= 0) close(fd);
  return fd >= 0 ? fd : errno == EMFILE ? kNoDescriptor : 0;
}

}  // namespace

struct Worker::Listener {
  Worker* worker;
  ListeningSocket socket;
  IoSlot* slot = nullptr;
};

Worker::Worker(int index, const Shared& shared, const std::vector<ListeningSocket>& listeners, WorkerShard* metrics,
               AccessLogBuffer* log, std::shared_ptr<const ServingState> state)
    : index_(index),
      shared_(shared),
      buffers_(shared.budget, metrics->Cell(WorkerGauge::kBufferBytes)),
      pipes_(shared.budget, metrics->Cell(WorkerGauge::kBufferBytes)),
      metrics_(metrics),
      log_(log),
      stream_resources_{.loop = &loop_,
                        .buffers = &buffers_,
                        .pipes = &pipes_,
                        .draining = &draining_,
                        .header_timeout = shared.options->header_timeout,
                        .header_bytes_max = shared.options->max_header_bytes},
      http2_(std::make_unique<http2::SessionResources>(&loop_, &buffers_, &http2_metrics_, shared.options->http2)),
      pool_(stream_resources_, metrics, this),
      redis_(shared.redis_directory == nullptr
                 ? nullptr
                 : std::make_unique<RedisStore>(&loop_, shared.redis, shared.redis_directory)),
      state_(new LocalState{std::move(state), 1}),
      exchange_resources_{.loop = &loop_,
                          .buffers = &buffers_,
                          .pool = &pool_,
                          .metrics = metrics,
                          .log = log,
                          .redis = redis_.get(),
                          .authentication = shared.authentication,
                          .options = shared.options,
                          .metrics_page = &shared_.metrics_page,
                          .state = &state_,
                          .cut_short = &cut_short_,
                          .challenges = shared.tls == nullptr ? nullptr : &shared.tls->challenges(),
                          .worker = index},
      accept_timer_(&loop_, &Worker::OnAcceptRetry, this),
      idle_timer_(&loop_, &Worker::OnIdleGrace, this),
      beat_timer_(&loop_, &Worker::OnBeat, this) {
  if (shared.tls != nullptr) tls_contexts_ = shared.tls->contexts(index);
  for (const ListeningSocket& each : listeners) listeners_.push_back(std::make_unique<Listener>(Listener{this, each}));
}

Worker::~Worker() {
  Stop();
  for (const auto& listener : listeners_) close(listener->socket.fd);
  if (--state_->references == 0) delete state_;
}

void Worker::Start() {
  thread_ = StartThread("worker-" + std::to_string(index_), ThreadPriority::kServing, [this] {
    OnBeat(this);
    loop_.Run();
  });
}

void Worker::Listen(std::function<void()> done) {
  loop_.Post([this, done = std::move(done)] {
    descriptors_at_rest_ = OpenDescriptors();
    BoundConnections();
    for (const auto& listener : listeners_) {
      const ListeningSocket& socket = listener->socket;
      if (socket.listening || listen(socket.fd, kListenBacklog) == 0) {
        listener->slot = loop_.AddListener(socket.fd, socket.shared, &Worker::OnAcceptable, listener.get());
      }
      if (listener->slot == nullptr) spdlog::error("worker {} cannot listen: {}", index_, std::strerror(errno));
    }
    done();
  });
}

void Worker::AcceptLast(const ListeningSocket& socket) {
  loop_.Post([this, socket] {
    Listener listener{this, socket};
    Accept(&listener, true);
    close(socket.fd);
  });
}

void Worker::Stop() {
  if (!thread_.joinable()) return;
  loop_.Stop();
  thread_.join();
  if (log_ != nullptr) log_->Flush();
}

void Worker::Install(std::shared_ptr<const ServingState> state, std::function<void()> done) {
  loop_.Post([this, state = std::move(state), done = std::move(done)]() mutable {
    pool_.CloseUnbound(state->generation);
    if (state->asks_redis && redis_ != nullptr) redis_->Prepare();
    LocalState* const old = std::exchange(state_, new LocalState{std::move(state), 1});
    if (--old->references == 0) delete old;
    done();
  });
}

void Worker::InstallTls(TlsContexts contexts) {
  loop_.Post([this, contexts = std::move(contexts)]() mutable { tls_contexts_ = std::move(contexts); });
}

void Worker::BeginHandshake(ClientConnection* connection) {
  if (handshakes_.size() >= kHandshakesMax) {
    const auto same = std::find_if(handshakes_.begin(), handshakes_.end(), [&](const ClientConnection* each) {
      return each->peer_ip() == connection->peer_ip();
    });
    ClientConnection* const oldest = same != handshakes_.end() ? *same : handshakes_.front();
    oldest->Cancel();  // it leaves the list
  }
  handshakes_.push_back(connection);
}

void Worker::EndHandshake(ClientConnection* connection) {
  handshakes_.erase(std::find(handshakes_.begin(), handshakes_.end(), connection));
}

void Worker::SetDrained(bool on) {
  loop_.Post([this, on] {
    draining_ = on || ending_;
    if (on) ForEachConnection([](ClientConnection* each) { each->Drain(); });
  });
}

void Worker::AnnounceEnd() {
  loop_.Post([this] {
    ending_ = draining_ = true;
    ForEachConnection([](ClientConnection* each) { each->Drain(); });
  });
}

void Worker::Drain(std::chrono::milliseconds idle_grace, std::function<void()> done) {
  loop_.Post([this, idle_grace, done = std::move(done)]() mutable {
    ending_ = draining_ = true;
    idle_grace_ = idle_grace;
    drained_ = std::move(done);
    EndListening();
    idle_timer_.Arm(loop_.now() + idle_grace);
    ForEachConnection([](ClientConnection* each) { each->Drain(); });
    CheckDrained();
  });
}

void Worker::CutShort() {
  loop_.Post([this] {
    cut_short_ = true;
    ForEachConnection([](ClientConnection* each) { each->AbandonWaits(); });
  });
}

void Worker::CloseSilent(uint64_t id) {
  loop_.Post([this, id] {
    if (ClientConnection* const silent = FindSilent(id)) silent->GiveWay();
  });
}

void Worker::CloseOneIdle() {
  loop_.Post([this] {
    if (counts().staying() >= connections_max_ || IsShortOfDescriptors(LowestFreeDescriptor()))
      (void)CloseIdle(kIdleMin);
  });
}

void Worker::OnIdleGrace(void* self) {
  static_cast<Worker*>(self)->ForEachConnection([](ClientConnection* each) { each->CloseIfIdle(); });
}

template <typename Visit>
void Worker::ForEachConnection(const Visit& visit) {
  for (const ConnectionList* list : {&silent_, &asked_}) {
    for (ClientConnection* each = list->first; each != nullptr;) {
      ClientConnection* const next = each->next;
      visit(each);
      each = next;
    }
  }
}

void Worker::CheckDrained() {
  if (!ending_ || connection_count_ > 0 || drained_ == nullptr) return;
  std::exchange(drained_, nullptr)();
}

void Worker::EndListening() {
  for (const auto& listener : listeners_) {
    if (listener->slot != nullptr) {
      // First out of epoll: a connection that comes after the last one that is accepted here has to wake somebody else
      // who has this socket.
      loop_.RemoveListener(listener->socket.fd, listener->slot);
      Accept(listener.get(), true);
    }
    close(listener->socket.fd);
  }
  listeners_.clear();
}

void Worker::OnAcceptable(void* listener, uint32_t) {
  auto* self = static_cast<Listener*>(listener);
  Worker* const worker = self->worker;
  // Else the same worker would be woken for every connection that comes while all of them wait.
  if (worker->Accept(self) && self->socket.shared && !worker->loop_.RequeueListener(self->socket.fd, self->slot)) {
    spdlog::error("worker {} cannot listen: {}", worker->index_, std::strerror(errno));
  }
}

void Worker::OnAcceptRetry(void* self) {
  auto* worker = static_cast<Worker*>(self);
  for (const auto& listener : worker->listeners_) worker->Accept(listener.get());
}

bool Worker::Accept(Listener* listener, bool all) {
  BoundConnections();  // the limit may have changed
  for (int accepted = 0;; ++accepted) {
    while (!all && IsFull()) {
      pollfd waiting{listener->socket.fd, POLLIN, 0};
      if (poll(&waiting, 1, 0) <= 0) return true;
      const Room room = MakeRoomForOne();
      if (room != Room::kMade) return CannotAccept(room, "the descriptors that are left are for services");
    }
    if (accepted >= kAcceptsPerTurnMax && !all) {
      accept_timer_.Arm(loop_.now());
      return false;
    }
    sockaddr_storage peer{};
    socklen_t length = sizeof peer;
    const int fd =
        accept4(listener->socket.fd, reinterpret_cast<sockaddr*>(&peer), &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      near_end_ = IsShortOfDescriptors(fd);
      metrics_->Add(WorkerGauge::kClientConnectionsTotal, 1);
      if (counts().staying() >= options().max_connections &&
          Close(counts().silent.Take(std::nullopt)) != SilentConnections::Found::kOne) {
        if (MayWarn(Warning::kConnectionsMax))
          spdlog::warn("worker {} rejects connections: server.max_connections are open", index_);
        RefuseConnection(fd, listener->socket.options);
        continue;
      }
      try {
        ClientConnection::Start(this, fd, peer, listener->socket.options);
      } catch (const std::exception& error) {
        spdlog::error("worker {} cannot take a connection: {}", index_, error.what());
      }
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
    if (errno == EINTR || errno == ECONNABORTED) continue;
    const int error = errno;
    Room room = Room::kNone;
    if (error == EMFILE || error == ENFILE) {
      near_end_ = true;
      room = MakeRoomForOne();
      if (room == Room::kMade) continue;
    }
    return CannotAccept(room, std::strerror(error));
  }
}

bool Worker::IsFull() {
  if (counts().connections.load(std::memory_order_relaxed) >= connections_max_) return true;
  near_end_ = near_end_ && IsShortOfDescriptors(LowestFreeDescriptor());
  return near_end_;
}

Worker::Room Worker::MakeRoomForOne() {
  using Found = SilentConnections::Found;
  // Idle connections to endpoints are closed before clients' connections, if that helps.
  const bool bounded = counts().connections.load(std::memory_order_relaxed) >= connections_max_;
  if (!bounded && pool_.CloseOne()) return Room::kMade;
  // One is about to go already.
  if (bounded ? counts().staying() < connections_max_ : counts().silent.leaving() > 0) return Room::kSoon;
  const SilentConnections::Result silent = counts().silent.Take(std::nullopt);
  switch (Close(silent)) {
    case Found::kOne:
      return silent.worker == index_ ? Room::kMade : Room::kSoon;
    case Found::kUnread:
      return Room::kSoon;
    case Found::kNone:
      break;
  }
  return CloseIdle(kIdleMin) ? Room::kMade : Room::kNone;
}

// What is connected is served on, and those who wait are accepted later; said once a second, not once a try.
bool Worker::CannotAccept(Room room, const char* why) {
  if (room == Room::kSoon) {
    accept_timer_.Arm(loop_.now() + kAcceptRetrySoon);
    return false;
  }
  metrics_->Add(WorkerGauge::kAcceptErrorsTotal, 1);
  if (MayWarn(Warning::kCannotAccept)) spdlog::error("worker {} cannot accept connections: {}", index_, why);
  accept_timer_.Arm(loop_.now() + kAcceptRetry);
  if (shared_.ask_others_for_room) shared_.ask_others_for_room(index_);
  return false;
}

int64_t Worker::connections_per_address_max() const {
  const int64_t configured = options().max_connections_per_address;
  return configured > 0 ? configured : ConnectionsByAddress::DefaultMax(options().max_connections, connections_max_);
}

SilentConnections::Found Worker::TakeOverSilentOf(const in6_addr& address) {
  return Close(counts().silent.TakeOver(address));
}

ClientConnection* Worker::FindSilent(uint64_t id) {
  ClientConnection* each = silent_.last;
  while (each != nullptr && each->id() != id) each = each->previous;
  return each;
}

SilentConnections::Found Worker::Close(const SilentConnections::Result& silent) {
  if (silent.found != SilentConnections::Found::kOne) return silent.found;
  metrics_->Add(WorkerGauge::kConnectionsGaveWayTotal, 1);
  if (MayWarn(Warning::kGaveWay)) {
    spdlog::warn("worker {} closes connections that never sent a request, of {} among others: new ones need room",
                 index_, IpText(silent.address));
  }
  if (silent.worker != index_) {
    shared_.close_silent(silent.worker, silent.id);
  } else if (ClientConnection* const own = FindSilent(silent.id)) {
    own->Cancel();
  }
  return silent.found;
}

bool Worker::CloseIdle(std::chrono::milliseconds idle_min) {
  const TimePoint until = loop_.now() - idle_min;
  ClientConnection* longest = nullptr;
  int looked_at = 0;
  for (ClientConnection* each = asked_.last; each != nullptr && looked_at < kGiveWaySearchMax; each = each->previous) {
    const TimePoint since = each->idle_since();
    if (since == TimePoint::max()) continue;
    ++looked_at;
    if (since <= until && (longest == nullptr || since < longest->idle_since()) && each->IsIdle()) longest = each;
  }
  if (longest == nullptr || !longest->CloseIfIdle()) return false;
  metrics_->Add(WorkerGauge::kConnectionsGaveWayTotal, 1);
  return true;
}

void Worker::BoundConnections() {
  rlimit limit{};
  if (descriptors_at_rest_ == 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  descriptors_max_ = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, std::numeric_limits<int32_t>::max()));
  const int64_t services = std::clamp(descriptors_max_ / 8, kServiceDescriptorsMin, kServiceDescriptorsMax);
  connections_max_ = std::max<int64_t>(1, descriptors_max_ - descriptors_at_rest_ - services - kOwnDescriptors);
}

bool Worker::FreeDescriptor() {
  if (pool_.CloseOne()) return true;
  if (Close(counts().silent.Take(index_)) == SilentConnections::Found::kOne) return true;
  // Another worker closes one in its own time, for those who come next.
  if (counts().silent.leaving() == 0) (void)Close(counts().silent.Take(std::nullopt));
  if (CloseIdle(kIdleMin)) return true;
  // As long as some are left, clients that may ask again at once stay.
  return LowestFreeDescriptor() != kNoDescriptor || CloseIdle(std::chrono::milliseconds(0));
}

// As far as it goes: a connection too many gets no memory of ours. What it has sent already is read, so that the close
// resets nothing.
void Worker::RefuseConnection(int fd, const ListenerOptions& options) {
  metrics_->Add(WorkerGauge::kConnectionsRefusedTotal, 1);
  if (options.tls < 0) (void)!send(fd, kTooManyConnections.data(), kTooManyConnections.size(), MSG_NOSIGNAL);
  shutdown(fd, SHUT_WR);
  char sink[4096];
  while (recv(fd, sink, sizeof sink, MSG_DONTWAIT) == static_cast<ssize_t>(sizeof sink)) {
  }
  close(fd);
}

bool Worker::MayWarn(Warning kind) {
  TimePoint& warned_at = warned_at_[static_cast<size_t>(kind)];
  if (loop_.now() - warned_at < kWarnInterval) return false;
  warned_at = loop_.now();
  return true;
}

void ConnectionList::Add(ClientConnection* connection) {
  connection->previous = nullptr;
  connection->next = first;
  (first != nullptr ? first->previous : last) = connection;
  first = connection;
}

void ConnectionList::Remove(ClientConnection* connection) {
  (connection->previous != nullptr ? connection->previous->next : first) = connection->next;
  (connection->next != nullptr ? connection->next->previous : last) = connection->previous;
}

void Worker::List(ClientConnection* connection) { (connection->asked() ? asked_ : silent_).Add(connection); }

void Worker::Unlist(ClientConnection* connection) { (connection->asked() ? asked_ : silent_).Remove(connection); }

void Worker::Register(ClientConnection* connection) {
  List(connection);
  ++connection_count_;
  counts().connections.fetch_add(1, std::memory_order_relaxed);
  metrics_->Add(WorkerGauge::kClientConnections, 1);
}

void Worker::Unregister(ClientConnection* connection) {
  Unlist(connection);
  --connection_count_;
  counts().connections.fetch_sub(1, std::memory_order_relaxed);
  metrics_->Add(WorkerGauge::kClientConnections, -1);
  if (ending_ && connection_count_ == 0) loop_.Defer([this] { CheckDrained(); });
}

void Worker::OnBeat(void* self) {
  auto* worker = static_cast<Worker*>(self);
  worker->BoundConnections();
  worker->beat_timer_.Arm(worker->loop_.now() + std::min(kBeatMax, worker->options().watchdog_timeout / 4));
}

}  // namespace gateway::dataplane
