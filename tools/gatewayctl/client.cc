#include "tools/gatewayctl/client.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/admin_protocol.h"
#include "common/policy/label_selector.h"
#include "common/policy/resource.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"

namespace gateway::ctl {
namespace {

constexpr char kPolicyErrorsUrl[] = "type.googleapis.com/gateway.v1.PolicyErrors";
constexpr int kMessageBytesMax = 256 << 20;  // a revision with all that one apply may hold, before and after it
constexpr uint32_t kPageSize = 1000;
constexpr absl::Duration kReconnectPause = absl::Milliseconds(100);
constexpr absl::Duration kRepeatPause = absl::Milliseconds(200);

// 128 random bits: no two commands have the same one.
std::string NewRequestId() {
  std::random_device random;
  return absl::StrFormat("%08x%08x%08x%08x", random(), random(), random(), random());
}

// Adds the token to every call, with or without TLS; it need not know the calls.
class TokenSender final : public grpc::experimental::Interceptor {
 public:
  explicit TokenSender(std::string value) : value_(std::move(value)) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", value_);
    }
    methods->Proceed();
  }

 private:
  const std::string value_;
};

class TokenSenderFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenSenderFactory(const std::string& token) : value_(absl::StrCat("Bearer ", token)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override {
    return new TokenSender(value_);  // gRPC's to delete
  }

 private:
  const std::string value_;
};

std::shared_ptr<grpc::Channel> Connect(const Connection& connection) {
  grpc::ChannelArguments arguments;
  // Also the time that one attempt to connect may take: gRPC's own is 20 s.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(absl::ToInt64Milliseconds(kConnectTimeout)));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // An admin server is reached directly or not at all, whatever http_proxy says.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE,
                   2 * static_cast<int>(kErrorBytesAskedMax));  // (in base64, with all else)
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  const std::shared_ptr<grpc::ChannelCredentials> credentials =
      connection.tls() ? grpc::SslCredentials({connection.ca, connection.key, connection.certificate})
                       : grpc::InsecureChannelCredentials();
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!connection.token.empty()) interceptors.push_back(std::make_unique<TokenSenderFactory>(connection.token));
  return grpc::experimental::CreateCustomChannelWithInterceptors(connection.server, credentials, arguments,
                                                                 std::move(interceptors));
}

// gRPC's account of a failed connection ends with the cause: "failed to connect to all addresses; last error: ...:
// Connection refused".
// `tls`, `certificate`: what we tried to connect with; a failed handshake is put in terms of that.
std::string ConnectionFailure(const std::string& message, bool tls, bool certificate) {
  const size_t colon = message.rfind(": ");
  std::string cause = colon == std::string::npos ? message : message.substr(colon + 2);
  absl::StripAsciiWhitespace(&cause);
  if (absl::StrContains(cause, "certificate verify failed")) {
    return "its certificate is not issued by a CA in --ca (GATEWAY_CA), or has expired";
  }
  if (absl::StrContains(cause, "http1.x server")) return "the port speaks HTTP/1.1; expected the admin listener";
  if (absl::StrContains(cause, "wrong version number"))
    return "it does not speak TLS, for which --ca (GATEWAY_CA) asks";
  const bool closed = absl::EndsWith(cause, "Connection reset by peer") || absl::EndsWith(cause, "Socket closed");
  if (closed && !tls) return "it closed the connection; if it speaks TLS, give --ca (GATEWAY_CA)";
  if (closed && certificate) return "it closed the connection; it may not trust the certificate in --cert";
  if (closed) return "it closed the connection; does it speak TLS, and is it the admin listener?";
  // "Connection refused", but not "EOF" or "Trying".
  if (cause.size() > 1 && absl::ascii_islower(cause[1])) cause[0] = absl::ascii_tolower(cause[0]);
  return cause.empty() ? "connection failed" : cause;
}

bool IsConnectionFailure(const std::string& message) {
  for (const char* beginning : {"failed to connect to all addresses", "DNS resolution failed",
                                "connections to all backends failing", "Socket closed", "empty address list"}) {
    if (absl::StartsWith(message, beginning)) return true;
  }
  return false;
}

// "Route/orders: match.path" of a BadRequest.
v1::PolicyError FromViolation(const google::rpc::BadRequest::FieldViolation& violation) {
  v1::PolicyError error;
  std::string subject = violation.field();
  if (const size_t colon = subject.find(": "); colon != std::string::npos) {
    error.set_field(subject.substr(colon + 2));
    subject.resize(colon);
  }
  const size_t slash = subject.find('/');
  error.set_kind(subject.substr(0, slash));
  if (slash != std::string::npos) error.set_name(subject.substr(slash + 1));
  error.set_message(violation.description());
  return error;
}

