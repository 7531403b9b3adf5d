// Finds the end of HTTP/1.1 messages in a stream, as cheaply as that can be done: for the benchmark's own client and
// server, which trust each other's bytes. No validation, no fields but those that say where a message ends.
#ifndef GATEWAY_TESTS_BENCH_MESSAGE_READER_H_
#define GATEWAY_TESTS_BENCH_MESSAGE_READER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gateway::bench {

// One message after another; Next() between them. Allocates only while a head comes in pieces.
class MessageReader {
 public:
  enum class Kind { kRequest, kResponse };

  explicit MessageReader(Kind kind) : kind_(kind) {}

  void Next();
  // Takes no more than what is missing of the message; returns how much that was.
  size_t Consume(std::string_view data);

  // Bytes of the body that come next and need no look: the caller may discard up to so many and call Skip.
  uint64_t skippable() const { return state_ == State::kData ? remaining_ : 0; }
  void Skip(uint64_t bytes);

  bool started() const { return state_ != State::kHead || !head_.empty(); }
  bool complete() const { return state_ == State::kComplete; }
  bool bad() const { return state_ == State::kBad; }

  // Once the head is there.
  std::string_view start_line() const { return start_line_; }
  int status() const { return status_; }
  bool closes() const { return closes_; }  // the sender will close the connection after this message

 private:
  enum class State { kHead, kData, kChunkSize, kTrailer, kComplete, kBad };

  size_t ConsumeHead(std::string_view data);
  void ParseHead(std::string_view head);

  const Kind kind_;
  State state_ = State::kHead;
  bool chunked_ = false;
  bool closes_ = false;
  int status_ = 0;
  uint64_t remaining_ = 0;  // of the body, or of a chunk and the CRLF after it; or a chunk's size as far as it was read
  size_t line_bytes_ = 0;   // of a line of the trailer
  bool in_extension_ = false;
  std::string head_;  // the part of a head that has come
  std::string start_line_;
};

// The best that recv can do about what `reader` expects: discards a long body unseen, else reads into `buffer`.
// Consumes what was read. Returns what recv returned; `*full` says that there may be more to read at once.
ssize_t ReceiveInto(int fd, MessageReader* reader, char* buffer, size_t buffer_bytes, bool* full, size_t* consumed);

}  // namespace gateway::bench

#endif  // GATEWAY_TESTS_BENCH_MESSAGE_READER_H_
