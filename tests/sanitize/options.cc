// Default options for every program of the tsan preset; TSAN_OPTIONS in the environment is added to them.
//
// Debian's gRPC, protobuf and Abseil are built without the sanitizer: it sees them copy and free memory (those calls
// go through it), but not the locks they hold. Accesses from such libraries are therefore ignored; their pthread calls
// and our atomics still order our code.
extern "C" const char* __tsan_default_options();   // NOLINT(bugprone-reserved-identifier): the sanitizer's name for it
extern "C" const char* __tsan_default_options() {  // NOLINT(bugprone-reserved-identifier)
  return "ignore_noninstrumented_modules=1";
}