v1::PolicyErrors ErrorsIn(const std::string& details) {
  v1::PolicyErrors errors;
  google::rpc::Status rich;
  if (!rich.ParseFromString(details)) return errors;
  v1::PolicyErrors violations;
  for (const google::protobuf::Any& detail : rich.details()) {
    google::rpc::BadRequest bad_request;
    if (detail.Is<v1::PolicyErrors>()) {
      v1::PolicyErrors typed;
      if (detail.UnpackTo(&typed)) errors.MergeFrom(typed);
    } else if (detail.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) *violations.add_errors() = FromViolation(violation);
    }
  }
  // The same mistakes twice, once typed: the typed ones are exact.
  return errors.errors_size() > 0 ? errors : violations;
}

}  // namespace

AdminClient::AdminClient(const Connection& connection, absl::Duration timeout)
    : server_(connection.server),
      tls_(connection.tls()),
      certificate_(!connection.certificate.empty()),
      timeout_(timeout),
      stub_(v1::Admin::NewStub(Connect(connection))) {}

absl::Status AdminClient::Translate(const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const std::string& message = status.error_message();
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      if (IsConnectionFailure(message)) {
        return absl::UnavailableError(absl::StrCat("cannot reach the control plane at ", server_, ": ",
                                                   ConnectionFailure(message, tls_, certificate_)));
      }
      return absl::UnavailableError(absl::StrCat("the control plane at ", server_, " is unavailable: ", message));
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::UnavailableError(absl::StrCat("cannot reach the control plane at ", server_, ": no response within ",
                                                 absl::FormatDuration(timeout_)));
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      // gRPC's own, of either side: "Received message larger than max (150000000 vs. 134217728)".
      if (message.find("message larger than max") == std::string::npos) break;
      return absl::ResourceExhaustedError(
          absl::StrCat("more than fits into one call (", message,
                       "); apply the files in several steps, those that others refer to first"));
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::UnimplementedError(
          absl::StrCat("the server at ", server_, " does not know this call: is it the admin listener?"));
    default:
      break;
  }
  absl::Status translated(static_cast<absl::StatusCode>(status.error_code()), message);
  if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT) {
    const v1::PolicyErrors errors = ErrorsIn(status.error_details());
    if (errors.errors_size() > 0) translated.SetPayload(kPolicyErrorsUrl, absl::Cord(errors.SerializeAsString()));
  }
  return translated;
}

template <typename Request, typename Response>
absl::StatusOr<Response> AdminClient::Call(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                                   Response*),
                                           const Request& request) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout_));
  context.AddMetadata(kErrorBytesMetadata, absl::StrCat(kErrorBytesAskedMax));
  Response response;
  const grpc::Status status = ((*stub_).*method)(&context, request, &response);
  // gRPC says so only if there was no connection to send it by.
  sent_ = !absl::StartsWith(status.error_message(), "failed to connect to all addresses");
  if (absl::Status translated = Translate(status); !translated.ok()) return translated;
  reached_ = true;
  return response;
}

template <typename Request, typename Response>
absl::StatusOr<Response> AdminClient::CallOnce(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*,
                                                                                       const Request&, Response*),
                                               Request request) {
  if (request.dry_run()) return Call(method, request);
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
  const absl::Time deadline = absl::Now() + std::min(timeout_, kRepeatFor);
  while (true) {
    absl::StatusOr<Response> response = Call(method, request);
    if (!absl::IsUnavailable(response.status()) || (!sent_ && !reached_)) return response;
    // Whether it was done is unknown. A control plane that remembers it may be asked again.
    absl::StatusOr<v1::GetServerInfoResponse> info = absl::UnavailableError("");
    while (!info.ok()) {
      if (absl::Now() + kRepeatPause >= deadline) return response;
      absl::SleepFor(kRepeatPause);
      info = GetServerInfo();
      if (!info.ok() && !absl::IsUnavailable(info.status())) return response;
    }
    if (!info->remembers_requests()) return response;
  }
}

absl::StatusOr<v1::ApplyResponse> AdminClient::Apply(const v1::ApplyRequest& request) {
  return CallOnce(&v1::Admin::Stub::Apply, request);
}

absl::StatusOr<v1::GetResponse> AdminClient::Get(const std::string& kind, const std::string& name) {
  v1::GetRequest request;
  request.set_kind(kind);
  request.set_name(name);
  return Call(&v1::Admin::Stub::Get, request);
}

