// Loads an HTTP/1.1 server on loopback, in cleartext or TLS 1.3, with one kind of request and prints one line of JSON:
// responses, errors, bytes, latencies, and the CPU time of watched processes. One thread, epoll, edge-triggered; ends
// by itself. See `load --help`.
//
// Closed loop: each connection sends its next request after the response to the previous one. With --rate, open loop:
// request k is due at k / rate whatever the responses do, and its latency counts from then, not from when a connection
// was free to send it. So a server that stalls for 100 ms is charged for everything due meanwhile ("coordinated
// omission"). Before the measurement every connection is opened and gets one response, so everything is warm.
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/measurement.h"
#include "tests/bench/message_reader.h"
#include "tests/bench/sockets.h"
#include "tests/bench/tls_client.h"

namespace gateway::bench {
namespace {

constexpr int kEventsMax = 512;
constexpr size_t kBufferBytes = 256 * 1024;
constexpr int kOpeningMax = 64;              // connections that wait for their first response at once
constexpr int64_t kDrainNs = 5'000'000'000;  // after the end, for requests in flight; then they count as timed out
constexpr uint64_t kErrorsMax = 10'000;      // the measurement is void

constexpr char kHelp[] =
    R"(load [OPTION VALUE]... PORT PATH     requests to http://127.0.0.1:PORT; {n} in PATH: see --paths
  --connections N   (64)
  --seconds S       ends then; what is under way is waited for
  --requests N      ends after so many; one of the two must be given
  --rate R          open loop: R requests a second, over the connections
  --field TEXT      a header field, as "Name: value"; any number
  --body BYTES      POST with a body of that size
  --chunk BYTES     the body comes chunked, in chunks of that size
  --paths N         {n} is 0 to N-1 in turn
  --close 1         a new connection for each request
  --tls CERT        TLS 1.3; the server must have the certificate of this PEM file, for localhost
  --resume 1        each connection resumes the TLS session of an earlier one; one that does not is an error
  --idle S          opens the connections, gets one answer on each, and leaves them idle for S seconds
  --watch PID       measures the CPU time and the memory of this process too; any number
SIGUSR1: what is due from now on counts as marked, until SIGUSR2. SIGTERM: ends now, and reports.
)";

struct Options {
  int port = 0;
  std::string path;
  size_t connections = 64;
  double seconds = 0;
  uint64_t requests = 0;
  double rate = 0;
  std::string fields;
  uint64_t body_bytes = 0;
  uint64_t chunk_bytes = 0;
  size_t paths = 1;
  bool close = false;
  double idle_seconds = 0;
  std::string certificate;  // the server's, a PEM file; empty: cleartext
  bool resume = false;
  std::vector<int> watched;
};

// The bytes to send: one of the headers, then the body, stored as one repeating part.
class Message {
 public:
  explicit Message(const Options& options) {
    for (size_t i = 0; i < options.paths; ++i) {
      std::string path = options.path;
      for (size_t at = path.find("{n}"); at != std::string::npos; at = path.find("{n}")) {
        path.replace(at, 3, std::to_string(i));
      }
      std::string head = (options.body_bytes > 0 ? "POST " : "GET ") + path +
                         " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(options.port) + "\r\n" + options.fields;
      if (options.close) head += "Connection: close\r\n";
      if (options.chunk_bytes > 0) {
        head += "Transfer-Encoding: chunked\r\n";
      } else if (options.body_bytes > 0) {
        head += "Content-Length: " + std::to_string(options.body_bytes) + "\r\n";
      }
      heads_.push_back(head + "\r\n");
    }
    std::string unit(kBufferBytes, 'x');
    body_bytes_ = options.body_bytes;
    if (options.chunk_bytes > 0) {
      std::array<char, 32> size{};
      (void)std::snprintf(size.data(), size.size(), "%" PRIx64 "\r\n", options.chunk_bytes);
      unit = size.data() + std::string(options.chunk_bytes, 'x') + "\r\n";
      body_bytes_ = options.body_bytes / options.chunk_bytes * unit.size();
      last_ = "0\r\n\r\n";
    }
    repeat_bytes_ = unit.size() * std::max<size_t>(1, kBufferBytes / unit.size());
    while (body_.size() < repeat_bytes_) body_ += unit;
  }

