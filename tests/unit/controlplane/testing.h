// Shared by the control plane's tests: a temporary folder, resources by one call, a publisher with little setup.
#ifndef GATEWAY_TESTS_UNIT_CONTROLPLANE_TESTING_H_
#define GATEWAY_TESTS_UNIT_CONTROLPLANE_TESTING_H_

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/policy/builtin.h"
#include "common/policy/snapshot.h"
#include "controlplane/publish/publisher.h"
#include "controlplane/store/store.h"
#include "gtest/gtest.h"

namespace gateway::controlplane {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "gateway-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() {
    std::error_code ignored;  // leftovers stay in the temporary folder
    std::filesystem::remove_all(path_, ignored);
  }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline v1::Resource StaticService(const std::string& name, const std::string& address = "127.0.0.1:18081") {
  v1::Resource resource;
  resource.mutable_service()->set_name(name);
  resource.mutable_service()->add_static_()->set_address(address);
  return resource;
}

inline v1::Resource PrefixRoute(const std::string& name, const std::string& service) {
  v1::Resource resource;
  resource.mutable_route()->set_name(name);
  resource.mutable_route()->mutable_match()->mutable_path()->set_prefix("/" + name);
  resource.mutable_route()->set_service(service);
  return resource;
}

inline StoreOptions At(const std::string& path) {
  StoreOptions options;
  options.path = path;
  options.lock_wait = std::chrono::milliseconds(50);
  return options;
}

inline std::unique_ptr<Publisher> OpenPublisher(StoreOptions store_options, PublisherOptions options = {}) {
  if (options.builtins.empty()) options.builtins = BuiltinResources(BuiltinRateLimit{});
  auto store = Store::Open(std::move(store_options));
  EXPECT_TRUE(store.ok()) << store.status();
  if (!store.ok()) return nullptr;
  auto publisher = Publisher::Open(*std::move(store), std::move(options));
  EXPECT_TRUE(publisher.ok()) << publisher.status();
  return publisher.ok() ? *std::move(publisher) : nullptr;
}

inline v1::ApplyRequest ApplyOf(std::initializer_list<v1::Resource> resources, const std::string& actor = "tester") {
  v1::ApplyRequest request;
  for (const v1::Resource& resource : resources) *request.add_resources() = resource;
  request.mutable_context()->set_actor(actor);
  return request;
}

// Waits for `condition`, at most 10 s.
template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));  // between two polls; the result does not depend on it
  }
  return true;
}

}  // namespace gateway::controlplane

#endif  // GATEWAY_TESTS_UNIT_CONTROLPLANE_TESTING_H_
