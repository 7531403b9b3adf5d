#include "common/base/log_level.h"

#include "absl/strings/ascii.h"
#include "common/base/log.h"
#include "spdlog/spdlog.h"

namespace gateway {
namespace {

std::string NameOf(v1::LoggingSection::Level level) {
  return absl::AsciiStrToLower(v1::LoggingSection::Level_Name(level));
}

}  // namespace

LogLevel::LogLevel(v1::LoggingSection::Level own)
    : own_(own == v1::LoggingSection::LEVEL_UNSPECIFIED ? v1::LoggingSection::INFO : own), current_(own_) {}

LogLevel::~LogLevel() {
  std::thread thread;
  {
    std::lock_guard lock(mu_);
    ending_ = true;
    thread = std::move(thread_);
    if (until_) spdlog::default_logger_raw()->set_level(SpdlogLevelOf(own_));
  }
  changed_.notify_all();
  if (thread.joinable()) thread.join();
}

void LogLevel::Set(v1::LoggingSection::Level level, std::chrono::milliseconds duration) {
  const bool back = level == v1::LoggingSection::LEVEL_UNSPECIFIED;
  {
    std::lock_guard lock(mu_);
    if (back && !until_) return;
    current_ = back ? own_ : level;
    until_ = back ? std::nullopt : std::optional(std::chrono::steady_clock::now() + duration);
    // Told at a level that passes before and after.
    spdlog::warn("log level: {} {}", NameOf(current_),
                 back ? "again" : fmt::format("for {} s", std::chrono::ceil<std::chrono::seconds>(duration).count()));
    spdlog::default_logger_raw()->set_level(SpdlogLevelOf(current_));
    if (!thread_.joinable() && !ending_) thread_ = std::thread([this] { Run(); });
  }
  changed_.notify_all();
}

v1::LoggingSection::Level LogLevel::temporary() const {
  std::lock_guard lock(mu_);
  return until_ ? current_ : v1::LoggingSection::LEVEL_UNSPECIFIED;
}

void LogLevel::Run() {
  std::unique_lock lock(mu_);
  while (!ending_) {
    if (!until_) {
      changed_.wait(lock);
      continue;
    }
    if (std::chrono::steady_clock::now() < *until_) {
      changed_.wait_until(lock, *until_);
      continue;
    }
    until_.reset();
    current_ = own_;
    spdlog::default_logger_raw()->set_level(SpdlogLevelOf(own_));
    spdlog::warn("log level: {} again", NameOf(own_));
  }
}

}  // namespace gateway
