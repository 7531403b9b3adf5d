#include "dataplane/telemetry/access_log.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/thread.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using SteadyClock = std::chrono::steady_clock;

// What is logged of each field; what is beyond is left out, so that a line always fits into a buffer.
constexpr size_t kPathBytesMax = 8192;
constexpr size_t kUserAgentBytesMax = 1024;
constexpr size_t kDetailBytesMax = 256;
constexpr size_t kEndpointBytesMax = 264;  // the longest host name and a port
constexpr size_t kNameBytesMax = 160;      // services, routes, policies, request ids, addresses
constexpr size_t kMethodBytesMax = 32;
constexpr size_t kEscapedByteMax = 6;  // "\u001f"
// Keys, numbers and punctuation.
constexpr size_t kFixedBytesMax = 1024;
static_assert(kEscapedByteMax * (kPathBytesMax + kUserAgentBytesMax + kDetailBytesMax + kEndpointBytesMax +
                                 8 * kNameBytesMax + kMethodBytesMax) +
                      kFixedBytesMax <=
                  AccessLog::kBufferBytes,
              "a line must fit into a buffer");

// A pipe that poll(2) calls writable takes this much without blocking (PIPE_BUF).
constexpr size_t kPipePieceBytes = 4096;
// Kept beside one for each worker, for bursts; the others are given back.
constexpr size_t kSpareBuffersMax = 8;
constexpr auto kReportInterval = std::chrono::seconds(1);  // of losses, in the program's own log
constexpr auto kPollInterval = std::chrono::milliseconds(100);
constexpr auto kCloseWait = std::chrono::seconds(1);

constexpr uint64_t Repeat(uint8_t byte) { return 0x0101010101010101ULL * byte; }

// Whether one of eight bytes can't be copied as it is: a control byte, DEL, a quote, a backslash, or beyond ASCII.
// (The borrow of a subtraction can make a byte look like a hit only above a true one.)
bool NeedsEscape(uint64_t word) {
  const auto zero_byte = [](uint64_t x) { return (x - Repeat(0x01)) & ~x; };
  const uint64_t hits = word | (word - Repeat(0x20)) | zero_byte(word ^ Repeat('"')) | zero_byte(word ^ Repeat('\\')) |
                        zero_byte(word ^ Repeat(0x7f));
  return (hits & Repeat(0x80)) != 0;
}

// Of single bytes. A table, because the ends of most values are looked at byte by byte.
constexpr std::array<bool, 256> kNeedEscape = [] {
  std::array<bool, 256> need{};
  for (size_t byte = 0; byte < need.size(); ++byte) {
    need[byte] = byte < 0x20 || byte == '"' || byte == '\\' || byte >= 0x7f;
  }
  return need;
}();

bool NeedsEscape(unsigned char byte) { return kNeedEscape[byte]; }

// The length of the well-formed UTF-8 sequence at `p` that may be logged as it is (RFC 3629: no overlong forms, no
// surrogates, nothing above U+10FFFF); 0 where there is none. C1 control characters count as none: terminals obey them.
size_t SequenceLength(const unsigned char* p, const unsigned char* end) {
  const auto tail = [p, end](ptrdiff_t i, unsigned char low, unsigned char high) {
    return end - p > i && p[i] >= low && p[i] <= high;
  };
  const unsigned char lead = p[0];
  if (lead == 0xc2) return tail(1, 0xa0, 0xbf) ? 2 : 0;
  if (lead > 0xc2 && lead <= 0xdf) return tail(1, 0x80, 0xbf) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    const unsigned char low = lead == 0xe0 ? 0xa0 : 0x80;
    const unsigned char high = lead == 0xed ? 0x9f : 0xbf;
    return tail(1, low, high) && tail(2, 0x80, 0xbf) ? 3 : 0;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    const unsigned char low = lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xf4 ? 0x8f : 0xbf;
    return tail(1, low, high) && tail(2, 0x80, 0xbf) && tail(3, 0x80, 0xbf) ? 4 : 0;
  }
  return 0;
}

// Appends to a buffer that is known to be long enough.
class Cursor {
 public:
  explicit Cursor(char* position) : position_(position) {}
  char* position() const { return position_; }

  template <size_t N>
  void Literal(const char (&text)[N]) {
    std::memcpy(position_, text, N - 1);
    position_ += N - 1;
  }

  void Plain(std::string_view text) {
    std::memcpy(position_, text.data(), text.size());
    position_ += text.size();
  }

