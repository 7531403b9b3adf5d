// Copies of requests, whose responses nobody waits for.
#ifndef GATEWAY_DATAPLANE_PROXY_MIRROR_H_
#define GATEWAY_DATAPLANE_PROXY_MIRROR_H_

#include <memory>
#include <string_view>
#include <vector>

#include "dataplane/http/message.h"
#include "dataplane/server/worker.h"
#include "dataplane/state/serving_state.h"

namespace gateway::dataplane {

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

// The endpoint for the next copy; null: there is none.
std::shared_ptr<Endpoint> PickMirror(const BoundService& service, Worker* worker);

// Sends `copy` to `endpoint` and throws the response away, within the service's timeouts; then the connection is kept
// for others. Returns at once; what goes wrong is counted, and nobody's business else. On the worker; counted in
// Worker::mirrors until it is over.
void SendMirror(Worker* worker, std::shared_ptr<const BoundService> service, std::shared_ptr<Endpoint> endpoint,
                RequestCopy copy);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_PROXY_MIRROR_H_
