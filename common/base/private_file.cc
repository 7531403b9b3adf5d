#include "common/base/private_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace gateway {
namespace {

absl::Status Failed(absl::string_view what, const std::string& path, int error) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " '", path, "': ", strerror(error)));
}

int WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

}  // namespace

absl::Status ReplacePrivateFile(const std::string& path, std::string_view text) {
  // A name of its own, mode 0600: another process may write the same file.
  std::string beside = absl::StrCat(path, ".XXXXXX");
  const int fd = mkostemp(beside.data(), O_CLOEXEC);
  if (fd < 0) return Failed("create a file beside", path, errno);
  int error = WriteAll(fd, text);
  if (error == 0 && fsync(fd) != 0) error = errno;
  close(fd);
  if (error == 0 && rename(beside.c_str(), path.c_str()) != 0) error = errno;
  if (error != 0) {
    (void)unlink(beside.c_str());
    return Failed("write", path, error);
  }
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int directory = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return Failed("open", folder, errno);
  error = fsync(directory) == 0 ? 0 : errno;
  close(directory);
  return error == 0 ? absl::OkStatus() : Failed("sync", folder, error);
}

}  // namespace gateway
