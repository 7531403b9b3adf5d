// ThreadSanitizer's view of ordering in gRPC. Whatever precedes the start of a call's operation happens before
// whatever follows its completion, on any thread. The locks that guarantee this are in libgrpc, which Debian builds
// without the sanitizer. So the two functions between libgrpc++ and libgrpc that every operation passes are interposed
// here and announce it. This orders all calls, which is more than gRPC promises: the sanitizer only sees handlers race
// if they run at the same time.
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <sanitizer/tsan_interface.h>

namespace {

char order;

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {
grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* ops, size_t nops, void* tag, void* reserved) {
  static const auto next = Next<decltype(&grpc_call_start_batch)>("grpc_call_start_batch");
  __tsan_release(&order);
  return next(call, ops, nops, tag, reserved);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline, void* reserved) {
  static const auto next = Next<decltype(&grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = next(queue, deadline, reserved);
  __tsan_acquire(&order);
  return event;
}
}  // extern "C"
