#include "dataplane/server/handover.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/numbers.h"
#include "common/base/text.h"
#include "common/base/thread.h"
#include "dataplane/net/socket.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;
using Kind = HandoverMessage::Kind;

constexpr std::string_view kProtocol = "gateway-handover";
constexpr int kBacklog = 8;
constexpr milliseconds kStepPatience = Predecessor::kStepPatience;
constexpr milliseconds kDismissPatience{1'000};  // for a process that is refused to read why

constexpr std::array<std::pair<Kind, std::string_view>, 5> kKinds = {{{Kind::kTake, "take"},
                                                                      {Kind::kSockets, "sockets"},
                                                                      {Kind::kServing, "serving"},
                                                                      {Kind::kDraining, "draining"},
                                                                      {Kind::kRefused, "refused"}}};
constexpr std::array<std::pair<SocketRole, std::string_view>, 3> kRoles = {
    {{SocketRole::kMain, "main"}, {SocketRole::kSystemd, "systemd"}, {SocketRole::kMetrics, "metrics"}}};

template <typename Value, size_t kCount>
std::string_view WordOf(const std::array<std::pair<Value, std::string_view>, kCount>& words, Value value) {
  for (const auto& [each, word] : words) {
    if (each == value) return word;
  }
  return "";
}
template <typename Value, size_t kCount>
std::optional<Value> ValueOf(const std::array<std::pair<Value, std::string_view>, kCount>& words,
                             std::string_view word) {
  for (const auto& [value, each] : words) {
    if (each == word) return value;
  }
  return std::nullopt;
}

// Takes what comes before `end`; nothing if it does not come.
std::optional<std::string_view> TakeUntil(char end, std::string_view* rest) {
  const size_t at = rest->find(end);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view found = rest->substr(0, at);
  rest->remove_prefix(at + 1);
  return found;
}

absl::Status Invalid(std::string_view what) { return absl::InvalidArgumentError(AbslView(what)); }

absl::Status Failed(std::string_view what) {
  if (errno == EAGAIN) return absl::DeadlineExceededError("no response in time");
  return absl::UnavailableError(Concat(what, ": ", std::strerror(errno)));
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return Invalid(Concat(path, ": is too long for a Unix socket"));
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// The process at the other end, if it may be there.
absl::StatusOr<ucred> CheckPeer(int fd) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return Failed("cannot tell who is there");
  if (peer.uid != 0 && peer.uid != geteuid()) {
    return absl::PermissionDeniedError(
        Concat("process ", peer.pid, " is of user ", peer.uid, ", neither this one's (", geteuid(), ") nor root"));
  }
  return peer;
}

// With `descriptors`, at most kSocketsMax.
absl::Status SendMessage(int fd, const HandoverMessage& message, const std::vector<int>& descriptors = {}) {
  std::string text = FormatHandoverMessage(message);
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * HandoverMessage::kSocketsMax)> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), sizeof(int) * descriptors.size());
  }
  ssize_t sent;
  do {
    sent = sendmsg(fd, &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? Failed("cannot send") : absl::OkStatus();
}

// The next packet. What comes with it is closed unless the caller asks for it. Unavailable: the other end is gone.
absl::StatusOr<HandoverMessage> ReceiveMessage(int fd, std::vector<int>* descriptors) {
  std::array<char, HandoverMessage::kBytesMax> text;
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * HandoverMessage::kSocketsMax)> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t received;
  do {
    received = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return Failed("cannot receive");
  std::vector<int> came;
  for (cmsghdr* each = CMSG_FIRSTHDR(&header); each != nullptr; each = CMSG_NXTHDR(&header, each)) {
    if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const size_t before = came.size();
    came.resize(before + count);
    std::memcpy(came.data() + before, CMSG_DATA(each), count * sizeof(int));
  }
  absl::Cleanup close_them = [&came] {
    for (const int each : came) close(each);
  };
  if (received == 0) return absl::UnavailableError("it is gone");
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) return Invalid("a message is too long");
  auto message = ParseHandoverMessage({text.data(), static_cast<size_t>(received)});
  if (!message.ok()) return message.status();
  if (came.size() != message->sockets.size()) {
    return Invalid(Concat("a message names ", message->sockets.size(), " sockets and brings ", came.size()));
  }
  if (descriptors != nullptr) *descriptors = std::exchange(came, {});
  return message;
}

