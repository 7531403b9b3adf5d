// Any bytes from an endpoint, for GET and HEAD: Boost.Beast's parser reads each accepted response, its body and its
// end the same way, and both agree on the response as it would be forwarded.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/base/text.h"
#include "tests/fuzz/messages.h"

namespace {

using gateway::Append;
using gateway::fuzz::BeastReadsTheSame;
using gateway::fuzz::Message;
using gateway::fuzz::Reading;
using gateway::fuzz::ReadWhole;
using gateway::fuzz::Side;

void Check(bool promise) {
  if (!promise) std::abort();
}

// The response as exchange_heads.cc and relay.cc forward it to an HTTP/1.1 client, in the parts that come from the
// endpoint.
std::string SendOn(const Message& answer, Side side) {
  namespace http1 = gateway::dataplane::http1;
  std::string out = gateway::Concat("HTTP/1.1 ", answer.status, " ", answer.phrase, "\r\n");
  for (const auto& [name, value] : answer.forwarded) Append(&out, name, ": ", value, "\r\n");
  const bool bodyless = side == Side::kAnswersToHead || answer.status == 204 || answer.status == 304;
  const bool rechunk = answer.status >= 200 && !bodyless && (answer.chunked || answer.until_close);
  if (rechunk) Append(&out, "Transfer-Encoding: chunked\r\n");
  if (answer.status >= 200 && answer.status != 204 && answer.has_length) {
    Append(&out, "Content-Length: ", answer.length, "\r\n");
  }
  out.append("\r\n");
  if (!rechunk) return out.append(answer.payload);
  std::array<char, 20> room;
  if (!answer.payload.empty()) {
    Append(&out, http1::ChunkHead(answer.payload.size(), &room), answer.payload, http1::kChunkEnd);
  }
  return out.append(http1::kLastChunk);
}

void CheckSentOn(const Message& answer, Side side) {
  const std::string sent = SendOn(answer, side);
  // Another response follows that must not become part of it.
  const std::string wire = sent + "HTTP/1.1 404 Next\r\nContent-Length: 0\r\n\r\n";
  const Reading reading = ReadWhole(wire, side);
  Check(!reading.refused && reading.messages.size() == 2);
  const Message& received = reading.messages[0];
  Check(received.done && received.end == sent.size());
  Check(received.status == answer.status && received.phrase == answer.phrase);
  Check(received.payload == answer.payload && received.forwarded == answer.forwarded);
  Check(BeastReadsTheSame<false>(wire, received, side == Side::kAnswersToHead));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view wire(reinterpret_cast<const char*>(bytes), size);
  for (const Side side : {Side::kAnswers, Side::kAnswersToHead}) {
    const Reading reading = ReadWhole(wire, side);
    for (const Message& answer : reading.messages) {
      if (reading.refused && !answer.done) continue;
      Check(BeastReadsTheSame<false>(wire.substr(answer.begin), answer, side == Side::kAnswersToHead));
      Check(!(answer.chunked && answer.has_length));
      if (answer.done) CheckSentOn(answer, side);
    }
  }
  return 0;
}
