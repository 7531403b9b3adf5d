// A Route's canary: what is checked, and the weights that a step means.
#include <string>
#include <vector>

#include "common/policy/guard.h"
#include "common/policy/kinds/canary.h"
#include "common/policy/policy_files.h"
#include "common/policy/snapshot.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kServices[] = R"(
kind: Service
name: v1
static: [{ address: "127.0.0.1:1" }]
---
kind: Service
name: v2
static: [{ address: "127.0.0.1:2" }]
---
kind: Service
name: v3
static: [{ address: "127.0.0.1:3" }]
---
)";

// The routes of `yaml` beside the services.
std::vector<v1::Resource> Read(const std::string& yaml) {
  std::vector<PolicyProblem> problems;
  std::vector<v1::Resource> resources;
  for (PolicyDocument& document : ParsePolicy(kServices + yaml, "test.yaml", &problems)) {
    resources.push_back(std::move(document.resource));
  }
  for (const PolicyProblem& problem : problems) ADD_FAILURE() << problem.ToString();
  return resources;
}

std::string RouteWith(const std::string& fields, const std::string& name = "shop") {
  return "kind: Route\nname: " + name + "\nmatch: { path: { prefix: /" + name + " } }\n" + fields + "\n";
}

// "field: message" of each error.
std::vector<std::string> ErrorsOf(const std::vector<v1::Resource>& resources) {
  std::vector<const v1::Resource*> pointers;
  for (const v1::Resource& resource : resources) pointers.push_back(&resource);
  std::vector<std::string> texts;
  for (const v1::PolicyError& error : CompileSnapshot(pointers, {}).errors) {
    texts.push_back(error.field() + ": " + error.message());
  }
  return texts;
}

std::vector<std::string> ErrorsOf(const std::string& yaml) { return ErrorsOf(Read(yaml)); }

// What the sides of the split get.
std::vector<uint32_t> Weights(const std::string& fields, uint32_t percent) {
  std::vector<uint32_t> weights;
  const v1::Route served = ServedRoute(Read(RouteWith(fields)).back().route(), percent);
  EXPECT_FALSE(served.has_canary());
  for (const v1::WeightedService& side : served.split()) weights.push_back(side.weight());
  return weights;
}

TEST(CanaryPolicy, NeedsASplitThatHasTheSideAndAnother) {
  EXPECT_THAT(ErrorsOf(RouteWith("split: [{ service: v1 }, { service: v2 }]\ncanary: { steps: [1, 100] }")), IsEmpty());
  EXPECT_THAT(ErrorsOf(RouteWith("service: v1\ncanary: { steps: [1] }")),
              ElementsAre("canary: needs a split with at least two sides"));
  EXPECT_THAT(ErrorsOf(RouteWith("split: [{ service: v1 }]\ncanary: { steps: [1] }")),
              ElementsAre("canary: needs a split with at least two sides"));
  EXPECT_THAT(ErrorsOf(RouteWith("split: [{ service: v1 }, { service: v2 }]\ncanary: { service: v3, steps: [1] }")),
              ElementsAre("canary.service: 'v3' is not a side of the split"));
  EXPECT_THAT(ErrorsOf(RouteWith("split: [{ service: v1, weight: 0 }, { service: v2 }]\ncanary: { steps: [1] }")),
              ElementsAre(HasSubstr("split: has no weight above 0 beside 'v2'")));
}

TEST(CanaryPolicy, StepsRiseFrom1To100) {
  const auto errors = [](const std::string& canary) {
    return ErrorsOf(RouteWith("split: [{ service: v1 }, { service: v2 }]\ncanary: " + canary));
  };
  EXPECT_THAT(errors("{ steps: [1, 5, 25, 100], every: 60s, guard: 'error_rate<1%,p99<250ms' }"), IsEmpty());
  EXPECT_THAT(errors("{ steps: [0, 100] }"), ElementsAre("canary.steps[0]: is 0; expected 1 to 100 (percent)"));
  EXPECT_THAT(errors("{ steps: [5, 101] }"), ElementsAre("canary.steps[1]: is 101; expected 1 to 100 (percent)"));
  EXPECT_THAT(errors("{ steps: [5, 5] }"), ElementsAre("canary.steps[1]: is 5; expected more than the step before it"));
  // As by the API: a file with these is not read at all.
  std::vector<v1::Resource> set = Read(RouteWith("split: [{ service: v1 }, { service: v2 }]\ncanary: { steps: [5] }"));
  v1::Canary* canary = set.back().mutable_route()->mutable_canary();
  canary->mutable_every()->set_nanos(1);
  EXPECT_THAT(ErrorsOf(set), ElementsAre(HasSubstr("canary.every: expected a duration from 1s to 168h")));
  canary->clear_every();
  canary->clear_steps();
  EXPECT_THAT(ErrorsOf(set), ElementsAre("canary.steps: is required"));
}

TEST(CanaryPolicy, AGuardIsThatOfAChangeWithoutItsTime) {
  const auto errors = [](const std::string& guard) {
    return ErrorsOf(
        RouteWith("split: [{ service: v1 }, { service: v2 }]\ncanary: { steps: [1], guard: '" + guard + "' }"));
  };
  EXPECT_THAT(errors("error_rate<1%,requests>20"), IsEmpty());
  EXPECT_THAT(errors("p98<1s"),
              ElementsAre("canary.guard: 'p98<1s': expected error_rate, p50, p90 or p99 with < or <=, or requests>N"));
  EXPECT_THAT(errors("error_rate<1%,for=60s"), ElementsAre(HasSubstr("canary.guard: 'for=60s': expected error_rate")));
  EXPECT_THAT(errors(std::string(kGuardBytesMax + 1, 'x')), ElementsAre(HasSubstr("expected at most 256")));
}

TEST(CanaryPolicy, AThousandRoutesMayHaveOne) {
  std::string yaml;
  const auto canary = [&yaml](size_t i) {
    yaml += RouteWith("split: [{ service: v1 }, { service: v2 }]\ncanary: { steps: [1] }", "r" + std::to_string(i)) +
            "---\n";
  };
  for (size_t i = 0; i < kCanariesMax; ++i) canary(i);
  EXPECT_THAT(ErrorsOf(yaml), IsEmpty());
  canary(kCanariesMax);
  EXPECT_THAT(ErrorsOf(yaml), ElementsAre("canary: is one too many: all routes together may have 1000"));
}

TEST(CanaryPolicy, AStepGivesTheSideItsPercentageAndTheOthersTheRestByTheirWeights) {
  const std::string two = "split: [{ service: v1 }, { service: v2, weight: 70 }]\ncanary: { steps: [1] }";
  EXPECT_THAT(Weights(two, 5), ElementsAre(95, 5)) << "what is written for the side does not count";
  EXPECT_THAT(Weights(two, 0), ElementsAre(100, 0));
  EXPECT_THAT(Weights(two, 100), ElementsAre(0, 100));
  const std::string three =
      "split: [{ service: v1, weight: 1000000 }, { service: v2 }, { service: v3, weight: 1 }]\n"
      "canary: { service: v2, steps: [1] }";
  EXPECT_THAT(Weights(three, 10), ElementsAre(90'000, 10'000, 1)) << "the smallest share is a share";
  EXPECT_THAT(Weights(three, 100), ElementsAre(0, 100'000, 0));
  EXPECT_THAT(Weights("split: [{ service: v2 }, { service: v1, weight: 3 }, { service: v3 }]\n"
                      "canary: { service: v2, steps: [1] }",
                      20),
              ElementsAre(20'000, 60'000, 20'000));
}

}  // namespace
}  // namespace gateway
