// A response of Consul (or an impostor) of any bytes gives an error, or instances that satisfy their invariants.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "controlplane/sources/consul/decoder.h"

namespace {

void Require(bool promise) {
  if (!promise) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace gateway::controlplane;
  using gateway::v1::Instance;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto instances = DecodeHealthService(text); instances.ok()) {
    for (size_t i = 0; i < instances->size(); ++i) {
      const Instance& instance = (*instances)[i];
      Require(i == 0 || (*instances)[i - 1].id() < instance.id());
      Require(instance.id().size() <= kIdBytesMax && instance.port() <= 65535 &&
              instance.weight() <= kInstanceWeightMax);
      const bool serves = instance.health() == Instance::PASSING || instance.health() == Instance::WARNING;
      Require(instance.weight() == 0 || (serves && instance.port() > 0 && !instance.address().empty()));
      Require(static_cast<size_t>(instance.tags_size()) <= kTagsMax);
      Instance copy;  // strings in messages must be UTF-8 to be sent
      Require(copy.ParseFromString(instance.SerializeAsString()));
    }
  }
  if (const auto listing = DecodeCatalogServices(text); listing.ok()) Require(listing->size() <= kCatalogServicesMax);
  (void)DecodeHealthState(text);
  (void)DecodeAgentServices(text);
  return 0;
}
