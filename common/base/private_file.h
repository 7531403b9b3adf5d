// Files that only their owner may read.
#ifndef GATEWAY_COMMON_BASE_PRIVATE_FILE_H_
#define GATEWAY_COMMON_BASE_PRIVATE_FILE_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace gateway {

// Puts `text` in the place of the file `path`, mode 0600, by way of `path`.tmp. A crash leaves the old file or the new
// one, whole; once this has returned OK, the new one. Unavailable: the disk is full, the folder cannot be written.
absl::Status ReplacePrivateFile(const std::string& path, std::string_view text);

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_PRIVATE_FILE_H_