  void Number(uint64_t value) { position_ = std::to_chars(position_, position_ + 20, value).ptr; }

  // Milliseconds with three decimals.
  void Millis(std::chrono::nanoseconds duration) {
    const uint64_t micros = duration.count() <= 0 ? 0 : (static_cast<uint64_t>(duration.count()) + 500) / 1000;
    Number(micros / 1000);
    *position_++ = '.';
    Digits(static_cast<uint32_t>(micros % 1000), 3);
  }

  void Digits(uint32_t value, int width) {
    for (int i = width - 1; i >= 0; --i) {
      position_[i] = static_cast<char>('0' + value % 10);
      value /= 10;
    }
    position_ += width;
  }

  // The text of a JSON string, without its quotes; at most `bytes_max` of `text`.
  void Escaped(std::string_view text, size_t bytes_max) {
    const auto* in = reinterpret_cast<const unsigned char*>(text.data());
    const unsigned char* end = in + std::min(text.size(), bytes_max);
    while (end - in >= 8) {
      uint64_t word;
      std::memcpy(&word, in, 8);
      if (!NeedsEscape(word)) {
        std::memcpy(position_, &word, 8);
        position_ += 8;
        in += 8;
        continue;
      }
      while (!NeedsEscape(*in)) *position_++ = static_cast<char>(*in++);  // ends inside the word
      in = EscapeOne(in, end);
    }
    while (in != end) {
      char* out = position_;  // (stores of characters could change a member, as far as the compiler knows)
      while (in != end && !NeedsEscape(*in)) *out++ = static_cast<char>(*in++);
      position_ = out;
      if (in != end) in = EscapeOne(in, end);
    }
  }

 private:
  const unsigned char* EscapeOne(const unsigned char* in, const unsigned char* end) {
    const unsigned char byte = *in;
    if (byte >= 0x80) {
      if (const size_t length = SequenceLength(in, end); length > 0) {
        std::memcpy(position_, in, length);
        position_ += length;
        return in + length;
      }
      if (byte == 0xc2 && end - in > 1 && in[1] >= 0x80 && in[1] <= 0x9f) {
        UnicodeEscape(in[1]);
        return in + 2;
      }
      Literal("\\ufffd");
      return in + 1;
    }
    switch (byte) {
      case '"':
        Literal("\\\"");
        break;
      case '\\':
        Literal("\\\\");
        break;
      case '\n':
        Literal("\\n");
        break;
      case '\r':
        Literal("\\r");
        break;
      case '\t':
        Literal("\\t");
        break;
      default:
        UnicodeEscape(byte);
        break;
    }
    return in + 1;
  }

  void UnicodeEscape(unsigned char byte) {
    constexpr char kHex[] = "0123456789abcdef";
    Literal("\\u00");
    *position_++ = kHex[byte >> 4];
    *position_++ = kHex[byte & 15];
  }

  char* position_;
};

// "2026-01-02T03:04:05", kept for as long as the second lasts.
class SecondText {
 public:
  std::string_view Of(int64_t seconds) {
    if (seconds != seconds_ || seconds_ == kNever) {
      const auto day = std::chrono::floor<std::chrono::days>(std::chrono::sys_seconds(std::chrono::seconds(seconds)));
      const std::chrono::year_month_day date(day);
      const auto of_day = static_cast<uint32_t>(seconds - std::chrono::seconds(day.time_since_epoch()).count());
      Cursor out(text_.data());
      out.Digits(static_cast<uint32_t>(static_cast<int>(date.year())), 4);
      out.Literal("-");
      out.Digits(static_cast<unsigned>(date.month()), 2);
      out.Literal("-");
      out.Digits(static_cast<unsigned>(date.day()), 2);
      out.Literal("T");
      out.Digits(of_day / 3600, 2);
      out.Literal(":");
      out.Digits(of_day / 60 % 60, 2);
      out.Literal(":");
      out.Digits(of_day % 60, 2);
      seconds_ = seconds;
    }
    return {text_.data(), text_.size()};
  }

 private:
  static constexpr int64_t kNever = -1;
  int64_t seconds_ = kNever;
  std::array<char, 19> text_{};
};

