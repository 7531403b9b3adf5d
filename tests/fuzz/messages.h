// Shared by the fuzzers of whole messages: reads a connection's bytes with the gateway's own parsers, and with
// Boost.Beast's beside them.
#ifndef GATEWAY_TESTS_FUZZ_MESSAGES_H_
#define GATEWAY_TESTS_FUZZ_MESSAGES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "boost/beast/http/basic_parser.hpp"
#include "common/base/text.h"
#include "dataplane/http/http1/body.h"
#include "dataplane/http/http1/head.h"

namespace gateway::fuzz {

// A message as one of the parsers read it.
struct Message {
  bool request = true;
  std::string method, target;  // of a request
  int status = 0;              // of a response
  std::string phrase;
  int minor_version = 1;
  std::vector<std::pair<std::string, std::string>> fields;
  bool chunked = false;
  bool until_close = false;
  std::string payload;
  bool head_done = false;
  bool done = false;              // with its body
  size_t begin = 0;               // in the connection's bytes
  size_t end = 0;                 // after its last byte
  std::string host, path, query;  // of a request, by the gateway's parser only
  bool has_query = false;
  bool has_length = false;
  uint64_t length = 0;
  std::vector<std::pair<std::string, std::string>> forwarded;  // fields that are forwarded unchanged

  bool operator==(const Message&) const = default;
};

// A connection's bytes as the gateway reads them.
struct Reading {
  std::vector<Message> messages;
  bool refused = false;  // what follows the last message, or is in it

  bool operator==(const Reading&) const = default;
};

enum class Side : uint8_t { kRequests, kAnswers, kAnswersToHead };

namespace internal {

template <typename HeadType>
void CopyHead(const HeadType& head, Message* out) {
  using dataplane::http1::FieldKind;
  out->minor_version = head.version == dataplane::http::Version::kHttp10 ? 0 : 1;
  out->chunked = head.framing.chunked;
  out->has_length = head.length.has_value();
  out->length = head.length.value_or(0);
  for (size_t i = 0; i < head.fields.size(); ++i) {
    out->fields.emplace_back(head.fields[i].name, head.fields[i].value);
    if (head.kinds[i] == FieldKind::kOther) {
      out->forwarded.emplace_back(head.fields[i].name, head.fields[i].value);
    }
  }
}

// The body after a header (RFC 9112, section 6.3; relay.cc).
inline dataplane::http1::BodyDecoder BodyOf(const dataplane::http1::RequestHead& head, Side) {
  using dataplane::http1::BodyDecoder;
  return head.framing.chunked ? BodyDecoder::Chunked() : BodyDecoder::Length(head.length.value_or(0));
}
inline dataplane::http1::BodyDecoder BodyOf(const dataplane::http1::ResponseHead& head, Side side) {
  using dataplane::http1::BodyDecoder;
  if (side == Side::kAnswersToHead || head.status < 200 || head.status == 204 || head.status == 304) {
    return BodyDecoder::None();
  }
  if (head.framing.chunked) return BodyDecoder::Chunked();
  return head.length ? BodyDecoder::Length(*head.length) : BodyDecoder::UntilClose();
}

inline bool Parse(std::string_view bytes, dataplane::http1::RequestHead* head, Message* out) {
  if (ParseRequestHead(bytes, head)) return false;
  out->method = head->method;
  out->target = head->target;
  out->host = head->authority;
  out->path = head->path;
  out->query = head->query;
  out->has_query = head->has_query;
  return true;
}
inline bool Parse(std::string_view bytes, dataplane::http1::ResponseHead* head, Message* out) {
  if (ParseResponseHead(bytes, head)) return false;
  out->request = false;
  out->status = head->status;
  out->phrase = head->phrase;
  return true;
}

template <typename HeadType>
Reading ReadWith(std::string_view wire, Side side, const std::function<size_t()>& piece) {
  using dataplane::http1::BodyDecoder;
  using dataplane::http1::HeadScanner;
  Reading out;
  size_t at = 0;    // where the message's next part begins
  size_t have = 0;  // bytes that have arrived
  const auto arrive = [&] {
    if (have == wire.size()) return false;
    have = std::min(wire.size(), have + std::max<size_t>(1, piece()));
    return true;
  };
  while (at < wire.size()) {
    Message message;
    message.begin = at;
    HeadScanner scanner;
    auto scanned = HeadScanner::Result::kMore;
    while (scanned == HeadScanner::Result::kMore) {
      // A buffer of exactly the available bytes.
      if (have <= at) {
        if (!arrive()) return out;
        continue;
      }
      const std::string input(wire.substr(at, have - at));
      scanned = scanner.Scan(input.data(), input.size());
      if (scanned == HeadScanner::Result::kMore && !arrive()) return out;
    }
    const std::string bytes(wire.substr(at, scanner.head_bytes()));
    HeadType head;
    if (scanned == HeadScanner::Result::kRefused || !Parse(bytes, &head, &message)) {
      out.refused = true;
      return out;
    }
    message.head_done = true;
    CopyHead(head, &message);
    at += scanner.head_bytes();
    BodyDecoder body = BodyOf(head, side);
    message.until_close = body.until_close();
    while (!body.done()) {
      if (have <= at && !arrive()) break;
      std::string input(wire.substr(at, have - at));
      // As a relay does: at most what the body can use, if that is known.
      input.resize(std::min(input.size(), body.ReadableBytes()));
      const auto result = body.Decode(input.data(), input.size());
      if (result.payload > result.consumed || result.consumed > input.size()) std::abort();
      if (result.consumed < input.size() && !body.done() && !result.refused) std::abort();
      message.payload.append(input, 0, result.payload);
      at += result.consumed;
      if (result.refused) {
        out.refused = true;
        break;
      }
    }
    message.done = body.done() || (body.until_close() && at == wire.size());
    message.end = at;
    out.messages.push_back(std::move(message));
    if (!out.messages.back().done || body.until_close()) return out;
  }
  return out;
}

}  // namespace internal

// Reads `wire`, which arrives in pieces of piece() bytes, to its end or to the first rejection.
inline Reading Read(std::string_view wire, Side side, const std::function<size_t()>& piece) {
  if (side == Side::kRequests) return internal::ReadWith<dataplane::http1::RequestHead>(wire, side, piece);
  return internal::ReadWith<dataplane::http1::ResponseHead>(wire, side, piece);
}
inline Reading ReadWhole(std::string_view wire, Side side) {
  return Read(wire, side, [&] { return wire.size(); });
}

// One message as Boost.Beast's parser reads it.
template <bool isRequest>
class BeastReader final : public boost::beast::http::basic_parser<isRequest> {
 public:
  // Reads the message at the start of `wire`; `to_head`: a response to HEAD. False: rejected.
  bool Read(std::string_view wire, bool to_head) {
    this->eager(true);
    this->header_limit(UINT32_MAX);
    this->body_limit(boost::none);
    this->skip(to_head);
    boost::beast::error_code ec;
    while (!this->is_done() && !ec) {
      const size_t taken =
          this->put(boost::asio::const_buffer(wire.data() + message.end, wire.size() - message.end), ec);
      message.end += taken;
      if (taken == 0 && !ec) break;
    }
    if (!ec && !this->is_done() && this->need_eof()) this->put_eof(ec);
    message.head_done = this->is_header_done();
    message.done = this->is_done();
    message.request = isRequest;
    message.chunked = message.head_done && this->chunked();
    message.until_close = message.head_done && !isRequest && this->need_eof();
    return !ec || ec == boost::beast::http::error::need_more;
  }
  Message message;

