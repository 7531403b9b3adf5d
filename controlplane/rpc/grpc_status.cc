#include "controlplane/rpc/grpc_status.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"

namespace gateway::controlplane {
namespace {

constexpr char kPayload[] = "type.googleapis.com/gateway.v1.PolicyErrors";
// Of the first mistake, as quoted in the message: the details have all of it.
constexpr size_t kQuotedBytesMax = 400;

std::string FieldOf(const v1::PolicyError& error) {
  std::string field = absl::StrCat(error.kind(), "/", error.name());
  if (!error.field().empty()) absl::StrAppend(&field, ": ", error.field());
  return field;
}

}  // namespace

absl::Status PolicyError(absl::string_view what, const std::vector<v1::PolicyError>& errors) {
  v1::PolicyErrors all;
  for (const v1::PolicyError& error : errors) *all.add_errors() = error;
  std::string first = absl::StrCat(FieldOf(errors.front()), ": ", errors.front().message());
  if (first.size() > kQuotedBytesMax) first.resize(kQuotedBytesMax);
  absl::Status status = absl::InvalidArgumentError(
      errors.size() == 1 ? absl::StrCat(what, ": ", first)
                         : absl::StrCat(what, ": ", errors.size(), " errors; the first: ", first));
  status.SetPayload(kPayload, absl::Cord(all.SerializeAsString()));
  return status;
}

std::vector<v1::PolicyError> PolicyErrorsOf(const absl::Status& status) {
  auto payload = status.GetPayload(kPayload);
  v1::PolicyErrors all;
  if (!payload || !all.ParseFromString(std::string(*payload))) return {};
  return {all.errors().begin(), all.errors().end()};
}

grpc::Status ToGrpc(const absl::Status& status, size_t details_bytes_max) {
  if (status.ok()) return grpc::Status::OK;
  // The codes of absl are those of gRPC, number by number.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::vector<v1::PolicyError> errors = PolicyErrorsOf(status);
  std::string message(status.message());
  if (errors.empty()) return grpc::Status(code, message);

  google::rpc::BadRequest bad_request;
  v1::PolicyErrors typed;
  size_t bytes = message.size() + 128;  // the envelope and the two type URLs
  for (const v1::PolicyError& error : errors) {
    google::rpc::BadRequest::FieldViolation violation;
    violation.set_field(FieldOf(error));
    violation.set_description(error.message());
    bytes += violation.ByteSizeLong() + error.ByteSizeLong() + 8;
    if (bytes > details_bytes_max) break;
    *bad_request.add_field_violations() = std::move(violation);
    *typed.add_errors() = error;
  }
  if (static_cast<size_t>(typed.errors_size()) < errors.size()) {
    typed.set_left_out(static_cast<uint32_t>(errors.size()) - static_cast<uint32_t>(typed.errors_size()));
    absl::StrAppend(&message, " (the details hold the first ", typed.errors_size(), ")");
  }
  google::rpc::Status rich;
  rich.set_code(code);
  rich.set_message(message);
  rich.add_details()->PackFrom(bad_request);
  rich.add_details()->PackFrom(typed);
  return grpc::Status(code, message, rich.SerializeAsString());
}

}  // namespace gateway::controlplane
