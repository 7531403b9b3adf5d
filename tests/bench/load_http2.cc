// Loads an HTTP/2 server on loopback, over TLS 1.3, with one kind of request: a GET, or a unary gRPC call whose message
// the service must echo. Prints one line of JSON, as bench-load does. One thread, epoll; ends by itself. See
// `load_http2 --help`.
//
// Closed loop: each stream sends its next request after the response to the previous one. Before the measurement every
// connection is opened and gets one response. A response counts if it is whole and as expected; anything else is an
// error.
#include <nghttp2/nghttp2.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/bench/measurement.h"
#include "tests/bench/sockets.h"
#include "tests/bench/tls_client.h"

namespace gateway::bench {
namespace {

constexpr int kEventsMax = 512;
constexpr size_t kBufferBytes = 256 * 1024;
constexpr size_t kOutputBytesMax = 256 * 1024;  // waiting on one connection for the socket
constexpr int kOpeningMax = 64;                 // connections that wait for their first response at once
constexpr int64_t kDrainNs = 5'000'000'000;     // after the end, for requests in flight; then they count as timed out
constexpr uint64_t kErrorsMax = 10'000;         // the measurement is void
constexpr int32_t kConnectionWindow = 16 << 20;
constexpr size_t kMessageBytes = 64;
constexpr size_t kPrefixBytes = 5;  // before each gRPC message

constexpr char kHelp[] =
    R"(load_http2 [OPTION VALUE]... PORT PATH     requests to https://localhost:PORT
  --tls CERT        required; the server must have the certificate of this PEM file, for localhost
  --connections N   (8)
  --streams N       requests at once on each connection (100)
  --seconds S       ends then; what is under way is waited for
  --grpc 1          unary gRPC calls of the method PATH, with a message of 64 bytes that the service must echo
  --idle S          opens the connections, gets one response on each, and leaves them idle for S seconds
  --watch PID       measures the CPU time and the memory of this process too; any number
)";

struct Options {
  int port = 0;
  std::string path;
  std::string certificate;
  size_t connections = 8;
  size_t streams = 100;
  double seconds = 0;
  double idle_seconds = 0;
  bool grpc = false;
  std::vector<int> watched;
};

nghttp2_nv Field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

class Load {
 public:
  explicit Load(Options options)
      : options_(std::move(options)),
        authority_("localhost:" + std::to_string(options_.port)),
        tls_(options_.certificate, "h2"),
        connections_(options_.connections) {
    message_.assign(kPrefixBytes, '\0');
    message_.back() = static_cast<char>(kMessageBytes);
    message_.append(kMessageBytes, 'm');
    nghttp2_session_callbacks_new(&callbacks_);
    nghttp2_session_callbacks_set_on_header_callback(callbacks_, &Load::OnHeader);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks_, &Load::OnData);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks_, &Load::OnStreamClosed);
  }
  ~Load() { nghttp2_session_callbacks_del(callbacks_); }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  int Run() {
    poll_ = epoll_create1(EPOLL_CLOEXEC);
    const Usage before = UsageOf(options_.watched);
    OpenAll();
    if (options_.idle_seconds > 0) return Idle(before);
    Measure();
    return Report();
  }

 private:
  enum class Phase { kOpen, kMeasure, kDrain };

  struct Connection;
  struct Stream {
    Connection* connection = nullptr;
    int64_t since_ns = 0;
    int status = 0;
    int grpc_status = -1;
    size_t body_bytes = 0;
    bool wrong_body = false;
  };
  struct Connection {
    Load* load = nullptr;
    int fd = -1;
    std::unique_ptr<TlsConnection> tls;
    nghttp2_session* session = nullptr;
    std::string output;
    size_t written = 0;
    std::vector<std::unique_ptr<Stream>> streams;
  };
  struct Errors {
    uint64_t connect = 0;  // or the handshake
    uint64_t reset = 0;    // the connection or the stream ended before its response
    uint64_t status = 0;   // neither 2xx nor, of gRPC, OK
    uint64_t body = 0;     // empty, or another message than the one sent
    uint64_t timeout = 0;
    uint64_t sum() const { return connect + reset + status + body + timeout; }
  };

  // ---- Of nghttp2; `self` is a Connection.

  static int OnHeader(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                      const uint8_t* value, size_t value_size, uint8_t, void*) {
    auto* const stream = static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, frame->hd.stream_id));
    const std::string_view field(reinterpret_cast<const char*>(name), name_size);
    if (stream == nullptr || value_size == 0) return 0;
    if (field == ":status") stream->status = std::atoi(reinterpret_cast<const char*>(value));
    if (field == "grpc-status") stream->grpc_status = std::atoi(reinterpret_cast<const char*>(value));
    return 0;
  }

  static int OnData(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
    auto* const stream = static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
    if (stream == nullptr) return 0;
    const Load& load = *static_cast<Connection*>(self)->load;
    const std::string& message = load.message_;
    if (load.options_.grpc) {
      stream->wrong_body |= stream->body_bytes + size > message.size() ||
                            std::memcmp(message.data() + stream->body_bytes, data, size) != 0;
    }
    stream->body_bytes += size;
    return 0;
  }

  // (nghttp2 has compared Content-Length with what came.)
  static int OnStreamClosed(nghttp2_session* session, int32_t id, uint32_t code, void* self) {
    auto* const stream = static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
    if (stream != nullptr) static_cast<Connection*>(self)->load->Finish(stream, code);
    return 0;
  }

  static ssize_t ReadMessage(nghttp2_session*, int32_t, uint8_t* buffer, size_t size, uint32_t* flags,
                             nghttp2_data_source* source, void*) {
    const auto& message = *static_cast<const std::string*>(source->ptr);
    if (size < message.size()) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // a window is never that small here
    std::memcpy(buffer, message.data(), message.size());
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(message.size());
  }

  // ---- The load.

  void OpenAll() {
    const int64_t give_up = NowNs() + 60'000'000'000;
    size_t opened = 0;
    while (opened < connections_.size() || busy_ > 0) {
      while (opened < connections_.size() && busy_ < kOpeningMax) {
        Connection* const connection = &connections_[opened++];
        connection->load = this;
        if (Open(connection)) (void)Go(connection);
      }
      Poll(100'000'000);
      if (NowNs() > give_up || errors_.sum() > 100) Give("the connections could not be opened");
    }
  }

  // With its first stream.
  bool Open(Connection* connection) {
    connection->fd = Connect(options_.port);
    if (connection->fd < 0) {
      ++errors_.connect;
      return false;
    }
    connection->tls = tls_.Open(connection->fd, /*resume=*/false);
    nghttp2_session_client_new(&connection->session, callbacks_, connection);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                               {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0}};
    nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, std::size(settings));
    nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.ptr = connection;
    (void)epoll_ctl(poll_, EPOLL_CTL_ADD, connection->fd, &event);
    AddStream(connection);
    return true;
  }

  void AddStream(Connection* connection) {
    connection->streams.push_back(std::make_unique<Stream>());
    connection->streams.back()->connection = connection;
    Issue(connection->streams.back().get());
  }

  void Issue(Stream* stream) {
    stream->since_ns = NowNs();
    stream->status = 0;
    stream->grpc_status = -1;
    stream->body_bytes = 0;
    stream->wrong_body = false;
    ++busy_;
    const std::array<nghttp2_nv, 7> fields = {Field(":method", options_.grpc ? "POST" : "GET"),
                                              Field(":scheme", "https"),
                                              Field(":authority", authority_),
                                              Field(":path", options_.path),
                                              Field("user-agent", "bench"),
                                              Field("te", "trailers"),
                                              Field("content-type", "application/grpc")};
    nghttp2_data_provider provider{};
    provider.source.ptr = &message_;
    provider.read_callback = &Load::ReadMessage;
    const int32_t id = nghttp2_submit_request(stream->connection->session, nullptr, fields.data(),
                                              options_.grpc ? 7 : 5, options_.grpc ? &provider : nullptr, stream);
    if (id < 0) Give("nghttp2 takes no request");
  }

  void Finish(Stream* stream, uint32_t code) {
    --busy_;
    if (code != NGHTTP2_NO_ERROR || stream->status == 0) {
      ++errors_.reset;
    } else if (stream->status / 100 != 2 || (options_.grpc && stream->grpc_status != 0)) {
      last_status_ = stream->status;
      ++errors_.status;
    } else if (stream->wrong_body || stream->body_bytes == 0 ||
               (options_.grpc && stream->body_bytes != message_.size())) {
      ++errors_.body;
    } else if (phase_ != Phase::kOpen) {
      ++requests_;
      latencies_.Add(NowNs() - stream->since_ns);
    }
    if (phase_ == Phase::kMeasure) Issue(stream);
  }

  // Reads and writes until both would block. False: the connection has ended, and is open again if that was expected to
  // last.
  bool Go(Connection* connection) {
    if (!connection->tls->established()) {
      const TlsConnection::Step step = connection->tls->Handshake();
      if (step == TlsConnection::Step::kFailed) return Lose(connection, &errors_.connect);
      if (step == TlsConnection::Step::kAgain) return true;
    }
    while (true) {
      const ssize_t bytes = connection->tls->Read(buffer_.get(), kBufferBytes);
      if (bytes < 0 && errno == EAGAIN) break;
      if (bytes <= 0) return Lose(connection, &errors_.reset);
      bytes_received_ += static_cast<uint64_t>(bytes);
      if (nghttp2_session_mem_recv(connection->session, reinterpret_cast<const uint8_t*>(buffer_.get()),
                                   static_cast<size_t>(bytes)) < 0) {
        return Lose(connection, &errors_.reset);
      }
    }
    return Write(connection);
  }

  bool Write(Connection* connection) {
    while (true) {
      while (connection->output.size() - connection->written < kOutputBytesMax) {
        const uint8_t* data = nullptr;
        const ssize_t size = nghttp2_session_mem_send(connection->session, &data);
        if (size < 0) return Lose(connection, &errors_.reset);
        if (size == 0) break;
        connection->output.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
      }
      if (connection->written == connection->output.size()) return true;
      while (connection->written < connection->output.size()) {
        const ssize_t bytes = connection->tls->Write(
            {connection->output.data() + connection->written, connection->output.size() - connection->written});
        if (bytes < 0 && errno == EAGAIN) return true;
        if (bytes <= 0) return Lose(connection, &errors_.reset);
        connection->written += static_cast<size_t>(bytes);
        bytes_sent_ += static_cast<uint64_t>(bytes);
      }
      connection->output.clear();
      connection->written = 0;
    }
  }

  bool Lose(Connection* connection, uint64_t* kind) {
    *kind += std::max<uint64_t>(1, connection->streams.size());
    busy_ -= static_cast<int>(connection->streams.size());
    nghttp2_session_del(std::exchange(connection->session, nullptr));
    connection->streams.clear();
    connection->output.clear();
    connection->written = 0;
    connection->tls.reset();
    close(std::exchange(connection->fd, -1));
    if (phase_ == Phase::kMeasure && errors_.sum() <= kErrorsMax && Open(connection)) {
      while (connection->streams.size() < options_.streams) AddStream(connection);
    }
    return false;
  }

  void Poll(int64_t wait_ns) {
    const timespec wait{.tv_sec = std::max<int64_t>(wait_ns, 0) / 1'000'000'000,
                        .tv_nsec = std::max<int64_t>(wait_ns, 0) % 1'000'000'000};
    std::array<epoll_event, kEventsMax> events;
    const int count = epoll_pwait2(poll_, events.data(), kEventsMax, &wait, nullptr);
    for (int i = 0; i < count; ++i) {
      auto* const connection = static_cast<Connection*>(events[i].data.ptr);
      if (connection->fd >= 0) (void)Go(connection);
    }
  }

  void Measure() {
    phase_ = Phase::kMeasure;
    usage_ = UsageOf(options_.watched);
    bytes_received_ = bytes_sent_ = 0;
    const int64_t start = NowNs();
    const int64_t end = start + static_cast<int64_t>(options_.seconds * 1e9);
    for (Connection& connection : connections_) {
      if (connection.fd < 0) continue;
      Issue(connection.streams.front().get());
      while (connection.streams.size() < options_.streams) AddStream(&connection);
      (void)Write(&connection);
    }
    for (int64_t now = NowNs(); now < end; now = NowNs()) {
      Poll(std::min<int64_t>(end - now, 1'000'000'000));
      if (errors_.sum() > kErrorsMax) Give("too many errors");
    }
    phase_ = Phase::kDrain;
    const int64_t drain_end = NowNs() + kDrainNs;
    while (busy_ > 0 && NowNs() < drain_end) Poll(drain_end - NowNs());
    errors_.timeout += static_cast<uint64_t>(std::max(busy_, 0));
    elapsed_seconds_ = static_cast<double>(NowNs() - start) / 1e9;
    const Usage after = UsageOf(options_.watched);
    usage_.cpu_seconds = after.cpu_seconds - usage_.cpu_seconds;
    usage_.rss_bytes = after.rss_bytes;
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
                R"(, "errors": %)" PRIu64 R"(, "errors_by_kind": {"connect": %)" PRIu64 R"(, "reset": %)" PRIu64
                R"(, "status": %)" PRIu64 R"(, "body": %)" PRIu64 R"(, "timeout": %)" PRIu64 R"(}, "latency_us": %s})"
                "\n",
                requests_, elapsed_seconds_, static_cast<double>(requests_) / elapsed_seconds_, bytes_sent_,
                bytes_received_, usage_.cpu_seconds, usage_.rss_bytes, errors_.sum(), errors_.connect, errors_.reset,
                errors_.status, errors_.body, errors_.timeout, latencies_.Json().c_str());
    return 0;
  }

  [[noreturn]] void Give(const char* why) const {
    (void)std::fprintf(stderr,
                       "load_http2: %s: %" PRIu64 " responses; errors: %" PRIu64 " connect, %" PRIu64 " reset, %" PRIu64
                       " status (the last was %d), %" PRIu64 " body\n",
                       why, requests_, errors_.connect, errors_.reset, errors_.status, last_status_, errors_.body);
    std::exit(1);
  }

  const Options options_;
  const std::string authority_;
  TlsClient tls_;
  nghttp2_session_callbacks* callbacks_ = nullptr;
  std::string message_;
  Phase phase_ = Phase::kOpen;
  int poll_ = -1;
  std::vector<Connection> connections_;
  const std::unique_ptr<char[]> buffer_ = std::make_unique_for_overwrite<char[]>(kBufferBytes);
  int busy_ = 0;
  uint64_t requests_ = 0;
  uint64_t bytes_sent_ = 0;
  uint64_t bytes_received_ = 0;
  int last_status_ = 0;
  double elapsed_seconds_ = 0;
  Usage usage_;
  Errors errors_;
  Histogram latencies_;
};

[[noreturn]] void Refuse(const std::string& why) {
  (void)std::fprintf(stderr, "load_http2: %s\n\n%s", why.c_str(), kHelp);
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
    if (name == "--tls") {
      options.certificate = value;
      continue;
    }
    char* end = nullptr;
    const double number = std::strtod(value, &end);
    if (end == value || *end != '\0' || !(number >= 0 && number < 1e9)) {
      Refuse(std::string(name) + ": '" + value + "' is not a number from 0");
    }
    if (name == "--connections") {
      options.connections = static_cast<size_t>(number);
    } else if (name == "--streams") {
      options.streams = static_cast<size_t>(number);
    } else if (name == "--seconds") {
      options.seconds = number;
    } else if (name == "--idle") {
      options.idle_seconds = number;
    } else if (name == "--grpc") {
      options.grpc = number != 0;
    } else if (name == "--watch") {
      options.watched.push_back(static_cast<int>(number));
    } else {
      Refuse("unknown option " + std::string(name));
    }
  }
  if (rest.size() != 2) Refuse("needs PORT and PATH");
  options.port = std::atoi(rest[0].c_str());
  options.path = rest[1];
  if (options.port < 1 || options.port > 65535) Refuse("'" + rest[0] + "' is not a port");
  if (options.certificate.empty()) Refuse("needs --tls");
  if (options.connections == 0 || options.streams == 0) Refuse("--connections and --streams are at least 1");
  if (options.seconds == 0 && options.idle_seconds == 0) Refuse("needs --seconds or --idle");
  return options;
}

}  // namespace
}  // namespace gateway::bench

int main(int argc, char** argv) {
  gateway::bench::Load load(gateway::bench::Parse(argc, argv));
  return load.Run();
}
