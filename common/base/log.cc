#include "common/base/log.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "common/base/log_queue.h"
#include "common/base/quote.h"
#include "spdlog/formatter.h"
#include "spdlog/sinks/sink.h"

namespace gateway {
namespace {

constexpr size_t kMessageBytesMax = 32u << 10;  // of one line; a longer message is cut, and says so

// "2026-01-31T12:34:56.789Z" (RFC 3339, UTC: the lines of all machines sort).
void AppendTime(spdlog::log_clock::time_point time, spdlog::memory_buf_t* out) {
  auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  auto seconds = static_cast<std::time_t>(millis / 1000);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  fmt::format_to(std::back_inserter(*out), "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900,
                 utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, millis % 1000);
}

void Append(std::string_view text, spdlog::memory_buf_t* out) { out->append(text.data(), text.data() + text.size()); }

// A message may hold what a client or an upstream sent: neither a line break nor an escape sequence of a terminal may
// come through, and what is not UTF-8 would make the whole line unreadable to a JSON parser.
void AppendEscaped(std::string_view text, bool json, spdlog::memory_buf_t* out) {
  bool cut = text.size() > kMessageBytesMax;
  if (cut) {
    text = text.substr(0, kMessageBytesMax);
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xc0) == 0x80) text.remove_suffix(1);
    if (!text.empty() && static_cast<unsigned char>(text.back()) >= 0xc0) text.remove_suffix(1);
  }
  while (!text.empty()) {
    auto byte = static_cast<unsigned char>(text[0]);
    size_t length = byte < 0x80 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    if (length > 1) {
      bool valid = text.size() >= length && IsValidUtf8(text.substr(0, length));
      // U+0080 to U+009F are control characters, of terminals too.
      bool control = length == 2 && byte == 0xc2 && text.size() > 1 && static_cast<unsigned char>(text[1]) < 0xa0;
      if (!valid) length = 1;
      Append(valid && !control ? text.substr(0, length) : "\ufffd", out);
      text.remove_prefix(length);
      continue;
    }
    switch (byte) {
      case '"':
        Append(json ? "\\\"" : "\"", out);
        break;
      case '\\':
        Append(json ? "\\\\" : "\\", out);
        break;
      case '\n':
        Append("\\n", out);
        break;
      case '\r':
        Append("\\r", out);
        break;
      case '\t':
        Append("\\t", out);
        break;
      default:
        if (byte < 0x20 || byte == 0x7f) {
          fmt::format_to(std::back_inserter(*out), "\\u{:04x}", byte);
        } else {
          out->push_back(text[0]);
        }
    }
    text.remove_prefix(1);
  }
  if (cut) Append("... (cut)", out);
}

std::string_view LevelName(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
      return "trace";
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::info:
      return "info";
    case spdlog::level::warn:
      return "warn";
    default:
      return "error";
  }
}

class LineFormatter : public spdlog::formatter {
 public:
  LineFormatter(bool json, std::string process) : json_(json), process_(std::move(process)) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    std::string_view payload(message.payload.data(), message.payload.size());
    if (json_) {
      Append("{\"time\":\"", &out);
      AppendTime(message.time, &out);
      Append("\",\"level\":\"", &out);
      Append(LevelName(message.level), &out);
      Append("\",\"process\":\"", &out);
      AppendEscaped(process_, true, &out);
      Append("\",\"message\":\"", &out);
      AppendEscaped(payload, true, &out);
      Append("\"}\n", &out);
      return;
    }
    AppendTime(message.time, &out);
    fmt::format_to(std::back_inserter(out), " {:<5} ", LevelName(message.level));
    AppendEscaped(process_, false, &out);
    Append(": ", &out);
    AppendEscaped(payload, false, &out);
    Append("\n", &out);
  }

  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<LineFormatter>(json_, process_); }

 private:
  bool json_;
  std::string process_;
};

// Formats on the calling thread and queues the line: no caller ever waits for the reader of standard error.
class QueueSink : public spdlog::sinks::sink {
 public:
  QueueSink(bool json, const std::string& process)
      : formatter_(json, process), queue_(STDERR_FILENO, [formatter = formatter_](uint64_t dropped) mutable {
          const std::string text = fmt::format("{} log lines were dropped: the reader of the log stalled", dropped);
          spdlog::memory_buf_t line;
          formatter.format(spdlog::details::log_msg("", spdlog::level::warn, text), line);
          return std::string(line.data(), line.size());
        }) {}

  void log(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_.format(message, line);  // (changes nothing in the formatter)
    queue_.Push({line.data(), line.size()});
  }
  void flush() override { (void)queue_.Flush(LogQueue::kCloseWait); }
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}
  uint64_t dropped() const { return queue_.dropped(); }

 private:
  LineFormatter formatter_;
  LogQueue queue_;
};

// The newest sink; spdlog's default logger shares it.
std::shared_ptr<QueueSink>& CurrentSink() {
  static std::shared_ptr<QueueSink> sink;
  return sink;
}

}  // namespace

spdlog::level::level_enum SpdlogLevelOf(v1::LoggingSection::Level level) {
  switch (level) {
    case v1::LoggingSection::TRACE:
      return spdlog::level::trace;
    case v1::LoggingSection::DEBUG:
      return spdlog::level::debug;
    case v1::LoggingSection::WARN:
      return spdlog::level::warn;
    case v1::LoggingSection::ERROR:
      return spdlog::level::err;
    default:
      return spdlog::level::info;
  }
}

void InitLogging(const v1::LoggingSection& config, const std::string& process) {
  CurrentSink() = std::make_shared<QueueSink>(config.format() != v1::LoggingSection::TEXT, process);
  auto logger = std::make_shared<spdlog::logger>("", CurrentSink());
  logger->set_level(SpdlogLevelOf(config.level()));
  spdlog::set_default_logger(std::move(logger));
}

uint64_t DroppedLogLines() { return CurrentSink() == nullptr ? 0 : CurrentSink()->dropped(); }

}  // namespace gateway
