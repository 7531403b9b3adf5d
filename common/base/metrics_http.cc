#include "common/base/metrics_http.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <optional>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ip/v6_only.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/beast/core/bind_handler.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "boost/beast/http/empty_body.hpp"
#include "boost/beast/http/message_generator.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/string_body.hpp"
#include "boost/beast/http/write.hpp"
#include "spdlog/fmt/fmt.h"
#include "spdlog/spdlog.h"

namespace gateway {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using namespace std::chrono_literals;

using Clock = std::chrono::steady_clock;

constexpr size_t kConnectionsMax = 64;
// Of one client address (IPv6: of one /64). Probes share one with whatever else runs on their host.
constexpr size_t kConnectionsOfAddressMax = 16;
constexpr size_t kConnectionsMin = 8;   // however few descriptors there are
constexpr rlim_t kDescriptorShare = 8;  // one in so many descriptors is for this port, at most
constexpr uint32_t kHeadBytesMax = 8u << 10;
constexpr auto kFirstByteTimeout = 2s;  // of a new connection
constexpr auto kStepTimeout = 10s;      // to read a request, to write a response, between two requests
constexpr auto kAcceptPause = 100ms;    // after an accept that failed for want of descriptors
constexpr auto kLingerTimeout = 1s;     // for a refused client to read why
constexpr size_t kLingerBytesMax = 256u << 10;

using Handlers = std::map<std::string, MetricsHttp::Handler, std::less<>>;

HttpReply ErrorReply(http::status status, std::string_view message) {
  auto code = static_cast<int>(status);
  return {code, "application/json", fmt::format("{{\"error\": \"{}\", \"code\": {}}}\n", message, code)};
}

// Who a connection is counted to: an IPv4 address, or a /64 of IPv6.
using AddressKey = std::array<uint8_t, 16>;

AddressKey KeyOf(const tcp::socket& socket) {
  AddressKey key{};
  error_code error;
  const asio::ip::address address = socket.remote_endpoint(error).address();
  if (error) return key;
  const asio::ip::address_v6 v6 =
      address.is_v6() ? address.to_v6() : asio::ip::make_address_v6(asio::ip::v4_mapped, address.to_v4());
  const auto bytes = v6.to_bytes();
  std::memcpy(key.data(), bytes.data(), v6.is_v4_mapped() ? bytes.size() : bytes.size() / 2);
  return key;
}

class Connection;

// The connections that there are. Lives on the server's thread.
class ConnectionList {
 public:
  void Add(Connection* connection) { all_.push_back(connection); }
  void Remove(Connection* connection) { std::erase(all_, connection); }
  // Closes connections until one more of `address` is within the bounds.
  void MakeRoomFor(const AddressKey& address, size_t max);
  // Closes the least important one; false: the list is empty.
  bool CloseOne() {
    return CloseOneOf([](const Connection*) { return true; });
  }

 private:
  template <typename Candidate>
  bool CloseOneOf(const Candidate& candidate);

  std::vector<Connection*> all_;
};

// One client: reads a request, responds, reads the next. Lives on the server's thread; keeps itself alive through its
// pending operation, of which there is always exactly one.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // What it does, in the order in which it gives way to a new connection.
  enum class Step : uint8_t { kLingering, kSilent, kKept, kSending, kAnswering };

  Connection(tcp::socket socket, const AddressKey& address, const Handlers& handlers, ConnectionList* list,
             const bool* ending)
      : stream_(std::move(socket)),
        address_(address),
        handlers_(handlers),
        list_(list),
        ending_(ending),
        buffer_(kHeadBytesMax * 2) {
    list_->Add(this);
  }
  ~Connection() { list_->Remove(this); }

  // A new connection has less time for its first byte than for the rest: probes send at once.
  void Start() {
    Enter(Step::kSilent);
    stream_.expires_after(kFirstByteTimeout);
    stream_.async_read_some(buffer_.prepare(kFirstReadBytes),
                            [self = shared_from_this()](error_code error, size_t length) {
                              if (error) return;
                              self->buffer_.commit(length);
                              self->Read();
                            });
  }

  void Read() {
    parser_.emplace();
    parser_->header_limit(kHeadBytesMax);
    parser_->body_limit(0);  // no scraper sends a GET with a body
    stream_.expires_after(kStepTimeout);
    http::async_read(stream_, buffer_, *parser_, beast::bind_front_handler(&Connection::OnRead, shared_from_this()));
  }

  const AddressKey& address() const { return address_; }
  // Less gives way first: by what it does, then by how long it has been doing so. A request that is sent byte by byte
  // is as old as its connection.
  std::pair<Step, Clock::time_point> rank() {
    const bool waits = step_ == Step::kSilent || step_ == Step::kKept;
    return {waits && HasUnread() ? Step::kSending : step_, since_};
  }
  void Close() { stream_.close(); }

