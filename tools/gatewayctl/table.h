// Columns for people: aligned by what a terminal shows, not by bytes.
#ifndef GATEWAY_TOOLS_GATEWAYCTL_TABLE_H_
#define GATEWAY_TOOLS_GATEWAYCTL_TABLE_H_

#include <cstddef>
#include <string>
#include <vector>

namespace gateway::ctl {

// The columns that a terminal uses for `text` (UTF-8; a byte that isn't counts as one).
size_t DisplayWidth(const std::string& text);

// `text` without anything that a terminal would obey: control characters become spaces, bytes that are no UTF-8 become
// U+FFFD. Comments and names from Consul are other people's.
std::string Printable(const std::string& text);

// Rows under headings. An empty cell is shown as "-"; no line ends with a space.
class Table {
 public:
  explicit Table(std::vector<std::string> headings);

  // REQUIRES: as many cells as headings.
  void AddRow(std::vector<std::string> cells);
  bool empty() const { return rows_.size() == 1; }
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the headings first
};

}  // namespace gateway::ctl

#endif  // GATEWAY_TOOLS_GATEWAYCTL_TABLE_H_
