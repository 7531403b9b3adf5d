#include "tests/soak/traffic.h"

#include <memory>
#include <utility>

#include "common/base/text.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::soak {
namespace {

constexpr uint64_t kLargeBytes = 8 << 20;
constexpr uint64_t kSlowBytes = 512 << 10;
constexpr int kRequestsPerConnection = 200;

std::string Get(const std::string& target, std::string_view fields = "") {
  return Concat("GET ", target, " HTTP/1.1\r\nHost: soak.example\r\nUser-Agent: soak\r\n", fields, "\r\n");
}

std::string PostHead(const std::string& target, uint64_t length) {
  return Concat("POST ", target, " HTTP/1.1\r\nHost: soak.example\r\nContent-Length: ", length, "\r\n\r\n");
}

std::string ChunkedPostHead(const std::string& target) {
  return Concat("POST ", target, " HTTP/1.1\r\nHost: soak.example\r\nTransfer-Encoding: chunked\r\n\r\n");
}

// Counts a client for as long as its coroutine lives.
class Living {
 public:
  explicit Living(std::atomic<int>* count) : count_(count) { ++*count_; }
  Living(const Living&) = delete;
  Living& operator=(const Living&) = delete;
  ~Living() { --*count_; }

 private:
  std::atomic<int>* count_;
};

}  // namespace

const char* ToText(Kind kind) {
  constexpr std::array<const char*, kKinds> kNames = {"small",       "dying",       "changing", "large",
                                                      "slow reader", "slow writer", "abort",    "upgrade"};
  return kNames[static_cast<size_t>(kind)];
}

Traffic::Traffic(const Options& options) : options_(options) {
  loop_.Post([this] {
    for (int i = 0; i < 24; ++i) Small(i);
    for (int i = 0; i < 6; ++i) Dying(i);
    Changing();
    for (int i = 0; i < 2; ++i) Large(i);
    for (int i = 0; i < 4; ++i) SlowReader(i);
    for (int i = 0; i < 4; ++i) SlowWriter(i);
    for (int i = 0; i < 8; ++i) Abort(i);
    for (int i = 0; i < 4 && options_.upgrades; ++i) Upgrade(i);
  });
  thread_ = std::thread([this] { loop_.Run(); });
}

Traffic::~Traffic() {
  stopping_ = true;
  loop_.Stop();
  thread_.join();
}

bool Traffic::Stop(milliseconds patience) {
  stopping_ = true;
  return fixtures::WaitFor([this] { return clients_.load() == 0; }, patience);
}

uint64_t Traffic::total(std::atomic<uint64_t> Tally::*part) const {
  uint64_t sum = 0;
  for (const Tally& each : tallies_) sum += (each.*part).load();
  return sum;
}

std::vector<std::string> Traffic::messages() const {
  absl::MutexLock lock(&mutex_);
  return messages_;
}

void Traffic::Lose(Kind kind, const std::string& why) {
  At(kind).lost.fetch_add(1);
  absl::MutexLock lock(&mutex_);
  if (messages_.size() < kMessagesMax) messages_.push_back(Concat(ToText(kind), ": ", why));
}

Task<void> Traffic::Think(milliseconds time) {
  // In steps, so that a client with a long pause still ends soon.
  auto left = std::chrono::duration_cast<milliseconds>(time / options_.pace);
  while (left.count() > 0 && !stopping_) {
    const milliseconds step = std::min(left, milliseconds(500));
    co_await Pause(&loop_, step);
    left -= step;
  }
}

Task<bool> Traffic::Connected(Kind kind, Peer* peer, int receive_bytes) {
  const bool connected = co_await peer->Connect(options_.port, receive_bytes);
  if (!connected) {
    At(kind).begun.fetch_add(1);
    Lose(kind, "no connection");
    co_await Think(milliseconds(500));
  }
  co_return connected;
}