 private:
  void OnRead(error_code error, size_t) {
    if (!error) return Answer();
    keep_ = false;
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      return Write(ErrorReply(http::status::request_header_fields_too_large, "Request header too large"), false);
    }
    if (error == http::error::body_limit || error == http::error::unexpected_body) {
      return Write(ErrorReply(http::status::payload_too_large, "No body is expected"), false);
    }
    // What the parser said; everything else is the connection's own end (closed, reset, too slow).
    if (error.category() == http::make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message) {
      return Write(ErrorReply(http::status::bad_request, "Bad request"), false);
    }
  }

  void Answer() {
    const auto& request = parser_->get();
    keep_ = request.keep_alive() && !*ending_;
    std::string_view target(request.target().data(), request.target().size());
    target = target.substr(0, target.find('?'));
    bool head = request.method() == http::verb::head;
    auto handler = handlers_.find(target);
    if (handler == handlers_.end()) return Write(ErrorReply(http::status::not_found, "Not found"), head);
    if (!head && request.method() != http::verb::get) {
      allow_ = true;
      return Write(ErrorReply(http::status::method_not_allowed, "Method not allowed"), false);
    }
    HttpReply reply;
    try {
      reply = handler->second();
    } catch (const std::exception& error) {
      spdlog::error("the handler of {} failed: {}", handler->first, error.what());
      reply = ErrorReply(http::status::internal_server_error, "Internal server error");
    }
    Write(std::move(reply), head);
  }

  template <typename Body>
  void FillHead(const HttpReply& reply, http::response<Body>* response) {
    response->result(static_cast<unsigned>(reply.status));
    response->set(http::field::content_type, reply.content_type);
    response->set(http::field::cache_control, "no-store");
    if (std::exchange(allow_, false)) response->set(http::field::allow, "GET, HEAD");
    response->content_length(reply.body.size());
    response->keep_alive(keep_);
  }

  void Write(HttpReply reply, bool head) {
    Enter(Step::kAnswering);
    unsigned version = parser_->is_header_done() ? parser_->get().version() : 11;
    stream_.expires_after(kStepTimeout);
    auto done = beast::bind_front_handler(&Connection::OnWrite, shared_from_this());
    if (head) {
      http::response<http::empty_body> response;
      response.version(version);
      FillHead(reply, &response);
      beast::async_write(stream_, http::message_generator(std::move(response)), std::move(done));
      return;
    }
    http::response<http::string_body> response;
    response.version(version);
    FillHead(reply, &response);
    response.body() = std::move(reply.body);
    beast::async_write(stream_, http::message_generator(std::move(response)), std::move(done));
  }

  void OnWrite(error_code error, size_t) {
    if (error) return;
    if (keep_) {
      Enter(Step::kKept);
      return Read();
    }
    Enter(Step::kLingering);
    error_code ignored;  // the client may be gone already
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream_.expires_after(kLingerTimeout);
    Linger();
  }

  // Reads what a rejected client still sends: closing with bytes unread would reset the connection and lose the
  // response.
  void Linger() {
    stream_.async_read_some(asio::buffer(discard_), [self = shared_from_this()](error_code error, size_t length) {
      self->lingered_ += length;
      if (!error && self->lingered_ < kLingerBytesMax) self->Linger();
    });
  }

  void Enter(Step step) {
    step_ = step;
    since_ = Clock::now();
  }

  bool HasUnread() {
    char byte;
    return recv(stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  static constexpr size_t kFirstReadBytes = 4096;

  beast::tcp_stream stream_;
  const AddressKey address_;
  const Handlers& handlers_;
  ConnectionList* const list_;
  const bool* ending_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::empty_body>> parser_;
  bool keep_ = true;
  bool allow_ = false;
  Step step_ = Step::kSilent;
  Clock::time_point since_ = Clock::now();
  size_t lingered_ = 0;
  std::array<char, 4096> discard_;
};

template <typename Candidate>
bool ConnectionList::CloseOneOf(const Candidate& candidate) {
  Connection* least = nullptr;
  std::pair<Connection::Step, Clock::time_point> least_rank;
  for (Connection* each : all_) {
    if (!candidate(each)) continue;
    const auto rank = each->rank();
    if (least != nullptr && rank >= least_rank) continue;
    least = each;
    least_rank = rank;
  }
  if (least == nullptr) return false;
  Remove(least);  // it goes once its pending operation has been told
  least->Close();
  return true;
}

void ConnectionList::MakeRoomFor(const AddressKey& address, size_t max) {
  const auto same = [&](const Connection* each) { return each->address() == address; };
  const auto of_address = static_cast<size_t>(std::count_if(all_.begin(), all_.end(), same));
  if (of_address >= std::min(kConnectionsOfAddressMax, max)) (void)CloseOneOf(same);
  if (all_.size() >= max) (void)CloseOne();
}

size_t ConnectionsMax() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return kConnectionsMax;
  return std::clamp(static_cast<size_t>(std::min<rlim_t>(limit.rlim_cur / kDescriptorShare, kConnectionsMax)),
                    kConnectionsMin, kConnectionsMax);
}

}  // namespace

