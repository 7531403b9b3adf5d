#include "dataplane/http/http1/body_reader.h"

#include <algorithm>

namespace gateway::dataplane::http1 {

using http::BodyPiece;
using http::BodyRead;

BodyRead BodyReader::ReadHere(char* data, size_t size, BodyPiece* piece, size_t* consumed) {
  const auto result = body_.Decode(data, size);
  *consumed = result.consumed;
  if (result.refused) return BodyRead::kInvalid;
  *piece = {.bytes = {data, result.payload}, .payload = result.payload, .last = body_.done()};
  return result.payload > 0 || piece->last ? BodyRead::kPiece : BodyRead::kWait;
}

// Of what the buffer holds, which stays readable until the next read. kWait: nothing of it is passed on.
BodyRead BodyReader::Decode(bool framed, BodyPiece* piece, uint64_t* received) {
  Buffer& buffer = flow_.buffer;
  const auto result = framed ? body_.Recode(buffer.data(), buffer.size()) : body_.Decode(buffer.data(), buffer.size());
  *received += result.consumed;
  buffer.Skip(result.consumed);
  if (result.refused) {
    if (result.kept.empty()) return BodyRead::kInvalid;
    invalid_ = true;  // what is valid is passed on first
  }
  *piece = {.before = result.before,
            .bytes = result.kept,
            .after = result.after,
            .payload = result.payload,
            .framed = framed,
            .last = body_.done()};
  return piece->size() > 0 || piece->last ? BodyRead::kPiece : BodyRead::kWait;
}

BodyRead BodyReader::Read(http::BodyForms takes, BodyPiece* piece, uint64_t* received) {
  const bool framed = takes.framed && body_.chunked();
  takes.pipe = takes.pipe && socket_->CanSplice();
  if (invalid_) return BodyRead::kInvalid;
  if (undecoded_) {
    undecoded_ = false;
    return Decode(framed, piece, received);
  }
  for (;;) {
    if (flow_.buffer) flow_.buffer.Clear();
    if (!takes.pipe) flow_.pipe.Reset();
    if (!flow_.MakeRoom(takes.pipe ? body_.LengthLeft() : 0)) return BodyRead::kOverloaded;
    const size_t room = std::min(flow_.room(), body_.ReadableBytes());
    size_t moved = 0;
    const Io io = socket_->cancelled() ? Io::kError
                  : flow_.pipe         ? socket_->ReadInto(&flow_.pipe, room, &moved)
                                       : socket_->Read(flow_.buffer.space(), room, &moved);
    switch (io) {
      case Io::kDone:
        break;
      case Io::kAgain:
        flow_.GiveBack();
        return BodyRead::kWait;
      case Io::kEnd:
        if (!body_.until_close()) return BodyRead::kCutShort;
        ended_ = true;
        *piece = {.last = true};
        return BodyRead::kPiece;
      case Io::kError:
        return BodyRead::kCutShort;
    }
    if (flow_.pipe) {
      *received += moved;
      body_.Advance(moved);
      *piece = {.pipe = &flow_.pipe, .payload = moved, .last = body_.done()};
      return BodyRead::kPiece;
    }
    flow_.Filled(moved);
    const BodyRead read = Decode(framed, piece, received);
    if (read != BodyRead::kWait) return read;
  }
}

}  // namespace gateway::dataplane::http1
