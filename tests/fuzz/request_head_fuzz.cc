// A request header of any bytes: found the same in pieces and whole, and parsed without reading beyond it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "dataplane/http/http1/head.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway::dataplane::http1;
  const char* data = reinterpret_cast<const char*>(bytes);
  HeadScanner whole;
  const auto result = whole.Scan(data, size);
  HeadScanner pieces;
  auto again = HeadScanner::Result::kMore;
  for (size_t have = 1; have <= size && again == HeadScanner::Result::kMore; ++have) again = pieces.Scan(data, have);
  if (size > 0 && again != result) std::abort();
  if (result != HeadScanner::Result::kComplete) return 0;
  if (pieces.head_bytes() != whole.head_bytes()) std::abort();
  RequestHead head;
  if (ParseRequestHead({data, whole.head_bytes()}, &head)) return 0;
  // An accepted header is unambiguous.
  if (head.framing.chunked && head.length) std::abort();
  for (const auto& field : head.fields) {
    if (!IsToken(field.name) || field.value.find_first_of("\r\n\0", 0, 3) != std::string_view::npos) std::abort();
  }
  return 0;
}