HandoverMessage Refusal(std::string_view reason) {
  HandoverMessage message;
  message.kind = Kind::kRefused;
  message.reason = reason.substr(0, HandoverMessage::kValueBytesMax);
  return message;
}

milliseconds Until(SteadyClock::time_point deadline) {
  return std::max(milliseconds(0), std::chrono::ceil<milliseconds>(deadline - SteadyClock::now()));
}

// Says why, and waits for the other's end: closed with something unread, the connection would be reset, and the reason
// lost.
void Dismiss(int peer, std::string_view reason) {
  if (!SendMessage(peer, Refusal(reason)).ok()) return;  // it is gone
  const auto deadline = SteadyClock::now() + kDismissPatience;
  for (;;) {
    pollfd polled{peer, POLLIN, 0};
    const int ready = poll(&polled, 1, static_cast<int>(Until(deadline).count()));
    if (ready == 0) return;
    char dropped;
    if (ready > 0 && recv(peer, &dropped, sizeof dropped, MSG_DONTWAIT) <= 0) return;
  }
}

}  // namespace

std::string FormatHandoverMessage(const HandoverMessage& message) {
  std::string text = Concat(kProtocol, " ", HandoverMessage::kVersion, " ", WordOf(kKinds, message.kind), "\n");
  if (!message.name.empty()) Append(&text, "name: ", message.name, "\n");
  if (!message.reason.empty()) Append(&text, "reason: ", message.reason, "\n");
  if (message.revision != 0) Append(&text, "revision: ", message.revision, "\n");
  if (!message.instance.empty()) Append(&text, "instance: ", message.instance, "\n");
  if (!message.last) text += "last: no\n";
  for (const auto& each : message.sockets)
    Append(&text, "socket: ", WordOf(kRoles, each.role), " ", each.address, "\n");
  return text;
}

absl::StatusOr<HandoverMessage> ParseHandoverMessage(std::string_view text) {
  if (text.size() > HandoverMessage::kBytesMax) return Invalid("a message is too long");
  const auto unprintable = [](char c) { return c != '\n' && (c < ' ' || c > '~'); };
  if (std::any_of(text.begin(), text.end(), unprintable)) return Invalid("a message is not text");
  std::optional<std::string_view> line = TakeUntil('\n', &text);
  if (!line) return Invalid("a message has no whole line");
  int version = 0;
  const std::optional<std::string_view> protocol = TakeUntil(' ', &*line);
  const std::optional<std::string_view> number = TakeUntil(' ', &*line);
  if (protocol != kProtocol || !number || !absl::SimpleAtoi(AbslView(*number), &version)) {
    return Invalid("a message of another protocol");
  }
  if (version != HandoverMessage::kVersion) {
    return absl::FailedPreconditionError(Concat("version ", version, " of the hand-over's protocol is not understood, ",
                                                HandoverMessage::kVersion, " is spoken here"));
  }
  const auto kind = ValueOf(kKinds, *line);
  if (!kind) return Invalid("a message of no known kind");
  HandoverMessage message;
  message.kind = *kind;
  while (!text.empty()) {
    line = TakeUntil('\n', &text);
    if (!line) return Invalid("a message whose last line is cut off");
    std::string_view value = *line;
    const std::optional<std::string_view> key = TakeUntil(':', &value);
    if (!key || !value.starts_with(' ') || value.size() > HandoverMessage::kValueBytesMax + 1) {
      return Invalid("a line that is not 'key: value'");
    }
    value.remove_prefix(1);
    if (*key == "name") {
      message.name = value;
    } else if (*key == "reason") {
      message.reason = value;
    } else if (*key == "last") {
      message.last = value != "no";
    } else if (*key == "revision") {
      if (!absl::SimpleAtoi(AbslView(value), &message.revision)) return Invalid("a revision that is not a number");
    } else if (*key == "instance") {
      message.instance = value;
    } else if (*key == "socket") {
      const std::optional<std::string_view> word = TakeUntil(' ', &value);
      const auto role = word ? ValueOf(kRoles, *word) : std::nullopt;
      if (!role || value.empty()) return Invalid("a socket of no known role");
      if (message.sockets.size() == HandoverMessage::kSocketsMax) return Invalid("a message of too many sockets");
      message.sockets.push_back({*role, std::string(value)});
    }
  }
  return message;
}

