#include "controlplane/stream/roster.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kNamesMax = 10'000;
constexpr size_t kNameBytesMax = 256;

}  // namespace

std::vector<std::string> Roster::Load() const {
  std::vector<std::string> names;
  std::ifstream file(path_);
  for (std::string line; names.size() < kNamesMax && std::getline(file, line);) {
    if (!line.empty() && line.size() <= kNameBytesMax) names.push_back(std::move(line));
  }
  return names;
}

absl::Status Roster::Save(const std::vector<std::string>& names) const {
  const std::string temporary = path_ + ".tmp";
  {
    std::ofstream file(temporary, std::ios::trunc);
    // As the database beside it. Best effort, as on systems of files without modes.
    std::error_code ignored;
    std::filesystem::permissions(temporary, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write,
                                 ignored);
    for (const std::string& name : names) file << name << '\n';
    file.flush();
    if (!file) return absl::UnavailableError(absl::StrCat("cannot write '", temporary, "': ", std::strerror(errno)));
  }
  if (std::rename(temporary.c_str(), path_.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot replace '", path_, "': ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