void AppendTime(SecondText* seconds, std::chrono::system_clock::time_point time, Cursor* out) {
  const auto millis = std::chrono::floor<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const int64_t second = millis >= 0 ? millis / 1000 : (millis - 999) / 1000;
  out->Plain(seconds->Of(second));
  out->Literal(".");
  out->Digits(static_cast<uint32_t>(millis - second * 1000), 3);
  out->Literal("Z");
}

// Every line has every field, "" or null if it is empty, except the last three.
void AppendJson(const RequestRecord& record, SecondText* seconds, Cursor* out) {
  out->Literal("{\"time\":\"");
  AppendTime(seconds, record.time, out);
  out->Literal("\",\"method\":\"");
  out->Escaped(record.method, kMethodBytesMax);
  out->Literal("\",\"path\":\"");
  out->Escaped(record.path, kPathBytesMax);
  out->Literal("\",\"client_ip\":\"");
  out->Escaped(record.client_ip, kNameBytesMax);
  out->Literal("\",\"consumer\":\"");
  out->Escaped(record.consumer, kNameBytesMax);
  out->Literal("\",\"user_agent\":\"");
  out->Escaped(record.user_agent, kUserAgentBytesMax);
  out->Literal("\",\"status\":");
  out->Number(static_cast<uint64_t>(std::max(record.status, 0)));
  out->Literal(",\"duration_ms\":");
  out->Millis(record.duration);
  out->Literal(",\"service\":\"");
  out->Escaped(record.service, kNameBytesMax);
  out->Literal("\",\"route\":\"");
  out->Escaped(record.route, kNameBytesMax);
  out->Literal("\",\"endpoint\":\"");
  out->Escaped(record.endpoint, kEndpointBytesMax);
  out->Literal("\",\"upstream_duration_ms\":");
  if (record.upstream_duration.count() >= 0) {
    out->Millis(record.upstream_duration);
  } else {
    out->Literal("null");
  }
  out->Literal(",\"bytes_in\":");
  out->Number(record.bytes_in);
  out->Literal(",\"bytes_out\":");
  out->Number(record.bytes_out);
  out->Literal(",\"request_id\":\"");
  out->Escaped(record.request_id, kNameBytesMax);
  out->Literal("\",\"reason\":\"");
  out->Plain(InfoOf(record.reason).word);
  out->Literal("\",\"policy\":\"");
  out->Escaped(record.policy, kNameBytesMax);
  out->Literal("\",\"revision\":");
  out->Number(record.revision);
  if (!record.protocol.empty()) {
    out->Literal(",\"protocol\":\"");
    out->Plain(record.protocol);
    out->Literal("\"");
  }
  if (record.grpc_status >= 0) {
    out->Literal(",\"grpc_status\":");
    out->Number(static_cast<uint64_t>(record.grpc_status));
  }
  if (record.attempts > 1) {
    out->Literal(",\"attempts\":");
    out->Number(record.attempts);
  }
  if (!record.detail.empty()) {
    out->Literal(",\"detail\":\"");
    out->Escaped(record.detail, kDetailBytesMax);
    out->Literal("\"");
  }
  if (!record.tls_version.empty()) {
    out->Literal(",\"tls_version\":\"");
    out->Plain(record.tls_version);
    out->Literal("\",\"tls_server_name\":\"");
    out->Escaped(record.tls_server_name, kNameBytesMax);
    out->Literal("\",\"client_certificate\":\"");
    out->Escaped(record.client_certificate, kNameBytesMax);
    out->Literal("\"");
  }
  if (record.aborted) out->Literal(",\"aborted\":true");
  out->Literal("}\n");
}

