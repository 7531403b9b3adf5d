#include "dataplane/http/http2/client_session.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <new>
#include <utility>
#include <vector>

#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http2 {
namespace {

// Of a reset before the end of a response (RFC 9113, section 7).
const char* ResetDetail(uint32_t code) {
  switch (code) {
    case NGHTTP2_NO_ERROR:
      return "the endpoint reset the stream (NO_ERROR) before the end of the response";
    case NGHTTP2_PROTOCOL_ERROR:
      return "the endpoint reset the stream (PROTOCOL_ERROR)";
    case NGHTTP2_INTERNAL_ERROR:
      return "the endpoint reset the stream (INTERNAL_ERROR)";
    case NGHTTP2_FLOW_CONTROL_ERROR:
      return "the endpoint reset the stream (FLOW_CONTROL_ERROR)";
    case NGHTTP2_STREAM_CLOSED:
      return "the endpoint reset the stream (STREAM_CLOSED)";
    case NGHTTP2_REFUSED_STREAM:
      return "the endpoint refused the stream (REFUSED_STREAM)";
    case NGHTTP2_CANCEL:
      return "the endpoint reset the stream (CANCEL)";
    case NGHTTP2_ENHANCE_YOUR_CALM:
      return "the endpoint reset the stream (ENHANCE_YOUR_CALM)";
    case NGHTTP2_HTTP_1_1_REQUIRED:
      return "the endpoint reset the stream (HTTP_1_1_REQUIRED)";
    default:
      return "the endpoint reset the stream";
  }
}

constexpr const char* kNotHttp2 = "the endpoint does not speak HTTP/2";

}  // namespace

ClientSession::ClientSession(ClientResources* resources, Socket* socket, Watch watch, void* owner)
    : SessionCore(resources, socket,
                  {.write_timeout = kWriteTimeout,
                   .outbound_frames_max = kOutboundFramesMax,
                   .credits_connection_at_once = true}),
      resources_(*resources),
      metrics_(resources->metrics()),
      watch_(watch),
      owner_(owner) {
  if (SubmitPreface() != 0) throw std::bad_alloc();
  metrics_.Add(ClientCounter::kConnections, 1);
  metrics_.Add(ClientCounter::kConnectionsTotal, 1);
}

ClientSession::~ClientSession() { metrics_.Add(ClientCounter::kConnections, -1); }

int ClientSession::SubmitPreface() {
  int code = nghttp2_session_client_new3(&session_, core_.callbacks_, static_cast<SessionCore*>(this),
                                         core_.nghttp2_options_, core_.memory_.functions());
  if (code != 0) return code;
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kHeaderListMax},
  };
  code = nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  if (code != 0) return code;
  return nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

Task<void> ClientSession::Serve() {
  state_ = State::kServing;
  gave_up_ = false;  // late, but here
  started_ = heard_ = idle_since_ = loop_.now();
  ForEachStream([this](StreamCore* stream) { Queue(stream); });
  RunQueued();
  (void)co_await Converse({});  // its owner closes it, whatever its end
}

void ClientSession::FailConnect(const char* tls_failure) {
  tls_failure_ = tls_failure;
  ended_ = true;
  EndAll();
}

bool ClientSession::MayBegin() const {
  return serving() && !ended_ && !over() && !socket_.broken() && !socket_.peer_ended() &&
         nghttp2_session_check_request_allowed(session_) != 0;
}

bool ClientSession::TakesProtocols() const {
  return nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1;
}

bool ClientSession::HasRoom() const {
  if (gave_up_ || retired_ || live_ >= kStreamsMax) return false;
  // (Until its SETTINGS come, nghttp2 takes it that the endpoint allows 100.)
  if (live_ >= nghttp2_session_get_remote_settings(session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS)) return false;
  return connecting() || MayBegin();
}

