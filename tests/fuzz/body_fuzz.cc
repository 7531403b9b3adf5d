// A chunked body of any bytes: decoded the same in pieces and whole, and what is forwarded recoded is read as the same
// body.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "dataplane/http/http1/body.h"

namespace {

using gateway::dataplane::http1::BodyDecoder;
using gateway::dataplane::http1::ChunkHead;
using gateway::dataplane::http1::kChunkEnd;
using gateway::dataplane::http1::kLastChunk;

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

// What a receiver reads from `wire` if the first `decoded` pieces are decoded and chunked again by us.
std::string Recode(const std::string& wire, size_t piece, int decoded) {
  BodyDecoder decoder = BodyDecoder::Chunked();
  std::string out;
  bool refused = false;
  for (size_t at = 0; at < wire.size() && !decoder.done() && !refused;) {
    std::string part = wire.substr(at, piece);
    const bool recodes = --decoded < 0;
    const auto result = recodes ? decoder.Recode(part.data(), part.size()) : decoder.Decode(part.data(), part.size());
    refused = result.refused;
    at += result.consumed;
    std::array<char, 20> room;
    if (!recodes && !result.kept.empty()) {
      out.append(ChunkHead(result.kept.size(), &room)).append(result.kept).append(kChunkEnd);
    } else {
      out.append(result.before).append(result.kept).append(result.after);
    }
    if (!recodes && decoder.done()) out += kLastChunk;
  }
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
  for (const size_t piece : {size + 1, size_t{1}, size_t{3}, size_t{8}}) {
    for (const int decoded : {0, 1}) {
      if (piece > size && decoded > 0) continue;  // would decode all of it
      const std::string recoded = Recode(wire, piece, decoded);
      const Decoded again = Decode(recoded, recoded.size() + 1);
      if (again.refused || again.payload != whole.payload || again.done != whole.done) std::abort();
    }
  }
  return 0;
}
