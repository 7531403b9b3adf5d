#include "dataplane/http/http1/head.h"

#include <arpa/inet.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>

namespace gateway::dataplane::http1 {
namespace {

using http::Rejection;

constexpr std::array<bool, 256> MakeTokenTable() {
  std::array<bool, 256> table{};
  for (const char c :
       std::string_view("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~")) {
    table[static_cast<unsigned char>(c)] = true;
  }
  return table;
}
constexpr auto kToken = MakeTokenTable();

constexpr char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

// The offset of the first byte at or after `from` that is a control (below 0x20, or 0x7f); `size` if there is no such
// byte.
size_t FindControl(const char* data, size_t from, size_t size) {
  size_t i = from;
#ifdef __SSE2__
  const __m128i limit = _mm_set1_epi8(0x1f);
  const __m128i del = _mm_set1_epi8(0x7f);
  for (; i + 16 <= size; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + i));
    const __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(bytes, limit), bytes);
    const int mask = _mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(bytes, del)));
    if (mask != 0) return i + static_cast<size_t>(std::countr_zero(static_cast<unsigned>(mask)));
  }
#endif
  for (; i < size; ++i) {
    const auto c = static_cast<unsigned char>(data[i]);
    if (c < 0x20 || c == 0x7f) return i;
  }
  return size;
}

// Whether the Upgrade fields of a header that has Connection: upgrade name WebSocket.
bool UpgradesToWebSocket(const http::Head& head) {
  for (size_t i = 0; i < head.fields.size(); ++i) {
    if (head.kinds[i] != FieldKind::kUpgrade) continue;
    std::string_view list = head.fields[i].value;
    while (!list.empty()) {
      const size_t comma = list.find(',');
      if (EqualsIgnoreCase(Trim(list.substr(0, comma)), "websocket")) return true;
      list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
    }
  }
  return false;
}

// What both parsers share: fields one by one, with the framing rules.
struct FieldSink {
  http::Head* head;
  Framing* framing;
  bool of_request;
  Rejection error{};
  std::optional<std::string_view> host{};

  void Refuse(Reason reason, const char* detail) {
    if (!error) error = {reason, detail};
  }

  void Add(std::string_view name, std::string_view value) {
    if (head->fields.size() >= kFieldsMax) return Refuse(Reason::kHeadersTooLarge, "too many fields");
    const FieldKind kind = ClassifyField(name);
    head->fields.push_back({name, value});
    head->kinds.push_back(kind);
    switch (kind) {
      case FieldKind::kHost:
        if (host) return Refuse(Reason::kBadRequest, "more than one Host");
        host = value;
        break;
      case FieldKind::kContentLength: {
        if (head->length) return Refuse(Reason::kBadRequest, "more than one Content-Length");
        const char* end = value.data() + value.size();
        uint64_t length = 0;
        const auto [stop, code] = std::from_chars(value.data(), end, length);
        // from_chars takes no sign for an unsigned number, and no leading space.
        if (value.empty() || code != std::errc() || stop != end || length > kLengthMax) {
          return Refuse(Reason::kBadRequest, "Content-Length is not a number");
        }
        head->length = length;
        break;
      }
      case FieldKind::kTransferEncoding:
        if (framing->chunked) return Refuse(Reason::kBadRequest, "more than one Transfer-Encoding");
        if (EqualsIgnoreCase(value, "chunked")) {
          framing->chunked = true;
        } else if (value.size() > 8 && EqualsIgnoreCase(Trim(value.substr(value.rfind(',') + 1)), "chunked")) {
          Refuse(Reason::kNotImplemented, "a transfer coding other than chunked");
        } else {
          Refuse(Reason::kBadRequest, "Transfer-Encoding does not end in chunked");
        }
        break;
      case FieldKind::kConnection:
        AddConnection(value);
        break;
      default:
        break;
    }
  }

  void AddConnection(std::string_view value) {
    while (!value.empty()) {
      const size_t comma = value.find(',');
      const std::string_view option = Trim(value.substr(0, comma));
      value = comma == std::string_view::npos ? std::string_view() : value.substr(comma + 1);
      if (option.empty()) continue;
      if (EqualsIgnoreCase(option, "close")) {
        framing->close = true;
      } else if (EqualsIgnoreCase(option, "keep-alive")) {
        framing->keep_alive = true;
      } else if (EqualsIgnoreCase(option, "upgrade")) {
        framing->upgrade = true;
      } else {
        if (!IsToken(option)) {
          if (!of_request) continue;  // "Keep-Alive; timeout=5": it names nothing that could be passed on
          return Refuse(Reason::kBadRequest, "Connection names an invalid field");
        }
        if (framing->nominated.size() >= kNominatedMax)
          return Refuse(Reason::kBadRequest, "Connection names too many fields");
        framing->nominated.push_back(option);
      }
    }
  }

