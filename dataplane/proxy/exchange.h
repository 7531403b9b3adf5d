// The life of a request, from its header to its line in the log. exchange.cc tells it from top to bottom: the stages
// are functions in stages/, forward.h asks a service. What it decides by is in the snapshot, what it remembers in the
// runtime state; how bytes look on the wire is the streams' task (http/stream.h), how bodies flow relay.h's.
#ifndef GATEWAY_DATAPLANE_PROXY_EXCHANGE_H_
#define GATEWAY_DATAPLANE_PROXY_EXCHANGE_H_

#include <optional>
#include <string_view>

#include "dataplane/http/stream.h"
#include "dataplane/net/task.h"
#include "dataplane/proxy/attempt.h"
#include "dataplane/proxy/exchange_resources.h"
#include "dataplane/proxy/refusal.h"
#include "dataplane/proxy/request_context.h"
#include "dataplane/proxy/stages/admission.h"

namespace gateway::dataplane {

// One request and its response. Lives in the coroutine of its stream's connection; holds the state that it started with
// until it ends.
class Exchange {
 public:
  Exchange(ExchangeResources* resources, http::DownstreamStream* stream);
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

 private:
  friend Task<void> ServeRequest(ExchangeResources& resources, http::DownstreamStream& stream);

  // The life of a request whose header is well-formed.
  Task<void> Handle();

  // The one point that the outcome of every stage passes. True: it refused, and why is noted for the response, the log
  // and the metrics.
  bool Note(Stage stage, const std::optional<Refusal>& refusal) {
    if (!refusal) return false;
    NoteRefusal(stage, *refusal);
    return true;
  }
  void NoteRefusal(Stage stage, const Refusal& refusal);

  Task<void> ServeBuiltin();
  Task<void> ServePreflight(const CorsPolicy& cors);
  Task<void> Redirect(const RedirectPolicy& redirect);
  Task<void> Respond(const RespondPolicy& respond);
  // The forwarding has ended: what is left to tell the client.
  Task<void> EndForwarding(const AttemptEnd& attempt);

  // A response of the gateway's own that says why there is no other, as noted.
  Task<void> Refuse();
  // The same, unless the client has gone before there was a response.
  Task<void> RefuseIfPresent();
  void EndUnanswered();
  // `content_type` may be empty: the response has none.
  Task<void> Reply(int status, std::string_view body, std::string_view fields = {},
                   std::string_view content_type = "application/json");
  // The line in the log, and the metrics.
  void Record();

  ExchangeResources& resources_;
  const ExchangeOptions& options_;
  RequestContext context_;
  Admission admission_;
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_EXCHANGE_H_
