// What every program of the tsan preset runs with; TSAN_OPTIONS in the environment comes on top.
//
// Debian's gRPC, protobuf and Abseil are built without the sanitizer: it sees that they copy and free memory (those
// calls go through it), but not the locks under which they do. What they do among themselves is not ours to judge, so
// accesses from such libraries are left out; what they lock with pthread or atomics of ours still orders ours.
extern "C" const char* __tsan_default_options();   // NOLINT(bugprone-reserved-identifier): the sanitizer's name for it
extern "C" const char* __tsan_default_options() {  // NOLINT(bugprone-reserved-identifier)
  return "ignore_noninstrumented_modules=1";
}