absl::StatusOr<v1::ListResponse> AdminClient::List(const std::string& kind, const std::string& selector) {
  return AllPages(&v1::Admin::Stub::List, kind, selector);
}

absl::StatusOr<v1::ListResponse> AdminClient::ListWithSecrets() { return AllPages(&v1::Admin::Stub::Export, "", ""); }

absl::StatusOr<v1::LintResponse> AdminClient::Lint() { return Call(&v1::Admin::Stub::Lint, v1::LintRequest()); }

absl::Status AdminClient::Watch(uint64_t after, const std::function<bool(const v1::RevisionInfo&)>& on_revision) {
  grpc::ClientContext context;
  v1::WatchRequest request;
  request.set_after_revision(after);
  auto reader = stub_->Watch(&context, request);
  v1::WatchResponse response;
  bool wanted = true;
  while (wanted && reader->Read(&response)) wanted = on_revision(response.revision());
  if (!wanted) context.TryCancel();
  const grpc::Status status = reader->Finish();
  return wanted ? Translate(status) : absl::OkStatus();
}

absl::StatusOr<v1::ListResponse> AdminClient::AllPages(ListMethod method, const std::string& kind,
                                                       const std::string& selector) {
  const absl::StatusOr<LabelSelector> wanted = LabelSelector::Parse(selector);
  if (!wanted.ok()) return wanted.status();
  absl::Status changed;
  for (int restart = 0; restart <= kListRestartsMax; ++restart) {
    v1::ListRequest request;
    request.set_kind(kind);
    request.set_page_size(kPageSize);
    request.set_selector(selector);
    v1::ListResponse all;
    while (true) {
      absl::StatusOr<v1::ListResponse> page = Call(method, request);
      if (!page.ok()) {
        changed = page.status();
        break;
      }
      all.set_revision(page->revision());
      for (v1::StoredResource& stored : *page->mutable_resources()) {
        // A control plane that is older than selectors sends all.
        if (wanted->Matches(LabelsOf(stored.resource()))) *all.add_resources() = std::move(stored);
      }
      if (page->next_page_token().empty()) return all;
      request.set_page_token(page->next_page_token());
    }
    if (!absl::IsAborted(changed)) return changed;
  }
  return changed;
}

absl::StatusOr<v1::DeleteResponse> AdminClient::Delete(const v1::DeleteRequest& request) {
  return CallOnce(&v1::Admin::Stub::Delete, request);
}

absl::StatusOr<v1::ResourceHistoryResponse> AdminClient::ResourceHistory(const std::string& kind,
                                                                         const std::string& name) {
  v1::ResourceHistoryRequest request;
  request.set_kind(kind);
  request.set_name(name);
  v1::ResourceHistoryResponse all;
  while (true) {
    absl::StatusOr<v1::ResourceHistoryResponse> page = Call(&v1::Admin::Stub::ResourceHistory, request);
    if (!page.ok()) return page.status();
    all.set_oldest_revision(page->oldest_revision());
    for (v1::ResourceVersion& version : *page->mutable_versions()) *all.add_versions() = std::move(version);
    if (page->next_before() != 0) {
      request.set_before(page->next_before());
      continue;
    }
    if (all.versions().empty()) return absl::NotFoundError(absl::StrCat(kind, "/", name, " has no history"));
    return all;
  }
}

absl::Status AdminClient::Backup(const std::function<bool(const v1::BackupResponse&)>& on_part) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kBackupTimeout));
  auto reader = stub_->Backup(&context, v1::BackupRequest());
  v1::BackupResponse part;
  bool wanted = true;
  while (wanted && reader->Read(&part)) wanted = on_part(part);
  if (!wanted) context.TryCancel();
  const grpc::Status status = reader->Finish();
  return wanted ? Translate(status) : absl::OkStatus();
}

absl::StatusOr<v1::HistoryResponse> AdminClient::History(v1::HistoryRequest request, uint64_t limit) {
  v1::HistoryResponse all;
  while (true) {
    const uint64_t missing = limit == 0 ? kPageSize : limit - all.revisions_size();
    request.set_page_size(static_cast<uint32_t>(std::min<uint64_t>(missing, kPageSize)));
    absl::StatusOr<v1::HistoryResponse> page = Call(&v1::Admin::Stub::History, request);
    if (!page.ok()) return page.status();
    for (v1::RevisionInfo& info : *page->mutable_revisions()) {
      if (limit != 0 && static_cast<uint64_t>(all.revisions_size()) == limit) return all;
      *all.add_revisions() = std::move(info);
    }
    if (page->next_page_token().empty() || (limit != 0 && static_cast<uint64_t>(all.revisions_size()) == limit)) {
      return all;
    }
    request.set_page_token(page->next_page_token());
  }
}

