#include "controlplane/sources/consul/http2_connection.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "boost/asio/buffer.hpp"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/detached.hpp"
#include "boost/asio/redirect_error.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/asio/write.hpp"
#include "common/base/text.h"
#include "controlplane/sources/consul/decoder.h"

namespace gateway::controlplane {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// Responses are read whole, so windows only have to keep them flowing.
constexpr int32_t kStreamWindowBytes = 1 << 20;
constexpr int32_t kConnectionWindowBytes = 16 << 20;
constexpr size_t kOutputBytes = 16 * 1024;  // of one write, about

std::string_view Text(const uint8_t* bytes, size_t size) { return {reinterpret_cast<const char*>(bytes), size}; }

nghttp2_nv Field(std::string_view name, std::string_view value) {
  const auto bytes = [](std::string_view text) {
    return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data()));  // nghttp2 copies them
  };
  return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

}  // namespace

// What nghttp2 calls. Exceptions must not pass through it; only a lack of memory throws here.
struct Http2Connection::Callbacks {
  static Call* Find(void* self, int32_t id) {
    auto& calls = static_cast<Http2Connection*>(self)->calls_;
    const auto found = calls.find(id);
    return found == calls.end() ? nullptr : found->second.get();
  }

  static int OnHeader(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                      const uint8_t* value, size_t value_size, uint8_t, void* self) {
    Call* call = Find(self, frame->hd.stream_id);
    if (call == nullptr || frame->hd.type != NGHTTP2_HEADERS) return 0;
    call->header_bytes += name_size + value_size;
    if (call->header_bytes > kConsulHeaderBytesMax) {
      return Refuse(session, self, *call, "header");
    }
    if (Text(name, name_size) == ":status") {
      if (!absl::SimpleAtoi(AbslView(Text(value, value_size)), &call->response.status)) call->response.status = 0;
    } else {
      SetResponseHeader(&call->response, Text(name, name_size), Text(value, value_size));
    }
    return 0;
  }

  static int OnData(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
    Call* call = Find(self, id);
    if (call == nullptr) return 0;
    if (call->response.body.size() + size > kResponseBytesMax) return Refuse(session, self, *call, "body");
    call->response.body.append(Text(data, size));
    return 0;
  }

  static int Refuse(nghttp2_session* session, void* self, Call& call, const char* what) {
    const int32_t id = call.id;
    auto* connection = static_cast<Http2Connection*>(self);
    connection->Finish(call, absl::ResourceExhaustedError(absl::StrCat(connection->address_, ": reading: the ", what,
                                                                       " of the response is too long")));
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    return 0;
  }

