#include "dataplane/proxy/mirror.h"

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "dataplane/http/http1/response_reader.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

struct Discarded {
  bool answered = false;  // the head of a final answer came
  bool reusable = false;  // and all of it did, on a connection that may be kept
};

// Reads one answer to its end.
Task<Discarded> DiscardAnswer(Worker* worker, UpstreamConnection* upstream, bool head_only, TimePoint until) {
  Buffer& input = upstream->input;
  http1::ResponseReader reader;
  http1::ResponseHead head;
  auto body = http1::BodyDecoder::None();
  bool in_body = false;
  Discarded discarded;
  for (;;) {
    if (!in_body) {
      using Result = http1::ResponseReader::Result;
      const Result result = reader.Read(input.data(), input.size(), &head);
      if (result == Result::kRejected || (result == Result::kFinal && head.status == 101)) co_return discarded;
      if (result == Result::kInterim) {
        input.Consume(reader.head_bytes());
        continue;
      }
      if (result == Result::kFinal) {
        discarded.answered = true;
        if (!http1::MayReuseConnection(head, head_only)) co_return discarded;
        body = http1::BodyOf(head, head_only);
        input.Consume(reader.head_bytes());
        in_body = true;
      }
    }
    if (in_body) {
      const auto result = body.Decode(input.data(), input.size());
      if (result.refused) co_return discarded;
      input.Consume(result.consumed);
      if (body.done()) {
        if (!input.empty()) worker->pool().Distrust(upstream->endpoint.get());
        discarded.reusable = input.empty();
        co_return discarded;
      }
    }
    if (!input) input = worker->buffers().Acquire(BufferPool::kSmall);
    if (!input) co_return discarded;
    if (input.room() == 0) {
      input.Compact();
      if (input.room() == 0 && (in_body || !worker->buffers().Grow(&input, input.capacity() * 2))) co_return discarded;
    }
    size_t moved = 0;
    const Io io = upstream->socket.Read(input.space(), input.room(), &moved);
    if (io == Io::kDone) {
      input.Filled(moved);
      continue;
    }
    if (io != Io::kAgain || co_await upstream->socket.Readable(until) != Wait::kReady) co_return discarded;
  }
}

// Whether an answer came, whatever it says.
Task<bool> Converse(Worker* worker, const BoundService& service, const std::shared_ptr<Endpoint>& endpoint,
                    std::string request, bool head_only) {
  std::unique_ptr<UpstreamConnection> upstream = worker->pool().Take(*endpoint, true);
  if (upstream == nullptr) {
    upstream = worker->pool().Connect(endpoint);
    if (upstream == nullptr) co_return false;
    const TimePoint patience = worker->loop().now() + service.policy->connect_timeout;
    if (co_await upstream->socket.Writable(patience) != Wait::kReady || upstream->socket.ConnectError() != 0) {
      co_return false;
    }
    if (endpoint->tls != nullptr && co_await upstream->Secure(patience) != tls::HandshakeError::kNone) co_return false;
  }
  std::array<iovec, 1> part = {{{request.data(), request.size()}}};
  uint64_t sent = 0;
  const TimePoint until = worker->loop().now() + service.policy->response_timeout;
  if (co_await upstream->socket.WriteRest(part, service.policy->response_timeout, &sent, until) != Io::kDone)
    co_return false;
  request = {};
  const Discarded discarded = co_await DiscardAnswer(worker, upstream.get(), head_only, until);
  if (!discarded.reusable) co_return discarded.answered;
  upstream->input.Reset();
  worker->pool().Keep(std::move(upstream), service.policy->idle_timeout);
  co_return true;
}

Detached Run(Worker* worker, std::shared_ptr<const BoundService> service, std::shared_ptr<Endpoint> endpoint,
             std::string request, bool head_only) {
  ++worker->mirrors;
  bool answered = false;
  try {
    answered = co_await Converse(worker, *service, endpoint, std::move(request), head_only);
  } catch (const std::exception& error) {
    spdlog::error("a mirrored request failed: {}", error.what());
  }
  if (!answered) worker->metrics().Add(WorkerGauge::kMirrorsFailedTotal, 1);
  --worker->mirrors;
}

}  // namespace

std::shared_ptr<Endpoint> PickMirror(const BoundService& service, Worker* worker) {
  const int index =
      service.balancer->Pick(service.runtime->cursor, {.random = worker->random(), .now = worker->loop().now()});
  return index == EndpointBalancer::kNone ? nullptr : service.endpoints[static_cast<size_t>(index)];
}

void SendMirror(Worker* worker, std::shared_ptr<const BoundService> service, std::shared_ptr<Endpoint> endpoint,
                std::string request, bool head_only) {
  Run(worker, std::move(service), std::move(endpoint), std::move(request), head_only);
}

}  // namespace gateway::dataplane