 private:
  using View = boost::beast::string_view;
  using Code = boost::beast::error_code;
  void on_request_impl(boost::beast::http::verb, View method, View target, int version, Code&) override {
    message.method.assign(method.data(), method.size());
    message.target.assign(target.data(), target.size());
    message.minor_version = version % 10;
  }
  void on_response_impl(int status, View phrase, int version, Code&) override {
    message.status = status;
    message.phrase.assign(phrase.data(), phrase.size());
    message.minor_version = version % 10;
  }
  void on_field_impl(boost::beast::http::field, View name, View value, Code&) override {
    if (headed_) return;  // a trailer
    message.fields.emplace_back(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
  }
  void on_header_impl(Code&) override { headed_ = true; }
  void on_body_init_impl(boost::optional<uint64_t> const&, Code&) override {}
  std::size_t on_body_impl(View body, Code&) override { return Take(body); }
  void on_chunk_header_impl(uint64_t, View, Code&) override {}
  std::size_t on_chunk_body_impl(uint64_t, View body, Code&) override { return Take(body); }
  void on_finish_impl(Code&) override {}
  std::size_t Take(View body) {
    message.payload.append(body.data(), body.size());
    return body.size();
  }
  bool headed_ = false;
};

// A response's Connection field, which is not forwarded, may contain a non-token. Beast then rejects the whole
// response.
inline bool NamesNoToken(const Message& answer) {
  const auto is_token = [](std::string_view text) {
    const absl::string_view token = absl::StripAsciiWhitespace(AbslView(text));
    return token.empty() || IsToken({token.data(), token.size()});
  };
  return std::any_of(answer.fields.begin(), answer.fields.end(), [&is_token](const auto& field) {
    if (!absl::EqualsIgnoreCase(field.first, "Connection") &&
        !absl::EqualsIgnoreCase(field.first, "Proxy-Connection")) {
      return false;
    }
    for (absl::string_view name : absl::StrSplit(field.second, ',')) {
      if (!is_token(std::string_view(name.data(), name.size()))) return true;
    }
    return false;
  });
}

// Whether Beast reads the message at the start of `wire` as the gateway did, which rejected no part of it.
template <bool isRequest>
bool BeastReadsTheSame(std::string_view wire, const Message& ours, bool to_head) {
  if (!isRequest && NamesNoToken(ours)) return true;
  // The two start-line variants that the gateway accepts and Beast does not.
  std::string mended(wire);
  size_t added = 0;
  const size_t line_end = mended.find('\r');
  char* const minor = mended.data() + (isRequest ? line_end - 1 : 7);
  if (*minor > '1') *minor = '1';
  if (!isRequest && line_end == std::string_view("HTTP/1.1 200").size()) {
    mended.insert(line_end, 1, ' ');
    added = 1;
  }
  BeastReader<isRequest> beast;
  if (!beast.Read(mended, to_head)) return false;
  const Message& theirs = beast.message;
  if (!theirs.head_done || theirs.method != ours.method || theirs.target != ours.target ||
      theirs.status != ours.status || theirs.phrase != ours.phrase || theirs.minor_version != ours.minor_version ||
      theirs.fields != ours.fields || theirs.chunked != ours.chunked || theirs.until_close != ours.until_close ||
      theirs.done != ours.done || theirs.payload != ours.payload) {
    return false;
  }
  return !ours.done || theirs.end - added == ours.end - ours.begin;
}

}  // namespace gateway::fuzz

#endif  // GATEWAY_TESTS_FUZZ_MESSAGES_H_