  void Finish() {
    if (framing->chunked && head->length) Refuse(Reason::kBadRequest, "Transfer-Encoding with Content-Length");
    if (framing->chunked && head->version == http::Version::kHttp10)
      Refuse(Reason::kBadRequest, "Transfer-Encoding in HTTP/1.0");
    if (!framing->nominated.empty()) MarkNominated();
  }

  // What Connection can take away ends here. Not credentials, nor what the gateway itself reads or writes.
  void MarkNominated() {
    for (size_t i = 0; i < head->fields.size(); ++i) {
      FieldKind& kind = head->kinds[i];
      if (kind != FieldKind::kOther && kind != FieldKind::kUserAgent && kind != FieldKind::kDate) continue;
      const std::string_view name = head->fields[i].name;
      if (EqualsIgnoreCase(name, "authorization")) continue;
      for (const std::string_view each : framing->nominated) {
        if (EqualsIgnoreCase(each, name)) kind = FieldKind::kHopByHop;
      }
    }
  }
};

// Whether a first line is a request's or a response's at all. One that isn't need not be waited for: of HTTP/0.9, or of
// another protocol, nothing may follow that would end the header.
bool NamesHttp(std::string_view line) {
  constexpr std::string_view kName = "HTTP/";
  constexpr size_t kVersionBytes = 8;  // "HTTP/1.1"
  return line.starts_with(kName) ||
         (line.size() > kVersionBytes && line.substr(line.size() - kVersionBytes, kName.size()) == kName);
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Of "HTTP/1.x", as later versions are read (RFC 9110, section 2.5). False: another version, or none.
bool ReadVersion(std::string_view text, http::Version* out) {
  if (text.size() != 8 || !text.starts_with("HTTP/1.") || !IsDigit(text[7])) return false;
  *out = text[7] == '0' ? http::Version::kHttp10 : http::Version::kHttp11;
  return true;
}

// method SP target SP version (RFC 9112, section 3). False: it is no such line of HTTP/1.x.
bool ReadRequestLine(std::string_view line, RequestHead* out) {
  const auto no_method = [](char c) { return !kToken[static_cast<unsigned char>(c)]; };
  const size_t method = static_cast<size_t>(std::find_if(line.begin(), line.end(), no_method) - line.begin());
  if (method == 0 || method >= line.size() || line[method] != ' ') return false;
  const auto no_target = [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 0x7f; };
  const auto begin = line.begin() + static_cast<std::ptrdiff_t>(method) + 1;
  const size_t target = static_cast<size_t>(std::find_if(begin, line.end(), no_target) - begin);
  const size_t end = method + 1 + target;
  if (target == 0 || end >= line.size() || line[end] != ' ') return false;
  if (!ReadVersion(line.substr(end + 1), &out->version)) return false;
  out->method = line.substr(0, method);
  out->target = line.substr(method + 1, target);
  return true;
}

// version SP code SP [phrase] (RFC 9112, section 4); the second space may be missing with the phrase, as many servers
// have it.
bool ReadStatusLine(std::string_view line, ResponseHead* out) {
  constexpr size_t kCodeAt = std::string_view("HTTP/1.1 ").size();
  constexpr size_t kCodeEnd = kCodeAt + 3;
  if (line.size() < kCodeEnd || line[kCodeAt - 1] != ' ') return false;
  if (!ReadVersion(line.substr(0, kCodeAt - 1), &out->version)) return false;
  int status = 0;
  for (const char c : line.substr(kCodeAt, 3)) {
    if (!IsDigit(c)) return false;
    status = status * 10 + (c - '0');
  }
  out->status = status;
  out->phrase = {};
  if (line.size() == kCodeEnd) return true;
  if (line[kCodeEnd] != ' ') return false;
  out->phrase = line.substr(kCodeEnd + 1);
  return true;
}

// The lines behind the first one (RFC 9112, section 5). The scanner has seen every byte of them: they end in CRLF, none
// is folded, and the only control byte is the tab.
void ReadFields(std::string_view lines, FieldSink* sink) {
  const char* at = lines.data();
  const char* const end = at + lines.size();
  while (at < end && *at != '\r') {
    const char* const name = at;
    while (at < end && kToken[static_cast<unsigned char>(*at)]) ++at;
    const std::string_view name_view(name, static_cast<size_t>(at - name));
    const auto* const stop = static_cast<const char*>(std::memchr(at, '\r', static_cast<size_t>(end - at)));
    // White space in front of the colon is refused with everything else that is no token (section 5.1).
    if (name_view.empty() || stop == nullptr || *at != ':') {
      return sink->Refuse(Reason::kBadRequest, "an invalid field in the header");
    }
    sink->Add(name_view, Trim({at + 1, static_cast<size_t>(stop - at - 1)}));
    if (sink->error) return;
    at = stop + 2;
  }
}

// What is wrong with a request whose first line could not be read.
Rejection DiagnoseRequestLine(std::string_view line, RequestHead* out) {
  const size_t space = line.find(' ');
  if (space == 0 || space == std::string_view::npos || !IsToken(line.substr(0, space))) {
    return {Reason::kBadRequest, "the request line has no valid method"};
  }
  out->method = line.substr(0, space);
  const size_t second = line.find(' ', space + 1);
  if (second == std::string_view::npos || second == space + 1) {
    return {Reason::kBadRequest, "the request line is not method, target, version"};
  }
  out->target = line.substr(space + 1, second - space - 1);
  const std::string_view version = line.substr(second + 1);
  if (version.size() == 8 && version.starts_with("HTTP/") && IsDigit(version[5]) && version[6] == '.' &&
      IsDigit(version[7])) {
    if (version[5] != '1') return {Reason::kHttpVersion, "not HTTP/1.x"};
    return {Reason::kBadRequest, "an invalid byte in the target"};
  }
  return {Reason::kBadRequest, "the request line does not end in HTTP/1.1"};
}

Rejection ReadTarget(RequestHead* out, const std::optional<std::string_view>& host_field) {
  if (out->version != http::Version::kHttp10 && !host_field) return {Reason::kBadRequest, "no Host"};
  if (host_field && !IsValidHost(*host_field)) return {Reason::kBadRequest, "Host is not a host"};
  out->authority = host_field.value_or(std::string_view());
  std::string_view rest = out->target;
  for (const char c : rest) {
    if (static_cast<unsigned char>(c) >= 0x80) return {Reason::kBadRequest, "an invalid byte in the target"};
  }
  if (rest == "*") {
    if (out->method != "OPTIONS") return {Reason::kBadRequest, "asterisk form is for OPTIONS only"};
    out->path = rest;
    return {};
  }
  if (rest.empty()) return {Reason::kBadRequest, "no target"};
  if (rest[0] != '/') {
    // Absolute form (RFC 9112, section 3.2.2): its authority replaces Host.
    size_t scheme = 0;
    if (rest.size() > 7 && EqualsIgnoreCase(rest.substr(0, 7), "http://")) {
      scheme = 7;
      out->scheme = "http";
    } else if (rest.size() > 8 && EqualsIgnoreCase(rest.substr(0, 8), "https://")) {
      scheme = 8;
      out->scheme = "https";
    } else {
      return {Reason::kBadRequest, "the target is neither a path nor an http URI"};
    }
    rest.remove_prefix(scheme);
    const size_t end = rest.find_first_of("/?#");
    const std::string_view authority = rest.substr(0, end);
    if (authority.empty() || !IsValidHost(authority))
      return {Reason::kBadRequest, "the target's authority is not a host"};
    out->authority = authority;
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end);
    if (rest.empty() || rest[0] != '/') {
      // "http://host?x": an empty path, which is "/" (RFC 9110, section 4.2.3), but for OPTIONS (RFC 9112, section
      // 3.2.4).
      if (!rest.empty() && rest[0] == '#') return {Reason::kBadRequest, "a fragment in the target"};
      out->path = rest.empty() && out->method == "OPTIONS" ? "*" : "/";
      out->has_query = !rest.empty();
      if (out->has_query) out->query = rest.substr(1);
      if (out->query.find('#') != std::string_view::npos) return {Reason::kBadRequest, "a fragment in the target"};
      return {};
    }
  }
  const size_t question = rest.find('?');
  out->path = rest.substr(0, question);
  if (question != std::string_view::npos) {
    out->has_query = true;
    out->query = rest.substr(question + 1);
  }
  if (rest.find('#') != std::string_view::npos) return {Reason::kBadRequest, "a fragment in the target"};
  return {};
}

