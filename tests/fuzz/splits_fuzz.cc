// The same bytes, split anywhere, give the same messages or are rejected at the same place. The first byte selects the
// kind of message, the next four the splits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string_view>

#include "tests/fuzz/messages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using gateway::fuzz::Read;
  using gateway::fuzz::Reading;
  using gateway::fuzz::Side;
  if (size < 5 || size > 4096) return 0;
  const Side side = bytes[0] % 3 == 0 ? Side::kRequests : bytes[0] % 3 == 1 ? Side::kAnswers : Side::kAnswersToHead;
  std::minstd_rand random(bytes[1] | bytes[2] << 8 | bytes[3] << 16);
  const size_t longest = 1 + bytes[4] % 64;
  const std::string_view wire(reinterpret_cast<const char*>(bytes) + 5, size - 5);
  const Reading whole = gateway::fuzz::ReadWhole(wire, side);
  const Reading pieces = Read(wire, side, [&]() -> size_t { return 1 + random() % longest; });
  if (!(whole == pieces)) std::abort();
  return 0;
}
