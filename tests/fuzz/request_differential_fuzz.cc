// Any bytes on a client's connection: Boost.Beast's parser reads each accepted request, its body and its end the same
// way, and both agree on the request as it would be forwarded.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/base/text.h"
#include "common/policy/route/path.h"
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

// The request as exchange_heads.cc and relay.cc forward it, in the parts that come from the client. Empty: rejected.
std::string SendOn(const Message& request, std::string* path) {
  *path = request.path;
  if (*path != "*" && !gateway::IsNormalPath(*path)) {
    path->clear();
    if (gateway::NormalizePath(request.path, false, path) != gateway::PathError::kNone) return {};
  }
  std::string out = gateway::Concat(request.method, " ", *path);
  if (request.has_query) Append(&out, "?", request.query);
  Append(&out, " HTTP/1.1\r\nHost: ", request.host.empty() ? "upstream" : request.host, "\r\n");
  for (const auto& [name, value] : request.forwarded) Append(&out, name, ": ", value, "\r\n");
  if (request.chunked) {
    std::array<char, 20> room;
    Append(&out, "Transfer-Encoding: chunked\r\n\r\n");
    if (!request.payload.empty()) {
      Append(&out, gateway::dataplane::http1::ChunkHead(request.payload.size(), &room), request.payload,
             gateway::dataplane::http1::kChunkEnd);
    }
    return out.append(gateway::dataplane::http1::kLastChunk);
  }
  if (request.has_length) Append(&out, "Content-Length: ", request.length, "\r\n");
  return Append(&out, "\r\n", request.payload), out;
}

void CheckSentOn(const Message& request) {
  std::string path;
  const std::string sent = SendOn(request, &path);
  if (sent.empty()) return;
  // Another request follows that must not become part of it.
  const std::string wire = sent + "GET /next HTTP/1.1\r\nHost: next\r\n\r\n";
  const Reading reading = ReadWhole(wire, Side::kRequests);
  Check(!reading.refused && reading.messages.size() == 2);
  const Message& received = reading.messages[0];
  Check(received.end == sent.size() && received.done);
  Check(received.method == request.method && received.path == path && received.query == request.query);
  Check(received.has_query == request.has_query && received.payload == request.payload);
  Check(received.chunked == request.chunked && received.length == request.length);
  Check(request.host.empty() || received.host == request.host);
  Check(received.forwarded == request.forwarded);
  Check(path == "*" || path[0] == '/');
  Check(BeastReadsTheSame<true>(wire, received, false));
  // Forwarding it twice changes nothing: two gateways in a row agree.
  Check(SendOn(received, &path) == sent);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view wire(reinterpret_cast<const char*>(bytes), size);
  const Reading reading = ReadWhole(wire, Side::kRequests);
  for (const Message& request : reading.messages) {
    if (reading.refused && !request.done) continue;
    Check(BeastReadsTheSame<true>(wire.substr(request.begin), request, false));
    Check(!(request.chunked && request.has_length) && !(request.chunked && request.minor_version == 0));
    if (request.done) CheckSentOn(request);
  }
  return 0;
}
