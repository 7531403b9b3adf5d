#include "tests/soak/wire.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "common/base/text.h"
#include "spdlog/fmt/fmt.h"

namespace gateway::soak {
namespace {

using dataplane::Io;
using dataplane::Wait;

constexpr size_t kPeriod = 65521;  // a prime, so a lost or repeated block of any power of two is noticed
constexpr size_t kPieceMax = 64 * 1024;

const char* Pattern() {
  static const std::string* const pattern = [] {
    auto* bytes = new std::string;
    uint32_t state = 1;
    for (size_t i = 0; i < kPeriod; ++i) {
      state = state * 1664525 + 1013904223;
      bytes->push_back(static_cast<char>('!' + (state >> 24) % 90));
    }
    while (bytes->size() < kPeriod + kPieceMax) *bytes += bytes->substr(0, kPeriod);
    return bytes;
  }();
  return pattern->data();
}

}  // namespace

std::string_view PatternAt(uint64_t offset, size_t bytes) {
  return {Pattern() + offset % kPeriod, std::min(bytes, kPieceMax)};
}

Task<void> Pause(EventLoop* loop, milliseconds time) {
  std::coroutine_handle<> waiting;
  dataplane::Timer timer(
      loop, [](void* handle) { static_cast<std::coroutine_handle<>*>(handle)->resume(); }, &waiting);
  timer.Arm(loop->now() + time);
  struct Awaiter {
    std::coroutine_handle<>* waiting;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> caller) const noexcept { *waiting = caller; }
    void await_resume() const noexcept {}
  };
  co_await Awaiter{&waiting};
}

const char* ToText(Got got) {
  switch (got) {
    case Got::kAll:
      return "complete";
    case Got::kEnd:
      return "cut off by an end";
    case Got::kReset:
      return "cut off by a reset";
    case Got::kTimeout:
      return "nothing came for too long";
    case Got::kWrong:
      return "wrong bytes";
  }
  return "";
}

std::string_view Head::Field(std::string_view name) const {
  std::string_view rest = text;
  rest.remove_prefix(std::min(rest.size(), rest.find("\r\n") + 2));
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find("\r\n"));
    rest.remove_prefix(std::min(rest.size(), line.size() + 2));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !absl::EqualsIgnoreCase(AbslView(line.substr(0, colon)), AbslView(name))) {
      continue;
    }
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
    return value;
  }
  return {};
}

Task<bool> Peer::Connect(uint16_t port, int receive_bytes) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (!socket_.StartConnect(reinterpret_cast<const sockaddr*>(&address), sizeof address)) co_return false;
  if (receive_bytes > 0)
    (void)setsockopt(socket_.fd(), SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);  // best effort
  const Wait wait = co_await socket_.Writable(loop_->now() + kPatience);
  co_return wait == Wait::kReady&& socket_.ConnectError() == 0 && !socket_.broken();
}

Task<bool> Peer::Send(std::string_view bytes, milliseconds stall) {
  std::array<iovec, 1> part = {{{const_cast<char*>(bytes.data()), bytes.size()}}};
  uint64_t sent = 0;
  const Io io = co_await socket_.WriteRest(std::span<iovec>(part), stall, &sent);
  co_return io == Io::kDone;
}

Task<bool> Peer::SendPattern(uint64_t from, uint64_t to, size_t piece, size_t chunk, milliseconds pause) {
  std::string framed;
  int pieces = 0;
  while (from < to) {
    const std::string_view bytes =
        PatternAt(from, std::min<uint64_t>(to - from, std::min(piece, chunk > 0 ? chunk : kPieceMax)));
    bool sent = false;
    if (chunk > 0) {
      framed = fmt::format("{:x}\r\n", bytes.size());
      framed.append(bytes);
      framed += "\r\n";
      sent = co_await Send(framed);
    } else {
      sent = co_await Send(bytes);
    }
    if (!sent) co_return false;
    from += bytes.size();
    if (pause.count() > 0) {
      co_await Pause(loop_, pause);
    } else if (++pieces % 16 == 0) {
      co_await dataplane::Yield(loop_);  // a fast peer yields to the others
    }
  }
  co_return true;
}

Task<Got> Peer::Fill(milliseconds patience, size_t piece) {
  const auto deadline = loop_->now() + patience;
  for (;;) {
    const size_t before = buffer_.size();
    buffer_.resize(before + piece);
    size_t moved = 0;
    const Io io = socket_.Read(buffer_.data() + before, piece, &moved);
    buffer_.resize(before + moved);
    if (io == Io::kDone) co_return Got::kAll;
    if (io == Io::kEnd) co_return Got::kEnd;
    if (io == Io::kError) co_return Got::kReset;
    if (buffer_.empty()) std::string().swap(buffer_);  // thousands wait here
    const Wait wait = co_await socket_.Readable(deadline);
    if (wait == Wait::kTimeout) co_return Got::kTimeout;
    if (wait == Wait::kCancelled) co_return Got::kReset;
  }
}

