#include "dataplane/policy/transform.h"

#include <string>
#include <string_view>
#include <vector>

#include "common/policy/policy_texts.h"
#include "gtest/gtest.h"

namespace gateway::dataplane {
namespace {

using namespace std::string_view_literals;

const std::vector<std::string> kNames = {"id"};

TextTemplate Parse(std::string_view text) { return ParseText(text, kNames, false, 4096).value(); }

// One request; its consumer has characters that no check should admit.
struct Values {
  std::vector<std::string_view> variables = {"4%0D2"};
  TextValues values = {.client_ip = "192.0.2.1",
                       .request_id = "r1",
                       .consumer = "a\r\nb\0c\x7f\xc3\xa9"sv,
                       .host = "api.example.com",
                       .path = "/users/4%0D2",
                       .method = "GET",
                       .route = "users",
                       .variables = variables};
};

std::string Expand(std::string_view text) {
  const Values request;
  std::string out = "<";
  AppendText(Parse(text), request.values, &out);
  return out;
}

TEST(Text, VariablesStandForTheRequestsOwn) {
  EXPECT_EQ(Expand("${client_ip} ${request_id} ${host} ${path} ${method} ${route} ${path.id}"),
            "<192.0.2.1 r1 api.example.com /users/4%0D2 GET users 4%0D2");
  EXPECT_EQ(Expand("$${client_ip} $ ${route}x"), "<${client_ip} $ usersx");
  EXPECT_EQ(Expand(""), "<");
}

TEST(Text, NoValueEndsALine) {
  EXPECT_EQ(Expand("c=${consumer};"), "<c=abc\xc3\xa9;");
  EXPECT_EQ(Expand("one\ntwo ${route}"), "<one\ntwo users");  // text written by the operator stays
}

FieldEditsPolicy Edits() {
  FieldEditsPolicy edits;
  edits.remove = {"X-Debug", "a b"};
  edits.set = {{"X-Env", Parse("prod")}, {"who", Parse("${consumer}&x=1")}};
  edits.add = {{"X-More", Parse("${route}")}};
  edits.IndexNames();
  return edits;
}

TEST(FieldEdits, RemoveAndSetTakeAwayWithoutCase) {
  const FieldEditsPolicy edits = Edits();
  EXPECT_TRUE(Replaces(edits, "x-debug"));
  EXPECT_TRUE(Replaces(edits, "X-ENV"));
  EXPECT_FALSE(Replaces(edits, "X-More"));
  EXPECT_FALSE(Replaces(edits, "X-Debugger"));
}

TEST(FieldEdits, SetComesBeforeAdd) {
  const Values request;
  const FieldEditsPolicy edits = Edits();
  std::string out(AddedFieldBytesMax(edits, request.values), '?');
  out.resize(static_cast<size_t>(WriteAddedFields(edits, request.values, out.data()) - out.data()));
  EXPECT_EQ(out, "X-Env: prod\r\nwho: abc\xc3\xa9&x=1\r\nX-More: users\r\n");
}

std::string Edited(std::string_view query, const FieldEditsPolicy& edits) {
  const Values request;
  const size_t room = EditedQueryBytesMax(query, edits, request.values);
  std::string out(room, '?');
  const auto size = static_cast<size_t>(WriteEditedQuery(query, edits, request.values, out.data()) - out.data());
  EXPECT_LE(size, room);
  out.resize(size);
  return out;
}

TEST(QueryEdits, WhatIsNotNamedStaysByteByByte) {
  FieldEditsPolicy edits;
  edits.remove = {"gone"};
  for (const std::string_view query : {"", "a", "a=%2f&b=+&&=x&a=1&", "&", "gon=1&gone2&Gone", "%zz=1&%", "?x=/'\""}) {
    EXPECT_EQ(Edited(query, edits), query);
  }
}

TEST(QueryEdits, NamesAreComparedDecoded) {
  FieldEditsPolicy edits;
  edits.remove = {"a b", "%zz", "\xc3\xa9"};
  EXPECT_EQ(Edited("a+b=1&a%20b&a%2Bb=2&%61%20b=3&%zz=4&%25zz=5&%C3%a9=6&x", edits), "a%2Bb=2&x");
  EXPECT_EQ(Edited("a+b", edits), "");
}

TEST(QueryEdits, ValuesCannotBreakOut) {
  const FieldEditsPolicy edits = Edits();
  EXPECT_EQ(Edited("who=me&b=2&who&X-More=0", edits),
            "b=2&X-More=0&X-Env=prod&who=a%0D%0Ab%00c%7F%C3%A9%26x%3D1&X-More=users");
  EXPECT_EQ(Edited("", edits), "X-Env=prod&who=a%0D%0Ab%00c%7F%C3%A9%26x%3D1&X-More=users");
}

}  // namespace
}  // namespace gateway::dataplane
