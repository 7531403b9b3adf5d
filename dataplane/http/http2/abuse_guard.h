// What one HTTP/2 connection may ask for besides requests before it is closed: resets, and frames that cost the
// receiver more than the sender.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP2_ABUSE_GUARD_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP2_ABUSE_GUARD_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "dataplane/net/event_loop.h"

namespace gateway::dataplane::http2 {

// Why a connection is closed with ENHANCE_YOUR_CALM. Each is a label of gateway_http2_abuse_total.
enum class Abuse : uint8_t {
  kRapidReset,      // the client resets most of its requests at once (CVE-2023-44487)
  kInvalidFrames,   // frames that make the server reset a stream or complain (MadeYouReset, CVE-2025-8671)
  kRefusedStreams,  // streams beyond max_concurrent_streams
  kSettings,
  kPing,
  kPriority,  // PRIORITY and PRIORITY_UPDATE
  kWindowUpdate,
  kEmptyData,      // DATA that carries nothing, and ends nothing
  kUnknownFrames,  // of types that are not defined
  kContinuation,   // too many CONTINUATION frames behind one HEADERS
  kHeaderList,     // a header list many times the advertised size
  kControlQueue,   // responses to control frames that the client does not read
  kNone,
};
inline constexpr size_t kAbuseCount = static_cast<size_t>(Abuse::kNone);

// Counts within windows of kWindow. What a client may send grows with the work that it does: a PING for each DATA frame
// is how gRPC measures a connection, without any it is a flood. Pure: `now` is passed in.
class AbuseGuard {
 public:
  static constexpr std::chrono::seconds kWindow{1};
  // Rapid reset: so many requests within a window, most of them reset before their response was complete. Clients that
  // cancel a few hundred gRPC calls a second stay below it.
  static constexpr uint32_t kResetRequestsMin = 500;
  // A request reset later than this was served; its reset is not premature.
  static constexpr std::chrono::seconds kPrematureLifetime{1};

  struct Limit {
    uint32_t base;      // of a window
    uint32_t per_work;  // and for each request that was begun and each DATA frame that was sent or received in it
  };
  static constexpr std::array<Limit, kAbuseCount> kLimits = {{
      {0, 0},     // kRapidReset: see above
      {100, 0},   // kInvalidFrames: a correct client sends none; a proxy in front may have some that do
      {2000, 0},  // kRefusedStreams: a first burst, before SETTINGS arrive
      {20, 0},    // kSettings
      {50, 1},    // kPing
      {200, 2},   // kPriority: browsers build a tree at first
      {200, 4},   // kWindowUpdate: of the stream and of the connection
      {50, 0},    // kEmptyData
      {50, 1},    // kUnknownFrames: some clients send them to keep the protocol extensible
      {0, 0},     // kContinuation, kHeaderList, kControlQueue: the first one is one too many
      {0, 0},
      {0, 0},
  }};

  void OnRequest(TimePoint now) {
    Roll(now);
    ++requests_;
    ++work_;
  }
  // A DATA frame with something in it.
  void OnData(TimePoint now) {
    Roll(now);
    ++work_;
  }
  // Counts one `kind`. True: that is one too many.
  bool Count(Abuse kind, TimePoint now) {
    Roll(now);
    const size_t index = static_cast<size_t>(kind);
    const Limit& limit = kLimits[index];
    return ++counts_[index] > uint64_t{limit.base} + uint64_t{limit.per_work} * work_;
  }
  // The client reset a stream whose request began at `begun`; `answered`: the response was complete. True: one too
  // many.
  bool OnReset(TimePoint begun, bool answered, TimePoint now) {
    Roll(now);
    if (answered || now - begun > kPrematureLifetime) return false;
    return ++premature_ * 2 > requests_ && requests_ >= kResetRequestsMin;
  }

 private:
  void Roll(TimePoint now) {
    if (now - window_began_ < kWindow) return;
    window_began_ = now;
    requests_ = premature_ = work_ = 0;
    counts_ = {};
  }

  TimePoint window_began_{};
  uint32_t requests_ = 0;
  uint32_t premature_ = 0;
  uint32_t work_ = 0;
  std::array<uint32_t, kAbuseCount> counts_{};
};

}  // namespace gateway::dataplane::http2

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP2_ABUSE_GUARD_H_
