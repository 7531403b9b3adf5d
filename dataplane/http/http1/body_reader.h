// Reads the body of an HTTP/1 message from its socket, piece by piece.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_BODY_READER_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_BODY_READER_H_

#include <cstdint>
#include <utility>

#include "dataplane/http/flow.h"
#include "dataplane/http/http1/body.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/socket.h"

namespace gateway::dataplane::http1 {

// Never reads past a body whose length is known; what it reads past a chunked one it keeps for the next message.
class BodyReader {
 public:
  BodyReader(Socket* socket, BufferPool* buffers, SplicePipePool* pipes) : socket_(socket), flow_(buffers, pipes) {}

  // The body that follows, whose first buffer has `first_bytes`. Its beginning is read with ReadHere.
  void Start(const BodyDecoder& body, size_t first_bytes) {
    body_ = body;
    flow_.Start(first_bytes);
  }
  // The same, where its beginning was read already, into `beginning`. The first Read gives what of the body is there,
  // without a system call, and leaves alone what lies before it.
  void StartWith(const BodyDecoder& body, size_t first_bytes, Buffer beginning) {
    Start(body, first_bytes);
    flow_.buffer = std::move(beginning);
    undecoded_ = true;
  }

  // The first bytes of the body, if they lie behind its header. Payload only; views hold as long as `data` does.
  // `*consumed`: bytes that were the body's.
  http::BodyRead ReadHere(char* data, size_t size, http::BodyPiece* piece, size_t* consumed);
  // BodySource::Read. `*received` counts up by the bytes that were the body's.
  http::BodyRead Read(http::BodyForms takes, http::BodyPiece* piece, uint64_t* received);
  // Gives the buffer to others, if nothing in it is still to be read.
  void Pause() {
    if (flow_.buffer.empty()) flow_.buffer.Reset();
  }

  // All of it was read.
  bool done() const { return body_.done() || ended_; }
  const char* detail() const { return body_.detail(); }
  // What was read behind the body, once: the beginning of the next message. Empty: nothing.
  Buffer TakeRest() { return has_rest() ? std::move(flow_.buffer) : Buffer(); }
  bool has_rest() const { return body_.done() && !flow_.buffer.empty(); }

 private:
  http::BodyRead Decode(bool framed, http::BodyPiece* piece, uint64_t* received);

  Socket* const socket_;
  BodyDecoder body_ = BodyDecoder::None();
  http::Flow flow_;
  bool undecoded_ = false;  // the buffer holds what Decode has not seen
  bool invalid_ = false;    // what follows the last piece
  bool ended_ = false;      // by the sender, of a body without framing
};

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_BODY_READER_H_
