#include "dataplane/policy/bulkhead.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using Place = Bulkhead::Place;
using Verdict = Bulkhead::Verdict;

Verdict Enter(const std::shared_ptr<Bulkhead>& bulkhead, Place* place, int* granted = nullptr) {
  return Bulkhead::Enter(bulkhead, place, [granted] {
    return std::function<void()>([granted] {
      if (granted != nullptr) ++*granted;
    });
  });
}

TEST(Bulkhead, ThoseBeyondTheConnectionsWaitInTheirOrder) {
  auto bulkhead = std::make_shared<Bulkhead>(ServiceLimitsPolicy{.connections = 2, .pending = 2});
  Place a, b, c, d, e;
  EXPECT_EQ(Enter(bulkhead, &a), Verdict::kEntered);
  EXPECT_EQ(Enter(bulkhead, &b), Verdict::kEntered);
  int c_granted = 0, d_granted = 0;
  EXPECT_EQ(Enter(bulkhead, &c, &c_granted), Verdict::kWaits);
  EXPECT_EQ(Enter(bulkhead, &d, &d_granted), Verdict::kWaits);
  EXPECT_EQ(Enter(bulkhead, &e), Verdict::kTooManyPending);
  EXPECT_FALSE(c.entered());
  a.Leave();
  EXPECT_TRUE(c.entered());
  EXPECT_EQ(c_granted, 1);
  EXPECT_EQ(d_granted, 0);
  EXPECT_EQ(Enter(bulkhead, &e), Verdict::kWaits) << "no request overtakes waiting ones";
  b.Leave();
  EXPECT_TRUE(d.entered());
  c.Leave();
  d.Leave();
  EXPECT_TRUE(e.entered());
  e.Leave();
  EXPECT_EQ(bulkhead->view().in_use, 0u);
  EXPECT_EQ(bulkhead->view().pending, 0u);
  EXPECT_EQ(bulkhead->view().refused, 1u);
}

TEST(Bulkhead, WhoGivesUpWaitingTakesNoPlace) {
  auto bulkhead = std::make_shared<Bulkhead>(ServiceLimitsPolicy{.connections = 1});
  Place a, b, c;
  int b_granted = 0;
  EXPECT_EQ(Enter(bulkhead, &a), Verdict::kEntered);
  EXPECT_EQ(Enter(bulkhead, &b, &b_granted), Verdict::kWaits);
  EXPECT_EQ(Enter(bulkhead, &c), Verdict::kWaits);
  b.Leave();
  a.Leave();
  EXPECT_EQ(b_granted, 0);
  EXPECT_TRUE(c.entered());
}

TEST(Bulkhead, RequestsAreBoundedWithThoseThatWait) {
  auto bulkhead = std::make_shared<Bulkhead>(ServiceLimitsPolicy{.connections = 1, .pending = 10, .requests = 2});
  Place a, b, c;
  EXPECT_EQ(Enter(bulkhead, &a), Verdict::kEntered);
  EXPECT_EQ(Enter(bulkhead, &b), Verdict::kWaits);
  EXPECT_EQ(Enter(bulkhead, &c), Verdict::kTooManyRequests);
}

TEST(Bulkhead, WiderBoundsLetInWhoWaits) {
  auto bulkhead = std::make_shared<Bulkhead>(ServiceLimitsPolicy{.connections = 1});
  Place a, b, c;
  int granted = 0;
  EXPECT_EQ(Enter(bulkhead, &a), Verdict::kEntered);
  EXPECT_EQ(Enter(bulkhead, &b, &granted), Verdict::kWaits);
  EXPECT_EQ(Enter(bulkhead, &c, &granted), Verdict::kWaits);
  bulkhead->Reconfigure({.connections = 2});
  EXPECT_EQ(granted, 1);
  bulkhead->Reconfigure({});
  EXPECT_EQ(granted, 2);
}

TEST(Bulkhead, IsExactOverThreads) {
  auto bulkhead = std::make_shared<Bulkhead>(ServiceLimitsPolicy{.connections = 3, .pending = 100});
  std::atomic<int> inside{0}, most{0}, served{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        Place place;
        std::atomic<bool> granted{false};
        const Verdict verdict = Bulkhead::Enter(bulkhead, &place, [&granted] {
          return std::function<void()>([&granted] {
            granted = true;
            granted.notify_one();
          });
        });
        if (verdict == Verdict::kWaits) granted.wait(false);
        const int now = ++inside;
        int seen = most;
        while (now > seen && !most.compare_exchange_weak(seen, now)) {
        }
        ++served;
        --inside;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(most, 3);
  EXPECT_EQ(served, 16'000);
  EXPECT_EQ(bulkhead->view().in_use, 0u);
}

}  // namespace
}  // namespace gateway::dataplane
