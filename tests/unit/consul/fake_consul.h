// A fake that speaks enough of Consul's HTTP API and fails on demand.
#ifndef GATEWAY_TESTS_UNIT_CONSUL_FAKE_CONSUL_H_
#define GATEWAY_TESTS_UNIT_CONSUL_FAKE_CONSUL_H_

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"

namespace gateway::controlplane {

// Serves catalog/services and health/service/NAME from what the test says exists, with blocking queries; a script may
// respond with anything else instead. A thread for each connection. Thread-safe.
class FakeConsul {
 public:
  struct Request {
    std::string target;
    std::string path;
    uint64_t index = 0;  // of the query; 0: absent
    bool Has(const std::string& text) const { return target.find(text) != std::string::npos; }
  };
  struct Reply {
    enum class Kind {
      kResponse,
      kReset,  // the connection
      kHang,   // until the end
      kRaw,    // `body` as it is, then the end of the connection
    };
    Kind kind = Kind::kResponse;
    int status = 200;
    std::string body = {};
    std::optional<uint64_t> index = {};
    bool known_leader = true;
    bool chunked = false;
  };
  // Nothing: the ordinary response.
  using Script = std::function<std::optional<Reply>(const Request&)>;

  FakeConsul();
  ~FakeConsul();

  std::string address() const;
  void SetScript(Script script);  // wakes blocking queries too: they are then cut off and asked again
  // `ports` of instances on 127.0.0.1; none: listed, but empty.
  void SetService(const std::string& name, const std::vector<int>& ports);
  void RemoveService(const std::string& name);
  void SetIndex(uint64_t index);
  int requests(const std::string& text) const;  // so far, with `text` in the target
  int connections() const;                      // open ones
  int blocked() const;                          // queries waiting for a change

 private:
  void Accept();
  void Serve(boost::asio::ip::tcp::socket& socket);
  Reply Respond(const Request& request);

  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  mutable absl::Mutex mutex_;
  Script script_ ABSL_GUARDED_BY(mutex_);
  uint64_t scripts_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::vector<int>> services_ ABSL_GUARDED_BY(mutex_);
  uint64_t index_ ABSL_GUARDED_BY(mutex_) = 100;
  std::vector<std::string> targets_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  int blocked_ ABSL_GUARDED_BY(mutex_) = 0;
  int connections_ ABSL_GUARDED_BY(mutex_) = 0;
  std::list<boost::asio::ip::tcp::socket> sockets_ ABSL_GUARDED_BY(mutex_);
  std::list<std::thread> threads_;  // used by the accept thread until it is joined
  std::thread acceptor_thread_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_TESTS_UNIT_CONSUL_FAKE_CONSUL_H_
