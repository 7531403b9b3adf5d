// Streams that do what a test says, when it says so: either end of a relay, a client's request, an endpoint. No
// sockets; waits end only by the test, which sees their deadlines.
#ifndef GATEWAY_TESTS_UNIT_PROXY_SCRIPTED_STREAMS_H_
#define GATEWAY_TESTS_UNIT_PROXY_SCRIPTED_STREAMS_H_

#include <coroutine>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dataplane/http/stream.h"

namespace gateway::dataplane {

// "name: value\r\n" of each field.
inline std::string TextOf(std::span<const FieldView> fields) {
  std::string text;
  for (const FieldView& field : fields) {
    text.append(field.name).append(": ").append(field.value).append("\r\n");
  }
  return text;
}

// Gives what was queued, one step for each Read; waits if there is nothing.
template <typename Base>
class ScriptedSourceOf : public Base {
 public:
  using Base::Base;

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
  void Interrupt() override {
    if (waits()) Resume(Wait::kCancelled);
  }
  void Pause() override { ++pauses_; }
  const char* detail() const override { return "a scripted error"; }

 protected:
  bool IsReadable() const override { return !steps_.empty(); }
  void SuspendRead(std::coroutine_handle<> caller, TimePoint deadline) override {
    waiting_ = caller;
    deadline_ = deadline;
  }
  Wait ResumeRead(bool suspended) override { return suspended ? result_ : Wait::kReady; }

 private:
  struct Step {
    http::BodyRead read;
    std::string text;
    bool last;
  };
  std::deque<Step> steps_;
  Step current_;
  std::vector<http::BodyForms> asked_;
  int reads_ = 0;
  int pauses_ = 0;
  std::coroutine_handle<> waiting_;
  TimePoint deadline_{};
  Wait result_ = Wait::kReady;
};

// Takes everything, unless it was told to block or to break.
template <typename Base>
class ScriptedSinkOf : public Base {
 public:
  using Base::Base;

  void set_forms(http::BodyForms forms) { forms_ = forms; }
  void Block() { blocks_ = true; }
  void Break() { broken_ = true; }
  // Ends the current flush.
  void ResumeFlush(Io io) {
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
    trailers_ += TextOf(piece.trailers);
    return blocks_ ? Io::kAgain : Io::kDone;
  }
  Task<Io> Flush(std::chrono::milliseconds, TimePoint) override {
    const Io io = co_await flushed_;
    co_return io;
  }
  const std::string& trailers() const { return trailers_; }

 private:
  struct Flushed {
    std::coroutine_handle<> waiting;
    Io result = Io::kDone;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> caller) noexcept { waiting = caller; }
    Io await_resume() const noexcept { return result; }
  };

  http::BodyForms forms_;
  bool blocks_ = false;
  bool broken_ = false;
  bool ended_ = false;
  std::string text_;
  std::string trailers_;
  Flushed flushed_;
};

class ScriptedSource final : public ScriptedSourceOf<http::BodySource> {};
class ScriptedSink final : public ScriptedSinkOf<http::BodySink> {};

// A client's request, and what it got.
class ScriptedDownstream final : public ScriptedSinkOf<ScriptedSourceOf<http::DownstreamStream>> {
 public:
  ScriptedDownstream() : ScriptedSinkOf(&request_, &info_) {
    request_.method = "GET";
    request_.authority = "api.example";
    SetTarget("/");
    info_.peer_ip = "192.0.2.1";
  }

  // Both outlive it. `target` is path and query.
  void SetTarget(std::string_view target) {
    request_.target = target;
    request_.path = target.substr(0, target.find('?'));
    request_.has_query = request_.path.size() < target.size();
    request_.query = request_.has_query ? target.substr(request_.path.size() + 1) : std::string_view();
  }
  void AddField(std::string_view name, std::string_view value) {
    request_.fields.push_back({name, value});
    request_.kinds.push_back(http::ClassifyField(name));
    request_.bytes += name.size() + value.size() + 4;
  }
  http::ConnectionInfo& info() { return info_; }
  void Reject(Reason reason, const char* detail) { rejection_ = {reason, detail}; }
  void SetStarted(TimePoint at) { started_ = at; }

  // The client resets its connection.
  void Leave() {
    gone_ = true;
    if (const GoneWatch watch = std::exchange(watch_, nullptr)) watch(owner_);
  }

  int status() const { return status_; }
  const std::string& fields() const { return fields_; }
  const std::vector<int>& interim() const { return interim_; }
  bool finished() const { return finished_; }
  http::End end() const { return end_; }
  bool released() const { return released_; }

