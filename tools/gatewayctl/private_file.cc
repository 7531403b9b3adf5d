#include "tools/gatewayctl/private_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace gateway::ctl {

absl::Status WritePrivately(const std::string& path, const std::string& text) {
  const auto failed = [&path](const char* what) {
    return absl::InternalError(absl::StrCat(what, " '", path, "': ", std::strerror(errno)));
  };
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (file < 0) return failed("cannot create");
  absl::Status status;
  // Of a file that was there before: first the mode, then the content.
  if (fchmod(file, S_IRUSR | S_IWUSR) != 0 || ftruncate(file, 0) != 0) status = failed("cannot write");
  for (size_t at = 0; status.ok() && at < text.size();) {
    const ssize_t written = write(file, text.data() + at, text.size() - at);
    if (written > 0) at += static_cast<size_t>(written);
    if (written < 0 && errno != EINTR) status = failed("cannot write");
  }
  if (close(file) != 0 && status.ok()) status = failed("cannot write");
  return status;
}

}  // namespace gateway::ctl