absl::StatusOr<v1::GetRevisionResponse> AdminClient::GetRevision(uint64_t revision) {
  v1::GetRevisionRequest request;
  request.set_revision(revision);
  return Call(&v1::Admin::Stub::GetRevision, request);
}

absl::StatusOr<v1::RollbackResponse> AdminClient::Rollback(const v1::RollbackRequest& request) {
  return CallOnce(&v1::Admin::Stub::Rollback, request);
}

absl::StatusOr<v1::DecideCanaryResponse> AdminClient::DecideCanary(const v1::DecideCanaryRequest& request) {
  return Call(&v1::Admin::Stub::DecideCanary, request);
}

absl::StatusOr<v1::DecideChangeResponse> AdminClient::DecideChange(const v1::DecideChangeRequest& request) {
  return Call(&v1::Admin::Stub::DecideChange, request);
}

absl::StatusOr<v1::GetChangeResponse> AdminClient::GetChange(uint64_t revision) {
  v1::GetChangeRequest request;
  request.set_revision(revision);
  return Call(&v1::Admin::Stub::GetChange, request);
}

absl::StatusOr<v1::ListDataPlanesResponse> AdminClient::ListDataPlanes() {
  return Call(&v1::Admin::Stub::ListDataPlanes, v1::ListDataPlanesRequest());
}

absl::StatusOr<v1::ForgetDataPlanesResponse> AdminClient::ForgetDataPlanes(const v1::ForgetDataPlanesRequest& request) {
  return Call(&v1::Admin::Stub::ForgetDataPlanes, request);
}

absl::StatusOr<v1::AcceptHistoryResponse> AdminClient::AcceptHistory(const v1::AcceptHistoryRequest& request) {
  return Call(&v1::Admin::Stub::AcceptHistory, request);
}

absl::StatusOr<v1::RolloutResponse> AdminClient::GetRollout(uint64_t revision) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout_));
  v1::RolloutRequest request;
  request.set_revision(revision);
  v1::RolloutResponse response;
  auto reader = stub_->Rollout(&context, request);
  const bool answered = reader->Read(&response);
  v1::RolloutResponse further;
  while (reader->Read(&further)) response = further;
  if (absl::Status status = Translate(reader->Finish()); !status.ok()) return status;
  if (!answered) return absl::InternalError(absl::StrCat("the control plane at ", server_, " reported no rollout"));
  reached_ = true;
  return response;
}

absl::StatusOr<RolloutOutcome> AdminClient::AwaitRollout(
    uint64_t revision, const std::function<bool(const v1::RolloutResponse&)>& enough) {
  const absl::Time deadline = absl::Now() + timeout_;
  v1::RolloutRequest request;
  request.set_revision(revision);
  request.set_wait(true);
  RolloutOutcome outcome;
  outcome.last.set_revision(revision);
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(deadline));
    context.set_wait_for_ready(reached_);
    auto reader = stub_->Rollout(&context, request);
    v1::RolloutResponse response;
    while (reader->Read(&response)) {
      reached_ = true;
      outcome.last = response;
      // Revision 0 asked for the current one; whatever is committed later is not what we wait for.
      request.set_revision(response.revision());
      if (enough != nullptr ? enough(response) : response.done()) {
        context.TryCancel();
        (void)reader->Finish();  // whatever it says: the answer is here
        return outcome;
      }
    }
    const grpc::Status status = reader->Finish();
    if (status.ok()) {
      // With all there are it may not be enough yet: others may come.
      if (enough == nullptr) return outcome;
      if (absl::Now() + kReconnectPause >= deadline) {
        outcome.timed_out = true;
        return outcome;
      }
      absl::SleepFor(kReconnectPause);
      continue;
    }
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && reached_) {
      outcome.timed_out = true;
      return outcome;
    }
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE || !reached_) return Translate(status);
    absl::SleepFor(std::min(kReconnectPause, std::max(deadline - absl::Now(), absl::ZeroDuration())));
  }
}

absl::StatusOr<v1::ListEndpointsResponse> AdminClient::ListEndpoints(const std::string& service) {
  v1::ListEndpointsRequest request;
  request.set_service(service);
  return Call(&v1::Admin::Stub::ListEndpoints, request);
}

