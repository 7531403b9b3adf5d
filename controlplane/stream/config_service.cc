#include "controlplane/stream/config_service.h"

#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/base/host_port.h"
#include "controlplane/identity/data_plane_name.h"
#include "controlplane/rpc/grpc_status.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kNameBytesMax = 128;
constexpr size_t kTextBytesMax = 256;
constexpr int kLabelsMax = 64;
constexpr uint32_t kWorkersMax = 4096;
// How often deadlines of streams are looked at.
constexpr std::chrono::milliseconds kWatchEvery{250};

using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

// Of an address as HostOfPeer gives it.
bool IsLoopback(absl::string_view host) { return absl::StartsWith(host, "127.") || host == "::1"; }

// A stream that is refused at once.
class Refusal final : public Reactor {
 public:
  explicit Refusal(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

absl::Status CheckHello(const v1::Hello& hello) {
  auto bad = [](absl::string_view field, absl::string_view expected) {
    return absl::InvalidArgumentError(absl::StrCat("hello.", field, ": expected ", expected));
  };
  const bool name_ok = !hello.name().empty() && hello.name().size() <= kNameBytesMax &&
                       std::all_of(hello.name().begin(), hello.name().end(), [](unsigned char c) {
                         return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-' || c == ':';
                       });
  if (!name_ok) return bad("name", "1 to 128 of letters, digits, '.', '_', '-' and ':'");
  if (hello.instance_id().empty() || hello.instance_id().size() > kTextBytesMax) {
    return bad("instance_id", "1 to 256 bytes");
  }
  if (hello.workers() == 0 || hello.workers() > kWorkersMax) return bad("workers", "1 to 4096");
  if (hello.version().size() > kTextBytesMax) return bad("version", "at most 256 bytes");
  if (hello.zone().size() > kTextBytesMax) return bad("zone", "at most 256 bytes");
  if (hello.epoch().size() > kTextBytesMax) return bad("epoch", "at most 256 bytes");
  if (hello.replaces_instance().size() > kTextBytesMax) return bad("replaces_instance", "at most 256 bytes");
  if (hello.endpoints_epoch().size() > kTextBytesMax) return bad("endpoints_epoch", "at most 256 bytes");
  if (hello.health_port() > 65535) return bad("health_port", "at most 65535");
  if (hello.labels_size() > kLabelsMax) return bad("labels", "at most 64");
  for (const auto& [key, value] : hello.labels()) {
    if (key.size() > kTextBytesMax || value.size() > kTextBytesMax) return bad("labels", "at most 256 bytes each");
  }
  if (!hello.advertise().empty()) {
    if (hello.advertise().size() > kTextBytesMax) return bad("advertise", "at most 256 bytes");
    if (absl::StatusOr<HostPort> parsed = ParseHostPort(hello.advertise(), /*host_optional=*/true); !parsed.ok()) {
      return bad("advertise", absl::StrCat("host:port (", parsed.status().message(), ")"));
    }
  }
  return absl::OkStatus();
}

std::string HostOfPeer(const std::string& peer) {
  std::string text = absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}, {"%25", "%"}});
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "ipv4:") && !absl::ConsumePrefix(&rest, "ipv6:")) return peer;
  if (size_t colon = rest.rfind(':'); colon != absl::string_view::npos) rest = rest.substr(0, colon);
  if (rest.size() >= 2 && rest.front() == '[' && rest.back() == ']') rest = rest.substr(1, rest.size() - 2);
  // An IPv4 client of a dual-stack socket.
  absl::ConsumePrefix(&rest, "::ffff:");
  return std::string(rest);
}

// One stream of a data plane. Lives until OnDone; the hub and the watch hold it weakly, or for a call.
class ConfigService::Stream final : public Reactor, public StreamSink, public std::enable_shared_from_this<Stream> {
 public:
  Stream(ConfigService* service, grpc::CallbackServerContext* context)
      : service_(service),
        context_(context),
        peer_(HostOfPeer(context->peer())),
        hello_deadline_(absl::Now() + service->options_.hello_wait) {}

  void Start() { StartRead(&incoming_); }