absl::StatusOr<std::unique_ptr<HandoverServer>> HandoverServer::Start(Options options) {
  std::unique_ptr<HandoverServer> server(new HandoverServer(std::move(options)));
  const std::string& path = server->options_.path;
  const std::string beside = Concat(path, ".", getpid());
  const auto address = AddressOf(beside);
  if (!address.ok()) return address.status();
  struct stat there {};
  if (lstat(path.c_str(), &there) == 0 && !S_ISSOCK(there.st_mode)) return Invalid(Concat(path, " is not a socket"));
  server->listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  server->stop_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (server->listener_ < 0 || server->stop_ < 0) return Failed("no socket");
  (void)unlink(beside.c_str());  // of an earlier process of this number
  if (bind(server->listener_, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    return Failed(Concat("cannot listen at ", beside));
  }
  if (chmod(beside.c_str(), 0600) != 0 || lstat(beside.c_str(), &there) != 0 ||
      listen(server->listener_, kBacklog) != 0 || rename(beside.c_str(), path.c_str()) != 0) {
    const absl::Status status = Failed(Concat("cannot listen at ", path));
    (void)unlink(beside.c_str());
    return status;
  }
  server->device_ = there.st_dev;
  server->inode_ = there.st_ino;
  server->thread_ = StartThread("handover", ThreadPriority::kServing, [raw = server.get()] { raw->Run(); });
  return server;
}

HandoverServer::~HandoverServer() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!write(stop_, &one, sizeof one);  // never full
    thread_.join();
    struct stat there {};
    if (!succeeded_ && lstat(options_.path.c_str(), &there) == 0 && there.st_dev == device_ && there.st_ino == inode_) {
      (void)unlink(options_.path.c_str());  // one that stays is found stale by the next process
    }
  }
  if (listener_ >= 0) close(listener_);
  if (stop_ >= 0) close(stop_);
}

void HandoverServer::Run() {
  for (;;) {
    std::array<pollfd, 2> polled = {{{stop_, POLLIN, 0}, {listener_, POLLIN, 0}}};
    if (poll(polled.data(), polled.size(), -1) < 0) continue;  // EINTR
    if (polled[0].revents != 0) return;
    const int peer = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (peer < 0) continue;
    const bool taken = Serve(peer);
    close(peer);
    if (taken) return;
  }
}

// A process that comes while a hand-over is under way.
void HandoverServer::RefuseOthers() {
  const int other = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (other < 0) return;
  spdlog::warn("hand-over: rejected a second process that asked for one");
  Dismiss(other, "another hand-over is under way");
  close(other);
}

