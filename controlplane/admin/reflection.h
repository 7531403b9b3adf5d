// Server reflection, version v1: what grpcurl and its like ask first. gRPC 1.51 itself has v1alpha.
#ifndef GATEWAY_CONTROLPLANE_ADMIN_REFLECTION_H_
#define GATEWAY_CONTROLPLANE_ADMIN_REFLECTION_H_

#include <string>
#include <vector>

#include "grpc/reflection/v1/reflection.grpc.pb.h"

namespace gateway::controlplane {

// Tells the descriptors that are compiled into this program; knows no secrets. Answers on gRPC's threads.
class Reflection final : public grpc::reflection::v1::ServerReflection::CallbackService {
 public:
  // `services`: full names, as they are listed.
  explicit Reflection(std::vector<std::string> services) : services_(std::move(services)) {}

  grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                          grpc::reflection::v1::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  class Stream;
  const std::vector<std::string> services_;
};

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_ADMIN_REFLECTION_H_
