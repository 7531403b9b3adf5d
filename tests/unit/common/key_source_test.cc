#include "common/auth/key_source.h"

#include <atomic>
#include <mutex>

#include "absl/synchronization/notification.h"
#include "common/base/text.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scripted_upstream.h"
#include "tests/fixtures/token_signer.h"
#include "tests/fixtures/wait_for.h"

namespace gateway {
namespace {

using namespace std::chrono_literals;
using fixtures::TokenSigner;
using fixtures::WaitFor;
using Refreshed = KeyFetcher::Refreshed;

// A scripted issuer, and its clock.
struct Issuer {
  std::mutex mutex;
  absl::StatusOr<std::string> answer = absl::UnavailableError("refused");
  std::atomic<int> asked{0};
  std::atomic<int64_t> now_ms{1'000'000};

  KeyFetcher::Options Options() {
    KeyFetcher::Options options;
    options.fetch = [this](const std::string&, std::chrono::milliseconds) {
      std::lock_guard lock(mutex);
      ++asked;
      return answer;
    };
    options.clock = [this] { return TimePoint(std::chrono::milliseconds(now_ms)); };
    return options;
  }
  void Publish(absl::StatusOr<std::string> text) {
    std::lock_guard lock(mutex);
    answer = std::move(text);
  }
  void Pass(std::chrono::milliseconds time) { now_ms += time.count(); }
};

constexpr const char* kUrl = "https://id.example.com/keys";

TEST(KeyFetcher, FetchesAtOnceAndByItsInterval) {
  Issuer issuer;
  const TokenSigner a(JwsAlgorithm::kEdDsa, "a");
  const TokenSigner b(JwsAlgorithm::kEdDsa, "b");
  issuer.Publish(a.Jwks());
  KeyFetcher fetcher(issuer.Options());
  const auto source = fetcher.Find(kUrl, 10min);
  EXPECT_EQ(fetcher.Find(kUrl, 10min), source);
  ASSERT_TRUE(WaitFor([&] { return source->generation() != 0; }));
  EXPECT_EQ(source->keys()->keys.at(0).kid, "a");
  const uint64_t generation = source->generation();
  // The same keys again are not a change: tokens verified with them stay verified.
  issuer.Pass(10min);
  ASSERT_TRUE(WaitFor([&] { return issuer.asked == 2; }));
  issuer.Publish(b.Jwks());
  issuer.Pass(10min);
  ASSERT_TRUE(WaitFor([&] { return issuer.asked == 3; }));
  ASSERT_TRUE(WaitFor([&] { return source->generation() != generation; }));
  EXPECT_EQ(source->keys()->keys.at(0).kid, "b");
}

TEST(KeyFetcher, KeepsTheLastGoodKeys) {
  Issuer issuer;
  const TokenSigner a(JwsAlgorithm::kEdDsa, "a");
  issuer.Publish(a.Jwks());
  KeyFetcher fetcher(issuer.Options());
  const auto source = fetcher.Find(kUrl, 10min);
  ASSERT_TRUE(WaitFor([&] { return source->generation() != 0; }));
  const uint64_t generation = source->generation();
  int asked = 1;
  for (const absl::StatusOr<std::string>& bad :
       {absl::StatusOr<std::string>(absl::UnavailableError("down")), absl::StatusOr<std::string>("<html>"),
        absl::StatusOr<std::string>(R"({"keys":[]})"),
        absl::StatusOr<std::string>(R"({"keys":[{"kty":"oct","k":"c2VjcmV0"}]})")}) {
    issuer.Publish(bad);
    issuer.Pass(10min);
    ++asked;
    ASSERT_TRUE(WaitFor(
        [&] { return issuer.asked == asked && fetcher.Rows()[0].failures == static_cast<uint64_t>(asked - 1); }));
    EXPECT_EQ(source->generation(), generation);
    EXPECT_EQ(source->keys()->keys.size(), 1u);
  }
}

TEST(KeyFetcher, RetriesAFailureSoonAndThenLessOften) {
  Issuer issuer;
  KeyFetcher fetcher(issuer.Options());
  const auto source = fetcher.Find(kUrl, 10min);
  int asked = 1;
  for (const auto pause : {1000ms, 2000ms, 4000ms, 8000ms, 16000ms, 32000ms, 60000ms, 60000ms}) {
    const auto failed = [&] { return fetcher.Rows()[0].failures == static_cast<uint64_t>(asked); };
    ASSERT_TRUE(WaitFor(failed));
    issuer.Pass(pause - 1ms);
    (void)fetcher.Find(kUrl, 10min);  // makes it read the clock
    EXPECT_EQ(issuer.asked, asked);
    issuer.Pass(1ms);
    ++asked;
  }
  EXPECT_EQ(source->generation(), 0u);
  EXPECT_EQ(source->keys(), nullptr);
}

// A key published just after a scheduled fetch: the first token that names it triggers a fetch.
TEST(KeyFetcher, AnUnknownKeyIsFetchedAtOnce) {
  Issuer issuer;
  const TokenSigner a(JwsAlgorithm::kEdDsa, "a");
  const TokenSigner b(JwsAlgorithm::kEdDsa, "b");
  issuer.Publish(a.Jwks());
  KeyFetcher fetcher(issuer.Options());
  const auto source = fetcher.Find(kUrl, 20s);
  ASSERT_TRUE(WaitFor([&] { return fetcher.Rows()[0].fetches == 1; }));
  issuer.Publish(b.Jwks());
  issuer.Pass(1s);
  std::atomic<bool> done{false};
  ASSERT_EQ(fetcher.Refresh(*source, source->generation(), [&done] { done = true; }), Refreshed::kUnderWay);
  ASSERT_TRUE(WaitFor([&] { return done.load(); }));
  EXPECT_EQ(source->keys()->keys.at(0).kid, "b");
  // A scheduled fetch in between neither restarts nor ends the pause.
  issuer.Pass(20s);
  ASSERT_TRUE(WaitFor([&] { return fetcher.Rows()[0].fetches == 3; }));
  issuer.Pass(9'999ms);
  EXPECT_EQ(fetcher.Refresh(*source, source->generation(), [] {}), Refreshed::kTooSoon);
  issuer.Pass(1ms);
  EXPECT_EQ(fetcher.Refresh(*source, source->generation(), [] {}), Refreshed::kUnderWay);
}

// A token checked just before new keys arrived has not triggered a fetch: the next one with an unknown key may.
TEST(KeyFetcher, ATokenOvertakenByNewKeysCausesNoFetch) {
  Issuer issuer;
  const TokenSigner a(JwsAlgorithm::kEdDsa, "a");
  issuer.Publish(a.Jwks());
  KeyFetcher fetcher(issuer.Options());
  const auto source = fetcher.Find(kUrl, 10min);
  ASSERT_TRUE(WaitFor([&] { return source->generation() != 0; }));
  EXPECT_EQ(fetcher.Refresh(*source, 0, [] { FAIL() << "nothing is fetched"; }), Refreshed::kThere);
  std::atomic<bool> done{false};
  EXPECT_EQ(fetcher.Refresh(*source, source->generation(), [&done] { done = true; }), Refreshed::kUnderWay);
  EXPECT_TRUE(WaitFor([&] { return done.load(); }));
  EXPECT_EQ(issuer.asked, 2);
}

// Slow or hanging issuers delay no other, neither at its interval nor when a token needs a fetch.
TEST(KeyFetcher, ASlowIssuerDelaysNoOther) {
  Issuer issuer;
  const TokenSigner a(JwsAlgorithm::kEdDsa, "a");
  issuer.Publish(a.Jwks());
  absl::Notification answer;
  std::atomic<int> hanging{0};
  KeyFetcher::Options options = issuer.Options();
  options.fetches_max = 3;
  options.fetch = [&answer, &hanging, fetch = options.fetch](const std::string& url,
                                                             std::chrono::milliseconds timeout) {
    if (url != kUrl) {
      ++hanging;
      answer.WaitForNotification();
    }
    return fetch(url, timeout);
  };
  KeyFetcher fetcher(options);
  const auto slow = fetcher.Find("https://slow.example.com/keys", 10min);
  const auto slower = fetcher.Find("https://slower.example.com/keys", 10min);
  ASSERT_TRUE(WaitFor([&] { return hanging == 2; }));
  const auto source = fetcher.Find(kUrl, 10min);
  EXPECT_TRUE(WaitFor([&] { return source->generation() != 0; }));
  std::atomic<bool> done{false};
  EXPECT_EQ(fetcher.Refresh(*source, source->generation(), [&done] { done = true; }), Refreshed::kUnderWay);
  EXPECT_TRUE(WaitFor([&] { return done.load(); }));
  // The bound holds: a fourth fetch waits until one of them ends.
  const auto slowest = fetcher.Find("https://slowest.example.com/keys", 10min);
  ASSERT_TRUE(WaitFor([&] { return hanging == 3; }));
  EXPECT_EQ(fetcher.Refresh(*slow, 0, [] {}), Refreshed::kUnderWay);
  issuer.Pass(10min);
  EXPECT_EQ(hanging, 3);
  answer.Notify();
  EXPECT_TRUE(WaitFor([&] { return slow->generation() != 0 && slower->generation() != 0; }));
  EXPECT_TRUE(WaitFor([&] { return slowest->generation() != 0; }));
}

// Any number of tokens with unknown key IDs: one fetch per half minute.
TEST(KeyFetcher, UnknownKeysAreNoStampede) {
  Issuer issuer;
  const TokenSigner a(JwsAlgorithm::kEdDsa, "a");
  issuer.Publish(a.Jwks());
  KeyFetcher fetcher(issuer.Options());
  const auto source = fetcher.Find(kUrl, 10min);
  ASSERT_TRUE(WaitFor([&] { return source->generation() != 0; }));
  std::atomic<int> done{0};
  const auto refresh = [&] {
    return fetcher.Refresh(*source, source->generation(), [&done] { ++done; }) == Refreshed::kUnderWay;
  };
  int waiting = 0;
  for (int fetches = 2; fetches < 4; ++fetches) {
    const int before = waiting;
    for (int i = 0; i < 1000; ++i) waiting += refresh() ? 1 : 0;
    EXPECT_GT(waiting, before);
    EXPECT_TRUE(WaitFor([&] { return done == waiting; }));
    for (int i = 0; i < 1000; ++i) EXPECT_FALSE(refresh());
    EXPECT_EQ(issuer.asked, fetches);
    issuer.Pass(30s);
  }
}

TEST(KeyFetcher, ForgetsWhatNobodyHolds) {
  Issuer issuer;
  KeyFetcher fetcher(issuer.Options());
  auto source = fetcher.Find(kUrl, 10min);
  ASSERT_TRUE(WaitFor([&] { return issuer.asked == 1; }));
  source = nullptr;
  EXPECT_TRUE(WaitFor([&] { return fetcher.Rows().empty(); }));
}

TEST(FetchUrl, RefusesOtherProtocols) {
  for (const char* url : {"file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "x", ""}) {
    EXPECT_FALSE(FetchUrl(url, 1s).ok()) << url;
  }
}

// Responds to "/to?URL" with a redirect to URL, to "/3" with one to "/2", to "/1" with one to "/keys", and there with
// 200.
struct Redirector {
  fixtures::ScriptedUpstream upstream{fixtures::Respond([](const fixtures::UpstreamRequest& request) {
    const auto redirect = [](const std::string& to) {
      return fixtures::MakeResponse(302, "", "Location: " + to + "\r\n");
    };
    const std::string& target = request.target;
    if (target.starts_with("/to?")) return redirect(target.substr(4));
    if (target == "/user") return redirect("http://u:sekret@127.0.0.1/");
    if (target[1] < '1' || target[1] > '9') return fixtures::MakeResponse(200, "keys");
    return redirect(target[1] == '1' ? "/keys" : std::string("/") + static_cast<char>(target[1] - 1));
  })};
  std::string Url(const std::string& target) const {
    return "http://127.0.0.1:" + std::to_string(upstream.port()) + target;
  }
};

TEST(FetchUrl, ARedirectLeadsNowhereThatPolicyCouldNotName) {
  Redirector issuer;
  for (const std::string& to : {"http://127.0.0.2:" + std::to_string(issuer.upstream.port()) + "/keys",
                                std::string("http://169.254.169.254/latest/meta-data"),
                                std::string("http://example.com/"), std::string("ftp://127.0.0.1/"),
                                std::string("file:///etc/hostname"), std::string("http://127.0.0.1.example.com/")}) {
    const size_t before = issuer.upstream.requests().size();
    const auto text = FetchUrl(issuer.Url("/to?" + to), 5s);
    ASSERT_FALSE(text.ok()) << to;
    EXPECT_EQ(issuer.upstream.requests().size(), before + 1) << to << " got a request";
  }
  const auto with_user = FetchUrl(issuer.Url("/user"), 5s);
  ASSERT_FALSE(with_user.ok());
  EXPECT_EQ(std::string(with_user.status().message()).find("sekret"), std::string::npos) << with_user.status();
  EXPECT_EQ(FetchUrl(issuer.Url("/to?" + issuer.Url("/keys")), 5s).value_or(""), "keys");
  EXPECT_EQ(FetchUrl(issuer.Url("/to?/keys"), 5s).value_or(""), "keys");
}

TEST(FetchUrl, FollowsThreeRedirects) {
  Redirector issuer;
  EXPECT_EQ(FetchUrl(issuer.Url("/3"), 5s).value_or(""), "keys");
  const auto text = FetchUrl(issuer.Url("/4"), 5s);
  EXPECT_FALSE(text.ok());
  EXPECT_EQ(issuer.upstream.requests().size(), 4u + 4u);
}

}  // namespace
}  // namespace gateway
