// Whatever bytes come as a chunked body: decoded in pieces as they are decoded whole.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "dataplane/http1/body.h"

namespace {

using gateway::dataplane::http1::BodyDecoder;

struct Decoded {
  std::string payload;
  size_t consumed = 0;
  bool done = false;
  bool refused = false;
};

Decoded Decode(const std::string& wire, size_t piece) {
  BodyDecoder decoder = BodyDecoder::Chunked();
  Decoded out;
  while (out.consumed < wire.size() && !decoder.done() && !out.refused) {
    std::string part = wire.substr(out.consumed, piece);
    const auto result = decoder.Decode(part.data(), part.size());
    if (result.payload > part.size() || result.consumed > part.size()) std::abort();
    out.payload.append(part, 0, result.payload);
    out.consumed += result.consumed;
    out.refused = result.refused;
  }
  out.done = decoder.done();
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string wire(reinterpret_cast<const char*>(bytes), size);
  const Decoded whole = Decode(wire, size + 1);
  for (const size_t piece : {1, 2, 7}) {
    const Decoded pieces = Decode(wire, piece);
    if (pieces.payload != whole.payload || pieces.done != whole.done || pieces.refused != whole.refused) std::abort();
  }
  return 0;
}
