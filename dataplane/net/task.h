// The coroutines that requests are written in: lazily started, resumed by the awaiting coroutine, frames recycled per
// thread.
//
// A Task runs on the worker that awaits it and never leaves that thread. An exception leaves through the co_await.
#ifndef GATEWAY_DATAPLANE_NET_TASK_H_
#define GATEWAY_DATAPLANE_NET_TASK_H_

#include <coroutine>
#include <cstddef>
#include <exception>
#include <new>
#include <optional>
#include <utility>

namespace gateway::dataplane {

// Freed coroutine frames of this thread, by size, so that a warm request allocates nothing.
class FramePool {
 public:
  static void* Allocate(size_t bytes);
  static void Free(void* frame, size_t bytes) noexcept;

 private:
  static constexpr size_t kClassBytes = 256;
  static constexpr size_t kClasses = 64;            // frames of up to 16 KiB
  static constexpr size_t kFreePerClassMax = 2048;  // more go back to the allocator
  struct Lists;
  static Lists& Of();
};

namespace task_internal {

struct PromiseBase {
  std::coroutine_handle<> continuation = std::noop_coroutine();
  std::exception_ptr exception;

  struct FinalAwaiter {
    bool await_ready() const noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) const noexcept {
      return self.promise().continuation;
    }
    void await_resume() const noexcept {}
  };

  std::suspend_always initial_suspend() const noexcept { return {}; }
  FinalAwaiter final_suspend() const noexcept { return {}; }
  void unhandled_exception() noexcept { exception = std::current_exception(); }

  static void* operator new(size_t bytes) { return FramePool::Allocate(bytes); }
  static void operator delete(void* frame, size_t bytes) noexcept { FramePool::Free(frame, bytes); }
};

template <typename T>
struct Promise : PromiseBase {
  std::optional<T> value;
  auto get_return_object() { return std::coroutine_handle<Promise>::from_promise(*this); }
  template <typename U>
  void return_value(U&& result) {
    value.emplace(std::forward<U>(result));
  }
  T Take() {
    if (exception) std::rethrow_exception(exception);
    return std::move(*value);
  }
};

template <>
struct Promise<void> : PromiseBase {
  auto get_return_object() { return std::coroutine_handle<Promise>::from_promise(*this); }
  void return_void() const noexcept {}
  void Take() const {
    if (exception) std::rethrow_exception(exception);
  }
};

}  // namespace task_internal

// A coroutine that has not been started, or that its owner awaits. Destroying it destroys the frame, wherever it is
// suspended.
template <typename T = void>
class [[nodiscard]] Task {
 public:
  using promise_type = task_internal::Promise<T>;

  Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}  // NOLINT: from get_return_object
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> caller) noexcept {
    handle_.promise().continuation = caller;
    return handle_;
  }
  T await_resume() { return handle_.promise().Take(); }

  // Runs it up to its first suspension; nothing waits for it. Await Done() before it is destroyed.
  void Start() { handle_.resume(); }
  bool done() const noexcept { return handle_.done(); }
  // Waits for a started task; an exception of the task leaves here.
  auto Done() noexcept {
    struct Awaiter {
      Task& task;
      bool await_ready() const noexcept { return task.handle_.done(); }
      void await_suspend(std::coroutine_handle<> caller) noexcept { task.handle_.promise().continuation = caller; }
      T await_resume() { return task.handle_.promise().Take(); }
    };
    return Awaiter{*this};
  }

 private:
  std::coroutine_handle<promise_type> handle_;
};

// A coroutine that owns itself: it begins at once and frees its frame at its end. It must not throw.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
    static void* operator new(size_t bytes) { return FramePool::Allocate(bytes); }
    static void operator delete(void* frame, size_t bytes) noexcept { FramePool::Free(frame, bytes); }
  };
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_NET_TASK_H_
