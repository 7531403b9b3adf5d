// fields: parts of the policy reference, found by kind and field.
#include <algorithm>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/base/units.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/policy_reference.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

struct Row {
  std::string field, type, about;
};

// One message of the schema.
struct Section {
  std::string name, about;
  std::vector<Row> rows;
};

// "| `a` | text | about |" without its bars and marks.
Row RowOf(absl::string_view line) {
  Row row;
  std::vector<std::string> cells(1);
  for (size_t i = 1; i < line.size(); ++i) {
    if (line[i] == '\\' && i + 1 < line.size() && line[i + 1] == '|') {
      cells.back() += line[++i];
    } else if (line[i] == '|') {
      cells.emplace_back();
    } else {
      cells.back() += line[i];
    }
  }
  const auto cell = [&cells](size_t i) {
    std::string text = i < cells.size() ? cells[i] : "";
    absl::StripAsciiWhitespace(&text);
    return absl::StrReplaceAll(text, {{"`", ""}});
  };
  return {cell(0), cell(1), cell(2)};
}

std::vector<Section> Sections() {
  std::vector<Section> sections;
  for (const absl::string_view line :
       absl::StrSplit(absl::string_view(kPolicyReference.data(), kPolicyReference.size()), '\n')) {
    if (line.substr(0, 3) == "## ") {
      sections.push_back({std::string(line.substr(3)), "", {}});
    } else if (sections.empty() || line.empty() || line.substr(0, 4) == "<!--") {
      continue;
    } else if (line.front() != '|') {
      absl::StrAppend(&sections.back().about, sections.back().about.empty() ? "" : " ",
                      absl::StrReplaceAll(line, {{"`", ""}}));
    } else if (line.substr(0, 2) == "| " && line.substr(0, 9) != "| field |") {
      sections.back().rows.push_back(RowOf(line));
    }
  }
  return sections;
}

// "list of HeaderMatch (at most 64 entries)" -> "HeaderMatch".
std::string MessageOf(const std::string& type) {
  std::string name = type.substr(0, type.find(" ("));
  if (name.starts_with("list of ")) name = name.substr(8);
  return name;
}

// What stands at one place of the schema: a section, or the rows of a message inside it.
struct Place {
  std::string name, about;
  std::vector<Row> rows;
};

// The rows of the message `name`; of one inside a section they begin with its name.
Place PlaceOf(const std::vector<Section>& sections, const std::string& name, const Section* around) {
  for (const Section& section : sections) {
    if (section.name != name) continue;
    Place place{section.name, section.about, {}};
    for (const Row& row : section.rows) {
      if (row.field.find('.') == std::string::npos) place.rows.push_back(row);
    }
    return place;
  }
  Place place{name, "", {}};
  if (around == nullptr) return place;
  for (const Row& row : around->rows) {
    if (row.field.starts_with(name + ".")) {
      place.rows.push_back({row.field.substr(name.size() + 1), row.type, row.about});
    }
  }
  return place;
}

std::string Rendered(const Place& place) {
  std::string text;
  if (!place.about.empty()) absl::StrAppend(&text, place.about, "\n\n");
  if (place.rows.empty()) return absl::StrCat(text, "it has no fields of its own\n");
  Table table({"FIELD", "TYPE", "MEANING"});
  for (const Row& row : place.rows) table.AddRow({row.field, row.type, row.about});
  return absl::StrCat(text, table.ToString());
}

}  // namespace

ExitCode Fields(Session& session) {
  if (!session.table()) {
    return session.Fail(absl::InvalidArgumentError("fields prints text alone; -o is for what the server knows"));
  }
  const std::vector<Section> sections = Sections();
  const std::string& asked = session.options.name;
  if (asked.empty()) {
    for (const std::string_view kind : ResourceKinds()) {
      session.out() << kind << ": " << PlaceOf(sections, std::string(kind), nullptr).about << "\n";
    }
    return kDone;
  }
  const std::vector<std::string> path = absl::StrSplit(asked, '.');
  const absl::StatusOr<std::string> kind = CanonicalKind(path.front());
  if (!kind.ok()) return session.Fail(absl::InvalidArgumentError(kind.status().message()));
  const auto section_of = [&sections](const std::string& name) {
    const auto found = std::find_if(sections.begin(), sections.end(),
                                    [&name](const Section& section) { return section.name == name; });
    return found == sections.end() ? nullptr : &*found;
  };
  const Section* around = section_of(*kind);
  Place place = PlaceOf(sections, *kind, nullptr);
  std::string title = *kind;
  for (size_t i = 1; i < path.size(); ++i) {
    // An index says which entry of a list, not which field.
    const std::string word = path[i].substr(0, path[i].find('['));
    const auto row =
        std::find_if(place.rows.begin(), place.rows.end(), [&word](const Row& each) { return each.field == word; });
    if (row == place.rows.end()) {
      std::vector<std::string> names;
      for (const Row& each : place.rows) names.push_back(each.field);
      return session.Fail(
          absl::NotFoundError(absl::StrCat(title, " has no field '", word, "'; ", DidYouMean(word, names))));
    }
    absl::StrAppend(&title, ".", word);
    const Row found = *row;
    const std::string message = MessageOf(found.type);
    if (const Section* section = section_of(message); section != nullptr) around = section;
    place = PlaceOf(sections, message, around);
    place.about = absl::StrCat(found.type, found.about.empty() ? "" : absl::StrCat(": ", found.about),
                               place.about.empty() ? "" : absl::StrCat("\n\n", place.about));
    if (place.rows.empty() && i + 1 == path.size()) {
      session.out() << title << "\n\n" << place.about << "\n";
      return kDone;
    }
  }
  session.out() << title << "\n\n" << Rendered(place);
  return kDone;
}

}  // namespace gateway::ctl
