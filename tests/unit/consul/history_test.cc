#include "controlplane/sources/consul/history.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gateway::controlplane {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

v1::Instance InstanceOf(const std::string& id, uint32_t port, v1::Instance::Health health = v1::Instance::PASSING) {
  v1::Instance instance;
  instance.set_id(id);
  instance.set_address("10.0.0.1");
  instance.set_port(port);
  instance.set_weight(1);
  instance.set_health(health);
  return instance;
}

v1::EndpointSet SetWith(const std::vector<v1::Instance>& instances) {
  v1::EndpointSet set;
  set.mutable_key()->set_service("web");
  set.set_state(v1::EndpointSet::KNOWN);
  set.mutable_instances()->Assign(instances.begin(), instances.end());
  return set;
}

v1::EndpointEvent EventOf(const std::string& service, const std::string& reason) {
  v1::EndpointEvent event;
  event.mutable_key()->set_service(service);
  event.set_reason(reason);
  return event;
}

TEST(EndpointEvents, SayWhatCameWentAndIsDifferent) {
  const v1::EndpointSet before = SetWith({InstanceOf("n/a", 1), InstanceOf("n/b", 2), InstanceOf("n/c", 3)});
  const v1::EndpointSet after =
      SetWith({InstanceOf("n/b", 2, v1::Instance::CRITICAL), InstanceOf("n/c", 33), InstanceOf("n/d", 4)});
  const v1::EndpointEvent event = DescribeChange(&before, after);
  EXPECT_EQ(event.kind(), v1::EndpointEvent::CHANGED);
  EXPECT_THAT(event.added(), ElementsAre("10.0.0.1:4"));
  EXPECT_THAT(event.removed(), ElementsAre("10.0.0.1:1"));
  EXPECT_THAT(event.altered(), ElementsAre("10.0.0.1:2 critical", "10.0.0.1:33 moved from 10.0.0.1:3"));
  EXPECT_EQ(event.serving(), 2u);
  EXPECT_EQ(event.instances(), 3u);
  EXPECT_FALSE(ChangesEndpoints(DescribeChange(&after, after)));
}

TEST(EndpointEvents, NameAFewOfManyEndpoints) {
  std::vector<v1::Instance> many;
  for (uint32_t i = 0; i < 100; ++i) many.push_back(InstanceOf(absl::StrCat("n/", 1000 + i), 1 + i));
  const v1::EndpointEvent event = DescribeChange(nullptr, SetWith(many));
  EXPECT_EQ(event.added_size(), kEventEndpointsMax);
  EXPECT_EQ(event.instances(), 100u);
}

TEST(EndpointHistory, OfAServiceWithWhatConcernsAllNewestFirstAndBounded) {
  EndpointHistory history;
  EXPECT_THAT(history.Of({"", "web"}), IsEmpty());
  history.Add(EventOf("web", "one"));
  history.Add(EventOf("db", "other"));
  history.Add(EventOf("", "Consul is away"));
  history.Add(EventOf("web", "two"));
  std::vector<std::string> reasons;
  for (const v1::EndpointEvent& event : history.Of({"", "web"})) reasons.push_back(event.reason());
  EXPECT_THAT(reasons, ElementsAre("two", "Consul is away", "one"));
  for (size_t i = 0; i < 2 * EndpointHistory::kEventsOfServiceMax; ++i) history.Add(EventOf("web", absl::StrCat(i)));
  EXPECT_EQ(history.Of({"", "web"}).size(), EndpointHistory::kEventsOfServiceMax);
  EXPECT_EQ(history.Of({"", "web"}).front().reason(), "99");
  for (size_t i = 0; i < EndpointHistory::kEventsMax; ++i) history.Add(EventOf("web", "again"));
  EXPECT_EQ(history.Of({"", "db"}).size(), 2u) << "a service that changes all the time takes nothing from others";
}

TEST(EndpointHistory, ManyServicesTogetherAreBounded) {
  EndpointHistory history;
  for (size_t i = 0; i < EndpointHistory::kEventsMax + 100; ++i) history.Add(EventOf(absl::StrCat("s", i), "x"));
  EXPECT_EQ(history.All().size(), EndpointHistory::kEventsMax);
  EXPECT_THAT(history.Of({"", "s0"}), IsEmpty());
  EXPECT_EQ(history.Of({"", absl::StrCat("s", EndpointHistory::kEventsMax)}).size(), 1u);
}

}  // namespace
}  // namespace gateway::controlplane
