#include "controlplane/admin/admin_service.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/admin_protocol.h"
#include "common/base/endpoint_name.h"
#include "common/base/host_port.h"
#include "common/base/units.h"
#include "common/base/version.h"
#include "common/config/redaction.h"
#include "common/policy/label_selector.h"
#include "common/policy/resource.h"
#include "controlplane/identity/caller.h"
#include "controlplane/identity/rules.h"
#include "controlplane/rpc/grpc_status.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

// Revisions that a Watch reads ahead.
constexpr size_t kWatchPage = 16;

// As much as the caller says that it takes.
size_t ErrorDetailsBytesMax(const grpc::CallbackServerContext& context) {
  const auto asked = context.client_metadata().find(kErrorBytesMetadata);
  size_t bytes = 0;
  if (asked == context.client_metadata().end() ||
      !absl::SimpleAtoi(absl::string_view(asked->second.data(), asked->second.size()), &bytes)) {
    return kErrorDetailsBytesMax;
  }
  return std::clamp(bytes, kErrorDetailsBytesMax, kErrorBytesAskedMax);
}

// How often expired tokens are looked for; revoked ones are known at once.
constexpr std::chrono::seconds kSweepEvery{1};

// Who is said to have done it, for the log: as authenticated, or as claimed.
const std::string& DoerOf(const Caller& caller, const v1::ChangeContext& context) {
  return !caller.name.empty() ? caller.name : !context.actor().empty() ? context.actor() : caller.address;
}

Author AuthorOf(const grpc::CallbackServerContext* context) {
  const Caller& caller = CallerOf(context);
  return {caller.address, caller.name, caller.action, caller.scope};
}

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t micros = absl::ToUnixMicros(time);
  out->set_seconds(micros / 1'000'000);
  out->set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
}

void FillStored(const ResourceRecord& record, v1::StoredResource* out, bool with_secrets = false) {
  *out->mutable_resource() = *record.resource;
  if (with_secrets && !record.resource->has_certificate()) {
    // as they are: hashes. A private key leaves in no answer.
  } else if (google::protobuf::Message* body = MutableBodyOf(out->mutable_resource(), KeyOf(*record.resource).kind)) {
    RedactSecrets(body);
  }
  out->set_revision(record.revision);
  SetTime(record.changed_at, out->mutable_changed_at());
  out->set_built_in(record.built_in);
  out->set_set(record.set);
}

void FillAcme(const AcmeIssuer* acme, v1::StoredResource* out) {
  if (acme == nullptr || !out->resource().certificate().has_acme()) return;
  if (auto state = acme->StateOf(out->resource().certificate().name())) *out->mutable_acme() = *std::move(state);
}

void FillCanary(const PolicyState& state, v1::StoredResource* out) {
  if (!out->resource().route().has_canary()) return;
  const auto found = state.canaries->find(out->resource().route().name());
  if (found != state.canaries->end()) *out->mutable_canary() = ShownState(found->second.state, state.pending.get());
}

// FNV-1a: ties a page token to the request that it continues.
std::string Fingerprint(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char byte : text) hash = (hash ^ byte) * 0x100000001b3u;
  return absl::StrCat(absl::Hex(hash, absl::kZeroPad16));
}

// A token is "word|word|..." in web-safe base64: nothing that a caller should read.
std::string MakeToken(std::initializer_list<absl::string_view> words) {
  return absl::WebSafeBase64Escape(absl::StrJoin(words, "|"));
}
absl::StatusOr<std::vector<std::string>> ReadToken(const std::string& token, size_t words) {
  std::string text;
  std::vector<std::string> read;
  if (absl::WebSafeBase64Unescape(token, &text)) read = absl::StrSplit(text, '|');
  if (read.size() != words) return absl::InvalidArgumentError("page_token: not one that this call returned");
  return read;
}

absl::StatusOr<uint32_t> PageSize(uint32_t asked, uint32_t otherwise, uint32_t max) {
  if (asked > max) return absl::InvalidArgumentError(absl::StrCat("page_size: ", asked, "; at most ", max));
  return asked == 0 ? otherwise : asked;
}

// A Service's written-down endpoints, in the form of those of Consul.
v1::EndpointSet StaticSet(const v1::Service& service) {
  v1::EndpointSet set;
  set.mutable_key()->set_service(service.name());
  set.set_state(v1::EndpointSet::KNOWN);
  set.set_written_down(true);
  for (const v1::StaticEndpoint& endpoint : service.static_()) {
    v1::Instance* instance = set.add_instances();
    instance->set_id(endpoint.address());
    if (absl::StatusOr<HostPort> parsed = ParseHostPort(endpoint.address()); parsed.ok()) {
      instance->set_address(parsed->host);
      instance->set_port(parsed->port);
    }
    instance->set_weight(endpoint.has_weight() ? endpoint.weight() : 1);
    instance->set_health(v1::Instance::PASSING);
    instance->set_zone(endpoint.zone());
  }
  return set;
}

// A misspelt service of Consul is not an error of the policy, since the service may come later, but it is worth a
// warning.
void WarnOfUnknownServices(const v1::ApplyRequest& request, const EndpointCatalog* catalog,
                           v1::ApplyResponse* response) {
  if (catalog == nullptr) return;
  for (const v1::Resource& resource : request.resources()) {
    if (!resource.has_service() || !resource.service().has_consul()) continue;
    const v1::ConsulSource& source = resource.service().consul();
    const std::string& name = source.service();
    const auto names = catalog->names.find(source.datacenter());
    if (names == catalog->names.end() || names->second->contains(name)) continue;
    const std::string near = NearestName(name, {names->second->begin(), names->second->end()});
    response->add_warnings(
        absl::StrCat("Service/", resource.service().name(), ": '", name, "' is unknown to Consul",
                     source.datacenter().empty() ? "" : absl::StrCat(" in datacenter '", source.datacenter(), "'"),
                     near.empty() ? "" : absl::StrCat(" (did you mean '", near, "'?)"),
                     "; requests get 503 until it is registered"));
  }
}

}  // namespace

struct AdminService::Call {
  virtual ~Call() = default;
  virtual void End(const grpc::Status& status) = 0;
  std::optional<Digest> token;  // by which it was begun
};

// A call that answers with a stream of messages. Wake says that there is something to send; Next sends it.
template <typename Message>
class AdminService::Stream : public Call,
                             public grpc::ServerWriteReactor<Message>,
                             public std::enable_shared_from_this<Stream<Message>> {
 public:
  Stream(AdminService* service, Notifier* notifier) : service_(service), notifier_(notifier) {}

  void Start() {
    subscription_ = notifier_->Add([weak = this->weak_from_this()] {
      if (auto self = weak.lock()) self->Wake();
    });
    Wake();
  }

  void Wake() {
    std::lock_guard lock(mu_);
    if (writing_ || finished_ || end_) return;
    switch (Next(&message_)) {
      case Step::kWait:
        break;
      case Step::kWrite:
        writing_ = true;
        this->StartWrite(&message_);
        break;
      case Step::kWriteLast:
        finished_ = true;
        this->StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
        break;
    }
  }

  void End(const grpc::Status& status) override {
    std::lock_guard lock(mu_);
    EndLocked(status);
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mu_);
      writing_ = false;
      if (end_ || !ok) {
        if (!std::exchange(finished_, true)) this->Finish(end_.value_or(grpc::Status::CANCELLED));
        return;
      }
    }
    Wake();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override {
    // gRPC has ended every other call into this; the lock says so to a reader or a checker of the code.
    { std::lock_guard lock(mu_); }
    notifier_->Remove(subscription_);
    service_->Remove(this);  // may end this
  }

 protected:
  enum class Step { kWait, kWrite, kWriteLast };
  // What to write now, with mu_ held.
  virtual Step Next(Message* message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) = 0;
  void EndLocked(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_ || end_) return;
    end_ = status;
    if (writing_) return;  // OnWriteDone finishes
    finished_ = true;
    this->Finish(*end_);
  }

  AdminService* const service_;
  std::mutex mu_;

 private:
  Notifier* const notifier_;
  uint64_t subscription_ = 0;
  Message message_;  // stays until OnWriteDone
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
};

