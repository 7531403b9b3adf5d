// Which version of a resource last changed each line of its document.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_BLAME_H_
#define GATEWAY_TOOLS_GATEWAYCTL_BLAME_H_

#include <cstddef>
#include <string>
#include <vector>

#include "gateway/v1/admin.pb.h"

namespace gateway::ctl {

struct BlamedLine {
  std::string text;
  size_t version = 0;  // its place in what BlameOf was given
};

// The lines of the newest version's document; none if it is a deletion. A secret is shown by its fingerprint, so that a
// new one is another line.
std::vector<BlamedLine> BlameOf(const std::vector<v1::ResourceVersion>& newest_first);

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_BLAME_H_