HandoverServer::Wake HandoverServer::AwaitPeer(int peer, SteadyClock::time_point deadline) {
  for (;;) {
    const milliseconds left = Until(deadline);
    std::array<pollfd, 3> polled = {{{stop_, POLLIN, 0}, {peer, POLLIN, 0}, {listener_, POLLIN, 0}}};
    const int ready = poll(polled.data(), polled.size(), static_cast<int>(left.count()));
    if (ready < 0) continue;  // EINTR
    if (polled[0].revents != 0) return Wake::kStop;
    if (polled[1].revents != 0) return Wake::kPeer;  // also after a pause of this process that outlasted the deadline
    if (left.count() == 0) return Wake::kTimeout;
    if (polled[2].revents != 0) RefuseOthers();
  }
}

absl::Status HandoverServer::SendSockets(int peer) {
  for (size_t begin = 0;;) {
    HandoverMessage message;
    message.kind = Kind::kSockets;
    message.revision = options_.revision ? options_.revision() : 0;
    message.instance = options_.instance;
    std::vector<int> descriptors;
    for (; begin < options_.sockets.size() && descriptors.size() < HandoverMessage::kSocketsMax; ++begin) {
      const Socket& each = options_.sockets[begin];
      message.sockets.push_back({each.role, each.address});
      descriptors.push_back(each.fd);
    }
    message.last = begin == options_.sockets.size();
    if (absl::Status status = SendMessage(peer, message, descriptors); !status.ok()) return status;
    if (message.last) return absl::OkStatus();
  }
}

// One process that asks. True: it has taken over.
bool HandoverServer::Serve(int peer) {
  const auto refuse = [peer](std::string_view reason) {
    spdlog::warn("hand-over: rejected: {}", reason);
    Dismiss(peer, reason);
    return false;
  };
  const auto who = CheckPeer(peer);
  if (!who.ok()) return refuse(std::string(who.status().message()));
  if (AwaitPeer(peer, SteadyClock::now() + kStepPatience) != Wake::kPeer) return refuse("no request arrived");
  auto message = ReceiveMessage(peer, nullptr);
  if (!message.ok()) return refuse(std::string(message.status().message()));
  if (message->kind != Kind::kTake) return refuse("a hand-over starts with 'take'");

  spdlog::info("hand-over: process {} asks for {} sockets", who->pid, options_.sockets.size());
  if (options_.under_way) options_.under_way(true);
  const auto go_on = [&](std::string_view why) {
    spdlog::warn("hand-over: process {} did not take over: {}; this one serves on", who->pid, why);
    if (options_.under_way) options_.under_way(false);
    return false;
  };
  if (const absl::Status status = SendSockets(peer); !status.ok()) return go_on(std::string(status.message()));
  switch (AwaitPeer(peer, SteadyClock::now() + options_.patience)) {
    case Wake::kStop:
      // It is not said that nothing is under way: this process must not claim its name back now.
      spdlog::info("hand-over: this process ends before process {} serves, which has its sockets", who->pid);
      succeeded_ = true;
      return false;
    case Wake::kTimeout:
      Dismiss(peer, "it took too long");
      return go_on(Concat("it does not serve after ", options_.patience.count(), " ms"));
    case Wake::kPeer:
      break;
  }
  message = ReceiveMessage(peer, nullptr);
  if (!message.ok()) {
    if (!absl::IsUnavailable(message.status())) Dismiss(peer, std::string(message.status().message()));
    return go_on(std::string(message.status().message()));
  }
  if (message->kind != Kind::kServing) {
    Dismiss(peer, "'serving' was expected");
    return go_on("it sent something else than 'serving'");
  }
  HandoverMessage draining;
  draining.kind = Kind::kDraining;
  if (const absl::Status status = SendMessage(peer, draining); !status.ok())
    return go_on(std::string(status.message()));
  spdlog::info("hand-over: process {} serves", who->pid);
  succeeded_ = true;
  options_.taken(message->name);
  return true;
}

