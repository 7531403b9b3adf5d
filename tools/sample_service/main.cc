// sample-service: a small HTTP/1.1 service for the tour and the tests. It responds, slows down and fails on request,
// and registers itself in Consul if given its address. See --help.
//
// Each connection is a coroutine on its own strand; shared state is in Behaviour, in atomics.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "boost/asio/as_tuple.hpp"
#include "boost/asio/awaitable.hpp"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/detached.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/signal_set.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/strand.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http.hpp"
#include "common/base/version.h"
#include "nlohmann/json.hpp"

namespace gateway {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using namespace std::chrono_literals;

constexpr auto kIdleTimeout =
    120s;  // longer than the gateway keeps an idle upstream connection, so that it closes first
constexpr auto kStallTimeout = 60s;  // within a request or a response
constexpr auto kConsulTimeout = 3s;
constexpr auto kConsulRetry = 1s;    // while Consul does not respond
constexpr auto kConsulRecheck = 5s;  // whether we are still registered: an agent may have lost its state
constexpr auto kAcceptRetry = 50ms;  // out of file descriptors: wait until other connections close
constexpr uint32_t kHeadBytesMax = 64 << 10;
constexpr uint64_t kBodyBytesMax = 4ull << 30;  // for ?bytes=
constexpr auto kDelayMax = milliseconds(10min);
constexpr size_t kBlockBytes = 64 << 10;

// Completions are tuples: (error_code, result...). Nothing throws on the request path.
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

enum class Health : int { kPassing = 200, kWarning = 429, kCritical = 503 };  // how Consul reads an HTTP check's status

struct Options {
  std::string name = "sample";
  std::string id;  // "": NAME-PORT
  std::string listen = "127.0.0.1:0";
  std::string advertise;
  std::string consul;
  std::vector<std::string> tags;
  uint32_t weight = 1;
  milliseconds delay{0};
  uint64_t fail_every = 0;
  int fail_status = 500;
  milliseconds drain = 500ms;
  int threads = 2;
};

// The current behavior. Shared by all threads.
struct Behaviour {
  std::atomic<Health> health{Health::kPassing};
  std::atomic<int> forced_status{0};  // 0: not forced
  std::atomic<uint64_t> requests{0};
  std::atomic<bool> draining{false};
};

struct HostPort {
  std::string host;
  std::string port;
};

// "127.0.0.1:80", "[::1]:80", "host:80".
absl::StatusOr<HostPort> SplitHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not HOST:PORT"));
  }
  std::string host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host.empty()) return absl::InvalidArgumentError(absl::StrCat("'", text, "' has no host"));
  return HostPort{std::move(host), text.substr(colon + 1)};
}

