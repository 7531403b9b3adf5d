// LoadBootstrap on any bytes, as the file, as the value of an environment variable and as a flag: no crash; and a
// configuration without problems can be described.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "common/base/host_port.h"
#include "common/config/bootstrap.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 16u << 10) return 0;
  static const int kFile = memfd_create("bootstrap", MFD_CLOEXEC);
  static const std::string kPath = "/proc/self/fd/" + std::to_string(kFile);
  if (kFile < 0 || ftruncate(kFile, 0) != 0) std::abort();
  if (pwrite(kFile, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
  std::string text(reinterpret_cast<const char*>(data), size);
  gateway::LoadedBootstrap loaded = gateway::LoadBootstrap(kPath, {}, {});
  if (loaded.problems.empty()) (void)gateway::DescribeBootstrap(loaded);  // must not throw
  (void)gateway::LoadBootstrap("", {"GATEWAY_" + text, "GATEWAY_SERVER_TRUSTED_PROXIES=" + text}, {text});
  (void)gateway::ParseHostPort(text);  // must return
  return 0;
}