// RFC 9110, section 10.1.1: a list, of which 100-continue is the only member that anybody knows.
Rejection ReadExpectations(RequestHead* out) {
  for (size_t i = 0; i < out->fields.size(); ++i) {
    if (out->kinds[i] != FieldKind::kExpect) continue;
    std::string_view list = out->fields[i].value;
    while (!list.empty()) {
      const size_t comma = std::min(list.find(','), list.size());
      const std::string_view each = Trim(list.substr(0, comma));
      list.remove_prefix(std::min(comma + 1, list.size()));
      if (each.empty()) continue;
      if (!EqualsIgnoreCase(each, "100-continue")) return {Reason::kExpectationFailed, "an unknown expectation"};
      // None from HTTP/1.0, none without a body.
      out->expect_continue = out->version != http::Version::kHttp10 && out->has_body;
    }
  }
  return {};
}

// RFC 9110, section 7.6.2: only OPTIONS and TRACE are counted down. What is not a number is passed on as it is.
void ReadMaxForwards(RequestHead* out) {
  if (out->method != "OPTIONS") return;
  for (size_t i = 0; i < out->fields.size(); ++i) {
    if (out->kinds[i] != FieldKind::kMaxForwards) continue;
    const std::string_view value = out->fields[i].value;
    uint64_t left = 0;
    const auto [stop, code] = std::from_chars(value.data(), value.data() + value.size(), left);
    if (code != std::errc() || stop != value.data() + value.size()) continue;
    out->max_forwards = std::min(left, out->max_forwards.value_or(left));
  }
}

}  // namespace

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool BytesEqualIgnoringCase(const char* a, const char* b, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    if (Lower(a[i]) != Lower(b[i])) return false;
  }
  return true;
}

