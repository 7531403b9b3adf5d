// The gRPC service behind the benchmark's proxies: echoes the message of each unary call. HTTP/2 in cleartext
// with prior knowledge, one thread, epoll.
//
//   upstream_grpc PORT     (on 127.0.0.1)
#include <nghttp2/nghttp2.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "tests/bench/sockets.h"

namespace gateway::bench {
namespace {

constexpr int kEventsMax = 512;
constexpr size_t kBufferBytes = 256 * 1024;
constexpr size_t kMessageBytesMax = 1 << 20;
constexpr size_t kOutputBytesMax = 256 * 1024;
constexpr int32_t kConnectionWindow = 16 << 20;
constexpr uint32_t kStreamsMax = 1000;

nghttp2_nv Field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {
    static nghttp2_session_callbacks* const callbacks = [] {
      nghttp2_session_callbacks* made = nullptr;
      nghttp2_session_callbacks_new(&made);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, &Connection::OnData);
      nghttp2_session_callbacks_set_on_frame_recv_callback(made, &Connection::OnFrame);
      nghttp2_session_callbacks_set_on_stream_close_callback(made, &Connection::OnStreamClosed);
      return made;
    }();
    nghttp2_session_server_new(&session_, callbacks, this);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, kStreamsMax}};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
  }
  ~Connection() {
    nghttp2_session_del(session_);
    close(fd_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Reads and writes until both would block. False: the connection is to be closed.
  bool Go(char* buffer) {
    for (ssize_t bytes = 1; bytes > 0;) {
      bytes = recv(fd_, buffer, kBufferBytes, 0);
      if (bytes == 0 || (bytes < 0 && errno != EAGAIN)) return false;
      if (bytes < 0) break;
      const bool emptied = static_cast<size_t>(bytes) < kBufferBytes;
      if (nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(buffer), static_cast<size_t>(bytes)) < 0)
        return false;
      if (emptied) break;
    }
    return Write() && (nghttp2_session_want_read(session_) != 0 || nghttp2_session_want_write(session_) != 0);
  }

 private:
  bool Write() {
    while (true) {
      while (output_.size() - written_ < kOutputBytesMax) {
        const uint8_t* data = nullptr;
        const ssize_t size = nghttp2_session_mem_send(session_, &data);
        if (size < 0) return false;
        if (size == 0) break;
        output_.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
      }
      if (written_ == output_.size()) return true;
      while (written_ < output_.size()) {
        const ssize_t bytes = send(fd_, output_.data() + written_, output_.size() - written_, MSG_NOSIGNAL);
        if (bytes < 0) return errno == EAGAIN;
        written_ += static_cast<size_t>(bytes);
      }
      output_.clear();
      written_ = 0;
    }
  }

  static int OnData(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
    std::string& message = static_cast<Connection*>(self)->messages_[id];
    if (message.size() + size > kMessageBytesMax) return NGHTTP2_ERR_CALLBACK_FAILURE;
    message.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }

  static int OnFrame(nghttp2_session* session, const nghttp2_frame* frame, void* self) {
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) return 0;
    const std::array<nghttp2_nv, 2> fields = {Field(":status", "200"), Field("content-type", "application/grpc")};
    nghttp2_data_provider provider{};
    provider.source.ptr = self;
    provider.read_callback = &Connection::ReadMessage;
    return nghttp2_submit_response(session, frame->hd.stream_id, fields.data(), fields.size(), &provider);
  }

  static int OnStreamClosed(nghttp2_session*, int32_t id, uint32_t, void* self) {
    static_cast<Connection*>(self)->messages_.erase(id);
    return 0;
  }

  static ssize_t ReadMessage(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t size, uint32_t* flags,
                             nghttp2_data_source* source, void*) {
    std::string& message = static_cast<Connection*>(source->ptr)->messages_[id];
    const size_t bytes = std::min(size, message.size());
    std::memcpy(buffer, message.data(), bytes);
    message.erase(0, bytes);
    if (message.empty()) {
      *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
      const nghttp2_nv trailer = Field("grpc-status", "0");
      if (nghttp2_submit_trailer(session, id, &trailer, 1) != 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return static_cast<ssize_t>(bytes);
  }

  const int fd_;
  nghttp2_session* session_ = nullptr;
  std::string output_;
  size_t written_ = 0;
  std::unordered_map<int32_t, std::string> messages_;  // of calls under way, by stream
};

int Serve(int port) {
  const int listener = Listen(port);
  if (listener < 0) {
    std::perror("listen");
    return 1;
  }
  const int poll = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;  // null: the listener; every other event has its connection
  (void)epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  const auto buffer = std::make_unique_for_overwrite<char[]>(kBufferBytes);
  std::array<epoll_event, kEventsMax> events;
  while (true) {
    const int count = epoll_wait(poll, events.data(), kEventsMax, -1);
    if (count < 0 && errno != EINTR) return 1;
    for (int i = 0; i < count; ++i) {
      if (events[i].data.ptr == nullptr) {
        for (int fd = Accept(listener); fd >= 0; fd = Accept(listener)) {
          event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
          event.data.ptr = new Connection(fd);
          (void)epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
        }
        continue;
      }
      // A descriptor appears once per batch, so no connection is deleted under a later event.
      auto* connection = static_cast<Connection*>(events[i].data.ptr);
      if (!connection->Go(buffer.get())) delete connection;
    }
  }
}

}  // namespace
}  // namespace gateway::bench

int main(int argc, char** argv) {
  if (argc != 2) {
    (void)std::fprintf(stderr, "usage: upstream_grpc PORT\n");
    return 2;
  }
  return gateway::bench::Serve(std::atoi(argv[1]));
}