// For people: what every request has first, then what it has besides, as key=value.
void AppendText(const RequestRecord& record, SecondText* seconds, Cursor* out) {
  AppendTime(seconds, record.time, out);
  out->Literal(" ");
  out->Number(static_cast<uint64_t>(std::max(record.status, 0)));
  out->Literal(" ");
  out->Escaped(record.method, kMethodBytesMax);
  out->Literal(" ");
  out->Escaped(record.path, kPathBytesMax);
  out->Literal(" ");
  out->Millis(record.duration);
  out->Literal("ms client=");
  out->Escaped(record.client_ip, kNameBytesMax);
  const auto field = [out]<size_t N>(const char(&name)[N], std::string_view value, size_t bytes_max) {
    if (value.empty()) return;
    out->Literal(name);
    out->Escaped(value, bytes_max);
  };
  field(" consumer=", record.consumer, kNameBytesMax);
  field(" reason=", InfoOf(record.reason).word, kNameBytesMax);
  field(" policy=", record.policy, kNameBytesMax);
  field(" service=", record.service, kNameBytesMax);
  field(" route=", record.route, kNameBytesMax);
  field(" endpoint=", record.endpoint, kEndpointBytesMax);
  if (record.upstream_duration.count() >= 0) {
    out->Literal(" upstream=");
    out->Millis(record.upstream_duration);
    out->Literal("ms");
  }
  out->Literal(" in=");
  out->Number(record.bytes_in);
  out->Literal(" out=");
  out->Number(record.bytes_out);
  out->Literal(" revision=");
  out->Number(record.revision);
  field(" protocol=", record.protocol, kNameBytesMax);
  field(" id=", record.request_id, kNameBytesMax);
  if (record.grpc_status >= 0) {
    out->Literal(" grpc=");
    out->Number(static_cast<uint64_t>(record.grpc_status));
  }
  if (record.attempts > 1) {
    out->Literal(" attempts=");
    out->Number(record.attempts);
  }
  field(" tls=", record.tls_version, kNameBytesMax);
  field(" server_name=", record.tls_server_name, kNameBytesMax);
  field(" client_certificate=", record.client_certificate, kNameBytesMax);
  if (record.aborted) out->Literal(" aborted");
  if (!record.detail.empty()) {
    out->Literal(" detail=\"");
    out->Escaped(record.detail, kDetailBytesMax);
    out->Literal("\"");
  }
  if (!record.user_agent.empty()) {
    out->Literal(" agent=\"");
    out->Escaped(record.user_agent, kUserAgentBytesMax);
    out->Literal("\"");
  }
  out->Literal("\n");
}

size_t LineBytesMax(const RequestRecord& record) {
  return kFixedBytesMax +
         kEscapedByteMax *
             (std::min(record.path.size(), kPathBytesMax) + std::min(record.user_agent.size(), kUserAgentBytesMax) +
              std::min(record.detail.size(), kDetailBytesMax) + std::min(record.endpoint.size(), kEndpointBytesMax) +
              std::min(record.client_ip.size(), kNameBytesMax) + std::min(record.request_id.size(), kNameBytesMax) +
              std::min(record.consumer.size(), kNameBytesMax) + std::min(record.service.size(), kNameBytesMax) +
              std::min(record.tls_server_name.size(), kNameBytesMax) +
              std::min(record.client_certificate.size(), kNameBytesMax) + std::min(record.route.size(), kNameBytesMax) +
              std::min(record.policy.size(), kNameBytesMax) + std::min(record.method.size(), kMethodBytesMax));
}

struct Lines {
  std::unique_ptr<char[]> text;
  size_t bytes = 0;
  uint64_t count = 0;
};

// O_NONBLOCK: a FIFO without a reader is an error, not a hang; for a file it means nothing.
int OpenForAppend(const std::string& path) {
  return open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640);
}

}  // namespace

// The queue and the writing thread. Shared with that thread, which may outlive the log where a terminal is stopped:
// then it is left behind, and ends with the process.
struct AccessLog::Impl {
  Impl(std::string path, v1::LoggingSection::Format format, int fd) : path(std::move(path)), format(format), fd(fd) {
    InspectDescriptor();
  }
  ~Impl() {
    if (fd != STDOUT_FILENO) close(fd);
  }

  // A worker's: hands over `lines` and gives it an empty buffer. Never waits for the writer.
  void Hand(Lines* lines) {
    {
      absl::MutexLock lock(&mutex);
      if (queued < kQueuedBuffersMax) {
        queue[(first + queued++) % kQueuedBuffersMax] = std::move(*lines);
        if (!spare.empty()) {
          lines->text = std::move(spare.back());
          spare.pop_back();
        }
      } else {
        dropped.fetch_add(lines->count, std::memory_order_relaxed);
      }
    }
    if (lines->text == nullptr) lines->text = std::make_unique_for_overwrite<char[]>(kBufferBytes);
    lines->bytes = 0;
    lines->count = 0;
  }