std::unique_ptr<http::UpstreamStream> ClientSession::Open() {
  auto stream = std::make_unique<ClientStream>(this);
  Link(stream.get());
  if (live_ == 1) {
    busy_since_ = loop_.now();
    if (serving()) socket_.ExtendRead(NextDeadline());
  }
  metrics_.Add(ClientCounter::kStreams, 1);
  metrics_.Add(ClientCounter::kStreamsTotal, 1);
  return stream;
}

void ClientSession::Release(ClientStream* stream) {
  if (stream->id_ != 0 && !stream->closed_ && !ended_ && failed_ == 0) {
    (void)nghttp2_session_set_stream_user_data(session_, stream->id_, nullptr);  // closed: there is nothing to forget
    Reset(stream, stream->remote_ended_ ? NGHTTP2_NO_ERROR : NGHTTP2_CANCEL);
  }
  Unlink(stream);
  metrics_.Add(ClientCounter::kStreams, -1);
  if (live_ == 0) {
    idle_since_ = loop_.now();
    if (serving()) socket_.ExtendRead(NextDeadline());
  }
  watch_(owner_);
}

void ClientSession::Retire() {
  retired_ = true;
  if (live_ == 0 && serving()) socket_.ExtendRead(loop_.now());
}

bool ClientSession::SubmitRequest(ClientStream* stream, const http::OutgoingRequest& request, bool ends) {
  std::string& path = resources_.path_;
  path.assign(request.path);
  if (request.has_query) {
    path += '?';
    path += request.query;
  }
  std::vector<nghttp2_nv>& out = core_.fields_;
  out.clear();
  const bool extended = !request.protocol.empty();  // CONNECT (RFC 8441, section 4)
  out.push_back(FieldOf(":method", extended ? std::string_view("CONNECT") : request.method));
  if (extended) out.push_back(FieldOf(":protocol", request.protocol));
  out.push_back(FieldOf(":scheme", request.scheme));
  out.push_back(FieldOf(":authority", request.authority));
  out.push_back(FieldOf(":path", path));
  const auto add = [&](std::string_view name, std::string_view value) {
    if (extended && http1::EqualsIgnoreCase(name, kWebSocketKey)) return;
    if (!IsConnectionField(name)) out.push_back(FieldOf(name, value));
  };
  for (const FieldView& field : request.fields) add(field.name, field.value);
  http::ForEachLine(request.lines, add);
  if (request.takes_trailers) out.push_back(FieldOf("te", "trailers"));
  std::array<char, 20> digits;
  if (request.length) {
    const char* const end = std::to_chars(digits.data(), digits.data() + digits.size(), *request.length).ptr;
    out.push_back(FieldOf("content-length", {digits.data(), static_cast<size_t>(end - digits.data())}));
  }
  const nghttp2_data_provider provider = Provider();
  const int32_t id = nghttp2_submit_request(session_, nullptr, out.data(), out.size(), ends ? nullptr : &provider,
                                            static_cast<StreamCore*>(stream));
  if (id < 0) {
    if (nghttp2_is_fatal(id)) Fail(id);
    return false;
  }
  stream->id_ = id;
  carried_ = true;
  guard_.OnRequest(loop_.now());
  return true;
}

// ---- What nghttp2 says.

int ClientSession::OnBeginHeaders(const nghttp2_frame& frame) {
  ClientStream* const stream = frame.hd.type == NGHTTP2_HEADERS ? StreamOf(frame.hd.stream_id) : nullptr;
  if (stream == nullptr) return 0;
  stream->heard_ = true;
  if (!stream->final_) stream->block_.Clear();
  return 0;
}