bool IsToken(std::string_view text) {
  for (const char c : text) {
    if (!kToken[static_cast<unsigned char>(c)]) return false;
  }
  return !text.empty();
}

bool IsMisspeltMethod(std::string_view method) {
  // IANA's registry, and what caches and UPnP use besides.
  static constexpr std::string_view kMethods[] = {"ACL",
                                                  "BASELINE-CONTROL",
                                                  "BIND",
                                                  "CHECKIN",
                                                  "CHECKOUT",
                                                  "CONNECT",
                                                  "COPY",
                                                  "DELETE",
                                                  "GET",
                                                  "HEAD",
                                                  "LABEL",
                                                  "LINK",
                                                  "LOCK",
                                                  "M-SEARCH",
                                                  "MERGE",
                                                  "MKACTIVITY",
                                                  "MKCALENDAR",
                                                  "MKCOL",
                                                  "MKREDIRECTREF",
                                                  "MKWORKSPACE",
                                                  "MOVE",
                                                  "NOTIFY",
                                                  "OPTIONS",
                                                  "ORDERPATCH",
                                                  "PATCH",
                                                  "POST",
                                                  "PRI",
                                                  "PROPFIND",
                                                  "PROPPATCH",
                                                  "PURGE",
                                                  "PUT",
                                                  "QUERY",
                                                  "REBIND",
                                                  "REPORT",
                                                  "SEARCH",
                                                  "SUBSCRIBE",
                                                  "TRACE",
                                                  "UNBIND",
                                                  "UNCHECKOUT",
                                                  "UNLINK",
                                                  "UNLOCK",
                                                  "UNSUBSCRIBE",
                                                  "UPDATE",
                                                  "UPDATEREDIRECTREF",
                                                  "VERSION-CONTROL"};
  const bool lower = std::any_of(method.begin(), method.end(), [](char c) { return c >= 'a' && c <= 'z'; });
  return lower && std::any_of(std::begin(kMethods), std::end(kMethods),
                              [method](std::string_view known) { return EqualsIgnoreCase(method, known); });
}