absl::StatusOr<v1::ListBreakersResponse> AdminClient::ListBreakers(const std::string& service) {
  v1::ListBreakersRequest request;
  request.set_service(service);
  return Call(&v1::Admin::Stub::ListBreakers, request);
}

absl::StatusOr<v1::ListLimitsResponse> AdminClient::ListLimits(const std::string& name) {
  v1::ListLimitsRequest request;
  request.set_name(name);
  return Call(&v1::Admin::Stub::ListLimits, request);
}

absl::StatusOr<v1::GetServerInfoResponse> AdminClient::GetServerInfo() {
  return Call(&v1::Admin::Stub::GetServerInfo, v1::GetServerInfoRequest());
}

absl::StatusOr<v1::SetEndpointResponse> AdminClient::SetEndpoint(const v1::SetEndpointRequest& request) {
  return Call(&v1::Admin::Stub::SetEndpoint, request);
}

absl::StatusOr<v1::DecideEndpointsResponse> AdminClient::DecideEndpoints(const v1::DecideEndpointsRequest& request) {
  return Call(&v1::Admin::Stub::DecideEndpoints, request);
}

absl::StatusOr<v1::ListEndpointHistoryResponse> AdminClient::ListEndpointHistory(const std::string& service) {
  v1::ListEndpointHistoryRequest request;
  request.set_service(service);
  return Call(&v1::Admin::Stub::ListEndpointHistory, request);
}

absl::StatusOr<v1::SetDrainResponse> AdminClient::SetDrain(const v1::SetDrainRequest& request) {
  return Call(&v1::Admin::Stub::SetDrain, request);
}

absl::StatusOr<v1::SetLogLevelResponse> AdminClient::SetLogLevel(const v1::SetLogLevelRequest& request) {
  return Call(&v1::Admin::Stub::SetLogLevel, request);
}

absl::StatusOr<v1::DiagnoseResponse> AdminClient::Diagnose(const std::string& data_plane) {
  v1::DiagnoseRequest request;
  request.set_data_plane(data_plane);
  return Call(&v1::Admin::Stub::Diagnose, request);
}

absl::StatusOr<v1::CreateTokenResponse> AdminClient::CreateToken(const v1::CreateTokenRequest& request) {
  return Call(&v1::Admin::Stub::CreateToken, request);
}

absl::StatusOr<v1::ListTokensResponse> AdminClient::ListTokens() {
  return Call(&v1::Admin::Stub::ListTokens, v1::ListTokensRequest());
}

absl::StatusOr<v1::CreateJoinTokenResponse> AdminClient::CreateJoinToken(const v1::CreateJoinTokenRequest& request) {
  return Call(&v1::Admin::Stub::CreateJoinToken, request);
}

absl::Status AdminClient::RevokeToken(const std::string& name) {
  v1::RevokeTokenRequest request;
  request.set_name(name);
  return Call(&v1::Admin::Stub::RevokeToken, request).status();
}

absl::StatusOr<v1::ListAuditResponse> AdminClient::ListAudit(v1::ListAuditRequest request, uint64_t limit) {
  v1::ListAuditResponse all;
  while (true) {
    const uint64_t missing = limit == 0 ? kPageSize : limit - static_cast<uint64_t>(all.entries_size());
    request.set_page_size(static_cast<uint32_t>(std::min<uint64_t>(missing, kPageSize)));
    absl::StatusOr<v1::ListAuditResponse> page = Call(&v1::Admin::Stub::ListAudit, request);
    if (!page.ok()) return page.status();
    for (v1::AuditEntry& entry : *page->mutable_entries()) *all.add_entries() = std::move(entry);
    const bool enough = limit != 0 && static_cast<uint64_t>(all.entries_size()) >= limit;
    if (page->next_page_token().empty() || enough) return all;
    request.set_page_token(page->next_page_token());
  }
}

v1::PolicyErrors PolicyErrorsOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPolicyErrorsUrl);
  v1::PolicyErrors errors;
  if (!payload.has_value() || !errors.ParseFromString(std::string(*payload))) errors.Clear();
  return errors;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kDone;
    case absl::StatusCode::kInvalidArgument:
      return PolicyErrorsOf(status).errors().empty() ? kUsage : kInvalidPolicy;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists:
      return kConflict;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kUnimplemented:  // another listener, or a server of another time
      return kUnreachable;
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return kNotAllowed;
    default:
      return kFailed;
  }
}

}  // namespace gateway::ctl