  void OnReadDone(bool ok) override {
    if (!ok) return End(grpc::Status::OK);  // half-closed or lost; the ledger tells
    v1::DataPlaneMessage message;
    grpc::Status parsed = grpc::SerializationTraits<v1::DataPlaneMessage>::Deserialize(&incoming_, &message);
    absl::Status handled =
        parsed.ok() ? Handle(message) : absl::InvalidArgumentError("the message cannot be read as a DataPlaneMessage");
    if (!handled.ok()) {
      spdlog::warn("config stream of '{}' ({}): {}", session_ == nullptr ? "?" : name_, peer_,
                   std::string(handled.message()));
      return End(ToGrpc(handled));
    }
    {
      std::lock_guard lock(mu_);
      if (finished_ || end_) return;  // refused, among others
      StartRead(&incoming_);
    }
    Wake();
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mu_);
      writing_ = false;
      if (!ok && !end_) end_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream is lost");
      if (end_) return FinishNow();
    }
    Wake();
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnDone() override {
    // gRPC has ended every other call into this; the lock says so to whoever reads (or checks) the code alone.
    { std::lock_guard lock(mu_); }
    if (session_ != nullptr && service_->hub_->Detach(session_, goodbye_)) {
      spdlog::info("data plane '{}' ({}) disconnected{}", name_, peer_, goodbye_ ? " with a goodbye" : "");
    }
    service_->Remove(this);  // may end this
  }

  // Writes what the hub has next, unless a write is under way: its end comes back here.
  void Wake() override {
    std::lock_guard lock(mu_);
    if (writing_ || finished_ || end_ || !greeted_) return;
    std::optional<grpc::ByteBuffer> next = service_->hub_->Next(session_);
    if (!next) return;
    outgoing_ = *std::move(next);
    writing_ = true;
    StartWrite(&outgoing_);
  }

  void Replaced() override {
    spdlog::warn("data plane '{}' ({}): another stream of this name takes its place", name_, peer_);
    End(grpc::Status(grpc::StatusCode::ABORTED, "another stream of the same name has taken this one's place"));
  }

  // Ends the stream with `status`, after a write that is under way.
  void End(const grpc::Status& status) {
    std::lock_guard lock(mu_);
    if (finished_ || end_) return;
    end_ = status;
    end_deadline_ = absl::Now() + service_->options_.close_wait;
    if (!writing_) FinishNow();
  }

  // Looks at the deadlines.
  void Check(absl::Time now) {
    bool silent;
    {
      std::lock_guard lock(mu_);
      // A reader that is dead holds the write for ever.
      if (end_ && !finished_ && now > end_deadline_) return context_->TryCancel();
      silent = !greeted_ && !finished_ && !end_ && now > hello_deadline_;
    }
    if (silent) End(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no hello in time"));
  }

 private:
  void FinishNow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(finished_, true)) return;
    Finish(*end_);
  }

  // On the thread of a read: never two at once.
  absl::Status Handle(const v1::DataPlaneMessage& message) {
    if (goodbye_) return absl::InvalidArgumentError("a message after the goodbye");
    if (session_ == nullptr) {
      if (!message.has_hello()) return absl::InvalidArgumentError("the first message must be a hello");
      return Greet(message.hello());
    }
    switch (message.message_case()) {
      case v1::DataPlaneMessage::kAck:
        return service_->hub_->OnAck(session_, message.ack());
      case v1::DataPlaneMessage::kNack: {
        const v1::Nack& nack = message.nack();
        absl::Status status = service_->hub_->OnNack(session_, nack);
        if (status.ok()) {
          const std::string reason = nack.rejections().empty()
                                         ? "no reason given"
                                         : absl::StrCat(nack.rejections(0).kind(), "/", nack.rejections(0).name(), ": ",
                                                        nack.rejections(0).field(), ": ", nack.rejections(0).reason());
          spdlog::warn("data plane '{}' rejected {} {}: {}", name_, nack.revision() != 0 ? "revision" : "endpoints",
                       nack.revision() != 0 ? nack.revision() : nack.endpoints_version(), reason.substr(0, 1024));
        }
        return status;
      }
      case v1::DataPlaneMessage::kGoodbye:
        goodbye_ = true;
        // The goodbye of a stream that was replaced says nothing of the one that took its place.
        if (service_->hub_->Holds(session_) && service_->options_.said_goodbye) {
          service_->options_.said_goodbye(name_);
        }
        return absl::OkStatus();
      case v1::DataPlaneMessage::kReport:
        service_->hub_->OnReport(session_, message.report());
        return absl::OkStatus();
      case v1::DataPlaneMessage::kDiagnostics:
        service_->hub_->OnDiagnostics(session_, message.diagnostics());
        return absl::OkStatus();
      case v1::DataPlaneMessage::kChallenges:
        return service_->hub_->OnChallenges(session_, message.challenges());
      case v1::DataPlaneMessage::kHello:
        return absl::InvalidArgumentError("a second hello");
      case v1::DataPlaneMessage::MESSAGE_NOT_SET:
        break;
    }
    return absl::InvalidArgumentError("a message of a kind that this control plane does not know");
  }

  absl::Status Greet(const v1::Hello& hello) {
    if (absl::Status s = CheckHello(hello); !s.ok()) return s;
    if (service_->options_.names_by_certificate) {
      if (absl::Status s = CheckDataPlaneName(hello.name(), PeerCertificate(*context_->auth_context())); !s.ok()) {
        return s;
      }
    }
    name_ = hello.name();
    std::string address = peer_;
    std::optional<RegisteredInstance> instance;
    if (!hello.advertise().empty()) {
      const HostPort advertised = ParseHostPort(hello.advertise(), /*host_optional=*/true).value();
      instance.emplace();
      instance->name = hello.name();
      instance->host = advertised.host.empty() ? peer_ : advertised.host;
      instance->port = advertised.port;
      instance->health_port = static_cast<uint16_t>(hello.health_port() == 0 ? advertised.port : hello.health_port());
      instance->zone = hello.zone();
      instance->labels = {hello.labels().begin(), hello.labels().end()};
      instance->version = hello.version();
      address = absl::StrContains(instance->host, ':') ? absl::StrCat("[", instance->host, "]:", instance->port)
                                                       : absl::StrCat(instance->host, ":", instance->port);
    }
    const bool private_stream = service_->options_.names_by_certificate || IsLoopback(peer_);
    Hub::Attachment attachment = service_->hub_->Attach(hello, address, weak_from_this(),
                                                        private_stream ? PrivateKeys::kSent : PrivateKeys::kKept);
    if (attachment.session == nullptr) {
      if (attachment.news) spdlog::error("data plane {} ({}): {}", hello.instance_id(), peer_, attachment.refusal);
      End(grpc::Status(grpc::StatusCode::ALREADY_EXISTS, attachment.refusal));
      return absl::OkStatus();
    }
    session_ = std::move(attachment.session);
    if (instance && service_->options_.registered) service_->options_.registered(*instance);
    if (!attachment.held.empty() && attachment.news) {
      spdlog::error("data plane '{}' is sent nothing: {}; see /ready", name_, attachment.held);
    }
    if (attachment.keys_kept > 0) {
      spdlog::warn(
          "data plane '{}' ({}) gets policy without the private keys of {} certificates: its stream is neither TLS nor "
          "loopback (control_plane.stream_tls)",
          name_, peer_, attachment.keys_kept);
    }
    spdlog::info("data plane '{}' ({}) connected: version {}, {} workers, revision {}", name_, peer_, hello.version(),
                 hello.workers(), hello.revision());
    std::lock_guard lock(mu_);
    greeted_ = true;
    return absl::OkStatus();
  }

  ConfigService* const service_;
  grpc::CallbackServerContext* const context_;
  const std::string peer_;
  const absl::Time hello_deadline_;

  // Of the reads' thread, and of OnDone, which comes after them; `session_` is read by Wake once `greeted_` says so.
  grpc::ByteBuffer incoming_;
  std::string name_;
  std::shared_ptr<Hub::Session> session_;
  bool goodbye_ = false;

  std::mutex mu_;
  grpc::ByteBuffer outgoing_;  // stays until OnWriteDone
  bool greeted_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);  // how it is going to end
  absl::Time end_deadline_ ABSL_GUARDED_BY(mu_);
};