  // The writer's, from here on.
  void Run() {
    bool ended = false;
    while (!ended) {
      Lines lines;
      bool out_of_time = false, must_reopen = false;
      {
        const auto awake = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex) { return queued > 0 || closing || reopen; };
        absl::MutexLock lock(&mutex);
        mutex.AwaitWithTimeout(absl::Condition(&awake), absl::FromChrono(kReportInterval));
        must_reopen = std::exchange(reopen, false);
        if (queued > 0) {
          lines = std::move(queue[first]);
          first = (first + 1) % kQueuedBuffersMax;
          --queued;
        } else {
          ended = closing;
        }
        out_of_time = closing && SteadyClock::now() >= close_by;
      }
      if (must_reopen) ReopenFile();
      if (lines.text != nullptr) {
        if (out_of_time) {
          Lose(lines.text.get(), lines.text.get() + lines.bytes);
        } else {
          WriteLines(lines);
        }
        absl::MutexLock lock(&mutex);
        if (spare.size() < buffers.size() + kSpareBuffersMax) spare.push_back(std::move(lines.text));
      }
      Report(/*at_once=*/ended);
    }
    absl::MutexLock lock(&mutex);
    finished = true;
  }

  void WriteLines(const Lines& lines) {
    const char* position = lines.text.get();
    const char* end = position + lines.bytes;
    if (mid_line && !WriteAll("\n", 1)) {
      Lose(position, end);
      return;
    }
    while (position != end) {
      const ssize_t written = WriteSome(position, static_cast<size_t>(end - position));
      if (written < 0) {
        Lose(position, end);
        return;
      }
      position += written;
      if (written > 0) mid_line = position[-1] != '\n';
    }
  }

  bool WriteAll(const char* text, size_t bytes) {
    while (bytes > 0) {
      const ssize_t written = WriteSome(text, bytes);
      if (written < 0) return false;
      text += written;
      bytes -= static_cast<size_t>(written);
    }
    mid_line = false;
    return true;
  }

  // How many bytes were taken (0: try again), or -1: an error (counted), or no time left.
  ssize_t WriteSome(const char* text, size_t bytes) {
    if (may_stall && !AwaitWritable()) return -1;
    const ssize_t written = write(fd, text, may_stall ? std::min(bytes, kPipePieceBytes) : bytes);
    if (written >= 0) return written;
    if (errno == EINTR) return 0;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return AwaitWritable() ? 0 : -1;
    error = errno;
    write_errors.fetch_add(1, std::memory_order_relaxed);
    return -1;
  }

  // Until the reader takes something. False: the log is closing and its time is over.
  bool AwaitWritable() {
    while (true) {
      pollfd waiting{fd, POLLOUT, 0};
      // Errors and hang-ups count as writable: the write then says what it is.
      if (poll(&waiting, 1, static_cast<int>(kPollInterval.count())) > 0) return true;
      Report(/*at_once=*/false);
      absl::MutexLock lock(&mutex);
      if (closing && SteadyClock::now() >= close_by) return false;
    }
  }

  void Lose(const char* from, const char* end) {
    dropped.fetch_add(static_cast<uint64_t>(std::count(from, end, '\n')), std::memory_order_relaxed);
  }

  void ReopenFile() {
    const int opened = OpenForAppend(path);
    if (opened < 0) {
      spdlog::error("access log: cannot reopen '{}': {}; the open file is used on", path, std::strerror(errno));
      return;
    }
    close(fd);
    fd = opened;
    mid_line = false;
    InspectDescriptor();
    spdlog::info("access log: reopened '{}'", path);
  }

  void InspectDescriptor() {
    struct stat info {};
    may_stall = fstat(fd, &info) != 0 || S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode);
  }

  // Says what was lost, at most once in kReportInterval.
  void Report(bool at_once) {
    const uint64_t lost = dropped.load(std::memory_order_relaxed);
    if (lost == reported_lost && error == 0) return;
    const auto now = SteadyClock::now();
    if (!at_once && now < next_report) return;
    next_report = now + kReportInterval;
    spdlog::warn("access log '{}': {} lines lost: {}", path, lost - reported_lost,
                 error == 0 ? "its reader is too slow" : std::strerror(error));
    reported_lost = lost;
    error = 0;
  }

  const std::string path;
  const v1::LoggingSection::Format format;

  absl::Mutex mutex;
  std::array<Lines, kQueuedBuffersMax> queue ABSL_GUARDED_BY(mutex);  // a ring: `queued` from `first` on
  size_t first ABSL_GUARDED_BY(mutex) = 0;
  size_t queued ABSL_GUARDED_BY(mutex) = 0;
  std::vector<std::unique_ptr<char[]>> spare ABSL_GUARDED_BY(mutex);
  std::vector<std::unique_ptr<AccessLogBuffer>> buffers ABSL_GUARDED_BY(mutex);
  bool reopen ABSL_GUARDED_BY(mutex) = false;
  bool closing ABSL_GUARDED_BY(mutex) = false;
  bool finished ABSL_GUARDED_BY(mutex) = false;
  SteadyClock::time_point close_by ABSL_GUARDED_BY(mutex);
  std::atomic<uint64_t> dropped{0};
  std::atomic<uint64_t> write_errors{0};

  // The writer's own.
  int fd;
  bool may_stall = false;  // a pipe or a socket, whose reader may stop
  bool mid_line = false;   // the last line was cut: the next begins on a new one
  int error = 0;           // the newest that was not reported
  uint64_t reported_lost = 0;
  SteadyClock::time_point next_report{};

  std::thread writer;
};

