// ThreadSanitizer's view of gRPC's order. What was done before an operation of a call was started happens before what
// is done once it has completed, on whichever thread; but the locks by which gRPC makes it so are in libgrpc, which
// Debian builds without the sanitizer. So the two functions through which everything goes, between libgrpc++ and
// libgrpc, are found here first, and announce it. (One order for all calls, which is more than gRPC promises: of two
// handlers that race, the sanitizer sees what they do at the same time.)
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