// Reads revision after revision from the store, at the caller's pace: nothing is queued for a slow one.
class AdminService::WatchStream final : public Stream<v1::WatchResponse> {
 public:
  WatchStream(AdminService* service, uint64_t after)
      : Stream(service, &service->publisher_->revisions()), delivered_(after) {}

 protected:
  Step Next(v1::WatchResponse* message) override {
    if (!ahead_.empty()) {
      *message->mutable_revision() = std::move(ahead_.front());
      ahead_.pop_front();
      delivered_ = message->revision().revision();
      return Step::kWrite;
    }
    if (reading_ || service_->publisher_->current()->revision <= delivered_) return Step::kWait;
    reading_ = service_->executor_.Run(
        [self = std::static_pointer_cast<WatchStream>(shared_from_this()), after = delivered_] { self->Read(after); });
    if (!reading_) EndLocked({grpc::StatusCode::UNAVAILABLE, "too many requests are waiting"});
    return Step::kWait;
  }

 private:
  void Read(uint64_t after) {
    absl::StatusOr<std::vector<v1::RevisionInfo>> page =
        service_->publisher_->store().RevisionsAfter(after, kWatchPage);
    {
      std::lock_guard lock(mu_);
      reading_ = false;
      if (!page.ok()) return EndLocked(ToGrpc(page.status()));
      for (v1::RevisionInfo& info : *page) ahead_.push_back(std::move(info));
      if (ahead_.empty()) return;
    }
    Wake();
  }

  uint64_t delivered_ ABSL_GUARDED_BY(mu_);
  std::deque<v1::RevisionInfo> ahead_ ABSL_GUARDED_BY(mu_);  // at most kWatchPage
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
};

class AdminService::RolloutStream final : public Stream<v1::RolloutResponse> {
 public:
  RolloutStream(AdminService* service, uint64_t revision, absl::Time committed_at, bool wait)
      : Stream(service, &service->hub_->ledger()), revision_(revision), committed_at_(committed_at), wait_(wait) {}

 protected:
  Step Next(v1::RolloutResponse* message) override {
    v1::RolloutResponse now = service_->hub_->Rollout(revision_, committed_at_);
    const bool decided = now.data_planes() > 0 && now.serving() + now.rejected() == now.data_planes();
    if (!wait_ || decided) {
      *message = std::move(now);
      return Step::kWriteLast;
    }
    const std::array<uint32_t, 3> figures{now.data_planes(), now.serving(), now.rejected()};
    if (figures == last_) return Step::kWait;
    last_ = figures;
    *message = std::move(now);
    return Step::kWrite;
  }

 private:
  const uint64_t revision_;
  const absl::Time committed_at_;
  const bool wait_;
  std::optional<std::array<uint32_t, 3>> last_ ABSL_GUARDED_BY(mu_);
};

// Copies the database, then sends the copy piece by piece, at the caller's pace. One at a time.
class AdminService::BackupStream final : public Stream<v1::BackupResponse> {
 public:
  BackupStream(AdminService* service, Caller caller)
      : Stream(service, &service->publisher_->revisions()), caller_(std::move(caller)) {}
  ~BackupStream() override {
    if (file_ >= 0) close(file_);
    EVP_MD_CTX_free(digest_);
  }

 protected:
  Step Next(v1::BackupResponse* message) override {
    if (!std::exchange(started_, true)) {
      if (!service_->executor_.Run(
              [self = std::static_pointer_cast<BackupStream>(shared_from_this())] { self->Copy(); })) {
        EndLocked({grpc::StatusCode::UNAVAILABLE, "too many requests are waiting"});
      }
      return Step::kWait;
    }
    if (file_ < 0) return Step::kWait;
    if (!std::exchange(told_, true)) {
      *message->mutable_info() = info_;
      return Step::kWrite;
    }
    std::string* data = message->mutable_data();
    data->resize(std::min<uint64_t>(kBackupChunkBytes, info_.bytes() - sent_));
    if (data->empty()) {
      unsigned char sum[EVP_MAX_MD_SIZE];
      unsigned int size = 0;
      if (EVP_DigestFinal_ex(digest_, sum, &size) != 1) return Fail("its SHA-256 cannot be made");
      message->set_sha256(sum, size);
      return Step::kWriteLast;
    }
    const ssize_t got = pread(file_, data->data(), data->size(), static_cast<off_t>(sent_));
    if (got <= 0) return Fail(got == 0 ? "it has become shorter" : strerror(errno));
    data->resize(static_cast<size_t>(got));
    sent_ += static_cast<uint64_t>(got);
    if (EVP_DigestUpdate(digest_, data->data(), data->size()) != 1) return Fail("its SHA-256 cannot be made");
    return Step::kWrite;
  }

 private:
  Step Fail(absl::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    EndLocked({grpc::StatusCode::DATA_LOSS, absl::StrCat("the copy of the database cannot be read: ", why)});
    return Step::kWait;
  }

  // On the executor's thread.
  void Copy() {
    const std::string& path = service_->operations_.backup_file;
    for (const char* suffix : {"", "-journal", "-wal", "-shm"}) (void)unlink(absl::StrCat(path, suffix).c_str());
    const absl::StatusOr<uint64_t> revision = service_->publisher_->store().BackUp(path);
    const int file = revision.ok() ? open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    struct stat found {};
    const bool readable = file >= 0 && fstat(file, &found) == 0;
    const int error = errno;
    (void)unlink(path.c_str());  // the open file is all that is needed, and a crash leaves nothing
    {
      std::lock_guard lock(mu_);
      if (!readable) {
        if (file >= 0) close(file);
        return EndLocked(ToGrpc(revision.ok()
                                    ? absl::InternalError(absl::StrCat("cannot read '", path, "': ", strerror(error)))
                                    : revision.status()));
      }
      info_.set_epoch(service_->publisher_->store().epoch());
      info_.set_revision(*revision);
      info_.set_bytes(static_cast<uint64_t>(found.st_size));
      info_.set_control_plane(service_->name_);
      digest_ = EVP_MD_CTX_new();
      if (digest_ == nullptr || EVP_DigestInit_ex(digest_, EVP_sha256(), nullptr) != 1) {
        close(file);
        return EndLocked({grpc::StatusCode::INTERNAL, "no SHA-256"});
      }
      file_ = file;
    }
    service_->audit_->Done(caller_, absl::StrCat("copied the database, revision ", *revision), absl::Now());
    Wake();
  }

  const Caller caller_;
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool told_ ABSL_GUARDED_BY(mu_) = false;
  v1::BackupInfo info_ ABSL_GUARDED_BY(mu_);
  int file_ ABSL_GUARDED_BY(mu_) = -1;
  EVP_MD_CTX* digest_ ABSL_GUARDED_BY(mu_) = nullptr;
  uint64_t sent_ ABSL_GUARDED_BY(mu_) = 0;
};

AdminService::AdminService(Publisher* publisher, Hub* hub, Tokens* tokens, AuditLog* audit, AdminOperations operations,
                           std::string name)
    : publisher_(publisher),
      hub_(hub),
      tokens_(tokens),
      audit_(audit),
      operations_(std::move(operations)),
      name_(std::move(name)),
      started_at_(absl::Now()) {
  revocations_ = tokens_->revocations().Add([this] { EndRevoked(); });
  sweeper_ = std::thread([this] { Sweep(); });
}

