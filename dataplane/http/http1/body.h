// Bodies of HTTP/1.1 messages: framing removed in place, and added again (RFC 9112, sections 6 and 7).
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_BODY_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_BODY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gateway::dataplane::http1 {

// Fields that say how a message is framed, routed or authenticated, or who calls, never come after it (RFC 9110,
// section 6.5.1).
bool IsForbiddenTrailer(std::string_view name);

// Takes the framing off. Keeps its place between calls, so every byte is seen once and none has to be kept.
class BodyDecoder {
 public:
  static constexpr size_t kExtensionBytesMax = 16 * 1024;  // of all chunks of a message
  static constexpr size_t kTrailerBytesMax = 8 * 1024;
  static constexpr int kSizeDigitsMax = 16;
  static constexpr uint64_t kChunkBytesMax =
      INT64_MAX;  // more is not a size for receivers that count in signed numbers
  // Larger chunks are cut again: receivers have been known to count in 32 bits.
  static constexpr uint64_t kKeptChunkBytesMax = 16 * 1024 * 1024;

  static BodyDecoder None() { return BodyDecoder(Mode::kNone, 0); }
  static BodyDecoder Length(uint64_t length) { return BodyDecoder(length == 0 ? Mode::kNone : Mode::kLength, length); }
  static BodyDecoder Chunked() { return BodyDecoder(Mode::kChunked, 0); }
  // Of a response, whose trailers are dropped: an invalid one costs the client nothing.
  static BodyDecoder ChunkedAnswer() {
    BodyDecoder decoder = Chunked();
    decoder.any_trailer_ = true;
    return decoder;
  }
  static BodyDecoder UntilClose() { return BodyDecoder(Mode::kUntilClose, 0); }

  struct Result {
    size_t payload = 0;   // bytes of the body
    size_t consumed = 0;  // bytes of `data` that were the message's; fewer than `size` only if it is done or refused
    bool refused = false;
    // What is passed on, one behind the other: `kept` in `data`, the others in this decoder or constant. They hold
    // until the next call.
    std::string_view before{};
    std::string_view kept{};
    std::string_view after{};
  };
  // Decodes data[0, size), moving the payload of chunks together at the front: that is what is kept.
  Result Decode(char* data, size_t size);

  // Of a chunked body whose receiver gets it in chunks too: checks as Decode does and encodes again, but leaves the
  // bytes where they are, framing and all, as long as they are what an encoder would have written. Extensions, leading
  // zeros and trailers go; chunks stay as they were cut, except those above kKeptChunkBytesMax. It may take over from
  // Decode at any byte, not the other way round.
  Result Recode(char* data, size_t size) { return ReadChunks(data, size, true); }

  // Of a length: so many of its bytes (at most what is left) went by elsewhere.
  void Advance(size_t bytes) {
    left_ -= bytes;
    done_ = left_ == 0;
  }
  // Bytes of a length that are still to come; 0 where only decoding tells.
  uint64_t LengthLeft() const { return mode_ == Mode::kLength ? left_ : 0; }

  bool done() const { return mode_ == Mode::kNone || done_; }
  bool until_close() const { return mode_ == Mode::kUntilClose; }
  bool chunked() const { return mode_ == Mode::kChunked; }
  // How many bytes may be read without reading past the body; SIZE_MAX where only decoding tells.
  size_t ReadableBytes() const;
  const char* detail() const { return detail_; }  // after `refused`

 private:
  enum class Mode : uint8_t { kNone, kLength, kChunked, kUntilClose };
  enum class State : uint8_t { kSize, kExtension, kSizeLf, kData, kDataCr, kDataLf, kTrailer, kTrailerLf, kEndLf };
  // Where in a chunk's extensions: name, "=" and value, each with space around it (RFC 9112, section 7.1.1).
  enum class Extension : uint8_t {
    kNameBegin,
    kName,
    kNameEnd,
    kValueBegin,
    kToken,
    kQuoted,
    kQuotedPair,
    kValueEnd,
    kSpace,
  };
  BodyDecoder(Mode mode, uint64_t left) : mode_(mode), left_(left) {}
  bool NextOfExtension(char c);
  bool EndTrailerLine();
  Result ReadChunks(char* data, size_t size, bool framed);
  uint64_t Promise(size_t here);

  Mode mode_;
  State state_ = State::kSize;
  Extension extension_ = Extension::kNameBegin;
  bool done_ = false;
  bool any_trailer_ = false;
  int digits_ = 0;
  uint64_t left_;  // of the body, or of the chunk
  size_t extension_bytes_ = 0;
  size_t trailer_bytes_ = 0;
  std::string trailer_line_;
  const char* detail_ = "";
  // Of Recode: whether the head of the current chunk has gone on, and how much it still promises.
  bool head_sent_ = false;
  uint64_t promised_ = 0;
  std::array<char, 20> head_room_;
};

// "1a2b\r\n" for a chunk of `bytes`; the view is into `room`.
std::string_view ChunkHead(size_t bytes, std::array<char, 20>* room);
inline constexpr std::string_view kChunkEnd = "\r\n";
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_BODY_H_