  size_t count() const { return heads_.size(); }
  uint64_t Bytes(size_t index) const { return heads_[index].size() + body_bytes_ + last_.size(); }

  // The bytes after the first `sent`, as many as one call can send.
  size_t Rest(size_t index, uint64_t sent, std::array<iovec, 3>* parts) const {
    const std::string& head = heads_[index];
    size_t count = 0;
    if (sent < head.size()) (*parts)[count++] = Part(head, sent, head.size() - sent);
    const uint64_t body_sent = std::max<uint64_t>(sent, head.size()) - head.size();
    if (body_sent < body_bytes_) {
      const uint64_t at = body_sent % repeat_bytes_;
      const uint64_t bytes = std::min(repeat_bytes_ - at, body_bytes_ - body_sent);
      (*parts)[count++] = Part(body_, at, bytes);
      if (body_sent + bytes < body_bytes_) return count;
    }
    const uint64_t last_sent = std::max(body_sent, body_bytes_) - body_bytes_;
    if (last_sent < last_.size()) (*parts)[count++] = Part(last_, last_sent, last_.size() - last_sent);
    return count;
  }

 private:
  static iovec Part(const std::string& text, uint64_t at, uint64_t bytes) {
    return {.iov_base = const_cast<char*>(text.data() + at), .iov_len = bytes};
  }

  std::vector<std::string> heads_;
  std::string body_;
  std::string last_;
  uint64_t body_bytes_ = 0;
  uint64_t repeat_bytes_ = 0;
};

volatile std::sig_atomic_t marking = 0;
volatile std::sig_atomic_t stopping = 0;

class Load {
 public:
  explicit Load(Options options) : options_(std::move(options)), message_(options_) {
    if (!options_.certificate.empty()) tls_ = std::make_unique<TlsClient>(options_.certificate, "http/1.1");
  }

  int Run() {
    poll_ = epoll_create1(EPOLL_CLOEXEC);
    connections_.resize(options_.connections);
    const Usage before = UsageOf(options_.watched);
    if (!options_.close || options_.resume) OpenAll();
    if (options_.idle_seconds > 0) return Idle(before);
    Measure();
    return Report();
  }

 private:
  enum class Phase { kOpen, kMeasure, kDrain };

  struct Connection {
    int fd = -1;
    uint32_t generation = 0;  // identifies stale events of an earlier descriptor
    bool busy = false;        // a request is in flight
    bool ending = false;      // has its response; the server must close
    bool marked = false;
    size_t head = 0;
    uint64_t sent = 0;
    int64_t due_ns = 0;
    std::unique_ptr<TlsConnection> tls;
    MessageReader answer{MessageReader::Kind::kResponse};
  };

  struct Errors {
    uint64_t connect = 0;
    uint64_t reset = 0;      // EOF or a reset before the end of the response
    uint64_t status = 0;     // not 2xx
    uint64_t malformed = 0;  // excess bytes, or a response before the end of the request
    uint64_t timeout = 0;
    uint64_t handshake = 0;  // failed, or not resumed
    uint64_t sum() const { return connect + reset + status + malformed + timeout + handshake; }
  };

  void OpenAll() {
    const int64_t give_up = NowNs() + 30'000'000'000;
    size_t opened = 0;
    const auto ending = [this] {
      return std::any_of(connections_.begin(), connections_.end(), [](const Connection& c) { return c.ending; });
    };
    while (opened < connections_.size() || busy_ > 0 || ending()) {
      while (opened < connections_.size() && busy_ < kOpeningMax) Issue(&connections_[opened++], NowNs());
      Poll(100'000'000);
      if (NowNs() > give_up || errors_.sum() > 100) Give("the connections could not be opened");
    }
  }

