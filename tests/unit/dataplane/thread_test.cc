#include "common/base/thread.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>

#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

constexpr int kNiceMax = 19;

int NiceOfThisThread() { return getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())); }

std::string NameOfThisThread() {
  std::array<char, 16> name{};
  (void)pthread_getname_np(pthread_self(), name.data(), name.size());
  return name.data();
}

bool IsBlocked(int signal) {
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return sigismember(&mask, signal) == 1;
}

TEST(StartThread, HasANameCutWhereTheKernelCutsIt) {
  std::string name, cut;
  StartThread("worker-12", ThreadPriority::kServing, [&] { name = NameOfThisThread(); }).join();
  StartThread("a-name-of-20-letters", ThreadPriority::kServing, [&] { cut = NameOfThisThread(); }).join();
  EXPECT_EQ(name, "worker-12");
  EXPECT_EQ(cut, "a-name-of-20-le");
}

TEST(StartThread, SignalsAreNotItsOwn) {
  ASSERT_FALSE(IsBlocked(SIGTERM));
  bool term = false, pipe = false;
  StartThread("blocked", ThreadPriority::kServing, [&] {
    term = IsBlocked(SIGTERM);
    pipe = IsBlocked(SIGPIPE);
  }).join();
  EXPECT_TRUE(term);
  EXPECT_TRUE(pipe);
  EXPECT_FALSE(IsBlocked(SIGTERM)) << "the starting thread keeps its own mask";
}

TEST(StartThread, TheBackgroundHasLessPriorityAndNotLessStillWithinItself) {
  const int main = getpriority(PRIO_PROCESS, static_cast<id_t>(getpid()));
  int serving = 0, background = 0, inner = 0;
  StartThread("serving", ThreadPriority::kServing, [&] { serving = NiceOfThisThread(); }).join();
  StartThread("background", ThreadPriority::kBackground, [&] {
    background = NiceOfThisThread();
    StartThread("inner", ThreadPriority::kBackground, [&] { inner = NiceOfThisThread(); }).join();
  }).join();
  EXPECT_EQ(serving, main);
  EXPECT_EQ(background, std::min(main + kBackgroundNice, kNiceMax));
  EXPECT_EQ(inner, background);
  EXPECT_EQ(NiceOfThisThread(), main);
}

}  // namespace
}  // namespace gateway::dataplane
