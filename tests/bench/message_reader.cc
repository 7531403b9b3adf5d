#include "tests/bench/message_reader.h"

#include <strings.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace gateway::bench {
namespace {

constexpr size_t kHeadBytesMax = 64 * 1024;
constexpr uint64_t kDiscardBytesMin = 64 * 1024;  // below it, one read of everything is cheaper
constexpr uint64_t kDiscardBytesMax = 16 << 20;

// The value of `line` if its name is `name` (lower case, with the colon); otherwise empty.
std::string_view ValueOf(std::string_view line, std::string_view name) {
  if (line.size() <= name.size() || strncasecmp(line.data(), name.data(), name.size()) != 0) return {};
  line.remove_prefix(name.size());
  while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  return line;
}

}  // namespace

void MessageReader::Next() {
  state_ = State::kHead;
  chunked_ = closes_ = in_extension_ = false;
  status_ = 0;
  remaining_ = 0;
  line_bytes_ = 0;
  head_.clear();
}

void MessageReader::Skip(uint64_t bytes) {
  remaining_ -= bytes;
  if (remaining_ == 0) state_ = chunked_ ? State::kChunkSize : State::kComplete;
}

size_t MessageReader::Consume(std::string_view data) {
  size_t used = 0;
  while (used < data.size()) {
    switch (state_) {
      case State::kHead:
        used += ConsumeHead(data.substr(used));
        break;
      case State::kData: {
        const uint64_t bytes = std::min<uint64_t>(remaining_, data.size() - used);
        used += bytes;
        Skip(bytes);
        break;
      }
      case State::kChunkSize: {
        const char c = data[used++];
        const int digit = c >= '0' && c <= '9'                     ? c - '0'
                          : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                                   : -1;
        if (c == '\n') {
          in_extension_ = false;
          state_ = remaining_ == 0 ? State::kTrailer : State::kData;
          if (remaining_ != 0) remaining_ += 2;  // its CRLF
        } else if (c == ';' || c == ' ') {
          in_extension_ = true;
        } else if (digit >= 0 && !in_extension_) {
          remaining_ = remaining_ * 16 + static_cast<uint64_t>(digit);
        } else if (c != '\r' && !in_extension_) {
          state_ = State::kBad;
        }
        break;
      }
      case State::kTrailer: {
        const char c = data[used++];
        if (c == '\n' && line_bytes_ == 0) state_ = State::kComplete;
        if (c == '\n') line_bytes_ = 0;
        if (c != '\n' && c != '\r') ++line_bytes_;
        break;
      }
      case State::kComplete:
      case State::kBad:
        return used;
    }
  }
  return used;
}

size_t MessageReader::ConsumeHead(std::string_view data) {
  if (head_.empty()) {  // nearly always: the whole header at once
    const size_t end = data.find("\r\n\r\n");
    if (end != std::string_view::npos) {
      ParseHead(data.substr(0, end + 2));
      return end + 4;
    }
  }
  const size_t before = head_.size();
  head_ += data;
  const size_t end = head_.find("\r\n\r\n", before < 3 ? 0 : before - 3);
  if (end == std::string::npos) {
    if (head_.size() > kHeadBytesMax) state_ = State::kBad;
    return data.size();
  }
  ParseHead(std::string_view(head_).substr(0, end + 2));
  head_.clear();
  return end + 4 - before;
}

void MessageReader::ParseHead(std::string_view head) {
  const size_t first = head.find("\r\n");
  start_line_.assign(head.substr(0, first));
  closes_ = start_line_.find("HTTP/1.0") != std::string::npos;
  if (kind_ == Kind::kResponse) {
    if (start_line_.size() < 12) {
      state_ = State::kBad;
      return;
    }
    (void)std::from_chars(start_line_.data() + 9, start_line_.data() + 12, status_);  // stays 0 if it is not a number
  }
  bool sized = false;
  for (size_t begin = first + 2; begin < head.size();) {
    const size_t end = head.find("\r\n", begin);
    const std::string_view line = head.substr(begin, end - begin);
    begin = end + 2;
    if (line.empty() || ((line[0] | 0x20) != 'c' && (line[0] | 0x20) != 't')) continue;
    if (const std::string_view length = ValueOf(line, "content-length:"); !length.empty()) {
      sized = std::from_chars(length.data(), length.data() + length.size(), remaining_).ec == std::errc();
    } else if (const std::string_view coding = ValueOf(line, "transfer-encoding:"); !coding.empty()) {
      chunked_ = true;
    } else if (const std::string_view connection = ValueOf(line, "connection:"); !connection.empty()) {
      closes_ = strncasecmp(connection.data(), "close", std::min<size_t>(connection.size(), 5)) == 0;
    }
  }
  if (status_ / 100 == 1 && kind_ == Kind::kResponse) return Next();  // 100 Continue: the final response follows
  if (chunked_) {
    remaining_ = 0;
    state_ = State::kChunkSize;
  } else if (remaining_ > 0) {
    state_ = State::kData;
  } else if (kind_ == Kind::kResponse && !sized && status_ != 204 && status_ != 304) {
    state_ = State::kBad;  // would last until the connection closes, which neither side does
  } else {
    state_ = State::kComplete;
  }
}

ssize_t ReceiveInto(int fd, MessageReader* reader, char* buffer, size_t buffer_bytes, bool* full, size_t* consumed) {
  const uint64_t skippable = reader->skippable();
  const bool discard = skippable >= kDiscardBytesMin;
  const size_t wanted = discard ? std::min(skippable, kDiscardBytesMax) : buffer_bytes;
  // With MSG_TRUNC, TCP discards bytes without copying them (tcp(7)).
  const ssize_t received = recv(fd, discard ? nullptr : buffer, wanted, discard ? MSG_TRUNC : 0);
  *full = received == static_cast<ssize_t>(wanted);
  *consumed = 0;
  if (received <= 0) return received;
  if (discard) {
    reader->Skip(static_cast<uint64_t>(received));
    *consumed = static_cast<size_t>(received);
  } else {
    *consumed = reader->Consume(std::string_view(buffer, static_cast<size_t>(received)));
  }
  return received;
}

}  // namespace gateway::bench
