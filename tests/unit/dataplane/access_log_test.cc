#include "dataplane/telemetry/access_log.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fixtures/temp_dir.h"
#include "tests/fixtures/wait_for.h"

namespace gateway::dataplane {
namespace {

using namespace std::chrono_literals;
using fixtures::TempDir;
using fixtures::WaitFor;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::unique_ptr<AccessLog> OpenLog(const std::string& path,
                                   v1::LoggingSection::Format format = v1::LoggingSection::JSON) {
  auto log = AccessLog::Open(path, format);
  EXPECT_TRUE(log.ok()) << log.status();
  return *std::move(log);
}

RequestRecord SomeRecord() {
  RequestRecord record;
  record.time = std::chrono::system_clock::time_point(1'767'323'045'678ms);  // 2026-01-02T03:04:05.678Z
  record.method = "GET";
  record.path = "/api/v1/orders?page=2";
  record.client_ip = "192.0.2.7";
  record.user_agent = "curl/8.0";
  record.request_id = "0123456789abcdef";
  record.service = "orders";
  record.route = "orders-route";
  record.endpoint = "10.0.0.7:8080";
  record.status = 200;
  record.duration = 12'345'678ns;
  record.upstream_duration = 11ms;
  record.bytes_in = 120;
  record.bytes_out = 4096;
  record.revision = 42;
  return record;
}

// The lines that the access log writes for `records`.
std::string Logged(const std::vector<RequestRecord>& records,
                   v1::LoggingSection::Format format = v1::LoggingSection::JSON) {
  const TempDir directory;
  auto log = OpenLog(directory.File("access.log"), format);
  AccessLogBuffer* buffer = log->NewBuffer();
  for (const RequestRecord& record : records) buffer->Write(record);
  log.reset();
  return directory.Read("access.log");
}

nlohmann::ordered_json LoggedJson(const RequestRecord& record) {
  return nlohmann::ordered_json::parse(Logged({record}));
}

size_t CountLines(const std::string& text) { return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')); }

TEST(AccessLog, JsonLineHasTheFieldsInTheirOrder) {
  EXPECT_EQ(Logged({SomeRecord()}),
            R"({"time":"2026-01-02T03:04:05.678Z","method":"GET","path":"/api/v1/orders?page=2",)"
            R"("client_ip":"192.0.2.7","consumer":"","user_agent":"curl/8.0","status":200,"duration_ms":12.346,)"
            R"("service":"orders","route":"orders-route","endpoint":"10.0.0.7:8080","upstream_duration_ms":11.000,)"
            R"("bytes_in":120,"bytes_out":4096,"request_id":"0123456789abcdef","reason":"","policy":"",)"
            R"("revision":42})"
            "\n");
}

TEST(AccessLog, WhatARequestHasNotIsEmptyOrNull) {
  RequestRecord record;
  record.status = 400;
  record.reason = Reason::kBadRequest;
  EXPECT_EQ(
      Logged({record}),
      R"({"time":"1970-01-01T00:00:00.000Z","method":"","path":"","client_ip":"","consumer":"","user_agent":"","status":400,)"
      R"("duration_ms":0.000,"service":"","route":"","endpoint":"","upstream_duration_ms":null,"bytes_in":0,)"
      R"("bytes_out":0,"request_id":"","reason":"bad_request","policy":"","revision":0})"
      "\n");
}

TEST(AccessLog, RejectionNamesReasonPolicyAndDetail) {
  RequestRecord record = SomeRecord();
  record.reason = Reason::kRateLimited;
  record.policy = "RateLimit/per-client";
  record.detail = "bare LF in the header";
  record.aborted = true;
  record.attempts = 3;
  const auto json = LoggedJson(record);
  EXPECT_EQ(json["attempts"], 3);
  EXPECT_EQ(json["reason"], "rate_limited");
  EXPECT_EQ(json["policy"], "RateLimit/per-client");
  EXPECT_EQ(json["detail"], "bare LF in the header");
  EXPECT_EQ(json["aborted"], true);
}

TEST(AccessLog, TimeIsRightAcrossSecondsAndLeapDays) {
  std::vector<RequestRecord> records(4);
  records[0].time = std::chrono::system_clock::time_point(951'782'399'999ms);
  records[1].time = std::chrono::system_clock::time_point(951'782'400'000ms);
  records[2].time = std::chrono::system_clock::time_point(951'868'800'001ms);
  records[3].time = std::chrono::system_clock::time_point(951'782'400'123ms);  // back in time
  const std::string text = Logged(records);
  EXPECT_THAT(text, StartsWith(R"({"time":"2000-02-28T23:59:59.999Z")"));
  EXPECT_THAT(text, HasSubstr(R"({"time":"2000-02-29T00:00:00.000Z")"));
  EXPECT_THAT(text, HasSubstr(R"({"time":"2000-03-01T00:00:00.001Z")"));
  EXPECT_THAT(text, HasSubstr(R"({"time":"2000-02-29T00:00:00.123Z")"));
}

// Each byte at each offset of two words and a bit, to cover both the copy by words and the copy by bytes.
TEST(AccessLog, EveryByteSurvivesJsonAtEveryPlace) {
  std::vector<std::string> agents;
  for (int byte = 0; byte < 128; ++byte) {
    for (size_t offset = 0; offset < 17; ++offset) {
      agents.emplace_back(17, 'x');
      agents.back()[offset] = static_cast<char>(byte);
    }
  }
  std::vector<RequestRecord> records(agents.size());
  for (size_t i = 0; i < agents.size(); ++i) records[i].user_agent = agents[i];

  std::istringstream lines(Logged(records));
  for (const std::string& agent : agents) {
    std::string line;
    ASSERT_TRUE(std::getline(lines, line));
    ASSERT_EQ(nlohmann::json::parse(line)["user_agent"], agent);
    for (const char c : line) ASSERT_TRUE(c >= 0x20 && c < 0x7f) << line;
  }
}

TEST(AccessLog, ValidUtf8IsKeptAndTheRestReplaced) {
  struct Case {
    std::string in, out;
  };
  const std::string bad = "\xef\xbf\xbd";  // U+FFFD
  const std::vector<Case> cases = {
      {"gr\xc3\xbc\xc3\x9f dich \xe2\x82\xac \xf0\x9f\x98\x80",
       "gr\xc3\xbc\xc3\x9f dich \xe2\x82\xac \xf0\x9f\x98\x80"},
      {"a\xff"
       "b",
       "a" + bad + "b"},
      {"\xc0\xaf", bad + bad},                      // overlong '/'
      {"\xe0\x80\xaf", bad + bad + bad},            // the same, longer
      {"\xed\xa0\x80", bad + bad + bad},            // a surrogate
      {"\xf4\x90\x80\x80", bad + bad + bad + bad},  // above U+10FFFF
      {"\xf5\x80\x80\x80", bad + bad + bad + bad},
      {"cut \xe2\x82", "cut " + bad + bad},
      {"\xc3", bad},
      {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
      {"\xee\x80\x80", "\xee\x80\x80"},
      {"\xc2\x9b"
       "31m",
       "\xc2\x9b"
       "31m"},  // C1: escaped, and unchanged when parsed
  };
  for (const Case& c : cases) {
    RequestRecord record;
    record.user_agent = c.in;
    EXPECT_EQ(LoggedJson(record)["user_agent"], c.out);
  }
  RequestRecord record;
  record.user_agent =
      "\xc2\x9b"
      "31m";
  EXPECT_THAT(Logged({record}), HasSubstr(R"("user_agent":"\u009b31m")"));
}

TEST(AccessLog, LongFieldsAreCutSoThatALineFits) {
  const std::string controls(100'000, '\x01');  // six bytes each when escaped
  RequestRecord record = SomeRecord();
  record.method = record.path = record.client_ip = record.user_agent = record.request_id = record.service =
      record.route = record.endpoint = record.policy = record.detail = controls;
  const std::string text = Logged({record, record, SomeRecord()});
  EXPECT_EQ(CountLines(text), 3u);
  const auto json = nlohmann::json::parse(text.substr(0, text.find('\n')));
  EXPECT_EQ(json["path"].get<std::string>().size(), 8192u);
  EXPECT_EQ(json["user_agent"].get<std::string>().size(), 1024u);
}

TEST(AccessLog, TextLineIsForPeople) {
  RequestRecord record = SomeRecord();
  record.user_agent = "say \"hi\"\n";
  EXPECT_EQ(Logged({record}, v1::LoggingSection::TEXT),
            "2026-01-02T03:04:05.678Z 200 GET /api/v1/orders?page=2 12.346ms client=192.0.2.7 service=orders "
            "route=orders-route endpoint=10.0.0.7:8080 upstream=11.000ms in=120 out=4096 revision=42 "
            "id=0123456789abcdef agent=\"say \\\"hi\\\"\\n\"\n");
  RequestRecord refused;
  refused.status = 400;
  refused.method = "GET";
  refused.reason = Reason::kBadRequest;
  refused.detail = "bare LF";
  EXPECT_EQ(Logged({refused}, v1::LoggingSection::TEXT),
            "1970-01-01T00:00:00.000Z 400 GET  0.000ms client= reason=bad_request in=0 out=0 revision=0 "
            "detail=\"bare LF\"\n");
}

TEST(AccessLog, FlushedLinesReachTheFileWhileTheLogIsOpen) {
  const TempDir directory;
  auto log = OpenLog(directory.File("access.log"));
  AccessLogBuffer* buffer = log->NewBuffer();
  EXPECT_TRUE(buffer->empty());
  buffer->Write(SomeRecord());
  EXPECT_FALSE(buffer->empty());
  buffer->Flush();
  EXPECT_TRUE(buffer->empty());
  EXPECT_TRUE(WaitFor([&] { return CountLines(directory.Read("access.log")) == 1; }));
}

TEST(AccessLog, LinesOfOneWorkerKeepTheirOrderAndNoneIsLost) {
  constexpr int kWorkers = 3, kLines = 3000;
  const TempDir directory;
  auto log = OpenLog(directory.File("access.log"));
  std::vector<std::thread> workers;
  for (int worker = 0; worker < kWorkers; ++worker) {
    workers.emplace_back([buffer = log->NewBuffer(), worker, &log] {
      const std::string name = std::to_string(worker);
      for (int i = 0; i < kLines; ++i) {
        RequestRecord record = SomeRecord();
        record.service = name;
        record.revision = static_cast<uint64_t>(i);
        buffer->Write(record);
        if (i % 500 == 0) {
          buffer->Flush();
          if (worker == 0) log->Reopen();  // the same file again: no effect
        }
      }
      buffer->Flush();
    });
  }
  for (auto& worker : workers) worker.join();
  EXPECT_EQ(log->dropped_lines(), 0u);
  log.reset();

  std::istringstream text(directory.Read("access.log"));
  std::vector<uint64_t> next(kWorkers, 0);
  for (std::string line; std::getline(text, line);) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["revision"], next[static_cast<size_t>(std::stoi(json["service"].get<std::string>()))]++);
  }
  EXPECT_THAT(next, testing::Each(uint64_t{kLines}));
}

TEST(AccessLog, ReopenAfterARotationLosesNoLine) {
  const TempDir directory;
  const std::string path = directory.File("access.log");
  auto log = OpenLog(path);
  AccessLogBuffer* buffer = log->NewBuffer();
  buffer->Write(SomeRecord());
  buffer->Flush();
  ASSERT_EQ(rename(path.c_str(), directory.File("access.log.1").c_str()), 0);
  log->Reopen();
  ASSERT_TRUE(WaitFor([&] { return access(path.c_str(), F_OK) == 0; }));
  buffer->Write(SomeRecord());
  buffer->Flush();
  EXPECT_TRUE(WaitFor([&] { return CountLines(directory.Read("access.log")) >= 1; }));
  log.reset();
  EXPECT_EQ(CountLines(directory.Read("access.log")) + CountLines(directory.Read("access.log.1")), 2u);
}

TEST(AccessLog, AFileThatCannotBeReopenedIsUsedOn) {
  const TempDir directory;
  const std::string folder = directory.File("logs");
  ASSERT_EQ(mkdir(folder.c_str(), 0755), 0);
  auto log = OpenLog(folder + "/access.log");
  AccessLogBuffer* buffer = log->NewBuffer();
  const std::string moved = directory.File("moved");
  ASSERT_EQ(rename(folder.c_str(), moved.c_str()), 0);
  log->Reopen();
  buffer->Write(SomeRecord());
  log.reset();
  EXPECT_EQ(CountLines(directory.Read("moved/access.log")), 1u);
}

TEST(AccessLog, AFileThatCannotBeOpenedIsAnErrorThatNamesIt) {
  const TempDir directory;
  const auto log = AccessLog::Open(directory.File("missing/access.log"), v1::LoggingSection::JSON);
  ASSERT_FALSE(log.ok());
  EXPECT_THAT(std::string(log.status().message()), HasSubstr("missing/access.log"));
}

TEST(AccessLog, AFullDiskCostsLinesAndIsCounted) {
  auto log = OpenLog("/dev/full");
  AccessLogBuffer* buffer = log->NewBuffer();
  for (int i = 0; i < 3; ++i) buffer->Write(SomeRecord());
  buffer->Flush();
  EXPECT_TRUE(WaitFor([&] { return log->dropped_lines() == 3; }));
  EXPECT_EQ(log->write_errors(), 1u);
}

class Fifo {
 public:
  Fifo() : path_(directory_.File("fifo")) {
    EXPECT_EQ(mkfifo(path_.c_str(), 0600), 0);
    reader_ = open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    EXPECT_GE(reader_, 0);
  }
  ~Fifo() { Close(); }
  const std::string& path() const { return path_; }
  void Close() {
    if (reader_ >= 0) close(reader_);
    reader_ = -1;
  }
  // What is available now.
  std::string Read() {
    std::string text(1 << 16, '\0');
    const ssize_t length = read(reader_, text.data(), text.size());
    text.resize(length > 0 ? static_cast<size_t>(length) : 0);
    return text;
  }

 private:
  TempDir directory_;
  std::string path_;
  int reader_ = -1;
};

TEST(AccessLog, AStalledReaderNeverHoldsUpAWorkerAndDropsAreCounted) {
  Fifo fifo;
  auto log = OpenLog(fifo.path());
  AccessLogBuffer* buffer = log->NewBuffer();
  // Twice what pipe, queue and buffers hold together. A Write that waited for the reader would never return.
  const uint64_t lines = 2 * (AccessLog::kQueuedBuffersMax + 2) * AccessLog::kBufferBytes / 300;
  for (uint64_t i = 0; i < lines; ++i) {
    RequestRecord record = SomeRecord();
    record.revision = i;
    buffer->Write(record);
  }
  buffer->Flush();
  EXPECT_GT(log->dropped_lines(), lines / 4);
  EXPECT_LT(log->dropped_lines(), lines);

  // The reader comes back: queued lines arrive complete.
  std::string text;
  uint64_t arrived = 0;
  const uint64_t dropped = log->dropped_lines();
  EXPECT_TRUE(WaitFor(
      [&] {
        for (std::string piece = fifo.Read(); !piece.empty(); piece = fifo.Read()) {
          arrived += CountLines(piece);
          text += piece;
        }
        return arrived == lines - dropped;
      },
      30s));
  EXPECT_EQ(log->dropped_lines(), dropped);
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) ASSERT_TRUE(nlohmann::json::accept(line)) << line;
}

TEST(AccessLog, ClosingGivesUpOnAStalledReaderAfterASecond) {
  Fifo fifo;
  auto log = OpenLog(fifo.path());
  AccessLogBuffer* buffer = log->NewBuffer();
  for (int i = 0; i < 5000; ++i) buffer->Write(SomeRecord());
  const auto begin = std::chrono::steady_clock::now();
  log.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

TEST(AccessLog, AReaderThatIsGoneIsAnErrorNotASignal) {
  Fifo fifo;
  auto log = OpenLog(fifo.path());
  AccessLogBuffer* buffer = log->NewBuffer();
  fifo.Close();
  buffer->Write(SomeRecord());
  buffer->Flush();
  EXPECT_TRUE(WaitFor([&] { return log->dropped_lines() == 1; }));
  EXPECT_GE(log->write_errors(), 1u);
}

// A line cut by an error must not swallow the next one.
TEST(AccessLog, AfterALineWasCutTheNextBeginsOnItsOwn) {
  const TempDir directory;
  const std::string path = directory.File("access.log");
  std::string text;
  {
    // In a child, since the file size limit applies to the process.
    EXPECT_EXIT(
        {
          signal(SIGXFSZ, SIG_IGN);
          rlimit limit{};
          getrlimit(RLIMIT_FSIZE, &limit);
          const rlimit unlimited = limit;
          limit.rlim_cur = 100;
          setrlimit(RLIMIT_FSIZE, &limit);
          auto log = OpenLog(path);
          AccessLogBuffer* buffer = log->NewBuffer();
          buffer->Write(SomeRecord());
          buffer->Flush();
          if (!WaitFor([&] { return log->dropped_lines() == 1; })) _exit(1);
          setrlimit(RLIMIT_FSIZE, &unlimited);
          buffer->Write(SomeRecord());
          log.reset();
          _exit(0);
        },
        testing::ExitedWithCode(0), "");
  }
  text = directory.Read("access.log");
  ASSERT_EQ(CountLines(text), 2u) << text;
  EXPECT_EQ(text.find('\n'), 100u);
  EXPECT_TRUE(nlohmann::json::accept(text.substr(101)));
}

}  // namespace
}  // namespace gateway::dataplane
