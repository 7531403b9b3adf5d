#include "dataplane/http/grpc.h"

#include <chrono>
#include <string>
#include <vector>

#include "common/base/grpc_code.h"
#include "gtest/gtest.h"

namespace gateway::dataplane::http {
namespace {

using namespace std::chrono_literals;

TEST(Grpc, IsToldByItsContentType) {
  for (const std::string_view type :
       {"application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "Application/GRPC"}) {
    EXPECT_TRUE(IsGrpcContentType(type)) << type;
  }
  for (const std::string_view type : {"", "application/grp", "application/grpc-web", "application/grpc-web+proto",
                                      "application/grpcs", "text/plain"}) {
    EXPECT_FALSE(IsGrpcContentType(type)) << type;
  }
}

TEST(Grpc, TimeoutsHaveAUnitAndEightDigits) {
  EXPECT_EQ(ParseGrpcTimeout("1H"), 1h);
  EXPECT_EQ(ParseGrpcTimeout("2M"), 2min);
  EXPECT_EQ(ParseGrpcTimeout("3S"), 3s);
  EXPECT_EQ(ParseGrpcTimeout("100m"), 100ms);
  EXPECT_EQ(ParseGrpcTimeout("5u"), 5us);
  EXPECT_EQ(ParseGrpcTimeout("99999999n"), 99'999'999ns);
  EXPECT_EQ(ParseGrpcTimeout("0S"), 0s);
  EXPECT_EQ(ParseGrpcTimeout("99999999H"), kGrpcTimeoutMax);
  for (const std::string_view text : {"", "S", "1", "-1S", "+1S", "1.5S", " 1S", "1s", "123456789S"}) {
    EXPECT_FALSE(ParseGrpcTimeout(text)) << text;
  }
}

TEST(Grpc, StatusesAreFoundWhateverStandsAround) {
  const auto find = [](const std::vector<FieldView>& fields) { return FindGrpcStatus(fields); };
  EXPECT_EQ(find({}), -1);
  EXPECT_EQ(find({{"x", "1"}, {"grpc-status", "14"}}), 14);
  EXPECT_EQ(find({{"Grpc-Status", "0"}}), 0);
  for (const std::string_view wrong : {"", "x", "17", "-1", "1 "})
    EXPECT_EQ(find({{"grpc-status", wrong}}), 2) << wrong;
}

TEST(Grpc, StatusesOfHttpHaveOnesOfGrpc) {
  const std::vector<std::pair<int, int>> table = {{400, 13}, {401, 16}, {403, 7}, {404, 12}, {429, 8}, {502, 14},
                                                  {503, 14}, {504, 4},  {413, 2}, {500, 2},  {501, 2}, {408, 2}};
  for (const auto& [status, code] : table) EXPECT_EQ(GrpcCodeOfStatus(status), code) << status;
  for (int code = 0; code < kGrpcCodesMax; ++code) {
    const bool failure = StatusOfGrpcCode(code) >= 500;
    EXPECT_EQ(failure, code == 2 || code == 4 || code == 13 || code == 14 || code == 15) << code;
    EXPECT_EQ(GrpcCodeOf(GrpcCodeName(code)), code);
  }
}

TEST(Grpc, MessagesArePercentEncoded) {
  std::string out;
  AppendGrpcMessage(&out, "100% \xc3\xa4\n~");
  EXPECT_EQ(out, "100%25 %C3%A4%0A~");
}

}  // namespace
}  // namespace gateway::dataplane::http
