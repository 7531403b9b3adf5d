// ThreadSanitizer's view of absl::Mutex. Debian's libabsl is built without the sanitizer, which therefore sees neither
// lock nor unlock and reports everything guarded by a mutex as a race. The linker (--wrap, see ThreadSanitizer.cmake)
// redirects our calls to these functions: each one is announced to the sanitizer, then done by Abseil.
//
// Waits are done here by polling: Abseil evaluates a condition on whichever thread unlocks, which cannot be announced.
#include <sanitizer/tsan_interface.h>

#include <chrono>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

using absl::Condition;
using absl::CondVar;
using absl::Duration;
using absl::Mutex;
using absl::Time;

// The linker's names for the wrapped functions: a prefix and the name.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {
void __real__ZN4absl7debian35Mutex4LockEv(Mutex* mutex);
void __real__ZN4absl7debian35Mutex6UnlockEv(Mutex* mutex);
bool __real__ZN4absl7debian35Mutex7TryLockEv(Mutex* mutex);
void __real__ZN4absl7debian35Mutex10ReaderLockEv(Mutex* mutex);
void __real__ZN4absl7debian35Mutex12ReaderUnlockEv(Mutex* mutex);

void __wrap__ZN4absl7debian35Mutex4LockEv(Mutex* mutex) {
  __tsan_mutex_pre_lock(mutex, __tsan_mutex_linker_init);
  __real__ZN4absl7debian35Mutex4LockEv(mutex);
  __tsan_mutex_post_lock(mutex, __tsan_mutex_linker_init, 0);
}

void __wrap__ZN4absl7debian35Mutex6UnlockEv(Mutex* mutex) {
  __tsan_mutex_pre_unlock(mutex, __tsan_mutex_linker_init);
  __real__ZN4absl7debian35Mutex6UnlockEv(mutex);
  __tsan_mutex_post_unlock(mutex, __tsan_mutex_linker_init);
}

bool __wrap__ZN4absl7debian35Mutex7TryLockEv(Mutex* mutex) {
  __tsan_mutex_pre_lock(mutex, __tsan_mutex_linker_init | __tsan_mutex_try_lock);
  const bool locked = __real__ZN4absl7debian35Mutex7TryLockEv(mutex);
  __tsan_mutex_post_lock(
      mutex, __tsan_mutex_linker_init | __tsan_mutex_try_lock | (locked ? 0 : __tsan_mutex_try_lock_failed), 0);
  return locked;
}

void __wrap__ZN4absl7debian35Mutex10ReaderLockEv(Mutex* mutex) {
  __tsan_mutex_pre_lock(mutex, __tsan_mutex_linker_init | __tsan_mutex_read_lock);
  __real__ZN4absl7debian35Mutex10ReaderLockEv(mutex);
  __tsan_mutex_post_lock(mutex, __tsan_mutex_linker_init | __tsan_mutex_read_lock, 0);
}

void __wrap__ZN4absl7debian35Mutex12ReaderUnlockEv(Mutex* mutex) {
  __tsan_mutex_pre_unlock(mutex, __tsan_mutex_linker_init | __tsan_mutex_read_lock);
  __real__ZN4absl7debian35Mutex12ReaderUnlockEv(mutex);
  __tsan_mutex_post_unlock(mutex, __tsan_mutex_linker_init | __tsan_mutex_read_lock);
}
}

namespace {

constexpr auto kPoll = std::chrono::microseconds(200);

void PauseUnlocked(Mutex* mutex) {
  __wrap__ZN4absl7debian35Mutex6UnlockEv(mutex);
  std::this_thread::sleep_for(kPoll);
  __wrap__ZN4absl7debian35Mutex4LockEv(mutex);
}

bool Await(Mutex* mutex, const Condition& condition, Time deadline) {
  while (!condition.Eval()) {
    if (absl::Now() >= deadline) return false;
    PauseUnlocked(mutex);
  }
  return true;
}

}  // namespace

extern "C" {
void __wrap__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(Mutex* mutex, const Condition& condition) {
  Await(mutex, condition, absl::InfiniteFuture());
}

bool __wrap__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(Mutex* mutex,
                                                                                     const Condition& condition,
                                                                                     Duration timeout) {
  return Await(mutex, condition, absl::Now() + timeout);
}

bool __wrap__ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE(Mutex* mutex,
                                                                                  const Condition& condition,
                                                                                  Time deadline) {
  return Await(mutex, condition, deadline);
}

void __wrap__ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE(Mutex* mutex, const Condition& condition) {
  __wrap__ZN4absl7debian35Mutex4LockEv(mutex);
  Await(mutex, condition, absl::InfiniteFuture());
}

// CondVar allows spurious wakeups, so a pause is enough.
void __wrap__ZN4absl7debian37CondVar4WaitEPNS0_5MutexE(CondVar*, Mutex* mutex) { PauseUnlocked(mutex); }

bool __wrap__ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE(CondVar*, Mutex* mutex,
                                                                                 Duration timeout) {
  PauseUnlocked(mutex);
  return timeout <= absl::FromChrono(kPoll);
}
}
// NOLINTEND(bugprone-reserved-identifier)
