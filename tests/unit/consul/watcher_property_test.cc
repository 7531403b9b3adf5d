// Whatever happens in a real Consul, the watcher converges to Consul's state.
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "controlplane/sources/consul/decoder.h"
#include "gtest/gtest.h"
#include "tests/fixtures/consul_agent.h"
#include "tests/fixtures/lab_ca.h"
#include "tests/unit/consul/watched.h"

namespace gateway::controlplane {
namespace {

using namespace std::chrono_literals;
using fixtures::ConsulAgent;
using Clock = std::chrono::steady_clock;

// GATEWAY_TEST_SEEDS runs so many for each catalog, of 15 s each; else one of 5 s. GATEWAY_TEST_SEED is the first one.
int Seeds() {
  const char* text = std::getenv("GATEWAY_TEST_SEEDS");
  return text == nullptr ? 1 : std::max(1, std::atoi(text));
}

unsigned SeedOf(int run) {
  const char* text = std::getenv("GATEWAY_TEST_SEED");
  return text == nullptr ? std::random_device()()
                         : static_cast<unsigned>(std::atoll(text)) + static_cast<unsigned>(run);
}

struct Catalog {
  int services;
  bool tls;  // then each service has its watch
};

void PrintTo(const Catalog& catalog, std::ostream* out) {
  *out << catalog.services << " services" << (catalog.tls ? " over TLS" : "");
}

// What was registered, by service, by service ID. What Consul made of it is asked of Consul.
using Model = std::map<std::string, std::map<std::string, ConsulAgent::Instance>>;
using Truth = std::map<std::string, std::vector<v1::Instance>>;

bool Agrees(const v1::EndpointSet& set, const std::vector<v1::Instance>& truth) {
  return std::equal(
      set.instances().begin(), set.instances().end(), truth.begin(), truth.end(),
      [](const v1::Instance& a, const v1::Instance& b) { return a.SerializeAsString() == b.SerializeAsString(); });
}

std::vector<std::string> Differences(const EndpointCatalog& catalog, const Truth& truth) {
  std::vector<std::string> names;
  for (const auto& [service, instances] : truth) {
    if (!Agrees(SetOf(catalog, service), instances)) names.push_back(service);
  }
  return names;
}

class WatcherProperty : public testing::TestWithParam<Catalog> {
 protected:
  void Change(std::mt19937& random) {
    const std::string service = absl::StrCat("s", random() % static_cast<unsigned>(GetParam().services));
    std::map<std::string, ConsulAgent::Instance>& instances = model_[service];
    const auto any = [&]() -> ConsulAgent::Instance& {
      return std::next(instances.begin(), static_cast<long>(random() % instances.size()))->second;
    };
    const unsigned kind = random() % 10;
    if (instances.empty() || (kind == 0 && instances.size() < 4)) {
      ConsulAgent::Instance added{.service = service,
                                  .id = absl::StrCat(service, "-", next_++),
                                  .port = Port(),
                                  .status = random() % 3 == 0 ? "" : "passing"};
      ASSERT_TRUE(agent_->Register(added).ok());
      instances[added.id] = added;
    } else if (kind == 1) {
      const std::string id = any().id;
      ASSERT_TRUE(agent_->Deregister(id).ok());
      instances.erase(id);
    } else if (kind <= 3) {
      ConsulAgent::Instance& moved = any();
      if (kind == 2) {
        moved.port = Port();
      } else {
        moved.tags = {absl::StrCat("t", random() % 5)};
      }
      ASSERT_TRUE(agent_->Register(moved).ok());
    } else {
      ConsulAgent::Instance& flipped = any();
      if (flipped.status.empty()) return;
      // Back to back, so that the state may or may not be the same when the watcher reads it.
      for (unsigned flips = 1 + random() % 3; flips > 0; --flips) {
        flipped.status = flipped.status == "passing" ? "critical" : "passing";
        ASSERT_TRUE(agent_->SetCheck(flipped.id, flipped.status).ok());
      }
    }
  }
  void AskConsul(Truth* truth) {
    truth->clear();
    for (const auto& [service, instances] : model_) {
      const auto response = agent_->Get(absl::StrCat("/v1/health/service/", service));
      ASSERT_TRUE(response.ok()) << response.status();
      auto decoded = DecodeHealthService(*response);
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      (*truth)[service] = *std::move(decoded);
    }
  }
  uint16_t Port() { return static_cast<uint16_t>(1024 + ++ports_ % 60'000); }

  fixtures::LabCa ca_;
  const fixtures::LabCa::Files files_ = ca_.IssueFor({"IP:127.0.0.1"});
  std::unique_ptr<ConsulAgent> agent_;
  Model model_;
  int next_ = 0;
  unsigned ports_ = 0;
};

TEST_P(WatcherProperty, EndpointsAreConsulsSoonAfterItIsQuiet) {
  const auto span = Seeds() > 1 ? 15s : 5s;
  for (int run = 0; run < Seeds(); ++run) {
    const unsigned seed = SeedOf(run);
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937 random(seed);
    auto started = GetParam().tls ? ConsulAgent::Start({.cert = files_.cert, .key = files_.key}) : ConsulAgent::Start();
    ASSERT_TRUE(started.ok()) << started.status();
    agent_ = *std::move(started);
    model_.clear();
    for (int i = 0; i < GetParam().services; ++i) {
      ConsulAgent::Instance instance{
          .service = absl::StrCat("s", i), .id = absl::StrCat("s", i, "-first"), .port = Port()};
      ASSERT_TRUE(agent_->Register(instance).ok());
      model_[instance.service][instance.id] = instance;
    }
    ConsulWatcherOptions options;
    options.access.address = agent_->address();
    if (GetParam().tls) {
      options.access.address = agent_->https_address();
      options.access.tls = {.on = true, .files = {.ca = ca_.file()}};
    }
    Watched watched(options);
    EndpointInterest interest;
    interest.dynamic = [](std::string_view name) { return name != "consul"; };
    interest.dynamic_on_suspect = v1::ConsulSource::ACCEPT;
    watched.watcher().SetInterest(interest);
    watched.watcher().Start();
    Truth truth;
    const auto agrees = [&truth](const EndpointCatalog& catalog) { return Differences(catalog, truth).empty(); };
    ASSERT_NO_FATAL_FAILURE(AskConsul(&truth));
    ASSERT_TRUE(watched.Wait(agrees, 60s)) << Differences(*watched.newest(), truth).size() << " services differ";

    int changes = 0;
    for (const auto end = Clock::now() + span; Clock::now() < end; ++changes) {
      ASSERT_NO_FATAL_FAILURE(Change(random));
    }
    const auto quiet = Clock::now();
    ASSERT_NO_FATAL_FAILURE(AskConsul(&truth));
    const auto left = std::chrono::duration_cast<fixtures::Timeout>(quiet + 2s - Clock::now());
    const bool soon = watched.Wait(agrees, std::max(left, fixtures::Timeout(0)));
    const auto differ = Differences(*watched.newest(), truth);
    EXPECT_TRUE(soon) << differ.size() << " of " << GetParam().services << " services differ 2 s after the last of "
                      << changes << " changes; one of them is " << (differ.empty() ? "" : differ[0]);
    EXPECT_TRUE(soon || watched.Wait(agrees, 90s));
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - quiet);
    RecordProperty(absl::StrCat("ms_", run), static_cast<int>(took.count()));
    std::cout << "seed " << seed << ": " << testing::PrintToString(GetParam()) << ", " << changes
              << " changes: the same " << took.count() << " ms after the last\n";
  }
}

INSTANTIATE_TEST_SUITE_P(Services, WatcherProperty,
                         testing::Values(Catalog{20, false}, Catalog{150, false}, Catalog{1500, false},
                                         Catalog{1500, true}));

}  // namespace
}  // namespace gateway::controlplane