Task<bool> Traffic::Check(Kind kind, Peer* peer, const Expected* expected, Peer::Pace pace) {
  Head head;
  Got got = co_await peer->ReadHead(&head);
  if (got != Got::kAll) {
    Lose(kind, Concat("no response: ", ToText(got)));
    co_return false;
  }
  const bool good = head.status == 200;
  std::string body;
  uint64_t bytes = 0;
  const bool as_text = !good || !expected->text.empty();
  got = co_await peer->ReadBody(head, as_text ? &body : nullptr, &bytes, pace);
  if (got != Got::kAll) {
    // A service killed mid-response truncates it, and the gateway must signal that by truncating its own response.
    if (good && expected->service_may_be_away && got != Got::kWrong && got != Got::kTimeout) {
      At(kind).excused.fetch_add(1);
    } else {
      Lose(kind, Concat("the body of a ", head.status, ": ", ToText(got), " after ", bytes, " bytes"));
    }
    co_return false;
  }
  if (good && (as_text ? body.starts_with(expected->text) : bytes == expected->pattern_bytes)) {
    At(kind).good.fetch_add(1);
  } else if ((expected->service_may_be_away && head.status >= 502 && head.status <= 504) ||
             (expected->route_may_be_away && head.status == 404)) {
    At(kind).excused.fetch_add(1);
  } else {
    Lose(kind, Concat(head.status, " with ", bytes, " bytes: ", body.substr(0, 200), "; expected '", expected->text,
                      "' or ", expected->pattern_bytes, " bytes"));
  }
  co_return !head.close;
}

// Keep-alive, 200 requests per connection; every third has a small body.
Detached Traffic::Small(int client) {
  const Living living(&clients_);
  co_await Think(milliseconds(client * 7));
  while (!stopping_) {
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kSmall, &peer)) continue;
    for (int i = 0; i < kRequestsPerConnection && !stopping_; ++i) {
      At(Kind::kSmall).begun.fetch_add(1);
      const uint64_t id = NextId();
      Expected expected;
      std::string request;
      const bool last = i == kRequestsPerConnection - 1 && client % 2 == 0;
      if (i % 3 == 2) {
        const uint64_t size = id % 700;
        request = Concat(PostHead("/steady/upload", size), PatternAt(0, size));
        expected.text = Concat("bytes=", size);
      } else {
        request = Get(Concat("/steady/small?id=", id), last ? "Connection: close\r\n" : "");
        expected.text = Concat("id=", id, " ");
      }
      if (!co_await peer.Send(request)) {
        Lose(Kind::kSmall, "the connection broke before a request");
        break;
      }
      if (!co_await Check(Kind::kSmall, &peer, &expected)) break;
      co_await Think(milliseconds(40));
    }
  }
}

// To services that are killed and restarted.
Detached Traffic::Dying(int client) {
  const Living living(&clients_);
  co_await Think(milliseconds(client * 11));
  while (!stopping_) {
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kDying, &peer)) continue;
    for (int i = 0; i < kRequestsPerConnection && !stopping_; ++i) {
      At(Kind::kDying).begun.fetch_add(1);
      const uint64_t id = NextId();
      Expected expected;
      expected.service_may_be_away = true;
      std::string request;
      if (i % 5 == 4) {
        expected.pattern_bytes = 300'000;
        request = Get("/dying/chunked?n=300000");
      } else if (i % 5 == 3) {
        expected.text = "bytes=3000";
        request = Concat(PostHead("/dying/upload", 3000), PatternAt(0, 3000));
      } else {
        expected.text = Concat("id=", id, " ");
        request = Get(Concat("/dying/small?id=", id));
      }
      if (!co_await peer.Send(request)) {
        Lose(Kind::kDying, "the connection broke before a request");
        break;
      }
      if (!co_await Check(Kind::kDying, &peer, &expected)) break;
      co_await Think(milliseconds(50));
    }
  }
}

// A route that policy changes remove and add again.
Detached Traffic::Changing() {
  const Living living(&clients_);
  while (!stopping_) {
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kChanging, &peer)) continue;
    bool goes_on = true;
    while (goes_on && !stopping_) {
      At(Kind::kChanging).begun.fetch_add(1);
      const uint64_t id = NextId();
      Expected expected;
      expected.route_may_be_away = true;
      expected.text = Concat("id=", id, " ");
      const std::string request = Get(Concat("/changing/small?id=", id));
      goes_on = co_await peer.Send(request);
      if (!goes_on) {
        Lose(Kind::kChanging, "the connection broke before a request");
        break;
      }
      goes_on = co_await Check(Kind::kChanging, &peer, &expected);
      co_await Think(milliseconds(50));
    }
  }
}

