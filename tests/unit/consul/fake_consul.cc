#include "tests/unit/consul/fake_consul.h"

#include <sys/socket.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/write.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http.hpp"
#include "nlohmann/json.hpp"

namespace gateway::controlplane {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using Json = nlohmann::json;

FakeConsul::FakeConsul() : acceptor_(io_, {asio::ip::address_v4::loopback(), 0}) {
  acceptor_thread_ = std::thread([this] { Accept(); });
}

FakeConsul::~FakeConsul() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (tcp::socket& socket : sockets_) ::shutdown(socket.native_handle(), SHUT_RDWR);
  }
  ::shutdown(acceptor_.native_handle(), SHUT_RDWR);  // wakes accept
  acceptor_thread_.join();
  for (std::thread& thread : threads_) thread.join();
}

std::string FakeConsul::address() const { return absl::StrCat("127.0.0.1:", acceptor_.local_endpoint().port()); }

void FakeConsul::SetScript(Script script) {
  absl::MutexLock lock(&mutex_);
  script_ = std::move(script);
  ++scripts_;
}

void FakeConsul::SetService(const std::string& name, const std::vector<int>& ports) {
  absl::MutexLock lock(&mutex_);
  services_[name] = ports;
  ++index_;
}

void FakeConsul::RemoveService(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  services_.erase(name);
  ++index_;
}

void FakeConsul::SetIndex(uint64_t index) {
  absl::MutexLock lock(&mutex_);
  index_ = index;
}

int FakeConsul::requests(const std::string& text) const {
  absl::MutexLock lock(&mutex_);
  int count = 0;
  for (const std::string& target : targets_) count += target.find(text) != std::string::npos;
  return count;
}

int FakeConsul::connections() const {
  absl::MutexLock lock(&mutex_);
  return connections_;
}

int FakeConsul::blocked() const {
  absl::MutexLock lock(&mutex_);
  return blocked_;
}

void FakeConsul::Accept() {
  for (;;) {
    boost::system::error_code ec;
    tcp::socket socket = acceptor_.accept(ec);
    absl::MutexLock lock(&mutex_);
    if (ec || stopping_) return;
    tcp::socket& kept = sockets_.emplace_back(std::move(socket));
    ++connections_;
    threads_.emplace_back([this, &kept] { Serve(kept); });
  }
}

void FakeConsul::Serve(tcp::socket& socket) {
  boost::beast::flat_buffer buffer;
  boost::system::error_code ec;
  for (;;) {
    http::request<http::string_body> request;
    http::read(socket, buffer, request, ec);
    if (ec) break;
    Request asked;
    asked.target = std::string(request.target());
    asked.path = asked.target.substr(0, asked.target.find('?'));
    if (const size_t at = asked.target.find("index="); at != std::string::npos) {
      asked.index = std::strtoull(asked.target.c_str() + at + 6, nullptr, 10);
    }
    const Reply reply = Respond(asked);
    if (reply.kind == Reply::Kind::kHang) {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&stopping_));
      break;
    }
    if (reply.kind == Reply::Kind::kReset) {
      socket.set_option(asio::socket_base::linger(true, 0), ec);
      break;
    }
    if (reply.kind == Reply::Kind::kRaw) {
      asio::write(socket, asio::buffer(reply.body), ec);
      break;
    }
    http::response<http::string_body> response(static_cast<http::status>(reply.status), 11);
    if (reply.index) response.set("X-Consul-Index", std::to_string(*reply.index));
    response.set("X-Consul-Knownleader", reply.known_leader ? "true" : "false");
    response.body() = reply.body;
    if (reply.chunked) {
      response.chunked(true);
    } else {
      response.prepare_payload();
    }
    http::write(socket, response, ec);
    if (ec) break;
  }
  // The destructor may shut it down at the same time; closing waits for the lock.
  absl::MutexLock lock(&mutex_);
  --connections_;
  socket.close(ec);
  sockets_.remove_if([&](const tcp::socket& each) { return &each == &socket; });
}

FakeConsul::Reply FakeConsul::Respond(const Request& request) {
  Script script;
  {
    absl::MutexLock lock(&mutex_);
    targets_.push_back(request.target);
    script = script_;
  }
  if (script) {
    if (std::optional<Reply> reply = script(request)) return *std::move(reply);
  }
  absl::MutexLock lock(&mutex_);
  if (request.index > 0) {
    const uint64_t scripts = scripts_;
    const auto changed = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return index_ != request.index || scripts_ != scripts || stopping_;
    };
    ++blocked_;
    mutex_.Await(absl::Condition(&changed));
    --blocked_;
    if (scripts_ != scripts || stopping_) return {.kind = Reply::Kind::kReset};
  }
  Reply reply;
  reply.index = index_;
  constexpr std::string_view kHealth = "/v1/health/service/";
  if (request.path == "/v1/catalog/services") {
    Json listing = {{"consul", Json::array()}};
    for (const auto& [name, ports] : services_) listing[name] = Json::array();
    reply.body = listing.dump();
  } else if (request.path.starts_with(kHealth)) {
    Json instances = Json::array();
    const std::string name = request.path.substr(kHealth.size());
    if (const auto found = services_.find(name); found != services_.end()) {
      for (const int port : found->second) {
        instances.push_back({{"Node", {{"Node", "n1"}, {"Address", "127.0.0.1"}}},
                             {"Service", {{"ID", absl::StrCat(name, "-", port)}, {"Service", name}, {"Port", port}}},
                             {"Checks", Json::array()}});
      }
    }
    reply.body = instances.dump();
  } else if (request.path == "/v1/health/state/any") {
    reply.body = "[]";
  } else {
    reply.status = 404;
  }
  return reply;
}

}  // namespace gateway::controlplane
