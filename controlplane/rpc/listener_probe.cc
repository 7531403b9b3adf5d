#include "controlplane/rpc/listener_probe.h"

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel_posix.h"
#include "grpcpp/grpcpp.h"

namespace gateway::controlplane {

absl::Status ProbeListener(Acceptor* acceptor, const std::string& service, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::system_clock::now() + timeout;
  return acceptor->ConnectToSelf(timeout, [&](int fd) -> absl::Status {
    // The channel takes the descriptor.
    const auto stub = grpc::health::v1::Health::NewStub(grpc::CreateInsecureChannelFromFd("probe", fd));
    grpc::ClientContext context;
    context.set_deadline(deadline);
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    grpc::health::v1::HealthCheckResponse response;
    if (const grpc::Status status = stub->Check(&context, request, &response); !status.ok()) {
      return absl::UnavailableError(
          absl::StrCat("port ", acceptor->port(), " does not answer: ", status.error_message()));
    }
    if (response.status() != grpc::health::v1::HealthCheckResponse::SERVING) {
      return absl::UnavailableError(absl::StrCat("port ", acceptor->port(), " does not serve"));
    }
    return absl::OkStatus();
  });
}

}  // namespace gateway::controlplane