absl::StatusOr<std::unique_ptr<Predecessor>> Predecessor::Find(const std::string& path) {
  const auto at = [&path](const absl::Status& status) {
    return absl::Status(status.code(), Concat("hand-over at ", path, ": ", std::string(status.message())));
  };
  const auto address = AddressOf(path);
  if (!address.ok()) return address.status();
  struct stat there {};
  if (lstat(path.c_str(), &there) != 0) {
    if (errno == ENOENT) return nullptr;
    return at(Failed("cannot be looked at"));
  }
  if (!S_ISSOCK(there.st_mode)) return at(Invalid("is there, and no socket"));
  std::unique_ptr<Predecessor> found(new Predecessor);
  found->fd_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (found->fd_ < 0) return at(Failed("no socket"));
  // Also of a connect that waits for room in a queue.
  const timeval patience{kStepPatience.count() / 1000, 0};
  (void)setsockopt(found->fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);  // else it may wait longer
  (void)setsockopt(found->fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(found->fd_, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0) {
    if (errno == ECONNREFUSED || errno == ENOENT) return nullptr;  // of a process that has ended
    return at(Failed("cannot connect"));
  }
  if (const absl::Status status = found->Ask(); !status.ok()) return at(status);
  return found;
}

Predecessor::~Predecessor() {
  for (const auto& sockets : {main_, metrics_}) {
    for (const PassedSocket& each : sockets) close(each.fd);
  }
  if (fd_ >= 0) close(fd_);
}

absl::Status Predecessor::Receive(HandoverMessage* message, std::vector<int>* descriptors) {
  auto received = ReceiveMessage(fd_, descriptors);
  if (!received.ok()) return received.status();
  if (received->kind == Kind::kRefused) {
    return absl::FailedPreconditionError(Concat("process ", pid_, " rejects it: ", received->reason));
  }
  *message = *std::move(received);
  return absl::OkStatus();
}

absl::Status Predecessor::Ask() {
  const auto who = CheckPeer(fd_);
  if (!who.ok()) return who.status();
  pid_ = who->pid;
  if (absl::Status status = SendMessage(fd_, HandoverMessage()); !status.ok()) return status;
  for (bool last = false; !last;) {
    HandoverMessage message;
    std::vector<int> descriptors;
    if (absl::Status status = Receive(&message, &descriptors); !status.ok()) return status;
    absl::Cleanup close_rest = [&descriptors] {
      for (const int each : descriptors) close(each);
    };
    if (message.kind != Kind::kSockets) return Invalid("a response without sockets");
    while (!descriptors.empty()) {
      const auto& line = message.sockets[message.sockets.size() - descriptors.size()];
      auto socket = InspectListener(descriptors[0]);
      if (!socket.ok()) return Invalid(Concat(line.address, " ", std::string(socket.status().message())));
      if (AddressText(socket->address) != line.address) {
        return Invalid(Concat(line.address, " is a socket at ", AddressText(socket->address)));
      }
      socket->systemd = line.role == SocketRole::kSystemd;
      (line.role == SocketRole::kMetrics ? metrics_ : main_).push_back(*socket);
      descriptors.erase(descriptors.begin());
    }
    revision_ = message.revision;
    instance_ = message.instance;
    last = message.last;
  }
  return absl::OkStatus();
}

bool Predecessor::there() {
  pollfd polled{fd_, POLLIN | POLLRDHUP, 0};
  return poll(&polled, 1, 0) == 0;
}

absl::Status Predecessor::Succeed(const std::string& name) {
  HandoverMessage message;
  message.kind = Kind::kServing;
  message.name = name;
  if (!SendMessage(fd_, message).ok()) {
    // It may have said why before it went.
    const absl::Status said = Receive(&message, nullptr);
    return absl::IsFailedPrecondition(said) ? said : absl::UnavailableError("it is gone");
  }
  absl::Status status = Receive(&message, nullptr);
  if (status.ok() && message.kind != Kind::kDraining) return absl::UnavailableError("it sent something else");
  if (status.ok() || absl::IsFailedPrecondition(status)) return status;
  return absl::UnavailableError(status.message());
}

}  // namespace gateway::dataplane
