// Edits of requests and responses by policy: texts with ${...}, headers, and the query. Pure, and without allocations:
// a caller asks for a limit, makes room, and has the result written there.
//
// Values from a request are data, never syntax: in a header their control bytes are removed, so that no value ends a
// line; in a query everything but unreserved characters is percent-encoded.
#ifndef GATEWAY_DATAPLANE_POLICY_TRANSFORM_H_
#define GATEWAY_DATAPLANE_POLICY_TRANSFORM_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "common/policy/policy.h"

namespace gateway::dataplane {

// The values of ${...} for one request.
struct TextValues {
  std::string_view client_ip;
  std::string_view request_id;
  std::string_view consumer;  // may be empty
  std::string_view host;      // lower case, no port
  std::string_view path;      // normalized
  std::string_view method;
  std::string_view route;
  std::span<const std::string_view> variables;  // of the path template
};

// The maximum size of `text` for these values.
size_t TextBytesMax(const TextTemplate& text, const TextValues& values);
// Writes it to `at`, which has room for TextBytesMax; removes control bytes (below 0x20, and 0x7f) of values. Returns
// the end.
char* WriteText(const TextTemplate& text, const TextValues& values, char* at);
void AppendText(const TextTemplate& text, const TextValues& values, std::string* out);

// Whether headers with this name (compared without case) are removed: by `remove`, or because `set` replaces them.
bool Replaces(const FieldEditsPolicy& edits, std::string_view name);
// "Name: value\r\n" for each of `set`, then of `add`.
size_t AddedFieldBytesMax(const FieldEditsPolicy& edits, const TextValues& values);
char* WriteAddedFields(const FieldEditsPolicy& edits, const TextValues& values, char* at);

// A query (without its question mark) after `edits`: pairs that are removed or set disappear, the others stay byte for
// byte, and set and added pairs follow. Names are compared as in conditions on the query: percent-decoded, '+' as a
// space, with case.
size_t EditedQueryBytesMax(std::string_view query, const FieldEditsPolicy& edits, const TextValues& values);
char* WriteEditedQuery(std::string_view query, const FieldEditsPolicy& edits, const TextValues& values, char* at);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_TRANSFORM_H_