// 8 MiB up and down, with Content-Length and chunked.
Detached Traffic::Large(int client) {
  const Living living(&clients_);
  uint64_t turn = static_cast<uint64_t>(client);
  while (!stopping_) {
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kLarge, &peer)) continue;
    bool goes_on = true;
    while (goes_on && !stopping_) {
      At(Kind::kLarge).begun.fetch_add(1);
      Expected expected;
      std::string request;
      switch (turn++ % 4) {
        case 0:
          request = Get(Concat("/steady/bytes?n=", kLargeBytes));
          break;
        case 1:
          request = PostHead("/steady/upload", kLargeBytes);
          break;
        case 2:
          request = Get(Concat("/steady/chunked?n=", kLargeBytes));
          break;
        default:
          request = ChunkedPostHead("/steady/upload");
          break;
      }
      const bool up = request.starts_with("POST");
      const size_t chunk = up && turn % 4 == 0 ? 7777 : 0;
      goes_on = co_await peer.Send(request);
      if (up) {
        expected.text = Concat("bytes=", kLargeBytes);
        if (goes_on) goes_on = co_await peer.SendPattern(0, kLargeBytes, 64 * 1024, chunk, milliseconds(0));
        if (goes_on && chunk > 0) goes_on = co_await peer.Send("0\r\n\r\n");
      } else {
        expected.pattern_bytes = kLargeBytes;
      }
      if (!goes_on) {
        Lose(Kind::kLarge, "the connection broke in a request");
        break;
      }
      goes_on = co_await Check(Kind::kLarge, &peer, &expected);
      co_await Think(milliseconds(700));
    }
  }
}

// Reads about 100 KB a second from a socket with a small buffer.
Detached Traffic::SlowReader(int client) {
  const Living living(&clients_);
  for (int turn = client; !stopping_; ++turn) {
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kSlowReader, &peer, 16 * 1024)) continue;
    At(Kind::kSlowReader).begun.fetch_add(1);
    Expected expected;
    expected.pattern_bytes = kSlowBytes;
    // For every fourth, the service is slow instead.
    const bool drip = turn % 4 == 3;
    const std::string request = Get(drip            ? Concat("/steady/drip?ms=20&n=", kSlowBytes)
                                    : turn % 2 == 0 ? Concat("/steady/bytes?n=", kSlowBytes)
                                                    : Concat("/steady/chunked?n=", kSlowBytes));
    Peer::Pace pace;
    if (!drip) pace = {8 * 1024, milliseconds(80)};
    if (!co_await peer.Send(request)) {
      Lose(Kind::kSlowReader, "the connection broke before a request");
      continue;
    }
    (void)co_await Check(Kind::kSlowReader, &peer, &expected, pace);  // its last request anyway
    co_await Think(milliseconds(100));
  }
}

// A header in pieces of 8 bytes, then a body in pieces of 1 KiB.
Detached Traffic::SlowWriter(int client) {
  const Living living(&clients_);
  for (int turn = client; !stopping_; ++turn) {
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kSlowWriter, &peer)) continue;
    At(Kind::kSlowWriter).begun.fetch_add(1);
    constexpr uint64_t kBytes = 64 * 1024;
    const bool chunked = turn % 2 == 1;
    const std::string head = chunked ? ChunkedPostHead("/steady/upload") : PostHead("/steady/upload", kBytes);
    bool sent = true;
    for (size_t at = 0; at < head.size() && sent; at += 8) {
      sent = co_await peer.Send(std::string_view(head).substr(at, 8));
      co_await Pause(&loop_, milliseconds(20));
    }
    if (sent) sent = co_await peer.SendPattern(0, kBytes, 1024, chunked ? 1000 : 0, milliseconds(20));
    if (sent && chunked) sent = co_await peer.Send("0\r\n\r\n");
    if (!sent) {
      Lose(Kind::kSlowWriter, "the connection broke in a request");
      continue;
    }
    Expected expected;
    expected.text = Concat("bytes=", kBytes);
    (void)co_await Check(Kind::kSlowWriter, &peer, &expected);  // its last request anyway
    co_await Think(milliseconds(100));
  }
}

