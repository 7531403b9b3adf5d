#include "tests/unit/gatewayctl/scripted_admin.h"

#include <array>

#include "common/policy/label_selector.h"
#include "common/policy/policy_files.h"
#include "common/policy/resource.h"
#include "gtest/gtest.h"

namespace gateway::ctl {

grpc::Status ScriptedAdmin::Get(grpc::ServerContext*, const v1::GetRequest* in, v1::GetResponse* out) {
  absl::MutexLock lock(&mutex_);
  for (const v1::StoredResource& stored : resources) {
    if (KeyOf(stored.resource()) != ResourceKey{in->kind(), in->name()}) continue;
    *out->mutable_resource() = stored;
    out->set_revision(revision);
    return grpc::Status::OK;
  }
  return {grpc::StatusCode::NOT_FOUND, absl::StrCat(in->kind(), "/", in->name(), ": not found")};
}

grpc::Status ScriptedAdmin::List(grpc::ServerContext*, const v1::ListRequest* in, v1::ListResponse* out) {
  absl::MutexLock lock(&mutex_);
  if (list) return list(*in, out);
  out->set_revision(revision);
  for (const v1::StoredResource& stored : resources) {
    if (!in->kind().empty() && KeyOf(stored.resource()).kind != in->kind()) continue;
    if (LabelSelector::Parse(in->selector()).value().Matches(LabelsOf(stored.resource()))) {
      *out->add_resources() = stored;
    }
  }
  return grpc::Status::OK;
}

grpc::Status InvalidPolicy(const std::vector<std::array<std::string, 4>>& mistakes) {
  v1::PolicyErrors typed;
  google::rpc::BadRequest bad_request;
  for (const auto& [kind, name, field, message] : mistakes) {
    v1::PolicyError* error = typed.add_errors();
    error->set_kind(kind);
    error->set_name(name);
    error->set_field(field);
    error->set_message(message);
    auto* violation = bad_request.add_field_violations();
    violation->set_field(absl::StrCat(kind, "/", name, ": ", field));
    violation->set_description(message);
  }
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  rich.set_message("the policy is invalid");
  rich.add_details()->PackFrom(bad_request);
  rich.add_details()->PackFrom(typed);
  return {grpc::StatusCode::INVALID_ARGUMENT, "the policy is invalid", rich.SerializeAsString()};
}

v1::StoredResource Stored(const std::string& yaml, uint64_t revision, bool built_in) {
  std::vector<PolicyProblem> problems;
  const std::vector<PolicyDocument> documents = ParsePolicy(yaml, "test.yaml", &problems);
  for (const PolicyProblem& problem : problems) ADD_FAILURE() << problem.ToString();
  v1::StoredResource stored;
  if (documents.size() == 1) *stored.mutable_resource() = documents[0].resource;
  EXPECT_EQ(documents.size(), 1u);
  stored.set_revision(revision);
  stored.set_built_in(built_in);
  stored.mutable_changed_at()->set_seconds(1'700'000'000);
  return stored;
}

}  // namespace gateway::ctl
