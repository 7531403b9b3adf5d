#include "dataplane/proxy/exchange_resources.h"

#include <ctime>

namespace gateway::dataplane {

void RequestIds::Next(char (&text)[kBytes]) {
  static constexpr char kDigits[] = "0123456789abcdef";
  uint64_t low = ++counter_;
  uint64_t high = prefix_;
  for (int i = 15; i >= 0; --i, high >>= 4, low >>= 4) {
    text[i] = kDigits[high & 15];
    text[16 + i] = kDigits[low & 15];
  }
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
