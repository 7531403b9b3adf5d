#include "dataplane/proxy/exchange_resources.h"

#include <bit>
#include <cstring>
#include <ctime>

namespace gateway::dataplane {
namespace {

// Writes the eight hexadecimal digits of `value`, all at once: one in each byte of a word.
void WriteDigits(uint32_t value, char* text) {
  uint64_t digits = value;
  digits = (digits | digits << 16) & 0x0000ffff0000ffff;
  digits = (digits | digits << 8) & 0x00ff00ff00ff00ff;
  digits = (digits | digits << 4) & 0x0f0f0f0f0f0f0f0f;
  const uint64_t letters = (digits + 0x0606060606060606) >> 4 & 0x0101010101010101;  // 1 in each byte of 10 or more
  digits += 0x3030303030303030 + letters * ('a' - '0' - 10);
  if constexpr (std::endian::native == std::endian::little) digits = __builtin_bswap64(digits);
  std::memcpy(text, &digits, sizeof digits);
}

}  // namespace

void RequestIds::Next(char (&text)[kBytes]) {
  ++counter_;
  WriteDigits(static_cast<uint32_t>(prefix_ >> 32), text);
  WriteDigits(static_cast<uint32_t>(prefix_), text + 8);
  WriteDigits(static_cast<uint32_t>(counter_ >> 32), text + 16);
  WriteDigits(static_cast<uint32_t>(counter_), text + 24);
}

std::string_view HttpDate::At(std::chrono::system_clock::time_point now) {
  const std::time_t second = std::chrono::system_clock::to_time_t(now);
  if (second != second_) {
    second_ = second;
    std::tm parts;
    gmtime_r(&second, &parts);
    std::strftime(text_, sizeof text_, "%a, %d %b %Y %H:%M:%S GMT", &parts);
  }
  return text_;
}

void LogFlush::OnTimer(void* self) {
  auto* flush = static_cast<LogFlush*>(self);
  flush->armed_ = false;
  flush->log_->Flush();
}

}  // namespace gateway::dataplane
