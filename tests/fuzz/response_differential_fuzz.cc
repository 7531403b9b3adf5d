// Whatever bytes an endpoint answers with, to GET and to HEAD: each answer that the gateway accepts, Boost.Beast's
// parser reads the same way, with its body and its end.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tests/fuzz/messages.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using gateway::fuzz::Side;
  const std::string_view wire(reinterpret_cast<const char*>(bytes), size);
  for (const Side side : {Side::kAnswers, Side::kAnswersToHead}) {
    const gateway::fuzz::Reading reading = gateway::fuzz::ReadWhole(wire, side);
    for (const gateway::fuzz::Message& answer : reading.messages) {
      if (reading.refused && !answer.done) continue;
      if (!gateway::fuzz::BeastReadsTheSame<false>(wire.substr(answer.begin), answer, side == Side::kAnswersToHead)) {
        std::abort();
      }
      if (answer.chunked && answer.has_length) std::abort();
      if (answer.phrase.find_first_of("\r\n") != std::string::npos) std::abort();
    }
  }
  return 0;
}