struct AccessLogBuffer::Impl {
  AccessLog::Impl* log;
  Lines lines;
  SecondText seconds;
};

AccessLogBuffer::AccessLogBuffer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AccessLogBuffer::~AccessLogBuffer() = default;

void AccessLogBuffer::Write(const RequestRecord& record) {
  Lines& lines = impl_->lines;
  if (lines.bytes + LineBytesMax(record) > AccessLog::kBufferBytes) Flush();
  char* begin = lines.text.get() + lines.bytes;
  Cursor out(begin);
  if (impl_->log->format == v1::LoggingSection::TEXT) {
    AppendText(record, &impl_->seconds, &out);
  } else {
    AppendJson(record, &impl_->seconds, &out);
  }
  lines.bytes += static_cast<size_t>(out.position() - begin);
  ++lines.count;
}

void AccessLogBuffer::Flush() {
  if (!empty()) impl_->log->Hand(&impl_->lines);
}

bool AccessLogBuffer::empty() const { return impl_->lines.bytes == 0; }

absl::StatusOr<std::unique_ptr<AccessLog>> AccessLog::Open(const std::string& path, v1::LoggingSection::Format format) {
  const int fd = path == "-" ? STDOUT_FILENO : OpenForAppend(path);
  if (fd < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("access_log.path: cannot open '", path, "' for writing"));
  }
  return std::unique_ptr<AccessLog>(new AccessLog(std::make_shared<Impl>(path, format, fd)));
}

AccessLog::AccessLog(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {
  // Signals are main's: the thread begins with all of them blocked (SIGPIPE too, so a gone reader is an error of
  // write).
  impl_->writer = StartThread("access-log", ThreadPriority::kServing, [impl = impl_] { impl->Run(); });
}

AccessLog::~AccessLog() {
  std::vector<AccessLogBuffer*> buffers;
  {
    absl::MutexLock lock(&impl_->mutex);
    for (const auto& buffer : impl_->buffers) buffers.push_back(buffer.get());
  }
  for (AccessLogBuffer* buffer : buffers) buffer->Flush();

  bool finished = false;
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->closing = true;
    impl_->close_by = SteadyClock::now() + kCloseWait;
    // A little longer than the writer gives itself.
    finished = impl_->mutex.AwaitWithTimeout(absl::Condition(&impl_->finished),
                                             absl::FromChrono(kCloseWait + 3 * kPollInterval));
  }
  if (finished) {
    impl_->writer.join();
  } else {
    impl_->writer.detach();  // inside a write(2) to a stopped terminal
  }
}

AccessLogBuffer* AccessLog::NewBuffer() {
  auto buffer = std::make_unique<AccessLogBuffer::Impl>();
  buffer->log = impl_.get();
  buffer->lines.text = std::make_unique_for_overwrite<char[]>(kBufferBytes);
  absl::MutexLock lock(&impl_->mutex);
  // A second one for it, so that handing over the first allocates nothing.
  impl_->spare.push_back(std::make_unique_for_overwrite<char[]>(kBufferBytes));
  impl_->buffers.emplace_back(new AccessLogBuffer(std::move(buffer)));
  return impl_->buffers.back().get();
}

void AccessLog::Reopen() {
  if (impl_->path == "-") return;  // nothing was rotated away
  absl::MutexLock lock(&impl_->mutex);
  impl_->reopen = true;
}

uint64_t AccessLog::dropped_lines() const { return impl_->dropped.load(std::memory_order_relaxed); }

uint64_t AccessLog::write_errors() const { return impl_->write_errors.load(std::memory_order_relaxed); }

}  // namespace gateway::dataplane