int ClientSession::OnHeader(const nghttp2_frame& frame, std::string_view name, std::string_view value) {
  ClientStream* const stream = StreamOf(frame.hd.stream_id);
  if (stream == nullptr || abuse_ != Abuse::kNone) return 0;
  const bool trailing = stream->final_;
  HeaderBlock& block = trailing ? stream->trailers_ : stream->block_;
  const size_t max = trailing ? http1::BodyDecoder::kTrailerBytesMax : size_t{kHeaderListMax};
  switch (block.Add(name, value, max, &buffers())) {
    case HeaderBlock::Added::kYes:
      break;
    case HeaderBlock::Added::kTooLarge:
      stream->Reject(trailing ? "trailer fields that are too long" : "the response header is too large");
      // The rest is decoded, as HPACK wants it, and dropped; up to a point.
      if (block.list_bytes() > kHeaderListFactor * kHeaderListMax) Condemn(Abuse::kHeaderList);
      break;
    case HeaderBlock::Added::kNoMemory:
      stream->overloaded_ = true;
      break;
  }
  return 0;
}

int ClientSession::OnInvalidHeader(const nghttp2_frame& frame) {
  if (ClientStream* const stream = StreamOf(frame.hd.stream_id)) {
    stream->Reject(stream->final_ ? "an invalid trailer field" : "an invalid field in the response header");
  }
  return 0;
}

int ClientSession::OnFrameReceived(const nghttp2_frame& frame) {
  switch (frame.hd.type) {
    case NGHTTP2_HEADERS: {
      next_ping_ = {};
      ClientStream* const stream = StreamOf(frame.hd.stream_id);
      if (stream == nullptr || abuse_ != Abuse::kNone) break;
      const bool ends = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
      if (!stream->final_) {
        stream->TakeHead(ends);
      } else if (const char* detail = ""; !CheckResponseTrailers(stream->trailers_, &detail)) {
        stream->Reject(detail);
      }
      if (ends) stream->remote_ended_ = stream->takes_no_more_ = true;
      Queue(stream);
      break;
    }
    case NGHTTP2_DATA:
      next_ping_ = {};
      if (ClientStream* const stream = StreamOf(frame.hd.stream_id)) stream->takes_no_more_ = stream->remote_ended_;
      break;
    case NGHTTP2_RST_STREAM:
      metrics_.Add(ClientCounter::kResetsReceivedTotal, 1);
      if (ClientStream* const stream = StreamOf(frame.hd.stream_id)) stream->reset_received_ = true;
      break;
    case NGHTTP2_SETTINGS:
      // Some wait for them.
      if (!std::exchange(settings_received_, true)) ForEachStream([this](StreamCore* stream) { Queue(stream); });
      break;
    case NGHTTP2_GOAWAY:
      metrics_.Add(ClientCounter::kGoawaysTotal, 1);
      if (frame.goaway.error_code != NGHTTP2_NO_ERROR) end_detail_ = "the endpoint closed the connection (GOAWAY)";
      break;
    default:
      break;
  }
  return 0;
}

