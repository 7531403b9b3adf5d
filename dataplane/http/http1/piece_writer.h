// Pieces of a body, written to the socket of an HTTP/1 connection with the framing that they lack.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_PIECE_WRITER_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_PIECE_WRITER_H_

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "dataplane/http/http1/body.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/buffer_pool.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane::http1 {

// One direction of one message. Remembers what did not go out at once.
class PieceWriter {
 public:
  // So much of a body is copied behind its header: cheaper than giving the kernel two parts.
  static constexpr size_t kCopiedBytesMax = 2048;

  explicit PieceWriter(Socket* socket) : socket_(socket) {}

  void set_chunked(bool chunked) { chunked_ = chunked; }
  bool chunked() const { return chunked_; }
  http::BodyForms takes() const { return {.framed = chunked_, .pipe = !chunked_ && socket_->CanSplice()}; }

  // `head` goes first, or `spare_head`, if no buffer was available; it is kept until everything is out. Both are
  // empty where the header has gone. `last_of_connection`: the caller ends the connection in this turn. `*sent` counts
  // up.
  Io Write(Buffer head, std::string spare_head, const http::BodyPiece& piece, bool last_of_connection, uint64_t* sent) {
    head_ = std::move(head);
    pipe_ = piece.pipe;
    count_ = 0;
    if (!spare_head.empty()) {
      spare_head_ = std::move(spare_head);
      Add(spare_head_);
    } else if (!head_.empty()) {
      count_ = 1;
    }
    if (chunked_ && !piece.framed) {
      AddChunk(piece.bytes, piece.last);
    } else {
      Add(piece.before);
      Add(piece.bytes);
      Add(piece.after);
    }
    if (!head_.empty()) TakeIntoHead();
    rest_ = std::span(parts_.data(), count_);
    size_t moved = 0;
    const bool ends = last_of_connection && pipe_ == nullptr;
    Io io = ends ? socket_->WriteLast(&rest_, &moved) : socket_->Write(&rest_, &moved);
    *sent += moved;
    if (io == Io::kDone && pipe_ != nullptr) {
      io = socket_->WriteFrom(pipe_, &moved);
      *sent += moved;
    }
    if (io != Io::kAgain) head_.Reset();
    return io;
  }

  // What Write left.
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until, uint64_t* sent) {
    Io io = co_await socket_->WriteRest(rest_, stall, sent, until);
    if (io == Io::kDone && pipe_ != nullptr) io = co_await socket_->WriteRestFrom(pipe_, stall, sent, until);
    head_.Reset();
    co_return io;
  }

 private:
  void Add(std::string_view bytes) {
    if (!bytes.empty()) parts_[count_++] = {const_cast<char*>(bytes.data()), bytes.size()};
  }
  // The first part is the header; the others are copied behind it if they are short.
  void TakeIntoHead() {
    size_t bytes = 0;
    for (size_t i = 1; i < count_; ++i) bytes += parts_[i].iov_len;
    if (bytes <= kCopiedBytesMax && bytes <= head_.room()) {
      for (size_t i = 1; i < count_; ++i) {
        std::memcpy(head_.space(), parts_[i].iov_base, parts_[i].iov_len);
        head_.Filled(parts_[i].iov_len);
      }
      count_ = 1;
    }
    parts_[0] = {head_.data(), head_.size()};
  }
  // `payload` in a chunk of its own (nothing if it is empty), and the end of the body.
  void AddChunk(std::string_view payload, bool last) {
    if (!payload.empty()) {
      Add(ChunkHead(payload.size(), &chunk_room_));
      Add(payload);
      Add(last ? std::string_view("\r\n0\r\n\r\n") : kChunkEnd);
    } else if (last) {
      Add(kLastChunk);
    }
  }

  Socket* const socket_;
  bool chunked_ = false;
  Buffer head_;
  std::string spare_head_;
  SplicePipe* pipe_ = nullptr;
  size_t count_ = 0;
  std::array<iovec, 4> parts_;  // a header, and three views
  std::array<char, 20> chunk_room_;
  std::span<iovec> rest_;
};

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_PIECE_WRITER_H_