struct MetricsHttp::Impl {
  // Declared first, destroyed last: the connections that `io` still holds count themselves out and use `handlers`.
  Handlers handlers;
  ConnectionList connections;  // the server's thread only
  size_t connections_max = kConnectionsMax;
  bool ending = false;  // the same
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::steady_timer pause{io};
  uint16_t port = 0;
  std::thread thread;

  void StopListening() {
    ending = true;
    pause.cancel();
    error_code error;
    // Not close: that leaves it to the socket's end to take it out of epoll, and another process may keep it alive.
    const int fd = acceptor.release(error);
    if (!error) ::close(fd);
  }

  void Accept() {
    acceptor.async_accept([this](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error) {
        const bool out =
            error == asio::error::no_descriptors || error == error_code(ENFILE, asio::error::get_system_category());
        if (out && connections.CloseOne()) return Accept();
        pause.expires_after(kAcceptPause);
        pause.async_wait([this](error_code aborted) {
          if (!aborted && !ending) Accept();
        });
        return;
      }
      // A client that waits without a request gives way, so that a probe always gets through.
      const AddressKey address = KeyOf(socket);
      connections.MakeRoomFor(address, connections_max);
      std::make_shared<Connection>(std::move(socket), address, handlers, &connections, &ending)->Start();
      if (!ending) Accept();
    });
  }
};

MetricsHttp::MetricsHttp(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

MetricsHttp::~MetricsHttp() {
  impl_->io.stop();
  if (impl_->thread.joinable()) impl_->thread.join();
}

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Listen(const std::string& host, uint16_t port) {
  auto impl = std::make_unique<Impl>();
  error_code error;
  asio::ip::address address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error) return absl::InvalidArgumentError(fmt::format("metrics listener: '{}' is not an IP address", host));
  tcp::endpoint endpoint(address, port);
  impl->acceptor.open(endpoint.protocol(), error);
  if (!error) impl->acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error && address.is_v6()) impl->acceptor.set_option(asio::ip::v6_only(false), error);
  if (!error) impl->acceptor.bind(endpoint, error);
  if (!error) impl->acceptor.listen(static_cast<int>(kConnectionsMax), error);
  if (error) {
    return absl::UnavailableError(
        fmt::format("metrics listener: cannot listen on {} port {}: {}", host, port, error.message()));
  }
  impl->port = impl->acceptor.local_endpoint(error).port();
  return std::unique_ptr<MetricsHttp>(new MetricsHttp(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Adopt(int fd) {
  auto impl = std::make_unique<Impl>();
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  error_code error;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    error = error_code(errno, boost::system::system_category());
  } else {
    impl->acceptor.assign(address.ss_family == AF_INET6 ? tcp::v6() : tcp::v4(), fd, error);
  }
  if (error) {
    ::close(fd);
    return absl::UnavailableError(fmt::format("metrics listener: cannot take over a socket: {}", error.message()));
  }
  impl->port = impl->acceptor.local_endpoint(error).port();
  return std::unique_ptr<MetricsHttp>(new MetricsHttp(std::move(impl)));
}

void MetricsHttp::Handle(const std::string& path, Handler handler) { impl_->handlers[path] = std::move(handler); }

void MetricsHttp::Start() {
  impl_->connections_max = ConnectionsMax();
  impl_->Accept();
  impl_->thread = std::thread([impl = impl_.get()] { impl->io.run(); });
}

uint16_t MetricsHttp::port() const { return impl_->port; }

std::string MetricsHttp::address() const {
  error_code error;
  const tcp::endpoint at = impl_->acceptor.local_endpoint(error);
  const std::string ip = at.address().to_string();
  return at.address().is_v6() ? fmt::format("[{}]:{}", ip, at.port()) : fmt::format("{}:{}", ip, at.port());
}

int MetricsHttp::fd() const { return impl_->acceptor.native_handle(); }

void MetricsHttp::StopListening() {
  std::promise<void> done;
  asio::post(impl_->io, [&] {
    impl_->StopListening();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace gateway