int ClientSession::OnFrameSent(const nghttp2_frame& frame) {
  switch (frame.hd.type) {
    case NGHTTP2_RST_STREAM:
      metrics_.Add(ClientCounter::kResetsSentTotal, 1);
      break;
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
      if (ClientStream* const stream = StreamOf(frame.hd.stream_id)) {
        stream->sent_ = true;
        if ((frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) stream->end_sent_ = true;
      }
      break;
    default:
      break;
  }
  return 0;
}

void ClientSession::OnStreamClosed(StreamCore* closed, uint32_t code) {
  auto* const stream = static_cast<ClientStream*>(closed);
  Queue(stream);
  if (stream->remote_ended_ && *stream->detail_ == '\0') return;
  if (code == NGHTTP2_REFUSED_STREAM && !stream->heard_) {
    stream->refused_ = true;
    metrics_.Add(ClientCounter::kStreamsRefusedTotal, 1);
    stream->end_detail_ =
        stream->reset_received_ ? ResetDetail(code) : "the endpoint closed the connection before it saw the request";
  } else if (stream->reset_received_) {
    stream->end_detail_ = ResetDetail(code);
  } else if (!stream->reset_by_us_ && *stream->detail_ == '\0') {
    // nghttp2 has reset it: content-length and DATA differ, an unexpected body, fields out of order.
    stream->detail_ = "the response breaks the rules of HTTP/2";
  }
}

// ---- What they lead to.

void ClientSession::Tell(StreamCore* told) {
  auto* const stream = static_cast<ClientStream*>(told);
  const StreamCore::Watch watch(stream);
  if (stream->reader_.waiting() && (stream->connecting_ ? stream->connected() : stream->IsReadable())) {
    stream->reader_.Resume(Wait::kReady);
  }
  if (watch.gone()) return;
  if (stream->writer_.waiting() && (!stream->sending() || stream->closed_ || stream->takes_no_more_)) {
    stream->writer_.Resume(Wait::kReady);
  }
}

TimePoint ClientSession::NextDeadline() const {
  TimePoint next = TimePoint::max();
  if (!settings_received_) next = started_ + kSettingsTimeout;
  if (headers_since_ != TimePoint::max()) next = std::min(next, headers_since_ + kHeaderTimeout);
  if (live_ == 0) return retired_ ? loop_.now() : std::min(next, idle_since_ + idle_timeout_);
  return std::min(next, pinged_ != TimePoint::max() ? pinged_ + kPingTimeout : PingAt());
}

bool ClientSession::CheckDeadlines() {
  const TimePoint now = loop_.now();
  const auto end = [&](uint32_t code, const char* detail) {
    if (code != NGHTTP2_NO_ERROR) metrics_.Add(ClientCounter::kTimeoutsTotal, 1);
    end_detail_ = detail;
    (void)nghttp2_session_terminate_session(session_, code);  // out of memory: it ends without
    return false;
  };
  if (!settings_received_ && now >= started_ + kSettingsTimeout) {
    return end(NGHTTP2_SETTINGS_TIMEOUT, "no SETTINGS came: does the endpoint speak HTTP/2?");
  }
  if (headers_since_ != TimePoint::max() && now >= headers_since_ + kHeaderTimeout) {
    return end(NGHTTP2_PROTOCOL_ERROR, "the response header did not arrive in time");
  }
  if (live_ == 0) return (!retired_ && now < idle_since_ + idle_timeout_) || end(NGHTTP2_NO_ERROR, "");
  if (pinged_ != TimePoint::max()) {
    return now < pinged_ + kPingTimeout || end(NGHTTP2_INTERNAL_ERROR, "the endpoint does not answer a PING");
  }
  if (now >= PingAt()) {
    // A peer that is there responds.
    pinged_ = now;
    next_ping_ = now + kPingInterval;
    if (const int code = nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr); code != 0) Fail(code);
  }
  return true;
}

Task<void> ClientSession::EndStreams() {
  if (!settings_received_ && *end_detail_ == '\0') {
    // Whatever came, it was not HTTP/2; an end without a word may be that, too.
    speaks_http2_ = heard_ == started_;
    end_detail_ = speaks_http2_ ? "the endpoint closed the connection before it sent SETTINGS" : kNotHttp2;
  }
  EndAll();
  co_return;
}

// Each stream learns that the connection has ended. It does not wait for them: what they have they still give.
void ClientSession::EndAll() {
  state_ = State::kOver;
  ForEachStream([this](StreamCore* each) {
    auto* const stream = static_cast<ClientStream*>(each);
    if (stream->closed_) return;
    stream->session_over_ = true;
    if (!stream->heard_ && !speaks_http2_) stream->detail_ = kNotHttp2;
    if (abuse_ != Abuse::kNone) {
      stream->end_detail_ = "the connection was closed: the endpoint sent too many frames of a kind";
    } else if (*end_detail_ != '\0') {
      stream->end_detail_ = end_detail_;
    } else {
      stream->end_detail_ = stream->final_   ? "the connection ended inside the response"
                            : stream->heard_ ? "the connection ended inside the response header"
                                             : "the connection ended before a response";
    }
  });
  CloseAll();
}

}  // namespace gateway::dataplane::http2