AdminService::~AdminService() {
  {
    std::unique_lock lock(mu_);
    ended_.wait(lock, [this] { return calls_.empty(); });
    ending_ = true;
  }
  ended_.notify_all();
  sweeper_.join();
  // Revoke runs on the executor, which ends after this and before all else that EndRevoked uses.
  tokens_->revocations().Remove(revocations_);
}

void AdminService::EndRevoked() {
  const absl::Time now = absl::Now();
  std::vector<std::shared_ptr<Call>> ended;
  {
    std::lock_guard lock(mu_);
    for (const auto& [raw, call] : calls_) {
      if (call->token && !tokens_->InForce(*call->token, now)) ended.push_back(call);
    }
  }
  for (const auto& call : ended) {
    call->End({grpc::StatusCode::UNAUTHENTICATED, "the token of this call is revoked or has expired"});
  }
}

void AdminService::Sweep() {
  std::unique_lock lock(mu_);
  while (!ended_.wait_for(lock, kSweepEvery, [this] { return ending_; })) {
    lock.unlock();
    EndRevoked();
    lock.lock();
  }
}

void AdminService::Drain() {
  std::vector<std::shared_ptr<Call>> calls;
  {
    std::lock_guard lock(mu_);
    draining_ = true;
    for (const auto& [raw, call] : calls_) calls.push_back(call);
  }
  for (const auto& call : calls) {
    call->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down"));
  }
}

void AdminService::Remove(Call* call) {
  std::shared_ptr<Call> last;  // ends it after the lock is given back
  std::lock_guard lock(mu_);
  auto it = calls_.find(call);
  last = std::move(it->second);
  if (call == backup_) backup_ = nullptr;
  calls_.erase(it);
  ended_.notify_all();  // with the lock held: the waiter for the last one destroys this
}

template <typename S, typename Message>
grpc::ServerWriteReactor<Message>* AdminService::Open(std::shared_ptr<S> stream, grpc::CallbackServerContext* context) {
  std::optional<grpc::Status> refusal;
  stream->token = CallerOf(context).token;
  {
    std::lock_guard lock(mu_);
    if (draining_) {
      refusal = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down");
    } else if (calls_.size() >= kAdminStreamsMax) {
      refusal = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                             absl::StrCat("there are ", kAdminStreamsMax, " streaming calls already"));
    }
    // A refused one lives until its OnDone too, for an instant.
    calls_.emplace(stream.get(), stream);
  }
  refusal ? stream->End(*refusal) : stream->Start();
  return stream.get();
}

