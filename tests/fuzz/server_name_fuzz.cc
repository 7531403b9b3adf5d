// A server_name extension of any bytes, and the certificates that its name selects. The input is the extension; after
// its last newline, a certificate's name.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/base/certificate.h"
#include "dataplane/net/tls/server_context.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace gateway;
  const std::string_view input(reinterpret_cast<const char*>(bytes), size);
  const size_t cut = input.rfind('\n');
  const std::string_view extension = input.substr(0, cut);
  const std::string_view pattern = cut == std::string_view::npos ? std::string_view() : input.substr(cut + 1);
  const std::string name = dataplane::tls::ParseServerName(extension);
  if (name.empty()) return 0;
  if (name.size() > 255 || extension.size() < name.size() + 5) std::abort();
  for (const char c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
    if (!plain) std::abort();
  }
  if (!NameCovers(name, name)) std::abort();
  // A wildcard covers exactly one label.
  if (const size_t dot = name.find('.'); dot != std::string::npos && dot > 0) {
    if (!NameCovers("*" + name.substr(dot), name) || NameCovers("*." + name, name)) std::abort();
    if (NameCovers("*" + name.substr(dot), "x." + name)) std::abort();
  }
  if (NameCovers(pattern, name) && !pattern.starts_with("*.") && pattern != name) std::abort();
  return 0;
}
