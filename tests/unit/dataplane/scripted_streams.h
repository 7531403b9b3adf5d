// Scripted body sources and sinks, without sockets or a running loop.
#ifndef GATEWAY_TESTS_UNIT_DATAPLANE_SCRIPTED_STREAMS_H_
#define GATEWAY_TESTS_UNIT_DATAPLANE_SCRIPTED_STREAMS_H_

#include <coroutine>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "dataplane/http/stream.h"

namespace gateway::dataplane {

// Returns queued steps, one for each Read; waits if the queue is empty.
class ScriptedSource final : public http::BodySource {
 public:
  void Give(std::string text, bool last = false) { steps_.push_back({http::BodyRead::kPiece, std::move(text), last}); }
  void End(http::BodyRead how) { steps_.push_back({how, {}, false}); }
  // Ends the current wait.
  void Resume(Wait wait) {
    result_ = wait;
    std::exchange(waiting_, nullptr).resume();
  }
  bool waits() const { return waiting_ != nullptr; }
  TimePoint deadline() const { return deadline_; }
  int reads() const { return reads_; }
  int pauses() const { return pauses_; }
  const std::vector<http::BodyForms>& asked() const { return asked_; }

  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece) override {
    ++reads_;
    asked_.push_back(takes);
    if (steps_.empty()) return http::BodyRead::kWait;
    current_ = std::move(steps_.front());
    steps_.pop_front();
    *piece = {.bytes = current_.text, .payload = current_.text.size(), .last = current_.last};
    return current_.read;
  }
  void ExtendRead(TimePoint deadline) override { deadline_ = deadline; }
  void Interrupt() override { Resume(Wait::kCancelled); }
  void Pause() override { ++pauses_; }

 private:
  struct Step {
    http::BodyRead read;
    std::string text;
    bool last;
  };
  bool IsReadable() const override { return !steps_.empty(); }
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override {
    waiting_ = caller;
    deadline_ = deadline;
  }
  Wait ResumeRead(bool suspended) override { return suspended ? result_ : Wait::kReady; }

  std::deque<Step> steps_;
  Step current_;
  std::vector<http::BodyForms> asked_;
  int reads_ = 0;
  int pauses_ = 0;
  std::coroutine_handle<> waiting_;
  TimePoint deadline_{};
  Wait result_ = Wait::kReady;
};

// Takes everything, unless told to block or to fail.
class ScriptedSink final : public http::BodySink {
 public:
  explicit ScriptedSink(http::BodyForms forms = {}) : forms_(forms) {}

  void Block() { blocks_ = true; }
  void Break() { broken_ = true; }
  // Ends the current flush.
  void Resume(Io io) {
    blocks_ = false;
    flushed_.result = io;
    std::exchange(flushed_.waiting, nullptr).resume();
  }
  bool flushes() const { return flushed_.waiting != nullptr; }
  const std::string& text() const { return text_; }
  bool ended() const { return ended_; }

  http::BodyForms takes() const override { return forms_; }
  Io Write(const http::BodyPiece& piece) override {
    if (broken_) return Io::kError;
    text_ += piece.bytes;
    ended_ = piece.last;
    return blocks_ ? Io::kAgain : Io::kDone;
  }
  Task<Io> Flush(std::chrono::milliseconds, TimePoint) override {
    const Io io = co_await flushed_;
    co_return io;
  }

 private:
  struct Flushed {
    std::coroutine_handle<> waiting;
    Io result = Io::kDone;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> caller) noexcept { waiting = caller; }
    Io await_resume() const noexcept { return result; }
  };

  const http::BodyForms forms_;
  bool blocks_ = false;
  bool broken_ = false;
  bool ended_ = false;
  std::string text_;
  Flushed flushed_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_TESTS_UNIT_DATAPLANE_SCRIPTED_STREAMS_H_
