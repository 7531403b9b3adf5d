// What policy writes into requests and responses: texts with ${...} in them, edits of fields and of the query. Pure,
// and without allocations: a caller asks for a bound, makes room, and has it written there.
//
// Whatever comes from a request is data, never syntax: in a field its control bytes are left out, so that no value ends
// a line; in a query everything but unreserved characters is percent-encoded.
#ifndef GATEWAY_DATAPLANE_POLICY_TRANSFORM_H_
#define GATEWAY_DATAPLANE_POLICY_TRANSFORM_H_

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "common/policy/policy.h"

namespace gateway::dataplane {

// What ${...} stands for in one request.
struct TextValues {
  std::string_view client_ip;
  std::string_view request_id;
  std::string_view consumer;  // empty: nobody
  std::string_view host;      // lower case, no port
  std::string_view path;      // normalised
  std::string_view method;
  std::string_view route;
  std::span<const std::string_view> variables;  // of the path's template
};

// How many bytes `text` has at most, as it is.
size_t TextBytesMax(const TextTemplate& text, const TextValues& values);
// Writes it to `at`, where there is room for TextBytesMax; control bytes (below 0x20, and 0x7f) of values are left out.
// Gives the end.
char* WriteText(const TextTemplate& text, const TextValues& values, char* at);
void AppendText(const TextTemplate& text, const TextValues& values, std::string* out);

// Whether fields of this name (compared without case) are taken away: by `remove`, or since `set` replaces them.
bool Replaces(const FieldEditsPolicy& edits, std::string_view name);
// "Name: value\r\n" for each of `set`, then of `add`.
size_t AddedFieldBytesMax(const FieldEditsPolicy& edits, const TextValues& values);
char* WriteAddedFields(const FieldEditsPolicy& edits, const TextValues& values, char* at);

// A query (without its question mark) with `edits` made: pairs that are removed or set go, the others stay byte by
// byte, what is set and added follows. Names are compared as conditions on the query do: percent-decoded, '+' as a
// space, with case.
size_t EditedQueryBytesMax(std::string_view query, const FieldEditsPolicy& edits, const TextValues& values);
char* WriteEditedQuery(std::string_view query, const FieldEditsPolicy& edits, const TextValues& values, char* at);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_POLICY_TRANSFORM_H_
