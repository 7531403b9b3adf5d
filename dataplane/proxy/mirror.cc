#include "dataplane/proxy/mirror.h"

#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "dataplane/http/stream.h"
#include "dataplane/proxy/header_rules.h"
#include "dataplane/proxy/relay.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

// A request with everything that its views point to.
class RequestCopy {
 public:
  RequestCopy(const http::OutgoingRequest& request, std::string_view body);
  RequestCopy(RequestCopy&&) = default;

  const http::OutgoingRequest& request() const { return request_; }
  std::string_view body() const { return body_; }

 private:
  std::vector<char> text_;
  std::vector<FieldView> fields_;
  http::OutgoingRequest request_;
  std::string_view body_;
};

class Discard final : public http::BodySink {
 public:
  http::BodyForms takes() const override { return {}; }
  Io Write(const http::BodyPiece&) override { return Io::kDone; }
  Task<Io> Flush(std::chrono::milliseconds, TimePoint) override { co_return Io::kDone; }
};

class Anything final : public RelayObserver {
 public:
  http::BodyForms Forms() override { return {}; }
  RelayEnd OnPiece(const http::BodyPiece&) override { return RelayEnd::kRunning; }
  TimePoint ReadDeadline(TimePoint) override { return TimePoint::max(); }
};

// Whether a response came, whatever it says.
Task<bool> Converse(EventLoop* loop, http::UpstreamStream* upstream, const ServicePolicy& policy,
                    const RequestCopy& copy) {
  if (!upstream->connected() && co_await upstream->Connect(loop->now() + policy.connect_timeout) != Io::kDone) {
    co_return false;
  }
  const TimePoint until = loop->now() + policy.response_timeout;
  Io io = upstream->Begin(copy.request(), {.bytes = copy.body(), .payload = copy.body().size(), .last = true});
  if (io == Io::kAgain) io = co_await upstream->Flush(policy.response_timeout, until);
  if (io != Io::kDone) co_return false;
  http::Response* response = nullptr;
  for (;;) {
    const http::HeadRead read = upstream->ReadHead(&response);
    if (read == http::HeadRead::kFinal) break;
    if (read == http::HeadRead::kInterim) continue;
    if (read != http::HeadRead::kWait || co_await upstream->Readable(until) != Wait::kReady) co_return false;
  }
  Discard sink;
  Anything anything;
  const RelayEnd end = co_await Relay(loop, upstream, &sink, &anything, {policy.response_timeout, until});
  if (end == RelayEnd::kComplete) upstream->Finish();
  co_return true;
}

RequestCopy::RequestCopy(const http::OutgoingRequest& request, std::string_view body) : request_(request) {
  size_t bytes = request.lines.size() + request.method.size() + request.scheme.size() + request.authority.size() +
                 request.path.size() + request.query.size() + body.size();
  for (const FieldView& field : request.fields) bytes += field.name.size() + field.value.size();
  text_.reserve(bytes);  // views hold: nothing below is longer
  const auto keep = [this](std::string_view text) {
    const size_t at = text_.size();
    text_.insert(text_.end(), text.begin(), text.end());
    return std::string_view(text_.data() + at, text.size());
  };
  fields_.reserve(request.fields.size());
  for (const FieldView& field : request.fields) {
    const std::string_view name = keep(field.name);
    fields_.push_back({name, keep(field.value)});
  }
  request_.fields = fields_;
  for (std::string_view* text :
       {&request_.lines, &request_.method, &request_.scheme, &request_.authority, &request_.path, &request_.query}) {
    *text = keep(*text);
  }
  body_ = keep(body);
}

Detached Send(ExchangeResources* resources, std::shared_ptr<const BoundService> service,
              std::shared_ptr<Endpoint> endpoint, RequestCopy copy) {
  ++resources->mirrors;
  bool responded = false;
  try {
    const std::unique_ptr<http::UpstreamStream> upstream =
        resources->pool->Acquire(endpoint, UpstreamPool::Reuse::kProbed, service->policy->idle_timeout);
    if (upstream != nullptr) responded = co_await Converse(resources->loop, upstream.get(), *service->policy, copy);
  } catch (const std::exception& error) {
    spdlog::error("a mirrored request failed: {}", error.what());
  }
  if (!responded) resources->metrics->Add(WorkerGauge::kMirrorsFailedTotal, 1);
  --resources->mirrors;
}

// Null: no endpoint is usable.
std::shared_ptr<Endpoint> PickEndpoint(const BoundService& service, ExchangeResources* resources) {
  const int index =
      service.balancer->Pick(service.runtime->cursor, {.random = resources->random, .now = resources->loop->now()});
  return index == EndpointBalancer::kNone ? nullptr : service.endpoints[static_cast<size_t>(index)];
}

}  // namespace

void CopyForMirrors(std::string_view payload, RequestContext* context, WorkerShard* metrics) {
  MirrorCopy& mirror = context->mirror;
  if (mirror.body.size() + payload.size() > kMirrorBodyBytesMax) {
    mirror.pending = false;
    mirror.body = {};
    metrics->Add(WorkerGauge::kMirrorsDroppedTotal, static_cast<int64_t>(context->target.policy().mirrors.size()));
    return;
  }
  mirror.body += payload;
}

void StartMirrors(uint32_t attempt, ExchangeResources* resources, RequestContext* context) {
  if (!std::exchange(context->mirror.pending, false)) return;
  WorkerShard& metrics = *resources->metrics;
  const std::string& body = context->mirror.body;
  for (const MirrorTarget& target : context->target.policy().mirrors) {
    if (absl::Uniform<uint32_t>(resources->random, 0, 1'000'000) >= target.per_million) continue;
    const std::shared_ptr<const BoundService>& service = context->state->services[target.service];
    if (service->balancer == nullptr || resources->mirrors >= kMirrorsMax) {
      metrics.Add(WorkerGauge::kMirrorsDroppedTotal, 1);
      continue;
    }
    const std::shared_ptr<Endpoint> endpoint = PickEndpoint(*service, resources);
    if (endpoint == nullptr) {
      metrics.Add(WorkerGauge::kMirrorsDroppedTotal, 1);
      continue;
    }
    metrics.Add(WorkerGauge::kMirroredTotal, 1);
    FieldList fields;
    Send(resources, service, endpoint,
         RequestCopy(BuildRequest(*context, *endpoint, attempt, body.size(), resources, &fields), body));
  }
  context->mirror.body = {};
}

}  // namespace gateway::dataplane