  void Measure() {
    phase_ = Phase::kMeasure;
    usage_ = UsageOf(options_.watched);
    self_cpu_seconds_ = -OwnCpuSeconds();
    bytes_received_ = bytes_sent_ = 0;
    start_ns_ = NowNs();
    end_ns_ = options_.seconds > 0 ? start_ns_ + static_cast<int64_t>(options_.seconds * 1e9) : INT64_MAX;
    for (Connection& connection : connections_) idle_.push_back(&connection);
    while (phase_ == Phase::kMeasure) {
      int64_t now = NowNs();
      while (!idle_.empty() && MayIssue(now)) {
        Connection* connection = idle_.front();
        idle_.pop_front();
        Issue(connection, TakeDue(now));
      }
      if (stopping != 0) end_ns_ = now;
      if (now >= end_ns_ || (options_.requests > 0 && issued_ >= options_.requests)) break;
      if (errors_.sum() > kErrorsMax) Give("too many errors");
      const int64_t next = options_.rate > 0 && !idle_.empty() ? std::min(end_ns_, NextDue()) : end_ns_;
      Poll(std::min<int64_t>(next - now, 1'000'000'000));
    }
    phase_ = Phase::kDrain;
    const int64_t due_end = std::min(NowNs(), end_ns_);
    const int64_t drain_end = NowNs() + kDrainNs;
    while (busy_ > 0 && NowNs() < drain_end) Poll(drain_end - NowNs());
    errors_.timeout += static_cast<uint64_t>(busy_);
    elapsed_seconds_ = static_cast<double>(NowNs() - start_ns_) / 1e9;
    // Requests that were due but never sent have waited until now, at least.
    while (options_.rate > 0 && NextDue() < due_end) {
      ++unsent_;
      latencies_.Add(due_end - NextDue());
      ++issued_;
    }
    const Usage after = UsageOf(options_.watched);
    usage_.cpu_seconds = after.cpu_seconds - usage_.cpu_seconds;
    usage_.rss_bytes = after.rss_bytes;
    self_cpu_seconds_ += OwnCpuSeconds();
  }

  int Idle(const Usage& before) {
    const int64_t end = NowNs() + static_cast<int64_t>(options_.idle_seconds * 1e9);
    for (int64_t now = NowNs(); now < end; now = NowNs()) Poll(end - now);
    const Usage after = UsageOf(options_.watched);
    const auto open = std::count_if(connections_.begin(), connections_.end(), [](auto& c) { return c.fd >= 0; });
    std::printf(R"({"connections": %zd, "rss_bytes_before": %)" PRIu64 R"(, "rss_bytes": %)" PRIu64 "}\n",
                static_cast<ssize_t>(open), before.rss_bytes, after.rss_bytes);
    return 0;
  }

  int Report() const {
    std::printf(R"({"requests": %)" PRIu64 R"(, "seconds": %.3f, "requests_per_second": %.1f, "bytes_sent": %)" PRIu64
                R"(, "bytes_received": %)" PRIu64 R"(, "cpu_seconds": %.6f, "rss_bytes": %)" PRIu64
                R"(, "own_cpu_seconds": %.6f, "unsent": %)" PRIu64 R"(, "errors": %)" PRIu64
                R"(, "errors_by_kind": {"connect": %)" PRIu64 R"(, "reset": %)" PRIu64 R"(, "status": %)" PRIu64
                R"(, "malformed": %)" PRIu64 R"(, "timeout": %)" PRIu64 R"(, "handshake": %)" PRIu64
                R"(}, "latency_us": %s, "unmarked_latency_us": %s, "marked_latency_us": %s})"
                "\n",
                requests_, elapsed_seconds_, static_cast<double>(requests_) / elapsed_seconds_, bytes_sent_,
                bytes_received_, usage_.cpu_seconds, usage_.rss_bytes, self_cpu_seconds_, unsent_, errors_.sum(),
                errors_.connect, errors_.reset, errors_.status, errors_.malformed, errors_.timeout, errors_.handshake,
                latencies_.Json().c_str(), unmarked_.Json().c_str(), marked_.Json().c_str());
    return 0;
  }

  [[noreturn]] void Give(const char* why) const {
    (void)std::fprintf(stderr,
                       "load: %s: %" PRIu64 " responses; errors: %" PRIu64 " connect, %" PRIu64 " reset, %" PRIu64
                       " status (the last was %d), %" PRIu64 " malformed, %" PRIu64 " handshake\n",
                       why, requests_, errors_.connect, errors_.reset, errors_.status, last_status_, errors_.malformed,
                       errors_.handshake);
    std::exit(1);
  }

  int64_t NextDue() const {
    return start_ns_ + static_cast<int64_t>(static_cast<double>(issued_) * 1e9 / options_.rate);
  }
  bool MayIssue(int64_t now) const {
    return phase_ == Phase::kMeasure && now < end_ns_ && (options_.requests == 0 || issued_ < options_.requests) &&
           (options_.rate == 0 || NextDue() <= now);
  }
  int64_t TakeDue(int64_t now) {
    const int64_t due = options_.rate > 0 ? NextDue() : now;
    ++issued_;
    return due;
  }

  void Poll(int64_t wait_ns) {
    const timespec wait{.tv_sec = std::max<int64_t>(wait_ns, 0) / 1'000'000'000,
                        .tv_nsec = std::max<int64_t>(wait_ns, 0) % 1'000'000'000};
    std::array<epoll_event, kEventsMax> events;
    const int count = epoll_pwait2(poll_, events.data(), kEventsMax, &wait, nullptr);
    for (int i = 0; i < count; ++i) {
      Connection* connection = &connections_[static_cast<uint32_t>(events[i].data.u64)];
      if (connection->generation != events[i].data.u64 >> 32) continue;
      if ((events[i].events & EPOLLOUT) != 0 && connection->busy && !Send(connection)) continue;
      if ((events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
        Receive(connection, (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
      }
    }
  }

  void Issue(Connection* connection, int64_t due_ns) {
    connection->due_ns = due_ns;
    connection->marked = marking != 0;
    connection->head = next_head_;
    next_head_ = next_head_ + 1 == message_.count() ? 0 : next_head_ + 1;
    connection->sent = 0;
    connection->busy = true;
    ++busy_;
    connection->answer.Next();
    if (connection->fd < 0) {
      connection->fd = Connect(options_.port);
      if (connection->fd < 0) return Fail(connection, &errors_.connect);
      epoll_event event{};
      event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
      event.data.u64 =
          (uint64_t{++connection->generation} << 32) | static_cast<uint64_t>(connection - connections_.data());
      (void)epoll_ctl(poll_, EPOLL_CTL_ADD, connection->fd, &event);
      if (tls_ != nullptr) connection->tls = tls_->Open(connection->fd, options_.resume);
    }
    (void)Send(connection);
  }

  // False: the connection failed.
  bool Send(Connection* connection) {
    std::array<iovec, 3> parts;
    while (connection->sent < message_.Bytes(connection->head)) {
      msghdr what{};
      what.msg_iov = parts.data();
      what.msg_iovlen = message_.Rest(connection->head, connection->sent, &parts);
      if (connection->tls != nullptr && !connection->tls->established()) {
        if (!Shake(connection)) return false;
        if (!connection->tls->established()) return true;
      }
      const ssize_t bytes =
          connection->tls != nullptr ? connection->tls->Write(parts[0]) : sendmsg(connection->fd, &what, MSG_NOSIGNAL);
      if (bytes < 0) {
        if (errno == EAGAIN) return true;
        // A server that responds early and closes may have its response in flight: read it.
        if (connection->sent > 0 && (errno == EPIPE || errno == ECONNRESET)) return true;
        Fail(connection, connection->sent == 0 && requests_ == 0 ? &errors_.connect : &errors_.reset);
        return false;
      }
      connection->sent += static_cast<uint64_t>(bytes);
      bytes_sent_ += static_cast<uint64_t>(bytes);
    }
    return true;
  }

  // Continues the handshake. False: the connection failed.
  bool Shake(Connection* connection) {
    const TlsConnection::Step step = connection->tls->Handshake();
    const bool full = step == TlsConnection::Step::kDone && !connection->tls->resumed();
    if (step != TlsConnection::Step::kFailed && !(full && options_.resume && phase_ != Phase::kOpen)) return true;
    Fail(connection, &errors_.handshake);
    return false;
  }

  // As ReceiveInto.
  ssize_t ReceiveTls(Connection* connection, bool* more, size_t* consumed) {
    const ssize_t bytes = connection->tls->Read(buffer_.get(), kBufferBytes);
    *more = bytes > 0;  // until it says that there is nothing: OpenSSL may hold records
    *consumed = bytes > 0 ? connection->answer.Consume(std::string_view(buffer_.get(), static_cast<size_t>(bytes))) : 0;
    return bytes;
  }

  void Receive(Connection* connection, bool ended) {
    if (connection->tls != nullptr && !connection->tls->established()) {
      if (connection->busy) (void)Send(connection);
      return;
    }
    while (true) {
      bool more = false;
      size_t consumed = 0;
      const ssize_t bytes = connection->tls != nullptr ? ReceiveTls(connection, &more, &consumed)
                                                       : ReceiveInto(connection->fd, &connection->answer, buffer_.get(),
                                                                     kBufferBytes, &more, &consumed);
      if (bytes < 0 && errno == EAGAIN) return;
      if (bytes <= 0) {
        if (connection->busy)
          return Fail(connection, bytes < 0 && errno == ECONNREFUSED ? &errors_.connect : &errors_.reset);
        Close(connection);
        if (connection->ending) Next(connection);
        return;
      }
      bytes_received_ += static_cast<uint64_t>(bytes);
      if (connection->answer.bad() || consumed < static_cast<size_t>(bytes) || !connection->busy) {
        return Fail(connection, &errors_.malformed);
      }
      if (connection->answer.complete()) {
        if (connection->answer.status() / 100 != 2) {
          last_status_ = connection->answer.status();
          return Fail(connection, &errors_.status);
        }
        if (connection->sent < message_.Bytes(connection->head)) return Fail(connection, &errors_.malformed);
        Finish(connection);
      }
      if (!more && !ended) return;
      if (connection->fd < 0 || (connection->tls != nullptr && !connection->tls->established())) return;
    }
  }

  void Finish(Connection* connection) {
    connection->busy = false;
    --busy_;
    if (phase_ != Phase::kOpen) {
      ++requests_;
      const int64_t latency = NowNs() - connection->due_ns;
      latencies_.Add(latency);
      (connection->marked ? marked_ : unmarked_).Add(latency);
    }
    if (options_.close) {
      connection->ending = true;  // the server closes first; its close counts as part of its work
      return;
    }
    if (connection->answer.closes()) Close(connection);
    Next(connection);
  }

  void Next(Connection* connection) {
    connection->ending = false;
    if (phase_ == Phase::kOpen) return;
    const int64_t now = NowNs();
    if (MayIssue(now) && idle_.empty()) {
      Issue(connection, TakeDue(now));
    } else {
      idle_.push_back(connection);
    }
  }

  void Fail(Connection* connection, uint64_t* kind) {
    ++*kind;
    if (connection->busy) --busy_;
    connection->busy = connection->ending = false;
    Close(connection);
    if (phase_ != Phase::kOpen) idle_.push_back(connection);
  }

  static void Close(Connection* connection) {
    connection->tls.reset();
    if (connection->fd >= 0) close(connection->fd);
    connection->fd = -1;
    ++connection->generation;
  }

  const Options options_;
  const Message message_;
  std::unique_ptr<TlsClient> tls_;  // null: cleartext
  Phase phase_ = Phase::kOpen;
  int poll_ = -1;
  std::vector<Connection> connections_;
  std::deque<Connection*> idle_;
  std::unique_ptr<char[]> buffer_ = std::make_unique_for_overwrite<char[]>(kBufferBytes);
  size_t next_head_ = 0;
  int busy_ = 0;
  uint64_t issued_ = 0;
  uint64_t requests_ = 0;
  uint64_t unsent_ = 0;
  uint64_t bytes_sent_ = 0;
  uint64_t bytes_received_ = 0;
  int last_status_ = 0;
  int64_t start_ns_ = 0;
  int64_t end_ns_ = 0;
  double elapsed_seconds_ = 0;
  double self_cpu_seconds_ = 0;
  Usage usage_;
  Errors errors_;
  Histogram latencies_;
  Histogram unmarked_;
  Histogram marked_;
};

[[noreturn]] void Refuse(const std::string& why) {
  (void)std::fprintf(stderr, "load: %s\n\n%s", why.c_str(), kHelp);
  std::exit(2);
}

Options Parse(int argc, char** argv) {
  Options options;
  std::vector<std::string> rest;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (!name.starts_with("--")) {
      rest.emplace_back(name);
      continue;
    }
    if (name == "--help") {
      std::printf("%s", kHelp);
      std::exit(0);
    }
    if (i + 1 == argc) Refuse(std::string(name) + " needs a value");
    const char* value = argv[++i];
    if (name == "--field") {
      options.fields += value;
      options.fields += "\r\n";
      continue;
    }
    if (name == "--tls") {
      options.certificate = value;
      continue;
    }
    char* end = nullptr;
    const double number = std::strtod(value, &end);
    if (end == value || *end != '\0' || !(number >= 0 && number < 1e12)) {
      Refuse(std::string(name) + ": '" + value + "' is not a number from 0");
    }
    const auto whole = static_cast<uint64_t>(number);
    if (name == "--connections") {
      options.connections = whole;
    } else if (name == "--seconds") {
      options.seconds = number;
    } else if (name == "--requests") {
      options.requests = whole;
    } else if (name == "--rate") {
      options.rate = number;
    } else if (name == "--body") {
      options.body_bytes = whole;
    } else if (name == "--chunk") {
      options.chunk_bytes = whole;
    } else if (name == "--paths") {
      options.paths = whole;
    } else if (name == "--close") {
      options.close = whole != 0;
    } else if (name == "--resume") {
      options.resume = whole != 0;
    } else if (name == "--idle") {
      options.idle_seconds = number;
    } else if (name == "--watch") {
      options.watched.push_back(static_cast<int>(whole));
    } else {
      Refuse("unknown option " + std::string(name));
    }
  }
  if (rest.size() != 2) Refuse("needs PORT and PATH");
  options.port = std::atoi(rest[0].c_str());
  options.path = rest[1];
  if (options.port < 1 || options.port > 65535) Refuse("'" + rest[0] + "' is not a port");
  if (options.connections == 0 || options.paths == 0) Refuse("--connections and --paths are at least 1");
  if (options.seconds == 0 && options.requests == 0 && options.idle_seconds == 0)
    Refuse("without --seconds, --requests or --idle it would never end");
  if (options.chunk_bytes > 0 && (options.body_bytes == 0 || options.body_bytes % options.chunk_bytes != 0)) {
    Refuse("--body must be a multiple of --chunk");
  }
  if (options.resume && options.certificate.empty()) Refuse("--resume needs --tls");
  if (options.idle_seconds > 0 && options.close) Refuse("--idle and --close do not go together");
  return options;
}

}  // namespace
}  // namespace gateway::bench

int main(int argc, char** argv) {
  gateway::bench::Load load(gateway::bench::Parse(argc, argv));
  struct sigaction on {};
  on.sa_handler = [](int signal) {
    if (signal == SIGTERM) gateway::bench::stopping = 1;
    gateway::bench::marking = signal == SIGUSR1 ? 1 : 0;
  };
  (void)sigaction(SIGTERM, &on, nullptr);
  (void)sigaction(SIGUSR1, &on, nullptr);
  (void)sigaction(SIGUSR2, &on, nullptr);
  (void)prctl(PR_SET_TIMERSLACK, 1);  // requests are 50 us apart at 20,000 a second, as long as the default slack
  return load.Run();
}