  static int OnFrame(nghttp2_session* session, const nghttp2_frame* frame, void* self) {
    auto* connection = static_cast<Http2Connection*>(self);
    if (frame->hd.type == NGHTTP2_GOAWAY) connection->draining_ = true;
    if (frame->hd.type == NGHTTP2_SETTINGS && (frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
      const uint32_t most = nghttp2_session_get_remote_settings(session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
      connection->streams_max_ = std::min<size_t>(kStreamsPerConnection, most);
      connection->settle_timer_.cancel();
    }
    const bool informational = frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_RESPONSE;
    if (informational) {
      Call* call = Find(self, frame->hd.stream_id);
      // A 1xx comes before the response and has no index.
      if (call != nullptr && call->response.status >= 100 && call->response.status < 200) call->response = {};
    }
    return 0;
  }

  static int OnClose(nghttp2_session*, int32_t id, uint32_t error, void* self) {
    auto* connection = static_cast<Http2Connection*>(self);
    Call* call = Find(self, id);
    if (call == nullptr) return 0;
    if (error == NGHTTP2_NO_ERROR && call->response.status != 0) {
      connection->Finish(*call, absl::OkStatus());
    } else if (error == NGHTTP2_REFUSED_STREAM) {
      connection->Finish(*call, absl::AbortedError("refused"));
    } else {
      connection->Finish(*call, absl::UnavailableError(absl::StrCat(
                                    connection->address_, ": reading: stream reset: ", nghttp2_http2_strerror(error))));
    }
    return 0;
  }

  static ssize_t ReadBody(nghttp2_session*, int32_t id, uint8_t* buffer, size_t room, uint32_t* flags,
                          nghttp2_data_source*, void* self) {
    Call* call = Find(self, id);
    if (call == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    const size_t size = std::min(room, call->body.size() - call->sent);
    std::memcpy(buffer, call->body.data() + call->sent, size);
    call->sent += size;
    if (call->sent == call->body.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(size);
  }
};

void Http2Connection::Call::Cancel() {
  cancelled = true;
  wake.cancel();
}

Http2Connection::Http2Connection(asio::io_context& io, std::unique_ptr<ConsulTlsStream> stream, std::string address)
    : io_(io),
      stream_(std::move(stream)),
      address_(std::move(address)),
      session_(nullptr, &nghttp2_session_del),
      settle_timer_(io) {
  stream_->next_layer().expires_never();
  nghttp2_session_callbacks* made = nullptr;
  if (nghttp2_session_callbacks_new(&made) != 0) throw std::bad_alloc();
  const std::unique_ptr<nghttp2_session_callbacks, void (*)(nghttp2_session_callbacks*)> callbacks(
      made, &nghttp2_session_callbacks_del);
  nghttp2_session_callbacks_set_on_header_callback(made, &Callbacks::OnHeader);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(made, &Callbacks::OnData);
  nghttp2_session_callbacks_set_on_frame_recv_callback(made, &Callbacks::OnFrame);
  nghttp2_session_callbacks_set_on_stream_close_callback(made, &Callbacks::OnClose);
  nghttp2_session* session = nullptr;
  if (nghttp2_session_client_new(&session, made, this) != 0) throw std::bad_alloc();
  session_.reset(session);
  const std::array<nghttp2_settings_entry, 3> settings = {
      {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
       {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindowBytes},
       {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kConsulHeaderBytesMax}}};
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, kConnectionWindowBytes);
}

Http2Connection::~Http2Connection() = default;

void Http2Connection::Start() {
  asio::co_spawn(
      io_, [self = shared_from_this()] { return self->Read(); }, asio::detached);
  Flush();
}

asio::awaitable<absl::Status> Http2Connection::Settled(Clock::time_point deadline) {
  const auto self = shared_from_this();
  while (streams_max_ == 0 && !ended_ && Clock::now() < deadline) {
    settle_timer_.expires_at(deadline);
    error_code ignored;  // cancelled: it is settled, or has ended
    co_await settle_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  if (ended_) co_return end_;
  if (streams_max_ > 0) co_return absl::OkStatus();
  Close();
  co_return absl::DeadlineExceededError(absl::StrCat(address_, ": HTTP/2: timed out"));
}

bool Http2Connection::usable() const { return !ended_ && !draining_ && calls_.size() < streams_max_; }

std::shared_ptr<Http2Connection::Call> Http2Connection::NewCall() { return std::shared_ptr<Call>(new Call(io_)); }

asio::awaitable<absl::StatusOr<ConsulResponse>> Http2Connection::Exchange(std::shared_ptr<Call> call,
                                                                          ConsulRequest request,
                                                                          Clock::time_point deadline) {
  const auto self = shared_from_this();
  if (!usable()) co_return absl::AbortedError("the connection has ended");
  call->body = std::move(request.body);
  std::vector<nghttp2_nv> fields = {Field(":method", request.method), Field(":scheme", "https"),
                                    Field(":authority", address_), Field(":path", request.target),
                                    Field("user-agent", kConsulUserAgent)};
  if (!call->body.empty()) fields.push_back(Field("content-type", "application/json"));
  if (!request.token.empty()) {
    fields.push_back(Field("x-consul-token", request.token));
    fields.back().flags = NGHTTP2_NV_FLAG_NO_INDEX;
  }
  nghttp2_data_provider body{};
  body.read_callback = &Callbacks::ReadBody;
  call->id = nghttp2_submit_request(session_.get(), nullptr, fields.data(), fields.size(),
                                    call->body.empty() ? nullptr : &body, nullptr);
  if (call->id < 0) {
    draining_ = true;  // its stream numbers are used up, or it is out of memory
    co_return absl::AbortedError(nghttp2_strerror(call->id));
  }
  calls_[call->id] = call;
  Flush();
  while (!call->done && !call->cancelled && Clock::now() < deadline) {
    call->wake.expires_at(deadline);
    error_code ignored;  // cancelled: it is done, or not wanted any more
    co_await call->wake.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  if (!call->done) {
    Abandon(*call);
    if (call->cancelled) co_return absl::CancelledError("closed");
    // The agent or the way to it may be gone, which nothing else would show: new requests take another connection.
    draining_ = true;
    co_return absl::DeadlineExceededError(absl::StrCat(address_, ": reading: timed out"));
  }
  if (!call->failure.ok()) co_return call->failure;
  co_return std::move(call->response);
}

void Http2Connection::Abandon(Call& call) {
  const auto found = calls_.find(call.id);
  if (found == calls_.end()) return;
  calls_.erase(found);
  if (ended_) return;
  nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, call.id, NGHTTP2_CANCEL);
  Flush();
}

void Http2Connection::Finish(Call& call, absl::Status failure) {
  call.done = true;
  call.failure = std::move(failure);
  call.wake.cancel();
  calls_.erase(call.id);  // the coroutine that waits has it, too
}

void Http2Connection::Fail(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  end_ = status;
  settle_timer_.cancel();
  auto calls = std::move(calls_);
  calls_.clear();
  for (const auto& [id, call] : calls) {
    call->done = true;
    // Not a byte of a response: the request may be sent again.
    const bool untouched = call->response.status == 0 && absl::IsUnavailable(status);
    call->failure = untouched ? absl::AbortedError(status.message()) : status;
    call->wake.cancel();
  }
  stream_->next_layer().close();
}

void Http2Connection::Close() { Fail(absl::CancelledError("closed")); }

asio::awaitable<void> Http2Connection::Read() {
  const auto self = shared_from_this();
  while (!ended_) {
    error_code ec;
    const size_t size =
        co_await stream_->async_read_some(asio::buffer(input_), asio::redirect_error(asio::use_awaitable, ec));
    if (ended_) break;
    if (ec) {
      Fail(absl::UnavailableError(absl::StrCat(address_, ": reading: ", ec.message())));
      break;
    }
    const ssize_t taken = nghttp2_session_mem_recv(session_.get(), input_.data(), size);
    if (taken < 0) {
      Fail(absl::UnavailableError(
          absl::StrCat(address_, ": reading: not HTTP/2: ", nghttp2_strerror(static_cast<int>(taken)))));
      break;
    }
    Flush();
    if (draining_ && calls_.empty()) Fail(absl::UnavailableError(absl::StrCat(address_, ": closed")));
  }
}

void Http2Connection::Flush() {
  if (writing_ || ended_) return;
  writing_ = true;
  asio::co_spawn(
      io_, [self = shared_from_this()] { return self->Write(); }, asio::detached);
}

asio::awaitable<void> Http2Connection::Write() {
  const auto self = shared_from_this();
  while (!ended_) {
    output_.clear();
    ssize_t size = 0;
    const uint8_t* data = nullptr;
    while (output_.size() < kOutputBytes && (size = nghttp2_session_mem_send(session_.get(), &data)) > 0) {
      output_.append(Text(data, static_cast<size_t>(size)));
    }
    if (size < 0) {
      Fail(absl::UnavailableError(absl::StrCat(address_, ": writing: ", nghttp2_strerror(static_cast<int>(size)))));
      break;
    }
    if (output_.empty()) break;
    error_code ec;
    co_await asio::async_write(*stream_, asio::buffer(output_), asio::redirect_error(asio::use_awaitable, ec));
    if (ec) Fail(absl::UnavailableError(absl::StrCat(address_, ": writing: ", ec.message())));
  }
  writing_ = false;
}

}  // namespace gateway::controlplane
