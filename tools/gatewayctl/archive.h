// Archives as tar(1) and gzip(1) read them: POSIX ustar, deflated.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_ARCHIVE_H_
#define GATEWAY_TOOLS_GATEWAYCTL_ARCHIVE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace gateway::ctl {

// Files only, of mode 0600, owned by nobody in particular; folders come with the files in them.
class TarArchive {
 public:
  // `time`: of every file.
  explicit TarArchive(absl::Time time) : time_(time) {}

  // `path`: "folder/file", relative, at most 100 bytes behind the slash that splits it and 155 before it; less than
  // 8 GiB. InvalidArgument otherwise.
  absl::Status Add(const std::string& path, const std::string& content);
  // The archive with its end. Nothing may be added afterwards.
  std::string Finish();

 private:
  const absl::Time time_;
  std::string bytes_;
};

absl::StatusOr<std::string> Gzip(const std::string& text);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_ARCHIVE_H_
