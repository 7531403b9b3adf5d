// The one reading of a response's header: interim responses, framing, and whether its connection may be used again.
#ifndef GATEWAY_DATAPLANE_HTTP_HTTP1_RESPONSE_READER_H_
#define GATEWAY_DATAPLANE_HTTP_HTTP1_RESPONSE_READER_H_

#include <cstddef>
#include <cstdint>

#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"

namespace gateway::dataplane::http1 {

// Finds and parses the headers of one response, interim ones first. Reads no socket and no clock: callers bound the
// time.
class ResponseReader {
 public:
  static constexpr size_t kHeadBytesMax = 64 * 1024;     // of one header
  static constexpr size_t kInterimBytesMax = 64 * 1024;  // of all interim responses of one response

  enum class Result : uint8_t {
    kMore,
    kInterim,   // `head` is a 1xx; consume head_bytes() and read on
    kFinal,     // `head` is the response, or a 101
    kRejected,  // detail() says why
  };
  // `data` begins with the first byte that was not consumed, and only grows until a header is complete.
  Result Read(const char* data, size_t size, ResponseHead* head);

  size_t head_bytes() const { return scanner_.head_bytes(); }  // of the header that was read last
  const char* detail() const { return detail_; }               // after kRejected

 private:
  Result Reject(const char* detail) {
    detail_ = detail;
    return Result::kRejected;
  }
  HeadScanner scanner_;
  bool restart_ = false;
  size_t interim_bytes_ = 0;
  const char* detail_ = "";
};

// Whether the response has no body, whatever its fields say (RFC 9112, section 6.3).
bool IsBodyless(const ResponseHead& head, bool to_head_request);

// The framing of the response's body.
BodyDecoder BodyOf(const ResponseHead& head, bool to_head_request);

// Whether the connection may carry another request once the body has been read and nothing follows it. Never after a
// response that announces a body it must not have: an endpoint that sends that body late would answer the next request
// with it.
bool MayReuseConnection(const ResponseHead& head, bool to_head_request);

}  // namespace gateway::dataplane::http1

#endif  // GATEWAY_DATAPLANE_HTTP_HTTP1_RESPONSE_READER_H_