bool IsValidHost(std::string_view host) {
  if (host.empty()) return false;
  size_t end;  // of the host part
  if (host[0] == '[') {
    end = host.find(']');
    char literal[INET6_ADDRSTRLEN];
    if (end > sizeof literal) return false;  // (npos, too)
    literal[host.copy(literal, end - 1, 1)] = '\0';
    in6_addr address;
    if (inet_pton(AF_INET6, literal, &address) != 1) return false;
    ++end;
  } else {
    end = std::min(host.find(':'), host.size());
    if (end == 0) return false;
    for (const char c : host.substr(0, end)) {
      // reg-name without the sub-delims and escapes that no host name has.
      if (!IsDigit(c) && !(Lower(c) >= 'a' && Lower(c) <= 'z') && c != '-' && c != '.' && c != '_' && c != '~')
        return false;
    }
  }
  if (end == host.size()) return true;
  if (host[end] != ':' || host.size() - end > 6) return false;
  uint32_t port = 0;
  for (const char c : host.substr(end + 1)) {
    if (!IsDigit(c)) return false;
    port = port * 10 + static_cast<uint32_t>(c - '0');
  }
  return port <= 65535;
}

bool BytesEqualFolded(const char* name, const char* known, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const char c = name[i] == '_' ? '-' : Lower(name[i]);
    if (c != known[i]) return false;
  }
  return true;
}

bool ResponseHead::NamesWebSocket() const { return framing.upgrade && UpgradesToWebSocket(*this); }

HeadScanner::Result HeadScanner::Scan(const char* data, size_t size) {
  for (;;) {
    // A line that begins with white space continues the one before (obs-fold), which readers take apart differently.
    if (position_ == line_start_ && line_start_ > 0 && position_ < size &&
        (data[position_] == ' ' || data[position_] == '\t')) {
      return Refuse("a folded line in the header");
    }
    const size_t i = FindControl(data, position_, size);
    if (i == size) {
      position_ = size;
      return Result::kMore;
    }
    switch (data[i]) {
      case '\t':
        position_ = i + 1;
        break;
      case '\r':
        if (i + 1 == size) {
          position_ = i;  // look again when the next byte is there
          return Result::kMore;
        }
        if (data[i + 1] != '\n') return Refuse("a bare CR in the header");
        position_ = i + 2;
        if (i == line_start_) return Result::kComplete;
        if (!line_seen_ && !NamesHttp({data, i})) return Refuse("the first line names no version of HTTP");
        line_seen_ = true;
        line_start_ = position_;
        break;
      case '\n':
        return Refuse("a bare LF in the header");
      default:
        return Refuse("a control byte in the header");
    }
  }
}

http::Rejection ParseRequestHead(std::string_view head, RequestHead* out) {
  const std::string_view line = head.substr(0, head.find('\r'));
  out->bytes = head.size();
  if (!ReadRequestLine(line, out)) return DiagnoseRequestLine(line, out);
  if (out->method.size() > kMethodBytesMax) return {Reason::kNotImplemented, "the method is too long"};
  if (out->target.size() > kTargetBytesMax) return {Reason::kTargetTooLong, "the target is too long"};
  FieldSink sink{.head = out, .framing = &out->framing, .of_request = true};
  ReadFields(head.substr(std::min(line.size() + 2, head.size())), &sink);
  sink.Finish();
  if (sink.error) return sink.error;
  if (IsMisspeltMethod(out->method)) return {Reason::kBadRequest, "a known method with lower-case letters"};
  if (out->method == "CONNECT" || out->method == "TRACE")
    return {Reason::kMethodNotAllowed, "CONNECT and TRACE are not served"};
  if (const Rejection error = ReadTarget(out, sink.host)) return error;
  out->has_body = out->framing.chunked || out->length.value_or(0) > 0;
  // Only a GET of HTTP/1.1 without a body (RFC 6455, section 4.1); anything else is served without the change.
  if (out->framing.upgrade && out->method == "GET" && out->version != http::Version::kHttp10 && !out->has_body &&
      UpgradesToWebSocket(*out)) {
    out->protocol = "websocket";
  }
  ReadMaxForwards(out);
  return ReadExpectations(out);
}

http::Rejection ParseResponseHead(std::string_view head, ResponseHead* out) {
  const std::string_view line = head.substr(0, head.find('\r'));
  out->bytes = head.size();
  if (!ReadStatusLine(line, out)) return {Reason::kUpstreamInvalid, "the response header is not HTTP/1.x"};
  FieldSink sink{.head = out, .framing = &out->framing, .of_request = false};
  ReadFields(head.substr(std::min(line.size() + 2, head.size())), &sink);
  sink.Finish();
  if (sink.error) return {Reason::kUpstreamInvalid, sink.error.detail};
  if (out->status < 100 || out->status > 599) return {Reason::kUpstreamInvalid, "the response has an invalid status"};
  return {};
}

}  // namespace gateway::dataplane::http1
