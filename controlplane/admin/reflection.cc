#include "controlplane/admin/reflection.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"

namespace gateway::controlplane {
namespace {

namespace v1 = grpc::reflection::v1;
using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;

const DescriptorPool& Pool() { return *DescriptorPool::generated_pool(); }

// `file` and all that it needs, each once.
void AddFile(const FileDescriptor* file, std::set<const FileDescriptor*>* seen, v1::FileDescriptorResponse* response) {
  if (!seen->insert(file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  response->add_file_descriptor_proto(proto.SerializeAsString());
  for (int i = 0; i < file->dependency_count(); ++i) AddFile(file->dependency(i), seen, response);
}

void AnswerFile(const FileDescriptor* file, const std::string& what, v1::ServerReflectionResponse* response) {
  if (file != nullptr) {
    std::set<const FileDescriptor*> seen;
    return AddFile(file, &seen, response->mutable_file_descriptor_response());
  }
  response->mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
  response->mutable_error_response()->set_error_message(absl::StrCat("there is no ", what));
}

const FileDescriptor* FileOfExtension(const v1::ExtensionRequest& request) {
  const auto* type = Pool().FindMessageTypeByName(request.containing_type());
  const auto* extension = type == nullptr ? nullptr : Pool().FindExtensionByNumber(type, request.extension_number());
  return extension == nullptr ? nullptr : extension->file();
}

v1::ServerReflectionResponse Answer(const v1::ServerReflectionRequest& request,
                                    const std::vector<std::string>& services) {
  v1::ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case v1::ServerReflectionRequest::kFileByFilename:
      AnswerFile(Pool().FindFileByName(request.file_by_filename()),
                 absl::StrCat("file '", request.file_by_filename(), "'"), &response);
      break;
    case v1::ServerReflectionRequest::kFileContainingSymbol:
      AnswerFile(Pool().FindFileContainingSymbol(request.file_containing_symbol()),
                 absl::StrCat("symbol '", request.file_containing_symbol(), "'"), &response);
      break;
    case v1::ServerReflectionRequest::kFileContainingExtension:
      AnswerFile(FileOfExtension(request.file_containing_extension()),
                 absl::StrCat("extension ", request.file_containing_extension().extension_number(), " of '",
                              request.file_containing_extension().containing_type(), "'"),
                 &response);
      break;
    case v1::ServerReflectionRequest::kAllExtensionNumbersOfType: {
      const std::string& name = request.all_extension_numbers_of_type();
      const auto* type = Pool().FindMessageTypeByName(name);
      if (type == nullptr) {
        AnswerFile(nullptr, absl::StrCat("type '", name, "'"), &response);
        break;
      }
      std::vector<const google::protobuf::FieldDescriptor*> extensions;
      Pool().FindAllExtensions(type, &extensions);
      response.mutable_all_extension_numbers_response()->set_base_type_name(name);
      for (const auto* extension : extensions) {
        response.mutable_all_extension_numbers_response()->add_extension_number(extension->number());
      }
      break;
    }
    case v1::ServerReflectionRequest::kListServices:
      for (const std::string& service : services) {
        response.mutable_list_services_response()->add_service()->set_name(service);
      }
      break;
    case v1::ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      response.mutable_error_response()->set_error_code(grpc::StatusCode::INVALID_ARGUMENT);
      response.mutable_error_response()->set_error_message("message_request: expected one of its fields");
      break;
  }
  return response;
}

}  // namespace

// One answer to each request, one at a time.
class Reflection::Stream final
    : public grpc::ServerBidiReactor<v1::ServerReflectionRequest, v1::ServerReflectionResponse> {
 public:
  explicit Stream(const Reflection* service) : service_(service) { StartRead(&request_); }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    response_ = Answer(request_, service_->services_);
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  const Reflection* const service_;
  v1::ServerReflectionRequest request_;
  v1::ServerReflectionResponse response_;
};

grpc::ServerBidiReactor<v1::ServerReflectionRequest, v1::ServerReflectionResponse>* Reflection::ServerReflectionInfo(
    grpc::CallbackServerContext*) {
  return new Stream(this);
}

}  // namespace gateway::controlplane
