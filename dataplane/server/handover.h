// How a running data plane hands its listening sockets to the process that takes its place, so that no connection is
// refused or reset: the sockets, and what waits in their queues, live on.
//
// The running one listens at server.handover, a Unix socket of type SOCK_SEQPACKET: one packet is one message. A
// message is text. Its first line is "gateway-handover VERSION KIND", "key: value" lines follow; keys that are not
// known are ignored, another version is refused.
//
//   new -> old  take
//   old -> new  sockets    `socket: ROLE ADDRESS` lines, and as many descriptors (SCM_RIGHTS) in the same order. ROLE
//   is
//                          main, systemd (main, and passed by systemd at first) or metrics. `last: no`: more messages
//                          like this one follow. `revision: N`, the policy that is served;
//                          `instance: ID`, the process as the control plane knows it.
//   new -> old  serving    It accepts from all of these sockets by now. `name: NAME`, its data_plane.name.
//   old -> new  draining   The old one accepts nothing any more, and ends after its last response.
//   old -> new  refused    At any time, instead of a response, with `reason: TEXT`: the old one continues.
//
// The old one serves on as if nothing had happened until "serving" has come; a new one that ends before it, or does not
// come so far in time, changes nothing. Each side asks the kernel who the other is (SO_PEERCRED): the same user, or
// root.
#ifndef GATEWAY_DATAPLANE_SERVER_HANDOVER_H_
#define GATEWAY_DATAPLANE_SERVER_HANDOVER_H_

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dataplane/server/listener.h"

namespace gateway::dataplane {

enum class SocketRole : uint8_t { kMain, kSystemd, kMetrics };

struct HandoverMessage {
  static constexpr int kVersion = 1;
  static constexpr size_t kBytesMax = 16 * 1024;
  static constexpr size_t kSocketsMax = 128;  // in one message; the kernel takes 253 descriptors (SCM_MAX_FD)
  static constexpr size_t kValueBytesMax = 256;

  enum class Kind : uint8_t { kTake, kSockets, kServing, kDraining, kRefused };
  struct SocketLine {
    SocketRole role = SocketRole::kMain;
    std::string address;
    friend bool operator==(const SocketLine&, const SocketLine&) = default;
  };
  Kind kind = Kind::kTake;
  std::string name;
  std::string reason;
  std::string instance;
  uint64_t revision = 0;
  bool last = true;
  std::vector<SocketLine> sockets;
  friend bool operator==(const HandoverMessage&, const HandoverMessage&) = default;
};
std::string FormatHandoverMessage(const HandoverMessage& message);
// InvalidArgument says what is wrong; of another version: FailedPrecondition.
absl::StatusOr<HandoverMessage> ParseHandoverMessage(std::string_view text);

// How long the one that takes over may need from the sockets to "serving". It gives up before the other does.
inline constexpr std::chrono::milliseconds kHandoverPatience{30'000};
inline constexpr std::chrono::milliseconds kSuccessorPatience{25'000};

// The running process's side. Owns a thread and the Unix socket; the sockets that it hands over stay whose they are,
// and open until this is destroyed. One hand-over at a time: another process is refused.
class HandoverServer {
 public:
  struct Socket {
    SocketRole role = SocketRole::kMain;
    int fd = -1;
    std::string address;
  };
  struct Options {
    std::string path;
    std::vector<Socket> sockets;
    std::chrono::milliseconds patience = kHandoverPatience;
    std::function<uint64_t()> revision;
    std::string instance;
    // Both on the thread. A hand-over is under way, or has come to nothing and this process continues.
    std::function<void(bool)> under_way;
    // The other process serves, under this data_plane.name: nothing more is handed over from here on.
    std::function<void(const std::string& name)> taken;
  };
  // Binds beside `path` and renames over it. An error where something else than a socket is there.
  static absl::StatusOr<std::unique_ptr<HandoverServer>> Start(Options options);
  // Ends the thread, and a hand-over that is under way: the other process finds itself alone. Removes the path, unless
  // another process is about to take it.
  ~HandoverServer();
  HandoverServer(const HandoverServer&) = delete;
  HandoverServer& operator=(const HandoverServer&) = delete;

 private:
  explicit HandoverServer(Options options) : options_(std::move(options)) {}
  void Run();
  bool Serve(int peer);
  absl::Status SendSockets(int peer);
  void RefuseOthers();
  enum class Wake { kPeer, kStop, kTimeout };
  Wake AwaitPeer(int peer, std::chrono::steady_clock::time_point deadline);

  const Options options_;
  int listener_ = -1;
  int stop_ = -1;  // eventfd
  dev_t device_ = 0;
  ino_t inode_ = 0;
  bool succeeded_ = false;  // by a process that puts its own socket at the path; the thread's, while it runs
  std::thread thread_;
};

// The running process, as the one that takes its place sees it. Not thread-safe; each call waits at most kStepPatience.
class Predecessor {
 public:
  static constexpr std::chrono::milliseconds kStepPatience{5'000};

  // Asks the process at `path` for its sockets. Null: no process has it (no such file, or nothing listens). An error
  // where it refuses, is not what it should be, or does not respond: then it serves on.
  static absl::StatusOr<std::unique_ptr<Predecessor>> Find(const std::string& path);
  ~Predecessor();
  Predecessor(const Predecessor&) = delete;
  Predecessor& operator=(const Predecessor&) = delete;

  pid_t pid() const { return pid_; }
  uint64_t revision() const { return revision_; }
  // Empty if it did not say (a version before 0.2).
  const std::string& instance() const { return instance_; }
  // Each once; the caller owns them from then on.
  std::vector<PassedSocket> TakeMain() { return std::exchange(main_, {}); }
  std::vector<PassedSocket> TakeMetrics() { return std::exchange(metrics_, {}); }

  // False: it has ended, or hands nothing over any more.
  bool there();
  // Says that this process serves, as `name`. Ok: the predecessor drains. Unavailable: it is gone, so that this process
  // is alone. FailedPrecondition: it refuses, and serves on.
  absl::Status Succeed(const std::string& name);

 private:
  Predecessor() = default;
  absl::Status Ask();
  absl::Status Receive(HandoverMessage* message, std::vector<int>* descriptors);

  int fd_ = -1;
  pid_t pid_ = 0;
  uint64_t revision_ = 0;
  std::string instance_;
  std::vector<PassedSocket> main_, metrics_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_SERVER_HANDOVER_H_
