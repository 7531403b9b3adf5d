// What of gRPC over HTTP/2 a proxy has to know (grpc/doc/PROTOCOL-HTTP2.md): nothing of messages but their end.
#ifndef GATEWAY_DATAPLANE_HTTP_GRPC_H_
#define GATEWAY_DATAPLANE_HTTP_GRPC_H_

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/policy/snapshot.h"
#include "dataplane/http/stream.h"
#include "dataplane/net/io.h"
#include "dataplane/net/task.h"

namespace gateway::dataplane::http {

// A Content-Type: "application/grpc", also with "+proto" and the like, or parameters. Not gRPC-Web's.
bool IsGrpcContentType(std::string_view content_type);

// The value of the field in lower case letters `name`; empty: not among them.
std::string_view FindFieldValue(std::span<const FieldView> fields, std::string_view name);

// A grpc-timeout: "100m", at most kGrpcTimeoutMax. Nothing: it is not one.
inline constexpr std::chrono::hours kGrpcTimeoutMax{24 * 365};
std::optional<std::chrono::nanoseconds> ParseGrpcTimeout(std::string_view text);

// A grpc-status among `fields`; -1: not among them. One that is not a number, or not a code, is UNKNOWN (2).
int FindGrpcStatus(std::span<const FieldView> fields);

// The code of a response of ours with this HTTP status (POLICY.md, "TLS, HTTP/2 and gRPC").
int GrpcCodeOfStatus(int status);

// The HTTP status that a service would have said instead, as breakers, ejection and metrics count: of 500 and above it
// is a failure of the service's.
int StatusOfGrpcCode(int code);

// Appends `text` as grpc-message has it: percent-encoded if it is not printable ASCII, or a percent sign.
void AppendGrpcMessage(std::string* out, std::string_view text);

// Gives a call that ends without a status one, as clients of gRPC would (grpc-go): INTERNAL if it ends without
// trailers, UNKNOWN if these lack grpc-status. Belongs to the exchange that relays the response.
class GrpcEndSink final : public BodySink {
 public:
  static constexpr const char* kMessage = "the service ended the call without grpc-status";

  // `sink` outlives this.
  explicit GrpcEndSink(BodySink* sink) : sink_(*sink) {}

  BodyForms takes() const override { return sink_.takes(); }
  Io Write(const BodyPiece& piece) override { return sink_.Write(Complete(piece)); }
  Task<Io> Flush(std::chrono::milliseconds stall, TimePoint until) override { return sink_.Flush(stall, until); }

  // What Write hands on. Views hold until the next call.
  BodyPiece Complete(const BodyPiece& piece);
  // The status that the service did not give; -1: it did, or has not ended yet.
  int given() const { return given_; }

 private:
  BodySink& sink_;
  int given_ = -1;
  std::vector<FieldView> trailers_;
};

}  // namespace gateway::dataplane::http

#endif  // GATEWAY_DATAPLANE_HTTP_GRPC_H_
