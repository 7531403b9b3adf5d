#include "controlplane/stream/roster.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace gateway::controlplane {
namespace {

constexpr size_t kNamesMax = 20'000;  // as many as a hub knows: 10,000 connected, 10,000 lost
constexpr size_t kNameBytesMax = 256;

}  // namespace

std::vector<RosterEntry> Roster::Load() const {
  std::vector<RosterEntry> entries;
  std::ifstream file(path_);
  for (std::string line; entries.size() < kNamesMax && std::getline(file, line);) {
    if (line.empty() || line.size() > kNameBytesMax) continue;
    const size_t space = line.find(' ');
    RosterEntry entry{line.substr(0, space)};
    int64_t seconds = 0;
    if (space != std::string::npos) {
      if (!absl::SimpleAtoi(line.substr(space + 1), &seconds)) continue;
      entry.lost_since = absl::FromUnixSeconds(seconds);
    }
    if (!entry.name.empty()) entries.push_back(std::move(entry));
  }
  return entries;
}

absl::Status Roster::Save(const std::vector<RosterEntry>& entries) const {
  const std::string temporary = path_ + ".tmp";
  {
    std::ofstream file(temporary, std::ios::trunc);
    // As the database beside it. Best effort, as on systems of files without modes.
    std::error_code ignored;
    std::filesystem::permissions(temporary, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write,
                                 ignored);
    for (const RosterEntry& entry : entries) {
      file << entry.name;
      if (entry.lost_since) file << ' ' << absl::ToUnixSeconds(*entry.lost_since);
      file << '\n';
    }
    file.flush();
    if (!file) return absl::UnavailableError(absl::StrCat("cannot write '", temporary, "': ", std::strerror(errno)));
  }
  if (std::rename(temporary.c_str(), path_.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot replace '", path_, "': ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