Task<Got> Peer::ReadHead(Head* head, milliseconds patience) {
  size_t end = std::string::npos;
  while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (buffer_.size() > kHeadMax) co_return Got::kWrong;
    const Got got = co_await Fill(patience, 4096);
    if (got != Got::kAll) co_return got;
  }
  *head = {};
  head->text = buffer_.substr(0, end + 4);
  buffer_.erase(0, end + 4);
  const std::string line = head->text.substr(0, head->text.find("\r\n"));
  if (line.starts_with("HTTP/1.1 ")) {
    head->status = std::atoi(line.c_str() + 9);
  } else {
    const size_t first = line.find(' ');
    const size_t second = line.find(' ', first + 1);
    if (first == std::string::npos || line.substr(second) != " HTTP/1.1") co_return Got::kWrong;
    head->method = line.substr(0, first);
    head->target = line.substr(first + 1, second - first - 1);
  }
  if (const std::string_view length = head->Field("content-length"); !length.empty()) {
    head->has_length = true;
    head->length = std::strtoull(std::string(length).c_str(), nullptr, 10);
  }
  head->chunked = head->Field("transfer-encoding") == "chunked";
  head->close = absl::EqualsIgnoreCase(AbslView(head->Field("connection")), "close");
  co_return Got::kAll;
}

Task<Got> Peer::ReadLine(std::string* line, milliseconds patience) {
  size_t end = std::string::npos;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (buffer_.size() > kHeadMax) co_return Got::kWrong;
    const Got got = co_await Fill(patience);
    if (got != Got::kAll) co_return got;
  }
  *line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  co_return Got::kAll;
}

Task<Got> Peer::ReadBytes(uint64_t count, std::string* kept, uint64_t* bytes, Pace pace, milliseconds patience) {
  int reads = 0;
  while (count > 0) {
    if (buffer_.empty()) {
      const Got got = co_await Fill(patience, pace.piece);
      if (got != Got::kAll) co_return got;
      if (++reads % 16 == 0) co_await dataplane::Yield(loop_);
    }
    const size_t take = static_cast<size_t>(std::min<uint64_t>({count, buffer_.size(), kPieceMax}));
    if (kept != nullptr) {
      kept->append(buffer_, 0, std::min(take, kKeptMax - std::min(kKeptMax, kept->size())));
    } else if (std::memcmp(buffer_.data(), PatternAt(*bytes, take).data(), take) != 0) {
      co_return Got::kWrong;
    }
    buffer_.erase(0, take);
    *bytes += take;
    count -= take;
    if (*bytes >= pace.stop_after) co_return Got::kAll;
    if (pace.pause.count() > 0) co_await Pause(loop_, pace.pause);
  }
  co_return Got::kAll;
}

Task<Got> Peer::ReadBody(const Head& head, std::string* kept, uint64_t* bytes, Pace pace, milliseconds patience) {
  *bytes = 0;
  if (head.has_length) co_return co_await ReadBytes(head.length, kept, bytes, pace, patience);
  if (!head.chunked) co_return Got::kAll;
  std::string line;
  for (;;) {
    Got got = co_await ReadLine(&line, patience);
    if (got != Got::kAll) co_return got;
    char* end = nullptr;
    const uint64_t size = std::strtoull(line.c_str(), &end, 16);
    if (line.empty() || *end != '\0') co_return Got::kWrong;
    if (size > 0) {
      got = co_await ReadBytes(size, kept, bytes, pace, patience);
      if (got != Got::kAll || *bytes >= pace.stop_after) co_return got;
    }
    got = co_await ReadLine(&line, patience);
    if (got != Got::kAll) co_return got;
    if (!line.empty()) co_return Got::kWrong;
    if (size == 0) co_return Got::kAll;
  }
}

void Peer::ShutdownWrite() { (void)shutdown(socket_.fd(), SHUT_WR); }  // reading notices if the peer is gone

void Peer::Reset() {
  if (!socket_.open()) return;
  const linger now{1, 0};
  (void)setsockopt(socket_.fd(), SOL_SOCKET, SO_LINGER, &now, sizeof now);  // otherwise a plain close
  socket_.Close();
}

}  // namespace gateway::soak