ConfigService::ConfigService(Hub* hub, ConfigServiceOptions options)
    : hub_(hub), options_(std::move(options)), watch_([this] { Watch(); }) {}

ConfigService::~ConfigService() {
  {
    std::unique_lock lock(mu_);
    changed_.wait(lock, [this] { return streams_.empty(); });
    ending_ = true;
  }
  changed_.notify_all();
  watch_.join();
}

Reactor* ConfigService::Connect(grpc::CallbackServerContext* context) {
  // Before it takes the place of a stream: its name is checked with the first message.
  if (options_.names_by_certificate) {
    if (absl::Status s = CheckHasCertificate(*context->auth_context()); !s.ok()) return new Refusal(ToGrpc(s));
  }
  std::shared_ptr<Stream> stream;
  {
    std::lock_guard lock(mu_);
    if (draining_) {
      return new Refusal({grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down"});
    }
    if (streams_.size() >= options_.streams_max) {
      ++refused_;
      return new Refusal(
          {grpc::StatusCode::RESOURCE_EXHAUSTED, absl::StrCat("there are ", options_.streams_max, " streams already")});
    }
    stream = std::make_shared<Stream>(this, context);
    streams_.emplace(stream.get(), stream);
  }
  stream->Start();
  return stream.get();  // lives until OnDone: `streams_` holds it
}

void ConfigService::Drain() {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    std::lock_guard lock(mu_);
    draining_ = true;
    for (const auto& [raw, stream] : streams_) streams.push_back(stream);
  }
  for (const auto& stream : streams) {
    stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is shutting down"));
  }
}

void ConfigService::Remove(Stream* stream) {
  std::shared_ptr<Stream> last;  // ends it after the lock is given back
  std::lock_guard lock(mu_);
  auto it = streams_.find(stream);
  last = std::move(it->second);
  streams_.erase(it);
  // With the lock held: whoever waits for the last one destroys this.
  changed_.notify_all();
}

void ConfigService::Watch() {
  while (true) {
    std::vector<std::shared_ptr<Stream>> streams;
    {
      std::unique_lock lock(mu_);
      if (changed_.wait_for(lock, kWatchEvery, [this] { return ending_; })) return;
      for (const auto& [raw, stream] : streams_) streams.push_back(stream);
    }
    const absl::Time now = absl::Now();
    for (const auto& stream : streams) stream->Check(now);
  }
}

}  // namespace gateway::controlplane
