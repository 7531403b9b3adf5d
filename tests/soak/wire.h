// The peers of the soak: HTTP/1.1 clients and services, on a coroutine loop, thousands at once.
//
// Sockets, loop and coroutines are the data plane's, but messages are parsed here, independently and strictly, so a
// parser bug of the gateway cannot hide itself.
#ifndef GATEWAY_TESTS_SOAK_WIRE_H_
#define GATEWAY_TESTS_SOAK_WIRE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "dataplane/net/event_loop.h"
#include "dataplane/net/socket.h"
#include "dataplane/net/task.h"

namespace gateway::soak {

using dataplane::Detached;
using dataplane::EventLoop;
using dataplane::Task;
using std::chrono::milliseconds;

inline constexpr milliseconds kPatience{30'000};  // with a peer that should act at once; allows for a loaded machine

// The content of every body: byte i is the same in all of them, so each piece can be checked by its offset. At most 64
// KiB from `offset` on; the view is valid forever.
std::string_view PatternAt(uint64_t offset, size_t bytes);

Task<void> Pause(EventLoop* loop, milliseconds time);

// How reading went.
enum class Got : uint8_t { kAll, kEnd, kReset, kTimeout, kWrong };
const char* ToText(Got got);

struct Head {
  std::string text;  // including the empty line
  int status = 0;    // of a response
  std::string method, target;
  uint64_t length = 0;
  bool has_length = false;
  bool chunked = false;
  bool close = false;

  // The value of the first field with this name (in lower case); "": absent.
  std::string_view Field(std::string_view name) const;
};

// One connection. Belongs to its loop.
class Peer {
 public:
  explicit Peer(EventLoop* loop) : socket_(loop), loop_(loop) {}

  bool Adopt(int fd) { return socket_.Adopt(fd); }
  // To 127.0.0.1. `receive_bytes`: the socket's own buffer, 0: the kernel's choice.
  Task<bool> Connect(uint16_t port, int receive_bytes = 0);

  // Sends all of `bytes`, which must outlive the call. False: the connection broke, or the peer took nothing for
  // `stall`.
  Task<bool> Send(std::string_view bytes, milliseconds stall = kPatience);
  // Sends bytes [from, to) of the pattern. `chunk` > 0: in chunks of this size (without the last chunk). `pause`:
  // after each piece of at most `piece`.
  Task<bool> SendPattern(uint64_t from, uint64_t to, size_t piece, size_t chunk, milliseconds pause);

  Task<Got> ReadHead(Head* head, milliseconds patience = kPatience);
  // Reads the body that `head` announces. If `kept` is not null, at most `keep_max` bytes of it are stored there;
  // otherwise every byte must match the pattern. kEnd: truncated. Pauses for `pause` after each read of at most
  // `piece`; ends early, with kAll, after `stop_after` bytes.
  struct Pace {
    size_t piece = 64 * 1024;
    milliseconds pause{0};
    uint64_t stop_after = ~uint64_t{0};
  };
  Task<Got> ReadBody(const Head& head, std::string* kept, uint64_t* bytes, Pace pace,
                     milliseconds patience = kPatience);
  // Reads at least one byte into the buffer.
  Task<Got> Fill(milliseconds patience, size_t piece = 64 * 1024);
  std::string& buffer() { return buffer_; }

  void ShutdownWrite();
  void Reset();  // RST
  void Close() { socket_.Close(); }
  bool open() const { return socket_.open(); }
  EventLoop* loop() const { return loop_; }

 private:
  static constexpr size_t kKeptMax = 64 * 1024;
  static constexpr size_t kHeadMax = 64 * 1024;
  Task<Got> ReadLine(std::string* line, milliseconds patience);
  Task<Got> ReadBytes(uint64_t count, std::string* kept, uint64_t* bytes, Pace pace, milliseconds patience);

  dataplane::Socket socket_;
  EventLoop* loop_;
  std::string buffer_;
};

}  // namespace gateway::soak

#endif  // GATEWAY_TESTS_SOAK_WIRE_H_
