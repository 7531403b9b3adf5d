// Finds the end of HTTP/1.1 messages in a stream, as cheaply as possible: for the benchmark's own client and server,
// which trust each other. No validation, and no fields except those that delimit the message.
#ifndef GATEWAY_TESTS_BENCH_MESSAGE_READER_H_
#define GATEWAY_TESTS_BENCH_MESSAGE_READER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gateway::bench {

// One message after another; call Next() in between. Allocates only while a header is incomplete.
class MessageReader {
 public:
  enum class Kind { kRequest, kResponse };

  explicit MessageReader(Kind kind) : kind_(kind) {}

  void Next();
  // Consumes at most the rest of the message; returns how many bytes that was.
  size_t Consume(std::string_view data);

  // Number of next bytes of the body that need no parsing: the caller may discard up to this many and call Skip.
  uint64_t skippable() const { return state_ == State::kData ? remaining_ : 0; }
  void Skip(uint64_t bytes);

  bool started() const { return state_ != State::kHead || !head_.empty(); }
  bool complete() const { return state_ == State::kComplete; }
  bool bad() const { return state_ == State::kBad; }

  // Valid once the header is complete.
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
  uint64_t remaining_ = 0;  // of the body, or of a chunk and its CRLF; or a chunk size read so far
  size_t line_bytes_ = 0;   // of a trailer line
  bool in_extension_ = false;
  std::string head_;  // the part of an incomplete header
  std::string start_line_;
};

// Reads for `reader` with one recv: discards a long body without copying it, otherwise reads into `buffer`. Consumes
// what was read. Returns the result of recv; `*full`: there may be more to read at once.
ssize_t ReceiveInto(int fd, MessageReader* reader, char* buffer, size_t buffer_bytes, bool* full, size_t* consumed);

}  // namespace gateway::bench

#endif  // GATEWAY_TESTS_BENCH_MESSAGE_READER_H_
