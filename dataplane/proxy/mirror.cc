#include "dataplane/proxy/mirror.h"

#include <exception>
#include <utility>

#include "dataplane/http/stream.h"
#include "dataplane/proxy/relay.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

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

Detached Run(Worker* worker, std::shared_ptr<const BoundService> service, std::shared_ptr<Endpoint> endpoint,
             RequestCopy copy) {
  ++worker->mirrors;
  bool answered = false;
  try {
    const std::unique_ptr<http::UpstreamStream> upstream =
        worker->pool().Acquire(endpoint, UpstreamPool::Reuse::kProbed, service->policy->idle_timeout);
    if (upstream != nullptr) answered = co_await Converse(&worker->loop(), upstream.get(), *service->policy, copy);
  } catch (const std::exception& error) {
    spdlog::error("a mirrored request failed: {}", error.what());
  }
  if (!answered) worker->metrics().Add(WorkerGauge::kMirrorsFailedTotal, 1);
  --worker->mirrors;
}

}  // namespace

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

std::shared_ptr<Endpoint> PickMirror(const BoundService& service, Worker* worker) {
  const int index =
      service.balancer->Pick(service.runtime->cursor, {.random = worker->random(), .now = worker->loop().now()});
  return index == EndpointBalancer::kNone ? nullptr : service.endpoints[static_cast<size_t>(index)];
}

void SendMirror(Worker* worker, std::shared_ptr<const BoundService> service, std::shared_ptr<Endpoint> endpoint,
                RequestCopy copy) {
  Run(worker, std::move(service), std::move(endpoint), std::move(copy));
}

}  // namespace gateway::dataplane
