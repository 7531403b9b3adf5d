// docs/ covers the schemas: every field that an operator can write is there.
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/policy/resource.h"
#include "gateway/v1/bootstrap.pb.h"
#include "gateway/v1/policy.pb.h"
#include "gmock/gmock.h"
#include "google/protobuf/duration.pb.h"
#include "gtest/gtest.h"

namespace gateway {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using ::testing::HasSubstr;

std::string Document(const std::string& name) {
  std::ifstream file(absl::StrCat(GATEWAY_SOURCE_DIR, "/docs/", name));
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_FALSE(text.str().empty()) << name;
  return text.str();
}

bool IsGroup(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_map() &&
         field.message_type() != google::protobuf::Duration::descriptor();
}

// The rows of `message` are under its own heading, and those of nested messages under that heading too.
void ExpectRows(const std::string& document, const Descriptor& message, bool is_kind, std::set<std::string>* seen) {
  if (!seen->insert(message.full_name()).second) return;
  const Descriptor* outer = &message;
  while (outer->containing_type() != nullptr) outer = outer->containing_type();
  const size_t begin = document.find(absl::StrCat("\n## ", outer->name(), "\n"));
  ASSERT_NE(begin, std::string::npos) << outer->name();
  const std::string section = document.substr(begin, document.find("\n## ", begin + 1) - begin);
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const bool told_once = field.name() == "name" || field.name() == "labels" || field.name() == "description";
    if (!is_kind || !told_once) {
      const std::string prefix = outer == &message ? "" : absl::StrCat(message.name(), ".");
      EXPECT_THAT(section, HasSubstr(absl::StrCat("\n| `", prefix, field.name(), "` | "))) << message.full_name();
    }
    if (IsGroup(field)) ExpectRows(document, *field.message_type(), /*is_kind=*/false, seen);
  }
}

TEST(PolicyReference, HasEveryFieldOfEveryKind) {
  const std::string document = Document("policy-reference.md");
  const Descriptor& resource = *v1::Resource::descriptor();
  std::set<std::string> seen;
  for (int i = 0; i < resource.field_count(); ++i) {
    ExpectRows(document, *resource.field(i)->message_type(), /*is_kind=*/true, &seen);
  }
  EXPECT_TRUE(seen.contains("gateway.v1.HeaderMatch")) << "the walk includes nested messages";
}

void ExpectKeys(const std::string& document, const Descriptor& message, const std::string& prefix) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    const std::string key = absl::StrCat(prefix, field.name());
    if (IsGroup(field) && !field.is_repeated()) {
      ExpectKeys(document, *field.message_type(), key + ".");
      continue;
    }
    const size_t begin = document.find(absl::StrCat("\n| `", key, "` | "));
    EXPECT_NE(begin, std::string::npos) << "docs/bootstrap.md has no row for " << key;
    if (begin == std::string::npos || !IsGroup(field)) continue;
    const std::string row = document.substr(begin + 1, document.find('\n', begin + 1) - begin);
    for (int k = 0; k < field.message_type()->field_count(); ++k) {
      EXPECT_THAT(row, HasSubstr(field.message_type()->field(k)->name())) << "of an entry of " << key;
    }
  }
}

TEST(BootstrapReference, HasEveryKey) { ExpectKeys(Document("bootstrap.md"), *v1::Bootstrap::descriptor(), ""); }

}  // namespace
}  // namespace gateway
