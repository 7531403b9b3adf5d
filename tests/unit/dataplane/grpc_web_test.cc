#include "dataplane/http/grpc_web.h"

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "common/base/base64.h"
#include "gtest/gtest.h"

namespace gateway::dataplane::http {
namespace {

std::string Padded(std::string_view bytes) {
  std::string text = EncodeBase64(Base64::kStandard, bytes);
  text.resize((text.size() + 3) / 4 * 4, '=');
  return text;
}

// Returns its pieces one by one, with result `last` for the last one.
class Pieces final : public BodySource {
 public:
  explicit Pieces(std::deque<std::string> pieces) : pieces_(std::move(pieces)) {}
  BodyRead Read(BodyForms, BodyPiece* piece) override {
    now_ = pieces_.front();
    pieces_.pop_front();
    *piece = {};
    piece->bytes = now_;
    piece->payload = now_.size();
    piece->last = pieces_.empty();
    return BodyRead::kPiece;
  }
  void ExtendRead(TimePoint) override {}
  void Interrupt() override {}

 private:
  bool IsReadable() const override { return true; }
  void SuspendRead(std::coroutine_handle<>, TimePoint) override {}
  Wait ResumeRead(bool) override { return Wait::kReady; }
  std::deque<std::string> pieces_;
  std::string now_;
};

class Kept final : public BodySink {
 public:
  BodyForms takes() const override { return {}; }
  Io Write(const BodyPiece& piece) override {
    text += piece.bytes;
    last = piece.last;
    trailers = piece.trailers.size();
    return Io::kDone;
  }
  Task<Io> Flush(std::chrono::milliseconds, TimePoint) override { co_return Io::kDone; }
  std::string text;
  bool last = false;
  size_t trailers = 0;
};

TEST(GrpcWeb, IsToldByItsContentType) {
  const auto binary = ParseGrpcWebType("application/grpc-web+proto");
  ASSERT_TRUE(binary);
  EXPECT_FALSE(binary->text);
  EXPECT_EQ(binary->suffix, "+proto");
  const auto text = ParseGrpcWebType("application/grpc-web-text");
  ASSERT_TRUE(text);
  EXPECT_TRUE(text->text);
  EXPECT_EQ(text->suffix, "");
  for (const std::string_view none : {"application/grpc", "application/grpc-webby", "application/grpc-web-texts", ""}) {
    EXPECT_FALSE(ParseGrpcWebType(none)) << none;
  }
}

TEST(GrpcWeb, Base64IsReadAcrossPiecesAndPaddingInside) {
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  // Three flushes, each with its own padding.
  const std::string text = Padded(all.substr(0, 100)) + Padded(all.substr(100, 1)) + Padded(all.substr(101));
  for (size_t size = 1; size < 9; ++size) {
    std::deque<std::string> pieces;
    for (size_t at = 0; at < text.size(); at += size) pieces.push_back(text.substr(at, size));
    Pieces source(pieces);
    GrpcWebSource web(&source, Base64Reader());
    std::string got;
    BodyPiece piece;
    while (!piece.last) {
      ASSERT_EQ(web.Read({}, &piece), BodyRead::kPiece);
      EXPECT_TRUE(!piece.bytes.empty() || piece.last);
      got += piece.bytes;
    }
    EXPECT_EQ(got, all) << size;
  }
}

TEST(GrpcWeb, WhatIsNotBase64IsInvalid) {
  for (const std::string text : {"AA=A", "A", "A===", "AA!A", "=", "AAAA====", "AA==="}) {
    Pieces source({text});
    GrpcWebSource web(&source, Base64Reader());
    BodyPiece piece;
    EXPECT_EQ(web.Read({}, &piece), BodyRead::kInvalid) << text;
    EXPECT_STRNE(web.detail(), "");
  }
}

TEST(GrpcWeb, TrailersStandBehindTheBody) {
  const std::vector<FieldView> trailers = {{"grpc-status", "0"}, {"grpc-message", "ok"}};
  const std::string lines = "grpc-status:0\r\ngrpc-message:ok\r\n";
  const std::string frame = std::string("\x80\0\0\0", 4) + static_cast<char>(lines.size()) + lines;
  for (const bool text : {false, true}) {
    Kept kept;
    GrpcWebSink sink(&kept, text);
    EXPECT_EQ(sink.Write({.bytes = "message", .payload = 7}), Io::kDone);
    EXPECT_FALSE(kept.last);
    EXPECT_EQ(sink.Write({.bytes = "more", .payload = 4, .last = true, .trailers = trailers}), Io::kDone);
    EXPECT_TRUE(kept.last);
    EXPECT_EQ(kept.trailers, 0u);
    EXPECT_EQ(kept.text, text ? Padded("message") + Padded("more" + frame) : "messagemore" + frame);
  }
}

}  // namespace
}  // namespace gateway::dataplane::http
