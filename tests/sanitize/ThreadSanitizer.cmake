# Included by the tsan preset. Makes absl::Mutex (absl_mutex.cc) and the order of gRPC's calls (grpc_calls.cc) known to
# ThreadSanitizer in every linked program, and ignores what uninstrumented libraries do among themselves (options.cc).
add_library(gateway_tsan_mutex OBJECT ${CMAKE_CURRENT_LIST_DIR}/absl_mutex.cc ${CMAKE_CURRENT_LIST_DIR}/grpc_calls.cc
  ${CMAKE_CURRENT_LIST_DIR}/options.cc)
target_link_libraries(gateway_tsan_mutex PRIVATE absl::synchronization)
foreach(symbol
    _ZN4absl7debian35Mutex4LockEv
    _ZN4absl7debian35Mutex6UnlockEv
    _ZN4absl7debian35Mutex7TryLockEv
    _ZN4absl7debian35Mutex10ReaderLockEv
    _ZN4absl7debian35Mutex12ReaderUnlockEv
    _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE
    _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
    _ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE
    _ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE
    _ZN4absl7debian37CondVar4WaitEPNS0_5MutexE
    _ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE)
  add_link_options(-Wl,--wrap=${symbol})
endforeach()
link_libraries($<TARGET_OBJECTS:gateway_tsan_mutex>)
include_directories(BEFORE SYSTEM ${CMAKE_CURRENT_LIST_DIR}/include)
