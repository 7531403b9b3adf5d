// How Consul's agent is reached, and by whom: its address, the ACL token, TLS.
#ifndef GATEWAY_CONTROLPLANE_SOURCES_CONSUL_ACCESS_H_
#define GATEWAY_CONTROLPLANE_SOURCES_CONSUL_ACCESS_H_

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "boost/asio/ssl/context.hpp"
#include "common/base/pki.h"

namespace gateway::controlplane {

// Longest token that is taken: Consul's own are UUIDs of 36 characters.
inline constexpr size_t kConsulTokenBytesMax = 4096;

struct ConsulAccess {
  std::string address;          // "localhost:8500"
  std::string token = {};       // goes with every request and into no message
  std::string token_file = {};  // instead of `token`; "": not given
  struct Tls {
    bool on = false;
    TlsFiles files = {};           // without a CA: the system's
    std::string server_name = {};  // "": the host of `address`
  };
  Tls tls = {};
};

// Reads the token's file and TLS files once, so that a start fails on them and not the first request. The error names
// the key of the bootstrap file, the file, and what was expected.
absl::Status CheckConsulAccess(const ConsulAccess& access);

// The token in `path`: one line of printable ASCII, white space around it left out. InvalidArgument, or the error of
// reading. The message has nothing of what is in the file.
absl::StatusOr<std::string> ReadConsulToken(const std::string& path);

// The token to send now. Reads its file again when that has changed, which it looks for once a second at most; a file
// that cannot be used is told in the log, once for each change, and the last good token stays. Not thread-safe.
class ConsulToken {
 public:
  using Clock = std::chrono::steady_clock;
  explicit ConsulToken(const ConsulAccess& access) : path_(access.token_file), token_(access.token) {}

  const std::string& Get(Clock::time_point now);

 private:
  const std::string path_;
  std::string token_;
  std::string stamp_;  // of the file that was read last
  Clock::time_point look_again_{};
};

// For one connection, from the files as they are now. The error names the file.
absl::StatusOr<std::shared_ptr<boost::asio::ssl::context>> MakeConsulTlsContext(const ConsulAccess::Tls& tls);

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_SOURCES_CONSUL_ACCESS_H_
