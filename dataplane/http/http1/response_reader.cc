#include "dataplane/http/http1/response_reader.h"

namespace gateway::dataplane::http1 {

ResponseReader::Result ResponseReader::Read(const char* data, size_t size, ResponseHead* head) {
  if (restart_) {
    scanner_ = {};
    restart_ = false;
  }
  if (size == 0) return Result::kMore;
  switch (scanner_.Scan(data, size)) {
    case HeadScanner::Result::kMore:
      return size >= kHeadBytesMax ? Reject("the response header is too large") : Result::kMore;
    case HeadScanner::Result::kRefused:
      return Reject(scanner_.detail());
    case HeadScanner::Result::kComplete:
      break;
  }
  head->Clear();
  if (const http::Rejection error = ParseResponseHead({data, scanner_.head_bytes()}, head)) return Reject(error.detail);
  if (head->status >= 200 || head->status == 101) return Result::kFinal;
  interim_bytes_ += scanner_.head_bytes();
  if (interim_bytes_ > kInterimBytesMax) return Reject("too many bytes of interim responses");
  restart_ = true;
  return Result::kInterim;
}

bool IsBodyless(const ResponseHead& head, bool to_head_request) {
  return to_head_request || head.status == 204 || head.status == 304;
}

BodyDecoder BodyOf(const ResponseHead& head, bool to_head_request) {
  if (IsBodyless(head, to_head_request)) return BodyDecoder::None();
  if (head.framing.chunked) return BodyDecoder::ChunkedAnswer();
  return head.length ? BodyDecoder::Length(*head.length) : BodyDecoder::UntilClose();
}

bool MayReuseConnection(const ResponseHead& head, bool to_head_request) {
  if (!head.Persistent()) return false;
  const bool announces_body = head.framing.chunked || head.length.value_or(0) > 0;
  if (IsBodyless(head, to_head_request)) return !announces_body;
  return head.framing.chunked || head.length.has_value();
}

}  // namespace gateway::dataplane::http1