  void ReleaseRequest() override { released_ = true; }
  Io SendInterim(const http::OutgoingResponse& response) override {
    interim_.push_back(response.status);
    return Io::kDone;
  }
  Io Begin(const http::OutgoingResponse& response, const http::BodyPiece& first) override {
    status_ = response.status;
    fields_ = TextOf(response.fields) + std::string(response.lines);
    return Write(first);
  }
  void Finish(http::End end) override {
    finished_ = true;
    end_ = end;
  }
  bool gone() const override { return gone_; }
  void WatchGone(GoneWatch watch, void* owner) override {
    watch_ = watch;
    owner_ = owner;
  }
  void Cancel() override {
    cancelled_ = true;
    Interrupt();
    if (flushes()) ResumeFlush(Io::kError);
  }
  bool cancelled() const override { return cancelled_; }

 private:
  http::Request request_;
  http::ConnectionInfo info_;
  int status_ = 0;
  std::string fields_;
  std::vector<int> interim_;
  bool finished_ = false;
  http::End end_ = http::End::kComplete;
  bool released_ = false;
  bool gone_ = false;
  bool cancelled_ = false;
  GoneWatch watch_ = nullptr;
  void* owner_ = nullptr;
};

// A connection to an endpoint that can take a request, and what the endpoint got.
class ScriptedUpstream final : public ScriptedSinkOf<ScriptedSourceOf<http::UpstreamStream>> {
 public:
  // The response's header, in turn with those that were queued before.
  void Respond(int status, std::vector<std::pair<std::string, std::string>> fields = {}, bool has_body = true) {
    heads_.push_back({status < 200 && status != 101 ? http::HeadRead::kInterim : http::HeadRead::kFinal, status,
                      std::move(fields), has_body && status >= 200 && status != 204});
  }
  void FailHead(http::HeadRead how) { heads_.push_back({how, 0, {}, false}); }
  void set_stale(bool stale) { stale_ = stale; }
  void set_refused(bool refused) { refused_ = refused; }
  void set_sent(bool sent) { sent_ = sent; }

  const std::string& request_line() const { return request_line_; }
  const std::string& request_fields() const { return request_fields_; }
  bool finished() const { return finished_; }

  bool connected() const override { return true; }
  Task<Io> Connect(TimePoint) override { co_return Io::kDone; }
  Io Begin(const http::OutgoingRequest& request, const http::BodyPiece& first) override {
    request_line_ = std::string(request.method) + " " + std::string(request.path);
    if (request.has_query) request_line_ += "?" + std::string(request.query);
    request_fields_ = TextOf(request.fields) + std::string(request.lines);
    return Write(first);
  }
  http::HeadRead ReadHead(http::Response** response) override {
    if (cancelled_) return http::HeadRead::kCutShort;
    if (heads_.empty()) return http::HeadRead::kWait;
    head_ = std::move(heads_.front());
    heads_.pop_front();
    response_.Clear();
    response_.status = head_.status;
    response_.has_body = head_.has_body;
    for (const auto& [name, value] : head_.fields) {
      response_.fields.push_back({name, value});
      response_.kinds.push_back(http::ClassifyField(name));
    }
    *response = &response_;
    return head_.read;
  }
  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece) override {
    if (cancelled_) return http::BodyRead::kCutShort;
    if (!response_.has_body && response_.status != 101) {
      piece->last = true;
      return http::BodyRead::kPiece;
    }
    return ScriptedSourceOf::Read(takes, piece);
  }
  bool sent() const override { return sent_; }
  bool heard() const override { return !heads_.empty(); }
  bool stale() const override { return stale_; }
  bool refused() const override { return refused_; }
  bool carries_trailers() const override { return true; }
  void Finish() override { finished_ = true; }
  void Cancel() override {
    cancelled_ = true;
    Interrupt();
    if (flushes()) ResumeFlush(Io::kError);
  }
  bool cancelled() const override { return cancelled_; }

 private:
  struct Header {
    http::HeadRead read = http::HeadRead::kWait;
    int status = 0;
    std::vector<std::pair<std::string, std::string>> fields;
    bool has_body = false;
  };
  bool IsReadable() const override { return cancelled_ || !heads_.empty() || ScriptedSourceOf::IsReadable(); }
  Wait ResumeRead(bool suspended) override {
    return cancelled_ ? Wait::kCancelled : ScriptedSourceOf::ResumeRead(suspended);
  }

  std::deque<Header> heads_;
  Header head_;
  http::Response response_;
  std::string request_line_;
  std::string request_fields_;
  bool sent_ = true;
  bool stale_ = false;
  bool refused_ = false;
  bool finished_ = false;
  bool cancelled_ = false;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_TESTS_UNIT_PROXY_SCRIPTED_STREAMS_H_