std::string JoinHostPort(const std::string& host, const std::string& port) {
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

// What a request's query wants of the response.
struct Wish {
  std::optional<int> status;
  std::optional<uint64_t> bytes;
  milliseconds delay{0};
  bool chunked = false;
  bool close = false;
  bool reset = false;
};

absl::StatusOr<int> ParseStatus(const std::string& text) {
  int status = 0;
  if (!absl::SimpleAtoi(text, &status) || status < 200 || status > 599) {
    return absl::InvalidArgumentError(absl::StrCat("status '", text, "': expected 200 to 599"));
  }
  return status;
}

absl::StatusOr<milliseconds> ParseDelay(const std::string& text) {
  absl::Duration delay;
  if (!absl::ParseDuration(text, &delay) || delay < absl::ZeroDuration() || delay > absl::FromChrono(kDelayMax)) {
    return absl::InvalidArgumentError(absl::StrCat("delay '", text, "': expected 0s to 10m, such as 250ms"));
  }
  return absl::ToChronoMilliseconds(delay);
}

using QueryPairs = std::vector<std::pair<std::string, std::string>>;

QueryPairs SplitQuery(const std::string& query) {
  QueryPairs pairs;
  for (absl::string_view pair : absl::StrSplit(query, '&', absl::SkipEmpty())) {
    pairs.push_back(absl::StrSplit(pair, absl::MaxSplits('=', 1)));
  }
  return pairs;
}

// Ignores unknown keys.
absl::StatusOr<Wish> ParseWish(const std::string& query) {
  Wish wish;
  for (const auto& [key, value] : SplitQuery(query)) {
    const bool yes = value != "0";
    if (key == "status") {
      absl::StatusOr<int> status = ParseStatus(value);
      if (!status.ok()) return status.status();
      wish.status = *status;
    } else if (key == "delay") {
      absl::StatusOr<milliseconds> delay = ParseDelay(value);
      if (!delay.ok()) return delay.status();
      wish.delay = *delay;
    } else if (key == "bytes") {
      uint64_t bytes = 0;
      if (!absl::SimpleAtoi(value, &bytes) || bytes > kBodyBytesMax) {
        return absl::InvalidArgumentError(absl::StrCat("bytes '", value, "': expected 0 to ", kBodyBytesMax));
      }
      wish.bytes = bytes;
    } else if (key == "chunked") {
      wish.chunked = yes;
    } else if (key == "close") {
      wish.close = yes;
    } else if (key == "reset") {
      wish.reset = yes;
    }
  }
  return wish;
}

const std::string& Block() {
  static const std::string block = [] {
    std::string text(kBlockBytes, '\0');
    for (size_t i = 0; i < text.size(); ++i) text[i] = i % 64 == 63 ? '\n' : static_cast<char>('a' + i % 26);
    return text;
  }();
  return block;
}

// One connection: reads requests and responds to them, one after the other, until either side closes it.
class Connection {
 public:
  Connection(tcp::socket socket, const Options& options, const std::string& instance, Behaviour* behaviour)
      : stream_(std::move(socket)), options_(options), instance_(instance), behaviour_(behaviour) {}

  // `self` keeps the connection alive; the coroutine frame alone does not.
  static asio::awaitable<void> Run(std::shared_ptr<Connection> self) {
    error_code ignored;
    self->stream_.socket().set_option(tcp::no_delay(true), ignored);
    while (co_await self->ServeOne()) {
    }
    self->stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
  }

 private:
  // The response to a request, before it is written.
  struct Answer {
    int status = 200;                    // 200 to 599, including those that Beast has no name for
    std::string body = {};               // JSON; ignored if `bytes` is given
    std::optional<uint64_t> bytes = {};  // this many filler bytes instead of `body`
    bool chunked = false;
    bool close = false;
  };

  // False: the connection must close.
  asio::awaitable<bool> ServeOne() {
    http::request_parser<http::buffer_body> parser;
    parser.header_limit(kHeadBytesMax);
    parser.body_limit(boost::none);
    stream_.expires_after(kIdleTimeout);
    auto [head_error, head_bytes] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
    if (head_error == http::error::end_of_stream || !parser.got_some()) co_return false;
    if (head_error) {
      Answer bad{.status = 400, .body = ErrorJson(head_error.message()), .close = true};
      co_await Write(bad, 11, false);
      co_return false;
    }
    const auto& head = parser.get();
    if (beast::iequals(head[http::field::expect], "100-continue") && !parser.is_done()) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      auto [error, bytes] = co_await asio::async_write(stream_, asio::buffer(kContinue), kAwait);
      if (error) co_return false;
    }
    std::string scratch;  // bodies are counted, not kept
    uint64_t body_bytes = 0;
    while (!parser.is_done()) {
      scratch.resize(kBlockBytes);
      parser.get().body().data = scratch.data();
      parser.get().body().size = scratch.size();
      stream_.expires_after(kStallTimeout);
      auto [error, bytes] = co_await http::async_read(stream_, buffer_, parser, kAwait);
      if (error && error != http::error::need_buffer) co_return false;
      body_bytes += scratch.size() - parser.get().body().size;
    }

    const std::string target(head.target());
    const size_t mark = target.find('?');
    const std::string path = target.substr(0, mark);
    const std::string query = mark == std::string::npos ? "" : target.substr(mark + 1);
    Answer answer;
    if (path == "/health") {
      answer = HealthAnswer();
    } else if (path.starts_with("/admin/")) {
      answer = AdminAnswer(head.method(), path, query);
    } else {
      absl::StatusOr<Wish> wish = ParseWish(query);
      if (!wish.ok()) {
        answer = {.status = 400, .body = ErrorJson(std::string(wish.status().message()))};
      } else {
        const uint64_t count = behaviour_->requests.fetch_add(1, std::memory_order_relaxed) + 1;
        const milliseconds delay = options_.delay + wish->delay;
        if (delay > 0ms) {
          stream_.expires_never();
          asio::steady_timer timer(stream_.get_executor(), delay);
          auto [error] = co_await timer.async_wait(kAwait);
          if (error) co_return false;
        }
        if (wish->reset) {
          // With linger 0, close sends an RST: from outside it looks like a crash.
          error_code ignored;
          stream_.socket().set_option(asio::socket_base::linger(true, 0), ignored);
          stream_.socket().close(ignored);
          co_return false;
        }
        answer = {.body = EchoJson(head, path, query, body_bytes),
                  .bytes = wish->bytes,
                  .chunked = wish->chunked && head.version() >= 11,
                  .close = wish->close};
        if (const int forced = behaviour_->forced_status.load(std::memory_order_relaxed); forced != 0) {
          answer.status = forced;
        } else if (options_.fail_every != 0 && count % options_.fail_every == 0) {
          answer.status = options_.fail_status;
        }
        if (wish->status.has_value()) answer.status = *wish->status;
      }
    }
    answer.close = answer.close || !head.keep_alive() || behaviour_->draining.load(std::memory_order_relaxed);
    const bool sent = co_await Write(answer, head.version(), head.method() == http::verb::head);
    co_return sent && !answer.close;
  }

  // False: the client is gone.
  asio::awaitable<bool> Write(const Answer& answer, unsigned version, bool is_head) {
    const bool bodiless = answer.status == 204 || answer.status == 304;
    std::string head =
        absl::StrCat("HTTP/1.", version % 10, " ", answer.status, " ",
                     std::string(http::obsolete_reason(http::int_to_status(static_cast<unsigned>(answer.status)))),
                     "\r\nServer: sample-service\r\nX-Instance: ", instance_,
                     "\r\nConnection: ", answer.close ? "close" : "keep-alive", "\r\n");
    if (!bodiless) {
      absl::StrAppend(
          &head, "Content-Type: ", answer.bytes.has_value() ? "application/octet-stream" : "application/json", "\r\n");
      if (answer.chunked) {
        head += "Transfer-Encoding: chunked\r\n";
      } else {
        absl::StrAppend(&head, "Content-Length: ", answer.bytes.value_or(answer.body.size()), "\r\n");
      }
    }
    head += "\r\n";
    const bool has_body = !is_head && !bodiless;
    if (has_body && !answer.bytes.has_value()) {
      // One write for header and body, which covers nearly every response.
      head += answer.chunked ? absl::StrCat(absl::Hex(answer.body.size()), "\r\n", answer.body, "\r\n0\r\n\r\n")
                             : answer.body;
    }
    stream_.expires_after(kStallTimeout);
    auto [error, bytes] = co_await asio::async_write(stream_, asio::buffer(head), kAwait);
    if (error) co_return false;
    if (!has_body || !answer.bytes.has_value()) co_return true;
    for (uint64_t left = *answer.bytes; left > 0;) {
      const size_t piece = static_cast<size_t>(std::min<uint64_t>(left, kBlockBytes));
      const std::string size_line = answer.chunked ? absl::StrCat(absl::Hex(piece), "\r\n") : "";
      const std::string_view ending = answer.chunked ? "\r\n" : "";
      const std::array<asio::const_buffer, 3> buffers = {asio::buffer(size_line), asio::buffer(Block(), piece),
                                                         asio::buffer(ending)};
      stream_.expires_after(kStallTimeout);
      auto [write_error, written] = co_await asio::async_write(stream_, buffers, kAwait);
      if (write_error) co_return false;
      left -= piece;
    }
    if (answer.chunked) {
      static constexpr std::string_view kLastChunk = "0\r\n\r\n";
      auto [last_error, written] = co_await asio::async_write(stream_, asio::buffer(kLastChunk), kAwait);
      if (last_error) co_return false;
    }
    co_return true;
  }

  static std::string ErrorJson(const std::string& message) {
    return nlohmann::json{{"error", message}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }

  std::string EchoJson(const http::request_header<>& head, const std::string& path, const std::string& query,
                       uint64_t body_bytes) const {
    nlohmann::ordered_json fields = nlohmann::ordered_json::object();
    for (const auto& field : head) {
      nlohmann::ordered_json& value = fields[std::string(field.name_string())];
      const std::string text(field.value());
      value = value.is_string() ? absl::StrCat(value.get_ref<const std::string&>(), ", ", text) : text;
    }
    const nlohmann::ordered_json echo = {{"service", options_.name},
                                         {"instance", instance_},
                                         {"method", std::string(head.method_string())},
                                         {"path", path},
                                         {"query", query},
                                         {"headers", std::move(fields)},
                                         {"body_bytes", body_bytes}};
    return echo.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }

  Answer HealthAnswer() const {
    const Health health = behaviour_->draining.load(std::memory_order_relaxed)
                              ? Health::kCritical
                              : behaviour_->health.load(std::memory_order_relaxed);
    const std::string_view word = health == Health::kPassing   ? "passing"
                                  : health == Health::kWarning ? "warning"
                                                               : "critical";
    return {.status = static_cast<int>(health), .body = nlohmann::json{{"status", word}}.dump() + "\n"};
  }

  Answer AdminAnswer(http::verb method, const std::string& path, const std::string& query) const {
    if (method != http::verb::post) {
      return {.status = 405, .body = ErrorJson("expected POST")};
    }
    const QueryPairs pairs = SplitQuery(query);
    const std::string key = pairs.size() == 1 ? pairs[0].first : "";
    const std::string value = pairs.size() == 1 ? pairs[0].second : "";
    if (path == "/admin/health") {
      if (key == "status" && (value == "passing" || value == "warning" || value == "critical")) {
        behaviour_->health = value == "passing"   ? Health::kPassing
                             : value == "warning" ? Health::kWarning
                                                  : Health::kCritical;
        return {.body = nlohmann::json{{"health", value}}.dump() + "\n"};
      }
      return {.status = 400, .body = ErrorJson("expected ?status=passing|warning|critical")};
    }
    if (path == "/admin/fail") {
      if (key == "off") {
        behaviour_->forced_status = 0;
        return {.body = nlohmann::json{{"fail", nullptr}}.dump() + "\n"};
      }
      if (const absl::StatusOr<int> status = ParseStatus(value); key == "status" && status.ok()) {
        behaviour_->forced_status = *status;
        return {.body = nlohmann::json{{"fail", *status}}.dump() + "\n"};
      }
      return {.status = 400, .body = ErrorJson("expected ?status=200..599, or ?off")};
    }
    return {.status = 404, .body = ErrorJson("expected /admin/health or /admin/fail")};
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  const Options& options_;
  const std::string& instance_;
  Behaviour* const behaviour_;
};

// Keeps this service registered in Consul's agent until Deregister.
class Registration {
 public:
  // `address` is empty if the listener is on all interfaces: Consul then gets the address that reaches it.
  Registration(const Options& options, HostPort consul, std::string id, std::string address, uint16_t port)
      : options_(options), consul_(std::move(consul)), id_(std::move(id)), address_(std::move(address)), port_(port) {}

  // Never returns; cancelled with the io_context.
  asio::awaitable<void> Keep() {
    asio::steady_timer timer(co_await asio::this_coro::executor);
    bool known = false;
    bool complained = false;
    while (!leaving_) {
      if (known) {
        absl::StatusOr<int> status = co_await Call(http::verb::get, absl::StrCat("/v1/agent/service/", id_), false);
        known = !status.ok() || *status != 404;
      }
      if (!known && !leaving_) {
        absl::StatusOr<int> status =
            co_await Call(http::verb::put, "/v1/agent/service/register?replace-existing-checks=true", true);
        known = status.ok() && *status == 200;
        if (known) {
          std::cerr << "sample-service: registered as " << options_.name << " (" << id_ << ") in Consul" << std::endl;
          complained = false;
        } else if (!complained) {
          std::cerr << "sample-service: Consul at " << JoinHostPort(consul_.host, consul_.port) << ": "
                    << (status.ok() ? absl::StrCat("status ", *status) : std::string(status.status().message()))
                    << "; trying again every second" << std::endl;
          complained = true;
        }
      }
      timer.expires_after(known ? std::chrono::seconds(kConsulRecheck) : std::chrono::seconds(kConsulRetry));
      auto [error] = co_await timer.async_wait(kAwait);
      if (error) co_return;
    }
  }

  asio::awaitable<void> Leave() {
    leaving_ = true;
    absl::StatusOr<int> status =
        co_await Call(http::verb::put, absl::StrCat("/v1/agent/service/deregister/", id_), false);
    if (!status.ok()) std::cerr << "sample-service: deregistering: " << status.status().message() << std::endl;
  }

 private:
  nlohmann::json Body(const std::string& address) const {
    return {{"ID", id_},
            {"Name", options_.name},
            {"Address", address},
            {"Port", port_},
            {"Tags", options_.tags},
            {"Weights", {{"Passing", options_.weight}, {"Warning", 1}}},
            {"Check",
             {{"Name", "HTTP /health"},
              {"HTTP", absl::StrCat("http://", JoinHostPort(address, absl::StrCat(port_)), "/health")},
              {"Interval", "1s"},
              {"Timeout", "1s"},
              // It already listens, so it need not wait for the first check.
              {"Status", "passing"},
              {"DeregisterCriticalServiceAfter", "1m"}}}};
  }

  // The status of one call of the agent's API.
  asio::awaitable<absl::StatusOr<int>> Call(http::verb verb, std::string path, bool with_body) {
    auto executor = co_await asio::this_coro::executor;
    tcp::resolver resolver(executor);
    auto [resolve_error, results] = co_await resolver.async_resolve(consul_.host, consul_.port, kAwait);
    if (resolve_error) co_return absl::UnavailableError(resolve_error.message());
    beast::tcp_stream stream(executor);
    stream.expires_after(kConsulTimeout);
    auto [connect_error, endpoint] = co_await stream.async_connect(results, kAwait);
    if (connect_error) co_return absl::UnavailableError(connect_error.message());
    http::request<http::string_body> request(verb, path, 11);
    request.set(http::field::host, JoinHostPort(consul_.host, consul_.port));
    request.set(http::field::connection, "close");
    if (with_body) {
      std::string address = address_;
      error_code local_error;
      if (address.empty()) address = stream.socket().local_endpoint(local_error).address().to_string();
      if (local_error) co_return absl::UnavailableError(local_error.message());
      request.set(http::field::content_type, "application/json");
      request.body() = Body(address).dump();
    }
    request.prepare_payload();
    auto [write_error, written] = co_await http::async_write(stream, request, kAwait);
    if (write_error) co_return absl::UnavailableError(write_error.message());
    beast::flat_buffer buffer;
    http::response<http::string_body> response;
    auto [read_error, read] = co_await http::async_read(stream, buffer, response, kAwait);
    if (read_error) co_return absl::UnavailableError(read_error.message());
    co_return static_cast<int>(response.result_int());
  }

  const Options& options_;
  const HostPort consul_;
  const std::string id_;
  const std::string address_;
  const uint16_t port_;
  std::atomic<bool> leaving_{false};
};

class SampleService {
 public:
  explicit SampleService(Options options) : options_(std::move(options)), acceptor_(io_), signals_(io_) {}

  absl::Status Start() {
    absl::StatusOr<HostPort> listen = SplitHostPort(options_.listen);
    if (!listen.ok()) return listen.status();
    error_code error;
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(listen->host, listen->port, tcp::resolver::passive, error);
    if (error) return absl::InvalidArgumentError(absl::StrCat("--listen ", options_.listen, ": ", error.message()));
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return absl::UnavailableError(absl::StrCat("listening on ", options_.listen, ": ", error.message()));
    const tcp::endpoint bound = acceptor_.local_endpoint(error);
    if (error) return absl::UnavailableError(absl::StrCat("listening on ", options_.listen, ": ", error.message()));
    instance_ = options_.id.empty() ? absl::StrCat(options_.name, "-", bound.port()) : options_.id;

    if (!options_.consul.empty()) {
      absl::StatusOr<HostPort> consul = SplitHostPort(options_.consul);
      if (!consul.ok()) return consul.status();
      std::string address = !options_.advertise.empty()        ? options_.advertise
                            : bound.address().is_unspecified() ? ""
                                                               : bound.address().to_string();
      registration_ =
          std::make_unique<Registration>(options_, *std::move(consul), instance_, std::move(address), bound.port());
      asio::co_spawn(asio::make_strand(io_), registration_->Keep(), asio::detached);  // deadlines need a strand
    }
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    asio::co_spawn(asio::make_strand(io_), EndOnSignal(), asio::detached);
    asio::co_spawn(io_, Accept(), asio::detached);
    // Scripts read the port from this line.
    std::cout << "sample-service " << instance_ << " listening on "
              << JoinHostPort(bound.address().to_string(), absl::StrCat(bound.port())) << std::endl;
    return absl::OkStatus();
  }

  void Run() {
    std::vector<std::jthread> threads;
    for (int i = 1; i < options_.threads; ++i) threads.emplace_back([this] { io_.run(); });
    io_.run();
  }

 private:
  asio::awaitable<void> Accept() {
    while (true) {
      auto [error, socket] = co_await acceptor_.async_accept(asio::make_strand(io_), kAwait);
      if (error == asio::error::operation_aborted) co_return;
      if (error) {
        asio::steady_timer timer(io_, kAcceptRetry);
        auto [timer_error] = co_await timer.async_wait(kAwait);
        if (timer_error) co_return;
        continue;
      }
      auto executor = socket.get_executor();
      auto connection = std::make_shared<Connection>(std::move(socket), options_, instance_, &behaviour_);
      asio::co_spawn(executor, Connection::Run(std::move(connection)), asio::detached);
    }
  }

  // Deregisters first, then keeps serving for the drain, so requests still on the way are served.
  asio::awaitable<void> EndOnSignal() {
    auto [error, signal] = co_await signals_.async_wait(kAwait);
    if (error) co_return;
    asio::co_spawn(io_, EndOnSecondSignal(), asio::detached);
    std::cerr << "sample-service: ending" << std::endl;
    behaviour_.draining = true;
    if (registration_ != nullptr) co_await registration_->Leave();
    asio::steady_timer timer(io_, options_.drain);
    auto [timer_error] = co_await timer.async_wait(kAwait);
    (void)timer_error;  // drain in either case
    io_.stop();
  }

  asio::awaitable<void> EndOnSecondSignal() {
    auto [error, signal] = co_await signals_.async_wait(kAwait);
    if (!error) io_.stop();
  }

  const Options options_;
  Behaviour behaviour_;
  std::string instance_;
  std::unique_ptr<Registration> registration_;
  asio::io_context io_;
  tcp::acceptor acceptor_;
  asio::signal_set signals_;
};

constexpr char kFooter[] = R"(
Every path answers 200 with a JSON body that says what was asked, and X-Instance with who answered:
  {"service": "orders", "instance": "orders-9001", "method": "GET", "path": "/a", "query": "x=1",
   "headers": {"Host": "..."}, "body_bytes": 0}
What the query of a request may ask for (any path but /health and /admin/):
  ?delay=250ms      answer that much later
  ?status=503       answer with that status
  ?bytes=1048576    a body of that many bytes instead of the JSON
  ?chunked=1        in chunks instead of with a Content-Length
  ?close=1          close the connection after the answer
  ?reset=1          no answer: reset the connection
GET /health         200 passing, 429 warning, 503 critical: as Consul's HTTP checks understand them
POST /admin/health?status=critical|warning|passing    what /health says from now on
POST /admin/fail?status=503    every answer has that status from now on;   POST /admin/fail?off    no more

SIGTERM or SIGINT: out of Consul, serves on for --drain, ends. A second one ends it at once.
Example:
  sample-service --name orders --listen 127.0.0.1:9001 --consul 127.0.0.1:8500 --weight 2
)";

int Main(int argc, char** argv) {
  Options options;
  std::string delay = "0s", drain = "500ms";
  CLI::App app("A small HTTP service that responds, slows down and fails on request.", "sample-service");
  app.footer(kFooter);
  app.set_version_flag("--version", absl::StrCat("sample-service ", kVersion));
  app.add_option("--name", options.name, "The service's name, in responses and in Consul")->capture_default_str();
  app.add_option("--id", options.id, "This instance's name; default: NAME-PORT");
  app.add_option("--listen", options.listen, "HOST:PORT to listen on; port 0 takes a free one and prints it")
      ->capture_default_str();
  app.add_option("--consul", options.consul,
                 "HOST:PORT of Consul's agent: registers there, with a check of /health every second");
  app.add_option("--advertise", options.advertise, "The host to register in Consul; default: that of --listen");
  app.add_option("--tag", options.tags, "A tag in Consul; may be repeated")->allow_extra_args(false);
  app.add_option("--weight", options.weight, "The weight in Consul while passing")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  app.add_option("--delay", delay, "Delay of every response")->capture_default_str();
  app.add_option("--fail-every", options.fail_every, "Every Nth response fails; 0: never")->capture_default_str();
  app.add_option("--fail-status", options.fail_status, "The status of these responses")
      ->check(CLI::Range(200, 599))
      ->capture_default_str();
  app.add_option("--drain", drain, "How long it keeps serving after SIGTERM")->capture_default_str();
  app.add_option("--threads", options.threads, "Threads")->check(CLI::Range(1, 64))->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  for (auto [text, flag, field] :
       {std::tuple(&delay, "--delay", &options.delay), {&drain, "--drain", &options.drain}}) {
    absl::StatusOr<milliseconds> parsed = ParseDelay(*text);
    if (!parsed.ok()) {
      std::cerr << "sample-service: " << flag << ": " << parsed.status().message() << std::endl;
      return 2;
    }
    *field = *parsed;
  }
  SampleService service(std::move(options));
  if (absl::Status started = service.Start(); !started.ok()) {
    std::cerr << "sample-service: " << started.message() << std::endl;
    return 1;
  }
  service.Run();
  return 0;
}

}  // namespace
}  // namespace gateway

int main(int argc, char** argv) { return gateway::Main(argc, argv); }
