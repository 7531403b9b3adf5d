#include "dataplane/policy/transform.h"

#include <algorithm>
#include <cstring>

#include "common/base/text.h"

namespace gateway::dataplane {
namespace {

std::string_view ValueOf(const TextPiece& piece, const TextValues& values) {
  switch (piece.kind) {
    case TextPiece::Kind::kLiteral:
      return piece.literal;
    case TextPiece::Kind::kClientIp:
      return values.client_ip;
    case TextPiece::Kind::kRequestId:
      return values.request_id;
    case TextPiece::Kind::kConsumer:
      return values.consumer;
    case TextPiece::Kind::kHost:
      return values.host;
    case TextPiece::Kind::kPath:
      return values.path;
    case TextPiece::Kind::kMethod:
      return values.method;
    case TextPiece::Kind::kRoute:
      return values.route;
    case TextPiece::Kind::kPathVariable:
      return values.variables[static_cast<size_t>(piece.variable)];
  }
  return {};
}

char* Copy(std::string_view text, char* at) {
  if (!text.empty()) std::memcpy(at, text.data(), text.size());
  return at + text.size();
}

// RFC 3986, section 2.1: unreserved characters stay.
char* WriteEncoded(std::string_view text, char* at) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
        c == '_' || c == '~') {
      *at++ = c;
    } else {
      *at++ = '%';
      *at++ = kHex[byte >> 4];
      *at++ = kHex[byte & 15];
    }
  }
  return at;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Whether `encoded`, decoded, is `name`; a malformed escape is literal.
bool DecodesTo(std::string_view encoded, std::string_view name) {
  size_t at = 0;
  for (size_t i = 0; i < encoded.size(); ++i, ++at) {
    char c = encoded[i] == '+' ? ' ' : encoded[i];
    if (c == '%' && i + 2 < encoded.size()) {
      const int high = HexDigit(encoded[i + 1]);
      const int low = HexDigit(encoded[i + 2]);
      if (high >= 0 && low >= 0) {
        c = static_cast<char>(high * 16 + low);
        i += 2;
      }
    }
    if (at >= name.size() || name[at] != c) return false;
  }
  return at == name.size();
}

// Whether pairs with this encoded name are removed.
bool ReplacesPair(const FieldEditsPolicy& edits, std::string_view encoded) {
  return std::any_of(edits.remove.begin(), edits.remove.end(),
                     [encoded](const std::string& name) { return DecodesTo(encoded, name); }) ||
         std::any_of(edits.set.begin(), edits.set.end(),
                     [encoded](const FieldEdit& edit) { return DecodesTo(encoded, edit.name); });
}

}  // namespace

size_t TextBytesMax(const TextTemplate& text, const TextValues& values) {
  size_t bytes = 0;
  for (const TextPiece& piece : text) bytes += ValueOf(piece, values).size();
  return bytes;
}

char* WriteText(const TextTemplate& text, const TextValues& values, char* at) {
  for (const TextPiece& piece : text) {
    const std::string_view value = ValueOf(piece, values);
    if (piece.kind == TextPiece::Kind::kLiteral) {
      at = Copy(value, at);
    } else {
      at = std::copy_if(value.begin(), value.end(), at,
                        [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; });
    }
  }
  return at;
}

void AppendText(const TextTemplate& text, const TextValues& values, std::string* out) {
  const size_t size = out->size();
  out->resize(size + TextBytesMax(text, values));
  out->resize(static_cast<size_t>(WriteText(text, values, out->data() + size) - out->data()));
}

bool Replaces(const FieldEditsPolicy& edits, std::string_view name) {
  if (!edits.MayReplace(name)) return false;
  return std::any_of(edits.remove.begin(), edits.remove.end(),
                     [name](const std::string& each) { return EqualsIgnoreCase(each, name); }) ||
         std::any_of(edits.set.begin(), edits.set.end(),
                     [name](const FieldEdit& edit) { return EqualsIgnoreCase(edit.name, name); });
}

size_t AddedFieldBytesMax(const FieldEditsPolicy& edits, const TextValues& values) {
  size_t bytes = 0;
  for (const auto* list : {&edits.set, &edits.add}) {
    for (const FieldEdit& edit : *list) bytes += edit.name.size() + 4 + TextBytesMax(edit.value, values);
  }
  return bytes;
}

char* WriteAddedFields(const FieldEditsPolicy& edits, const TextValues& values, char* at) {
  for (const auto* list : {&edits.set, &edits.add}) {
    for (const FieldEdit& edit : *list) {
      at = Copy(edit.name, at);
      at = Copy(": ", at);
      at = WriteText(edit.value, values, at);
      at = Copy("\r\n", at);
    }
  }
  return at;
}

size_t EditedQueryBytesMax(std::string_view query, const FieldEditsPolicy& edits, const TextValues& values) {
  size_t bytes = query.size();
  for (const auto* list : {&edits.set, &edits.add}) {
    for (const FieldEdit& edit : *list) bytes += 2 + 3 * (edit.name.size() + TextBytesMax(edit.value, values));
  }
  return bytes;
}

char* WriteEditedQuery(std::string_view query, const FieldEditsPolicy& edits, const TextValues& values, char* at) {
  bool first = true;
  const auto separate = [&] {
    if (!first) *at++ = '&';
    first = false;
  };
  for (bool more = !query.empty(); more;) {
    const size_t end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    more = end != std::string_view::npos;
    if (more) query.remove_prefix(end + 1);
    if (ReplacesPair(edits, pair.substr(0, pair.find('=')))) continue;
    separate();
    at = Copy(pair, at);
  }
  for (const auto* list : {&edits.set, &edits.add}) {
    for (const FieldEdit& edit : *list) {
      separate();
      at = WriteEncoded(edit.name, at);
      *at++ = '=';
      for (const TextPiece& piece : edit.value) at = WriteEncoded(ValueOf(piece, values), at);
    }
  }
  return at;
}

}  // namespace gateway::dataplane