// Closes the connection at every possible point, by FIN or RST; one in eight only half-closes, which is no abort.
Detached Traffic::Abort(int client) {
  const Living living(&clients_);
  co_await Think(milliseconds(client * 13));
  for (int turn = client; !stopping_; ++turn) {
    co_await Think(milliseconds(60));
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kAbort, &peer)) continue;
    At(Kind::kAbort).begun.fetch_add(1);
    const bool reset = (turn / 8) % 2 == 0;
    std::string request;
    uint64_t bytes = 0;
    Peer::Pace pace;
    pace.stop_after = 100'000;
    Head head;
    bool half_closed = false;
    switch (turn % 8) {
      case 0:  // mid-header
        request = "GET /steady/small?id=1 HTTP/1.1\r\nHost: soak.exam";
        break;
      case 1:  // mid-body
        request = Concat(PostHead("/steady/upload", kLargeBytes), PatternAt(0, 30'000));
        break;
      case 2:  // mid-chunk
        request = Concat(ChunkedPostHead("/steady/upload"), "1000\r\n", PatternAt(0, 100));
        break;
      case 3:  // while it waits
        request = Get("/steady/delay?ms=300");
        break;
      case 4:  // while a service never responds
        request = Get("/steady/silent");
        break;
      case 5:  // mid-response
        request = Get(Concat("/steady/bytes?n=", kLargeBytes));
        break;
      case 6:  // before the first byte
        break;
      default:
        half_closed = true;
        request = Get("/steady/delay?ms=50&id=7");
        break;
    }
    if (!request.empty() && !co_await peer.Send(request)) {
      Lose(Kind::kAbort, "the connection broke before a request");
      continue;
    }
    if (half_closed) {
      peer.ShutdownWrite();
      Expected expected;
      expected.text = "id=7 ";
      (void)co_await Check(Kind::kAbort, &peer, &expected);  // its last request anyway
      continue;
    }
    if (turn % 8 == 5) {
      const Got got = co_await peer.ReadHead(&head);
      if (got != Got::kAll || co_await peer.ReadBody(head, nullptr, &bytes, pace) != Got::kAll) {
        Lose(Kind::kAbort, "the response to abort did not arrive");
        continue;
      }
    } else if (turn % 8 == 3 || turn % 8 == 4) {
      co_await Pause(&loop_, milliseconds(30));
    }
    if (reset) {
      peer.Reset();
    } else {
      peer.Close();
    }
    At(Kind::kAbort).broken.fetch_add(1);
  }
}

// RFC 6455's handshake, then bytes both ways through the tunnel. Ends with a half-close; every fourth with a reset.
Detached Traffic::Upgrade(int client) {
  const Living living(&clients_);
  for (int turn = client; !stopping_; ++turn) {
    co_await Think(milliseconds(200));
    Peer peer(&loop_);
    if (!co_await Connected(Kind::kUpgrade, &peer)) continue;
    At(Kind::kUpgrade).begun.fetch_add(1);
    const std::string request = Get("/ws/ws",
                                    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    Head head;
    if (!co_await peer.Send(request) || co_await peer.ReadHead(&head) != Got::kAll) {
      Lose(Kind::kUpgrade, "no response");
      continue;
    }
    if (head.status != 101 || head.Field("sec-websocket-accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
      Lose(Kind::kUpgrade, Concat("no 101: ", head.text));
      continue;
    }
    // The echo is a body of the pattern, like any other.
    Head echo;
    echo.has_length = true;
    uint64_t offset = 0;
    bool right = true;
    for (int i = 0; i < 20 && right; ++i) {
      const size_t size = 1 + (static_cast<size_t>(turn) * 7919 + static_cast<size_t>(i) * 104'729) % 30'000;
      const std::string_view piece = PatternAt(0, size);
      echo.length = size;
      right = co_await peer.Send(piece);
      if (right) right = co_await peer.ReadBody(echo, nullptr, &offset, Peer::Pace()) == Got::kAll;
      co_await Think(milliseconds(50));
    }
    if (!right) {
      Lose(Kind::kUpgrade, "the tunnel broke, or changed bytes");
      continue;
    }
    if (turn % 4 == 3) {
      peer.Reset();
      At(Kind::kUpgrade).broken.fetch_add(1);
      continue;
    }
    peer.ShutdownWrite();
    if (co_await peer.Fill(kPatience) == Got::kEnd) {
      At(Kind::kUpgrade).good.fetch_add(1);
    } else {
      Lose(Kind::kUpgrade, "the tunnel did not end with its two ends");
    }
  }
}

}  // namespace gateway::soak