grpc::ServerUnaryReactor* AdminService::Now(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::Later(grpc::CallbackServerContext* context,
                                              std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool queued = executor_.Run(
      [this, reactor, work = std::move(work), caller = CallerOf(context), bytes_max = ErrorDetailsBytesMax(*context)] {
        const absl::Status status = work();
        // What the gate lets through, the resources may still forbid.
        if (absl::IsPermissionDenied(status)) audit_->Denied(caller, std::string(status.message()), absl::Now());
        reactor->Finish(ToGrpc(status, bytes_max));
      });
  if (!queued) reactor->Finish({grpc::StatusCode::UNAVAILABLE, "too many requests are waiting"});
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::Apply(grpc::CallbackServerContext* context, const v1::ApplyRequest* request,
                                              v1::ApplyResponse* response) {
  return Later(context, [this, author = AuthorOf(context), request, response] {
    absl::StatusOr<v1::ApplyResponse> done = publisher_->Apply(*request, author);
    if (!done.ok()) return done.status();
    *response = *std::move(done);
    WarnOfUnknownServices(*request, hub_->endpoints().get(), response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::Delete(grpc::CallbackServerContext* context, const v1::DeleteRequest* request,
                                               v1::DeleteResponse* response) {
  return Later(context, [this, author = AuthorOf(context), request, response] {
    absl::StatusOr<v1::DeleteResponse> done = publisher_->Delete(*request, author);
    if (!done.ok()) return done.status();
    *response = *std::move(done);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::Rollback(grpc::CallbackServerContext* context,
                                                 const v1::RollbackRequest* request, v1::RollbackResponse* response) {
  return Later(context, [this, author = AuthorOf(context), request, response] {
    absl::StatusOr<v1::RollbackResponse> done = publisher_->Rollback(*request, author);
    if (!done.ok()) return done.status();
    *response = *std::move(done);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::DecideChange(grpc::CallbackServerContext* context,
                                                     const v1::DecideChangeRequest* request,
                                                     v1::DecideChangeResponse* response) {
  return Later(context, [this, author = AuthorOf(context), request, response] {
    absl::StatusOr<v1::DecideChangeResponse> done = publisher_->Decide(*request, author);
    if (done.ok()) *response = *std::move(done);
    return done.status();
  });
}

grpc::ServerUnaryReactor* AdminService::DecideCanary(grpc::CallbackServerContext* context,
                                                     const v1::DecideCanaryRequest* request,
                                                     v1::DecideCanaryResponse* response) {
  return Later(context, [this, author = AuthorOf(context), request, response] {
    absl::StatusOr<v1::DecideCanaryResponse> done = publisher_->DecideCanary(*request, author);
    if (done.ok()) *response = *std::move(done);
    return done.status();
  });
}

grpc::ServerUnaryReactor* AdminService::GetChange(grpc::CallbackServerContext* context,
                                                  const v1::GetChangeRequest* request,
                                                  v1::GetChangeResponse* response) {
  return Later(context, [this, request, response] {
    absl::StatusOr<v1::PendingChange> change = publisher_->store().PendingChangeOf(request->revision());
    if (change.ok()) *response->mutable_change() = *std::move(change);
    return change.status();
  });
}

grpc::ServerUnaryReactor* AdminService::Get(grpc::CallbackServerContext* context, const v1::GetRequest* request,
                                            v1::GetResponse* response) {
  absl::StatusOr<std::string> kind = CanonicalKind(request->kind());
  if (!kind.ok()) return Now(context, kind.status());
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  auto it = state->resources->find({*kind, request->name()});
  if (it == state->resources->end()) {
    return Now(context, absl::NotFoundError(absl::StrCat("no ", *kind, "/", request->name())));
  }
  FillStored(it->second, response->mutable_resource());
  FillAcme(operations_.acme, response->mutable_resource());
  FillCanary(*state, response->mutable_resource());
  response->set_revision(state->revision);
  return Now(context, absl::OkStatus());
}

absl::Status AdminService::FillList(const v1::ListRequest& request, bool with_secrets,
                                    v1::ListResponse* response) const {
  std::string kind;
  if (!request.kind().empty()) {
    absl::StatusOr<std::string> canonical = CanonicalKind(request.kind());
    if (!canonical.ok()) return canonical.status();
    kind = *std::move(canonical);
  }
  absl::StatusOr<uint32_t> page_size = PageSize(request.page_size(), kListPageDefault, kListPageMax);
  if (!page_size.ok()) return page_size.status();
  const std::map<std::string, std::string> labels(request.labels().begin(), request.labels().end());
  std::string filter = kind;
  for (const auto& [label, value] : labels) absl::StrAppend(&filter, "\n", label, "=", value);
  const absl::StatusOr<LabelSelector> selector = LabelSelector::Parse(request.selector());
  if (!selector.ok()) return selector.status();
  absl::StrAppend(&filter, "\n\n", request.selector());
  if (with_secrets) filter += "\n\nwith secrets";
  const std::string fingerprint = Fingerprint(filter);

  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const std::string revision = absl::StrCat(state->epoch, "-", state->revision);
  auto it = kind.empty() ? state->resources->begin() : state->resources->lower_bound({kind, ""});
  if (!request.page_token().empty()) {
    absl::StatusOr<std::vector<std::string>> token = ReadToken(request.page_token(), 4);
    if (!token.ok()) return token.status();
    if ((*token)[1] != fingerprint) {
      return absl::InvalidArgumentError("page_token: of a list of another kind or other labels");
    }
    if ((*token)[0] != revision) {
      return absl::AbortedError("policy has changed between two pages; list from the beginning");
    }
    it = state->resources->upper_bound({(*token)[2], (*token)[3]});
  }
  response->set_revision(state->revision);
  size_t bytes = 0;
  const ResourceKey* last = nullptr;
  for (; it != state->resources->end() && (kind.empty() || it->first.kind == kind); ++it) {
    const auto& own = LabelsOf(*it->second.resource);
    const bool wanted = std::all_of(labels.begin(), labels.end(), [&](const auto& label) {
      auto found = own.find(label.first);
      return found != own.end() && found->second == label.second;
    });
    if (!wanted || !selector->Matches(own)) continue;
    const size_t more = it->second.resource->ByteSizeLong() + 64;
    if (last != nullptr &&
        (static_cast<uint32_t>(response->resources_size()) == *page_size || bytes + more > kListPageBytesMax)) {
      response->set_next_page_token(MakeToken({revision, fingerprint, last->kind, last->name}));
      break;
    }
    bytes += more;
    last = &it->first;
    v1::StoredResource* const filled = response->add_resources();
    FillStored(it->second, filled, with_secrets);
    FillAcme(operations_.acme, filled);
    FillCanary(*state, filled);
    bytes += filled->canary().ByteSizeLong();
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AdminService::List(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                             v1::ListResponse* response) {
  return Now(context, FillList(*request, /*with_secrets=*/false, response));
}

grpc::ServerUnaryReactor* AdminService::Export(grpc::CallbackServerContext* context, const v1::ListRequest* request,
                                               v1::ListResponse* response) {
  return Now(context, FillList(*request, /*with_secrets=*/true, response));
}

grpc::ServerUnaryReactor* AdminService::Lint(grpc::CallbackServerContext* context, const v1::LintRequest*,
                                             v1::LintResponse* response) {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  response->mutable_warnings()->Assign(state->warnings.begin(), state->warnings.end());
  response->set_revision(state->revision);
  return Now(context, absl::OkStatus());
}

absl::Status AdminService::FillHistory(const v1::HistoryRequest& request, v1::HistoryResponse* response) const {
  HistoryFilter filter;
  if (request.kind().empty() && !request.name().empty()) {
    return absl::InvalidArgumentError("name: expected a kind with it");
  }
  if (!request.kind().empty()) {
    absl::StatusOr<std::string> kind = CanonicalKind(request.kind());
    if (!kind.ok()) return kind.status();
    filter.kind = *std::move(kind);
    filter.name = request.name();
  }
  filter.actor = request.actor();
  filter.comment = request.comment();
  if (request.comment().size() > kCommentBytesMax || request.actor().size() > kActorBytesMax) {
    return absl::InvalidArgumentError("actor and comment: longer than any that is kept");
  }
  const auto time_of = [](const google::protobuf::Timestamp& time) {
    return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
  };
  if (request.has_since()) filter.since = time_of(request.since());
  if (request.has_until()) filter.until = time_of(request.until());
  if (filter.since > filter.until) return absl::InvalidArgumentError("since: later than until");
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const absl::StatusOr<LabelSelector> selector = LabelSelector::Parse(request.selector());
  if (!selector.ok()) return selector.status();
  if (!selector->empty()) {
    filter.any_of.emplace();
    for (const auto& [key, record] : *state->resources) {
      if (selector->Matches(LabelsOf(*record.resource))) filter.any_of->insert(key);
    }
  }
  absl::StatusOr<uint32_t> page_size = PageSize(request.page_size(), kHistoryPageDefault, kHistoryPageMax);
  if (!page_size.ok()) return page_size.status();
  const std::string fingerprint = Fingerprint(absl::StrCat(filter.kind, "\n", filter.name, "\n", filter.actor, "\n",
                                                           filter.comment, "\n", absl::FormatTime(filter.since), "\n",
                                                           absl::FormatTime(filter.until), "\n", request.selector()));
  uint64_t before = 0;
  if (!request.page_token().empty()) {
    absl::StatusOr<std::vector<std::string>> token = ReadToken(request.page_token(), 2);
    if (!token.ok()) return token.status();
    if ((*token)[0] != fingerprint || !absl::SimpleAtoi((*token)[1], &before) || before == 0) {
      return absl::InvalidArgumentError("page_token: of another history");
    }
  }
  // One more than asked for tells whether there is a next page.
  absl::StatusOr<std::vector<v1::RevisionInfo>> page =
      publisher_->store().RevisionsBefore(before, filter, *page_size + 1);
  if (!page.ok()) return page.status();
  if (page->empty() && !filter.name.empty() && before == 0 && !state->resources->contains({filter.kind, filter.name})) {
    absl::StatusOr<std::vector<ResourceVersion>> any =
        publisher_->store().VersionsBefore({filter.kind, filter.name}, 0, 1);
    if (!any.ok()) return any.status();
    if (any->empty()) {
      return absl::NotFoundError(absl::StrCat("no ", filter.kind, "/", filter.name, ", and no history of it"));
    }
  }
  size_t count = std::min<size_t>(page->size(), *page_size);
  if (count == page->size() && count > 0) {
    // Shorter than asked for: either the end, or cut by its bytes.
    absl::StatusOr<std::vector<v1::RevisionInfo>> more =
        publisher_->store().RevisionsBefore(page->back().revision(), filter, 1);
    if (!more.ok()) return more.status();
    if (!more->empty()) page->push_back(std::move(more->front()));
  }
  for (size_t i = 0; i < count; ++i) *response->add_revisions() = std::move((*page)[i]);
  if (count < page->size()) {
    response->set_next_page_token(
        MakeToken({fingerprint, absl::StrCat(response->revisions(response->revisions_size() - 1).revision())}));
  }
  return absl::OkStatus();
}

absl::Status AdminService::FillVersions(const v1::ResourceHistoryRequest& request,
                                        v1::ResourceHistoryResponse* response) const {
  absl::StatusOr<std::string> kind = CanonicalKind(request.kind());
  if (!kind.ok()) return kind.status();
  if (request.name().empty()) return absl::InvalidArgumentError("name: expected a resource's name");
  const ResourceKey key{*std::move(kind), request.name()};
  absl::StatusOr<std::vector<ResourceVersion>> page =
      publisher_->store().VersionsBefore(key, request.before(), kHistoryPageMax);
  if (!page.ok()) return page.status();
  if (page->empty() && request.before() == 0) {
    return absl::NotFoundError(absl::StrCat("no ", key.ToString(), ", and no history of it"));
  }
  if (!page->empty()) {
    absl::StatusOr<std::vector<ResourceVersion>> more =
        publisher_->store().VersionsBefore(key, page->back().info.revision(), 1);
    if (!more.ok()) return more.status();
    if (!more->empty()) response->set_next_before(page->back().info.revision());
  }
  for (ResourceVersion& version : *page) {
    v1::ResourceVersion* out = response->add_versions();
    *out->mutable_info() = std::move(version.info);
    out->set_op(version.op);
    if (version.resource == nullptr) continue;
    *out->mutable_resource() = *version.resource;
    if (google::protobuf::Message* body = MutableBodyOf(out->mutable_resource(), key.kind)) RedactSecrets(body);
  }
  response->set_oldest_revision(publisher_->store().oldest_revision());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AdminService::ResourceHistory(grpc::CallbackServerContext* context,
                                                        const v1::ResourceHistoryRequest* request,
                                                        v1::ResourceHistoryResponse* response) {
  return Later(context, [this, request, response] { return FillVersions(*request, response); });
}

grpc::ServerWriteReactor<v1::BackupResponse>* AdminService::Backup(grpc::CallbackServerContext* context,
                                                                   const v1::BackupRequest*) {
  auto stream = std::make_shared<BackupStream>(this, CallerOf(context));
  bool first;
  {
    std::lock_guard lock(mu_);
    first = backup_ == nullptr;
    if (first) backup_ = stream.get();
  }
  if (!first) stream->End({grpc::StatusCode::RESOURCE_EXHAUSTED, "another backup is under way; try again later"});
  return Open<BackupStream, v1::BackupResponse>(std::move(stream), context);
}

grpc::ServerUnaryReactor* AdminService::History(grpc::CallbackServerContext* context, const v1::HistoryRequest* request,
                                                v1::HistoryResponse* response) {
  return Later(context, [this, request, response] { return FillHistory(*request, response); });
}

grpc::ServerUnaryReactor* AdminService::GetRevision(grpc::CallbackServerContext* context,
                                                    const v1::GetRevisionRequest* request,
                                                    v1::GetRevisionResponse* response) {
  return Later(context, [this, request, response] {
    absl::StatusOr<Store::Past> past = publisher_->store().SetAt(request->revision());
    if (!past.ok()) return past.status();
    *response->mutable_info() = std::move(past->info);
    for (const auto& [key, record] : past->resources) FillStored(record, response->add_resources());
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchResponse>* AdminService::Watch(grpc::CallbackServerContext* context,
                                                                 const v1::WatchRequest* request) {
  const uint64_t current = publisher_->current()->revision;
  const uint64_t after = request->after_revision() == 0 ? current : request->after_revision();
  auto stream = std::make_shared<WatchStream>(this, after);
  if (after > current) {
    stream->End({grpc::StatusCode::OUT_OF_RANGE,
                 absl::StrCat("there is no revision ", after, " yet; the current one is ", current)});
  }
  return Open<WatchStream, v1::WatchResponse>(std::move(stream), context);
}

grpc::ServerWriteReactor<v1::RolloutResponse>* AdminService::Rollout(grpc::CallbackServerContext* context,
                                                                     const v1::RolloutRequest* request) {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const uint64_t revision = request->revision() == 0 ? state->revision : request->revision();
  absl::Time committed_at = state->committed_at;
  absl::Status known;
  if (revision != state->revision) {
    // A read of one row by its key; the one call on gRPC's threads that may wait for a commit.
    absl::StatusOr<absl::Time> time = publisher_->store().TimeOf(revision);
    if (time.ok()) {
      committed_at = *time;
    } else {
      known = time.status();
    }
  }
  auto stream = std::make_shared<RolloutStream>(this, revision, committed_at, request->wait());
  if (!known.ok()) stream->End(ToGrpc(known));
  return Open<RolloutStream, v1::RolloutResponse>(std::move(stream), context);
}

grpc::ServerUnaryReactor* AdminService::ListDataPlanes(grpc::CallbackServerContext* context,
                                                       const v1::ListDataPlanesRequest*,
                                                       v1::ListDataPlanesResponse* response) {
  for (v1::DataPlaneState& each : hub_->DataPlanes()) *response->add_data_planes() = std::move(each);
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  response->set_revision(state->revision);
  if (state->pending != nullptr) *response->mutable_change() = *state->pending;
  return Now(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::ForgetDataPlanes(grpc::CallbackServerContext* context,
                                                         const v1::ForgetDataPlanesRequest* request,
                                                         v1::ForgetDataPlanesResponse* response) {
  if (request->name().empty() != request->gone()) {
    return Now(context, absl::InvalidArgumentError("expected either `name` or `gone`"));
  }
  std::vector<std::string> names{request->name()};
  if (request->gone()) {
    names = hub_->ForgetGone();
  } else if (absl::Status status = hub_->Forget(request->name()); !status.ok()) {
    return Now(context, status);
  }
  spdlog::info("{} data planes that were gone are forgotten, by '{}' from {}", names.size(), CallerOf(context).name,
               CallerOf(context).address);
  audit_->Done(CallerOf(context),
               absl::StrCat("forgot data planes: ", names.empty() ? "none" : absl::StrJoin(names, ", ")), absl::Now());
  for (std::string& name : names) response->add_names(std::move(name));
  return Now(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::AcceptHistory(grpc::CallbackServerContext* context,
                                                      const v1::AcceptHistoryRequest* request,
                                                      v1::AcceptHistoryResponse* response) {
  return Later(context, [this, author = AuthorOf(context), caller = CallerOf(context), request, response] {
    response->set_epoch(publisher_->current()->epoch);
    if (hub_->WhyHeld().empty()) return absl::OkStatus();
    if (absl::Status status = publisher_->store().SetTakeover(Takeover::kAccepted); !status.ok()) return status;
    response->set_released(static_cast<uint32_t>(hub_->AcceptHistory()));
    spdlog::warn("this history (epoch {}) takes the place of any other: accepted by '{}' from {}", response->epoch(),
                 author.name.empty() ? request->context().actor() : author.name, author.address);
    audit_->Done(caller, absl::StrCat("accepted the history ", response->epoch()), absl::Now());
    return absl::OkStatus();
  });
}

// What data planes see of `service` (empty: of all), a Service's name, or that of a service of Consul: what they leave
// out, what its hosts' names are, and where exclusions are ignored.
void AdminService::FillExclusions(const std::string& service, v1::ListEndpointsResponse* response) const {
  for (const auto& [data_plane, report] : hub_->Reports()) {
    for (const v1::ExcludedEndpoint& endpoint : report->excluded()) {
      if (!service.empty() && endpoint.service() != service) continue;
      v1::Exclusion* exclusion = response->add_excluded();
      exclusion->set_data_plane(data_plane);
      *exclusion->mutable_endpoint() = endpoint;
    }
    for (const v1::HostReport& host : report->hosts()) {
      if (!service.empty() && host.service() != service) continue;
      v1::ResolvedHost* resolved = response->add_hosts();
      resolved->set_data_plane(data_plane);
      *resolved->mutable_host() = host;
    }
    for (const std::string& panicking : report->panicking()) {
      if (!service.empty() && panicking != service) continue;
      v1::PanickingService* row = response->add_panicking();
      row->set_data_plane(data_plane);
      row->set_service(panicking);
    }
    response->set_reporting(response->reporting() + 1);
  }
  std::sort(response->mutable_hosts()->begin(), response->mutable_hosts()->end(),
            [](const v1::ResolvedHost& a, const v1::ResolvedHost& b) {
              return std::tie(a.host().service(), a.host().address(), a.data_plane()) <
                     std::tie(b.host().service(), b.host().address(), b.data_plane());
            });
  std::sort(response->mutable_panicking()->begin(), response->mutable_panicking()->end(),
            [](const v1::PanickingService& a, const v1::PanickingService& b) {
              return std::tie(a.service(), a.data_plane()) < std::tie(b.service(), b.data_plane());
            });
  std::sort(response->mutable_excluded()->begin(), response->mutable_excluded()->end(),
            [](const v1::Exclusion& a, const v1::Exclusion& b) {
              return std::tie(a.endpoint().service(), a.endpoint().endpoint(), a.data_plane()) <
                     std::tie(b.endpoint().service(), b.endpoint().endpoint(), b.data_plane());
            });
}

grpc::ServerUnaryReactor* AdminService::ListBreakers(grpc::CallbackServerContext* context,
                                                     const v1::ListBreakersRequest* request,
                                                     v1::ListBreakersResponse* response) {
  for (const auto& [data_plane, report] : hub_->Reports()) {
    for (const v1::BreakerReport& breaker : report->breakers()) {
      if (!request->service().empty() && breaker.service() != request->service()) continue;
      v1::DataPlaneBreaker* row = response->add_breakers();
      row->set_data_plane(data_plane);
      *row->mutable_breaker() = breaker;
      *row->mutable_reported_at() = report->received_at();
    }
  }
  std::sort(response->mutable_breakers()->begin(), response->mutable_breakers()->end(),
            [](const v1::DataPlaneBreaker& a, const v1::DataPlaneBreaker& b) {
              return std::tie(a.breaker().service(), a.data_plane(), a.breaker().breaker()) <
                     std::tie(b.breaker().service(), b.data_plane(), b.breaker().breaker());
            });
  return Now(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::ListLimits(grpc::CallbackServerContext* context,
                                                   const v1::ListLimitsRequest* request,
                                                   v1::ListLimitsResponse* response) {
  for (const auto& [data_plane, report] : hub_->Reports()) {
    for (const v1::LimitReport& limit : report->limits()) {
      if (!request->name().empty() && limit.name() != request->name()) continue;
      v1::DataPlaneLimit* row = response->add_limits();
      row->set_data_plane(data_plane);
      *row->mutable_limit() = limit;
    }
  }
  std::sort(response->mutable_limits()->begin(), response->mutable_limits()->end(),
            [](const v1::DataPlaneLimit& a, const v1::DataPlaneLimit& b) {
              return std::tie(a.limit().name(), a.data_plane()) < std::tie(b.limit().name(), b.data_plane());
            });
  return Now(context, absl::OkStatus());
}

absl::Status AdminService::FillEndpoints(const v1::ListEndpointsRequest& request,
                                         v1::ListEndpointsResponse* response) const {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const std::shared_ptr<const EndpointCatalog> catalog = hub_->endpoints();
  FillExclusions(request.service(), response);
  for (v1::EndpointOverride& each : OverridesOf(request.service())) *response->add_overrides() = std::move(each);
  if (response->overrides_size() > 0) {
    for (std::string& name : hub_->OverridesPending()) response->add_overrides_pending(std::move(name));
  }
  if (catalog != nullptr) {
    response->set_version(catalog->version);
    response->set_consul_reachable(catalog->reachable);
    response->set_consul_error(catalog->error);
  }
  auto add_from_consul = [&](const std::string& datacenter, const std::string& service) {
    if (catalog != nullptr) {
      if (auto it = catalog->sets.find({datacenter, service}); it != catalog->sets.end()) {
        *response->add_sets() = *it->second;
        return true;
      }
    }
    return false;
  };
  auto add_service = [&](const v1::Service& service) {
    if (!service.has_consul()) {
      *response->add_sets() = StaticSet(service);
    } else if (!add_from_consul(service.consul().datacenter(), service.consul().service())) {
      // Policy asks for it and Consul has not been heard of it yet.
      v1::EndpointSet* set = response->add_sets();
      set->mutable_key()->set_datacenter(service.consul().datacenter());
      set->mutable_key()->set_service(service.consul().service());
      set->set_state(v1::EndpointSet::UNAVAILABLE);
    }
  };
  if (request.service().empty()) {
    if (catalog != nullptr) {
      for (const auto& [key, set] : catalog->sets) *response->add_sets() = *set;
    }
    for (auto it = state->resources->lower_bound({"Service", ""});
         it != state->resources->end() && it->first.kind == "Service"; ++it) {
      if (!it->second.resource->service().has_consul()) add_service(it->second.resource->service());
    }
    return absl::OkStatus();
  }
  auto it = state->resources->find({"Service", request.service()});
  if (it != state->resources->end()) {
    add_service(it->second.resource->service());
    return absl::OkStatus();
  }
  if (add_from_consul("", request.service())) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("no Service '", request.service(), "', and no policy that lets a request reach one of Consul's"));
}

grpc::ServerUnaryReactor* AdminService::ListEndpoints(grpc::CallbackServerContext* context,
                                                      const v1::ListEndpointsRequest* request,
                                                      v1::ListEndpointsResponse* response) {
  return Now(context, FillEndpoints(*request, response));
}

std::vector<v1::EndpointOverride> AdminService::OverridesOf(const std::string& service) const {
  std::vector<v1::EndpointOverride> all = operations_.overrides->List(service);
  if (service.empty()) return all;
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const auto it = state->resources->find({"Service", service});
  if (it == state->resources->end() || !it->second.resource->service().has_consul()) return all;
  const v1::ConsulSource& source = it->second.resource->service().consul();
  if (!source.datacenter().empty() || source.service() == service) return all;
  // Its own come first: where both are set for an endpoint, they hold.
  for (v1::EndpointOverride& each : operations_.overrides->List(source.service())) {
    const bool own = std::any_of(all.begin(), all.end(), [&each](const v1::EndpointOverride& other) {
      return other.endpoint() == each.endpoint();
    });
    if (!own) all.push_back(std::move(each));
  }
  return all;
}

void AdminService::WarnOfOverride(const v1::EndpointOverride& override, const v1::ListEndpointsResponse& endpoints,
                                  v1::SetEndpointResponse* response) const {
  std::map<std::string, bool> out;
  for (const v1::EndpointOverride& each : OverridesOf(override.service())) {
    out[each.endpoint()] = each.action_case() == v1::EndpointOverride::kDrain || each.weight() == 0;
  }
  size_t serving = 0;
  for (const v1::EndpointSet& set : endpoints.sets()) {
    for (const v1::Instance& instance : set.instances()) {
      const bool well = instance.health() == v1::Instance::PASSING || instance.health() == v1::Instance::WARNING;
      const auto set_to = out.find(EndpointName(instance.address(), instance.port()));
      if (set_to != out.end() ? well && !set_to->second : well && instance.weight() > 0) ++serving;
    }
  }
  if (serving == 0) {
    response->add_warnings(absl::StrCat("no endpoint of '", override.service(), "' gets requests now"));
  }
  if (override.action_case() != v1::EndpointOverride::kWeight || override.weight() == 0) return;
  for (const ServicePolicy& service : publisher_->current()->snapshot->services()) {
    const bool round_robin = service.balance.policy == v1::LoadBalancer::ROUND_ROBIN ||
                             service.balance.policy == v1::LoadBalancer::POLICY_UNSPECIFIED;
    if (service.name != override.service() || !round_robin) continue;
    response->add_warnings(absl::StrCat("'", service.name, "' is balanced by round_robin, which ignores weights"));
  }
}

absl::Status AdminService::SetOverride(const v1::SetEndpointRequest& request, const std::string& endpoint,
                                       const Caller& caller, v1::SetEndpointResponse* response) {
  const absl::Time now = absl::Now();
  v1::ListEndpointsRequest list;
  list.set_service(request.service());
  v1::ListEndpointsResponse endpoints;
  if (absl::Status s = FillEndpoints(list, &endpoints); !s.ok()) return s;
  std::vector<std::string> names;
  for (const v1::EndpointSet& set : endpoints.sets()) {
    for (const v1::Instance& instance : set.instances()) {
      names.push_back(EndpointName(instance.address(), instance.port()));
    }
  }
  if (std::find(names.begin(), names.end(), endpoint) == names.end()) {
    return absl::NotFoundError(absl::StrCat("service '", request.service(), "' has no endpoint ", endpoint,
                                            names.empty() ? "" : absl::StrCat("; ", DidYouMean(endpoint, names)),
                                            "; see gatewayctl endpoints ", request.service()));
  }
  v1::EndpointOverride* made = response->mutable_override();
  made->set_service(request.service());
  made->set_endpoint(endpoint);
  if (request.action_case() == v1::SetEndpointRequest::kDrain) {
    made->set_drain(true);
  } else {
    made->set_weight(request.weight());
  }
  SetTime(now, made->mutable_set_at());
  std::string how_long = "until it is taken back";
  if (request.has_duration()) {
    const absl::Duration duration =
        absl::Seconds(request.duration().seconds()) + absl::Nanoseconds(request.duration().nanos());
    if (duration < absl::Seconds(1) || duration > kOverrideMax) {
      return absl::InvalidArgumentError("duration: expected 1 s to 366 days");
    }
    SetTime(now + duration, made->mutable_until());
    how_long = absl::StrCat("for ", FormatDuration(request.duration()));
  }
  made->set_actor(DoerOf(caller, request.context()));
  if (absl::Status s = operations_.overrides->Set(*made); !s.ok()) return s;
  WarnOfOverride(*made, endpoints, response);
  const std::string& comment = request.context().comment();
  const std::string what = absl::StrCat(endpoint, " of '", request.service(), "': ", DescribeOverride(*made), " ",
                                        how_long, comment.empty() ? "" : absl::StrCat(": ", comment));
  spdlog::info("{}, by '{}' from {}", what, made->actor(), caller.address);
  audit_->Done(caller, what, now);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AdminService::SetEndpoint(grpc::CallbackServerContext* context,
                                                    const v1::SetEndpointRequest* request,
                                                    v1::SetEndpointResponse* response) {
  const absl::StatusOr<HostPort> address = ParseHostPort(request->endpoint());
  const auto refuse = [&](const std::string& why) { return Now(context, absl::InvalidArgumentError(why)); };
  if (request->service().empty()) return refuse("service: expected a name");
  if (!address.ok()) return refuse(absl::StrCat("endpoint: ", address.status().message()));
  if (request->context().actor().size() > kActorBytesMax || request->context().comment().size() > kCommentBytesMax) {
    return refuse(absl::StrCat("context: expected an actor of at most ", kActorBytesMax,
                               " bytes and a comment of at most ", kCommentBytesMax));
  }
  const bool expected = request->action_case() == v1::SetEndpointRequest::kWeight || request->drain() || request->up();
  if (!expected) return refuse("expected `weight`, `drain` or `up`");
  if (request->weight() > kEndpointWeightMax) {
    return refuse(absl::StrCat("weight: expected at most ", kEndpointWeightMax));
  }
  if (request->up() && request->has_duration()) return refuse("duration: `up` has none");
  return Later(context,
               [this, caller = CallerOf(context), request, response,
                endpoint = EndpointName(address->host, address->port)]() -> absl::Status {
                 if (!request->up()) return SetOverride(*request, endpoint, caller, response);
                 if (absl::Status s = operations_.overrides->Clear(request->service(), endpoint); !s.ok()) return s;
                 const std::string what =
                     absl::StrCat(endpoint, " of '", request->service(), "': as policy has it again");
                 spdlog::info("{}, by '{}' from {}", what, caller.name, caller.address);
                 audit_->Done(caller, what, absl::Now());
                 return absl::OkStatus();
               });
}

absl::StatusOr<EndpointKey> AdminService::ConsulKeyOf(const std::string& service) const {
  if (service.empty()) return absl::InvalidArgumentError("service: expected a name");
  if (operations_.endpoints == nullptr) {
    return absl::FailedPreconditionError("this control plane follows no Consul (consul.address is empty)");
  }
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  const auto it = state->resources->find({"Service", service});
  if (it == state->resources->end()) {
    const std::shared_ptr<const EndpointCatalog> catalog = hub_->endpoints();
    if (catalog != nullptr && catalog->sets.contains({"", service})) return EndpointKey("", service);
    return absl::NotFoundError(
        absl::StrCat("no Service '", service, "', and no policy that lets a request reach one of Consul's"));
  }
  const v1::Service& found = it->second.resource->service();
  if (found.has_consul()) return EndpointKey(found.consul().datacenter(), found.consul().service());
  return absl::FailedPreconditionError(
      absl::StrCat("the endpoints of '", service, "' are written down in its policy and not from Consul"));
}

grpc::ServerUnaryReactor* AdminService::DecideEndpoints(grpc::CallbackServerContext* context,
                                                        const v1::DecideEndpointsRequest* request,
                                                        v1::DecideEndpointsResponse* response) {
  if (request->context().actor().size() > kActorBytesMax || request->context().comment().size() > kCommentBytesMax) {
    return Now(context,
               absl::InvalidArgumentError(absl::StrCat("context: expected an actor of at most ", kActorBytesMax,
                                                       " bytes and a comment of at most ", kCommentBytesMax)));
  }
  const char* done = nullptr;
  switch (request->decision()) {
    case v1::DecideEndpointsRequest::ACCEPT:
      done = "accepted as Consul has them";
      break;
    case v1::DecideEndpointsRequest::FREEZE:
      done = "frozen as they are";
      break;
    case v1::DecideEndpointsRequest::THAW:
      done = "follow Consul again";
      break;
    default:
      return Now(context, absl::InvalidArgumentError("decision: expected ACCEPT, FREEZE or THAW"));
  }
  const absl::StatusOr<EndpointKey> key = ConsulKeyOf(request->service());
  if (!key.ok()) return Now(context, key.status());
  const Caller caller = CallerOf(context);
  EndpointSource::Decision decision{*key, request->decision(), DoerOf(caller, request->context()),
                                    request->context().comment()};
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  operations_.endpoints->Decide(decision, [this, reactor, response, caller, done, decision,
                                           service = request->service()](absl::StatusOr<v1::EndpointSet> set) {
    if (!set.ok()) {
      reactor->Finish(
          ToGrpc(absl::Status(set.status().code(), absl::StrCat("'", service, "': ", set.status().message()))));
      return;
    }
    const std::string what = absl::StrCat("endpoints of '", service, "': ", done, " (", set->instances_size(), ")",
                                          decision.comment.empty() ? "" : absl::StrCat(": ", decision.comment));
    spdlog::info("{}, by '{}' from {}", what, decision.actor, caller.address);
    audit_->Done(caller, what, absl::Now());
    *response->mutable_set() = *std::move(set);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListEndpointHistory(grpc::CallbackServerContext* context,
                                                            const v1::ListEndpointHistoryRequest* request,
                                                            v1::ListEndpointHistoryResponse* response) {
  const absl::StatusOr<EndpointKey> key = ConsulKeyOf(request->service());
  if (!key.ok()) return Now(context, key.status());
  for (v1::EndpointEvent& event : operations_.endpoints->History(*key)) *response->add_events() = std::move(event);
  return Now(context, absl::OkStatus());
}

absl::Status AdminService::ChangeDrain(const v1::SetDrainRequest& request, const Caller& caller,
                                       v1::SetDrainResponse* response) {
  const std::string& name = request.data_plane();
  const absl::Time now = absl::Now();
  if (request.drained()) {
    if (absl::Status s = hub_->CheckDrain(name); !s.ok()) return s;
    v1::DataPlaneDrain drain;
    SetTime(now, drain.mutable_since());
    drain.set_actor(DoerOf(caller, request.context()));
    drain.set_comment(request.context().comment());
    absl::StatusOr<v1::DataPlaneDrain> in_force = operations_.drains->Set(name, drain);
    if (!in_force.ok()) return in_force.status();
    *response->mutable_drain() = *std::move(in_force);
    WarnOfDrain(name, response);
  } else if (absl::Status s = operations_.drains->Clear(name); !s.ok()) {
    return s;
  }
  const std::string what = absl::StrCat("data plane '", name, "': ", request.drained() ? "drained" : "undrained");
  spdlog::info("{}, by '{}' from {}", what, DoerOf(caller, request.context()), caller.address);
  audit_->Done(caller, what, now);
  return absl::OkStatus();
}

void AdminService::WarnOfDrain(const std::string& name, v1::SetDrainResponse* response) const {
  bool connected = false, others = false;
  for (const v1::DataPlaneState& each : hub_->DataPlanes()) {
    if (each.name() == name) {
      connected = each.connected();
    } else {
      others = others || (each.connected() && !each.has_drain());
    }
  }
  if (!connected) {
    response->add_warnings(absl::StrCat("data plane '", name, "' is not connected; it is drained once it is back"));
  }
  if (!others) response->add_warnings("no other data plane is connected and in service");
}

grpc::ServerUnaryReactor* AdminService::SetDrain(grpc::CallbackServerContext* context,
                                                 const v1::SetDrainRequest* request, v1::SetDrainResponse* response) {
  if (request->data_plane().empty()) {
    return Now(context, absl::InvalidArgumentError("data_plane: expected a name"));
  }
  if (request->context().actor().size() > kActorBytesMax || request->context().comment().size() > kCommentBytesMax) {
    return Now(context,
               absl::InvalidArgumentError(absl::StrCat("context: expected an actor of at most ", kActorBytesMax,
                                                       " bytes and a comment of at most ", kCommentBytesMax)));
  }
  return Later(context, [this, caller = CallerOf(context), request, response] {
    return ChangeDrain(*request, caller, response);
  });
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* context,
                                                    const v1::SetLogLevelRequest* request,
                                                    v1::SetLogLevelResponse* response) {
  absl::Duration duration = kLogLevelDefault;
  if (request->has_duration()) {
    duration = absl::Seconds(request->duration().seconds()) + absl::Nanoseconds(request->duration().nanos());
  }
  if (duration < absl::Seconds(1) || duration > kLogLevelMax) {
    return Now(context, absl::InvalidArgumentError("duration: expected 1s to 24h"));
  }
  if (!v1::LoggingSection::Level_IsValid(request->level())) {
    return Now(context, absl::InvalidArgumentError("level: expected trace, debug, info, warn or error"));
  }
  if (request->data_plane().empty()) {
    operations_.log_level->Set(request->level(), absl::ToChronoMilliseconds(duration));
  } else if (absl::Status s = hub_->SetLogLevel(request->data_plane(), request->level(), duration); !s.ok()) {
    return Now(context, s);
  }
  const absl::Time now = absl::Now();
  const bool back = request->level() == v1::LoggingSection::LEVEL_UNSPECIFIED;
  if (!back) SetTime(now + duration, response->mutable_until());
  const std::string what = absl::StrCat(
      "log level of ",
      request->data_plane().empty() ? "the control plane" : absl::StrCat("'", request->data_plane(), "'"), ": ",
      back ? "as its bootstrap file has it"
           : absl::StrCat(absl::AsciiStrToLower(v1::LoggingSection::Level_Name(request->level())), " for ",
                          absl::FormatDuration(duration)));
  spdlog::info("{}, by '{}' from {}", what, DoerOf(CallerOf(context), request->context()), CallerOf(context).address);
  audit_->Done(CallerOf(context), what, now);
  return Now(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::Diagnose(grpc::CallbackServerContext* context,
                                                 const v1::DiagnoseRequest* request, v1::DiagnoseResponse* response) {
  if (request->data_plane().empty()) {
    *response = operations_.diagnose();
    return Now(context, absl::OkStatus());
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  hub_->Diagnose(request->data_plane(), [reactor, response](absl::StatusOr<v1::Diagnostics> diagnostics) {
    if (diagnostics.ok()) response->mutable_files()->Swap(diagnostics->mutable_files());
    reactor->Finish(ToGrpc(diagnostics.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::CreateToken(grpc::CallbackServerContext* context,
                                                    const v1::CreateTokenRequest* request,
                                                    v1::CreateTokenResponse* response) {
  return Later(context, [this, caller = CallerOf(context), request, response]() -> absl::Status {
    const absl::Time now = absl::Now();
    absl::StatusOr<v1::CreateTokenResponse> done =
        tokens_->Create(*request, caller.name.empty() ? caller.address : caller.name, now);
    if (!done.ok()) return done.status();
    audit_->Done(caller, absl::StrCat("created token ", request->name(), ", ", RoleName(request->role())), now);
    *response = *std::move(done);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::ListTokens(grpc::CallbackServerContext* context, const v1::ListTokensRequest*,
                                                   v1::ListTokensResponse* response) {
  for (v1::Token& token : tokens_->List()) *response->add_tokens() = std::move(token);
  return Now(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::RevokeToken(grpc::CallbackServerContext* context,
                                                    const v1::RevokeTokenRequest* request, v1::RevokeTokenResponse*) {
  return Later(context, [this, caller = CallerOf(context), request]() -> absl::Status {
    const absl::Time now = absl::Now();
    if (absl::Status s = tokens_->Revoke(request->name(), now); !s.ok()) return s;
    audit_->Done(caller, absl::StrCat("revoked token ", request->name()), now);
    return absl::OkStatus();
  });
}

absl::Status AdminService::FillAudit(const v1::ListAuditRequest& request, v1::ListAuditResponse* response) {
  absl::StatusOr<uint32_t> page_size = PageSize(request.page_size(), kAuditPageDefault, kAuditPageMax);
  if (!page_size.ok()) return page_size.status();
  const absl::Time since = request.has_since() ? absl::FromUnixSeconds(request.since().seconds()) +
                                                     absl::Nanoseconds(request.since().nanos())
                                               : absl::InfinitePast();
  const std::string fingerprint = Fingerprint(request.actor());
  uint64_t before = 0;
  if (!request.page_token().empty()) {
    absl::StatusOr<std::vector<std::string>> token = ReadToken(request.page_token(), 2);
    if (!token.ok()) return token.status();
    if ((*token)[0] != fingerprint || !absl::SimpleAtoi((*token)[1], &before) || before == 0) {
      return absl::InvalidArgumentError("page_token: of another audit");
    }
  }
  audit_->Flush();
  absl::StatusOr<std::vector<v1::AuditEntry>> page =
      publisher_->store().AuditBefore(before, request.actor(), since, *page_size);
  if (!page.ok()) return page.status();
  // An empty page ends it: one call more than there need be, where the last page is just full.
  if (!page->empty()) response->set_next_page_token(MakeToken({fingerprint, absl::StrCat(page->back().number())}));
  for (v1::AuditEntry& entry : *page) *response->add_entries() = std::move(entry);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* AdminService::ListAudit(grpc::CallbackServerContext* context,
                                                  const v1::ListAuditRequest* request,
                                                  v1::ListAuditResponse* response) {
  return Later(context, [this, request, response] { return FillAudit(*request, response); });
}

grpc::ServerUnaryReactor* AdminService::GetServerInfo(grpc::CallbackServerContext* context,
                                                      const v1::GetServerInfoRequest*,
                                                      v1::GetServerInfoResponse* response) {
  const std::shared_ptr<const PolicyState> state = publisher_->current();
  response->set_version(kVersion);
  response->set_epoch(state->epoch);
  response->set_revision(state->revision);
  SetTime(started_at_, response->mutable_started_at());
  response->set_remembers_requests(true);
  response->set_name(name_);
  return Now(context, absl::OkStatus());
}

}  // namespace gateway::controlplane
