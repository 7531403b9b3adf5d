#include "dataplane/proxy/relay.h"

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/unit/proxy/scripted_streams.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;

class Observer final : public RelayObserver {
 public:
  http::BodyForms forms;
  RelayEnd verdict = RelayEnd::kRunning;
  TimePoint deadline = TimePoint::max();
  bool stopped = false;
  int pieces = 0;

  http::BodyForms Forms() override { return forms; }
  RelayEnd OnPiece(const http::BodyPiece&) override {
    ++pieces;
    return verdict;
  }
  TimePoint ReadDeadline(TimePoint) override { return deadline; }
  bool Stopped() const override { return stopped; }
};

// One relay between a scripted source and sink.
class RelayTest : public ::testing::Test {
 protected:
  RelayTest() : start_(loop_.now()) {}

  void Start(RelayLimits limits = {1s}) {
    task_.emplace(Relay(&loop_, &source_, &sink_, &observer_, limits));
    task_->Start();
  }
  bool done() const { return task_->done(); }
  RelayEnd end() { return done() ? task_->Done().await_resume() : RelayEnd::kRunning; }

  EventLoop loop_;
  const TimePoint start_;
  ScriptedSource source_;
  ScriptedSink sink_;
  Observer observer_;
  std::optional<Task<RelayEnd>> task_;
};

TEST_F(RelayTest, MovesABodyToItsEnd) {
  source_.Give("one ");
  source_.Give("two ");
  source_.Give("", true);
  Start();
  EXPECT_EQ(end(), RelayEnd::kComplete);
  EXPECT_EQ(sink_.text(), "one two ");
  EXPECT_TRUE(sink_.ended());
  EXPECT_EQ(observer_.pieces, 3);
}

TEST_F(RelayTest, WaitsForWhatIsStillToCome) {
  source_.Give("one ");
  Start();
  EXPECT_FALSE(done());
  EXPECT_TRUE(source_.waits());
  EXPECT_EQ(sink_.text(), "one ");
  source_.Give("two", true);
  source_.Resume(Wait::kReady);
  EXPECT_EQ(end(), RelayEnd::kComplete);
  EXPECT_EQ(sink_.text(), "one two");
}

TEST_F(RelayTest, ReadsNothingBeforeTheSinkHasTakenWhatWasRead) {
  source_.Give("one ");
  source_.Give("two", true);
  sink_.Block();
  Start();
  EXPECT_TRUE(sink_.flushes());
  EXPECT_EQ(source_.reads(), 1);
  sink_.ResumeFlush(Io::kDone);
  EXPECT_EQ(end(), RelayEnd::kComplete);
  EXPECT_EQ(source_.reads(), 2);
}

TEST_F(RelayTest, EndsWhereTheSourceDoes) {
  for (const auto& [read, expected] : {std::pair{http::BodyRead::kCutShort, RelayEnd::kSourceGone},
                                       std::pair{http::BodyRead::kInvalid, RelayEnd::kInvalid},
                                       std::pair{http::BodyRead::kOverloaded, RelayEnd::kOverloaded}}) {
    source_.Give("some");
    source_.End(read);
    Start();
    EXPECT_EQ(end(), expected);
    EXPECT_FALSE(sink_.ended());
  }
}

TEST_F(RelayTest, EndsWhereTheSinkIsGone) {
  source_.Give("some");
  sink_.Break();
  Start();
  EXPECT_EQ(end(), RelayEnd::kSinkGone);
}

TEST_F(RelayTest, TellsASinkThatStallsFromTheEndOfTheTime) {
  for (const bool late : {false, true}) {
    loop_.SetNow(start_);
    source_.Give("some");
    sink_.Block();
    Start({1s, start_ + 10s});
    loop_.SetNow(start_ + (late ? 10s : 1s));
    sink_.ResumeFlush(Io::kAgain);
    EXPECT_EQ(end(), late ? RelayEnd::kOutOfTime : RelayEnd::kSinkStalled);
  }
}

TEST_F(RelayTest, ASourceStallsAtTheDeadlineOfItsObserver) {
  observer_.deadline = start_ + 5s;
  Start();
  EXPECT_EQ(source_.deadline(), start_ + 5s);
  loop_.SetNow(start_ + 5s);
  source_.Resume(Wait::kTimeout);
  EXPECT_EQ(end(), RelayEnd::kSourceStalled);
}

TEST_F(RelayTest, ADeadlineThatHasMovedIsWaitedForAgain) {
  observer_.deadline = start_ + 5s;
  Start();
  observer_.deadline = start_ + 8s;  // the other direction of a tunnel was busy
  loop_.SetNow(start_ + 5s);
  source_.Resume(Wait::kTimeout);
  EXPECT_FALSE(done());
  EXPECT_EQ(source_.deadline(), start_ + 8s);
  loop_.SetNow(start_ + 8s);
  source_.Resume(Wait::kTimeout);
  EXPECT_EQ(end(), RelayEnd::kSourceStalled);
}

TEST_F(RelayTest, TheEndOfTheTimeComesBeforeALaterDeadline) {
  observer_.deadline = start_ + 5s;
  Start({1s, start_ + 3s});
  EXPECT_EQ(source_.deadline(), start_ + 3s);
  loop_.SetNow(start_ + 3s);
  source_.Resume(Wait::kTimeout);
  EXPECT_EQ(end(), RelayEnd::kOutOfTime);
}

TEST_F(RelayTest, ACancelledWaitIsASourceThatIsGone) {
  Start();
  source_.Resume(Wait::kCancelled);
  EXPECT_EQ(end(), RelayEnd::kSourceGone);
}

TEST_F(RelayTest, AnObserverStopsItAtItsNextWait) {
  Start();
  observer_.stopped = true;
  source_.Interrupt();
  EXPECT_EQ(end(), RelayEnd::kStopped);
}

TEST_F(RelayTest, APieceThatItsObserverRejectsGoesNoFurther) {
  observer_.verdict = RelayEnd::kTooLarge;
  source_.Give("too much");
  Start();
  EXPECT_EQ(end(), RelayEnd::kTooLarge);
  EXPECT_EQ(sink_.text(), "");
}

TEST_F(RelayTest, AsksForTheFormsThatTheSinkTakesAndNobodyHasToReadBetween) {
  ScriptedSink sink;
  sink.set_forms({.framed = true, .pipe = false});
  observer_.forms = {.framed = true, .pipe = true};
  source_.Give("all of it", true);
  Task<RelayEnd> task = Relay(&loop_, &source_, &sink, &observer_, {1s});
  task.Start();
  ASSERT_TRUE(task.done());
  ASSERT_EQ(source_.asked().size(), 1u);
  EXPECT_TRUE(source_.asked()[0].framed);
  EXPECT_FALSE(source_.asked()[0].pipe);
}

TEST_F(RelayTest, GivesOthersTheirTurnInALongFlow) {
  const std::string much(kRelayBytesPerTurnMax / 2, 'x');
  for (int i = 0; i < 5; ++i) source_.Give(much, i == 4);
  Start();
  EXPECT_FALSE(done());
  EXPECT_EQ(source_.pauses(), 1);
  EXPECT_EQ(sink_.text().size(), kRelayBytesPerTurnMax);
  loop_.Stop();  // each run is one turn
  while (!done()) loop_.Run();
  EXPECT_EQ(end(), RelayEnd::kComplete);
  EXPECT_EQ(source_.pauses(), 2);
}

}  // namespace
}  // namespace gateway::dataplane
