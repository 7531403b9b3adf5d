// A connection that begins with any bytes: a PROXY header is found however they arrive, bytes after it are not
// examined, and the decision comes within the stated limit.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "dataplane/net/proxy_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway::dataplane;
  const std::string_view data(reinterpret_cast<const char*>(bytes), size);
  ProxyHeader whole;
  const char* whole_detail = "";
  const ProxyResult result = ParseProxyHeader(data, &whole, &whole_detail);
  if (result == ProxyResult::kMore && size >= kProxyHeaderBytesMax) std::abort();

  // Byte by byte, in copies, so that a sanitizer sees reads beyond the end.
  ProxyHeader pieces;
  const char* pieces_detail = "";
  ProxyResult again = ProxyResult::kMore;
  size_t have = 0;
  for (; have <= size && again == ProxyResult::kMore; ++have) {
    // Long inputs advance in larger steps, to limit the time for copies.
    if (have > 300 && have + 300 < size) have += 61;
    const std::string copy(data.substr(0, have));
    again = ParseProxyHeader(copy, &pieces, &pieces_detail);
  }
  if (again != result || std::strcmp(pieces_detail, whole_detail) != 0) std::abort();
  if (result != ProxyResult::kComplete) return 0;

  if (whole.bytes > size || whole.bytes > kProxyHeaderBytesMax || pieces.bytes != whole.bytes) std::abort();
  if (std::memcmp(&whole.source, &pieces.source, sizeof whole.source) != 0 ||
      std::memcmp(&whole.destination, &pieces.destination, sizeof whole.destination) != 0 ||
      whole.source_port != pieces.source_port || whole.destination_port != pieces.destination_port ||
      whole.has_source != pieces.has_source) {
    std::abort();
  }
  const in6_addr none{};
  if (!whole.has_source && (whole.source_port != 0 || std::memcmp(&whole.source, &none, sizeof none) != 0))
    std::abort();
  // The bytes after it change nothing.
  std::string other(data.substr(0, whole.bytes));
  if (ParseProxyHeader(other, &pieces, &pieces_detail) != result || pieces.bytes != whole.bytes) std::abort();
  other.resize(size + 1, '\xff');
  if (ParseProxyHeader(other, &pieces, &pieces_detail) != result || pieces.bytes != whole.bytes) std::abort();
  return 0;
}
