#include "tools/gatewayctl/jsonpath.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace gateway::ctl {
namespace {

using Values = std::vector<const Json*>;

absl::Status Refused(std::string_view expression, std::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("-o jsonpath: '{", absl::string_view(expression.data(), expression.size()),
                   "}': ", absl::string_view(expected.data(), expected.size()),
                   "; the forms are {.a.b[0]}, {.items[*].name}, {range .items[*]}...{end}, {\"\\n\"}"));
}

// What a path without its braces picks.
absl::StatusOr<Values> Pick(std::string_view expression, const Json& root) {
  std::string_view rest = expression;
  if (!rest.empty() && (rest.front() == '$' || rest.front() == '@')) rest.remove_prefix(1);
  Values values = {&root};
  const auto step = [&values](const auto& children_of) {
    Values next;
    for (const Json* value : values) children_of(*value, &next);
    values = std::move(next);
  };
  const auto all = [](const Json& value, Values* next) {
    if (!value.is_structured()) return;
    for (const Json& child : value) next->push_back(&child);
  };
  const auto named = [](const std::string& name) {
    return [name](const Json& value, Values* next) {
      if (!value.is_object()) return;
      if (const auto found = value.find(name); found != value.end()) next->push_back(&*found);
    };
  };
  while (!rest.empty()) {
    if (rest.front() == '.') {
      rest.remove_prefix(1);
      if (rest.starts_with('.')) return Refused(expression, "'..' is not supported");
      const size_t end = std::min(rest.find_first_of(".["), rest.size());
      const std::string name(rest.substr(0, end));
      rest.remove_prefix(end);
      if (name.empty()) {
        if (rest.empty() || rest.front() == '[') continue;  // "." is the whole
        return Refused(expression, "expected a name behind '.'");
      }
      name == "*" ? step(all) : step(named(name));
    } else if (rest.front() == '[') {
      const size_t end = rest.find(']');
      if (end == std::string_view::npos) return Refused(expression, "expected ']'");
      std::string_view inside = rest.substr(1, end - 1);
      rest.remove_prefix(end + 1);
      int64_t index = 0;
      if (inside == "*") {
        step(all);
      } else if (inside.size() >= 2 && (inside.front() == '\'' || inside.front() == '"') &&
                 inside.back() == inside.front()) {
        step(named(std::string(inside.substr(1, inside.size() - 2))));
      } else if (absl::SimpleAtoi(absl::string_view(inside.data(), inside.size()), &index)) {
        step([index](const Json& value, Values* next) {
          if (!value.is_array()) return;
          const int64_t size = static_cast<int64_t>(value.size());
          const int64_t at = index < 0 ? size + index : index;
          if (at >= 0 && at < size) next->push_back(&value[static_cast<size_t>(at)]);
        });
      } else {
        return Refused(expression, "expected a number, '*' or a quoted name in brackets");
      }
    } else {
      return Refused(expression, "expected '.' or '['");
    }
  }
  return values;
}

std::string Text(const Json& value) {
  return value.is_string() ? value.get<std::string>()
                           : value.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

class Template {
 public:
  explicit Template(std::string_view text) : text_(text) {}

  // Up to the end, or the {end} of a range.
  absl::Status Fill(const Json& value, int depth, std::string* out) {
    if (depth > kJsonPathDepthMax) return absl::InvalidArgumentError("-o jsonpath: too many nested {range}");
    while (at_ < text_.size()) {
      const size_t open = text_.find('{', at_);
      absl::StrAppend(out, View(text_.substr(at_, open - at_)));
      if (open == std::string_view::npos) {
        at_ = text_.size();
        break;
      }
      const size_t close = text_.find('}', open);
      if (close == std::string_view::npos) return absl::InvalidArgumentError("-o jsonpath: a '{' without its '}'");
      const std::string_view expression = Trimmed(text_.substr(open + 1, close - open - 1));
      at_ = close + 1;
      if (expression == "end") {
        if (depth == 0) return Refused(expression, "it ends no {range}");
        return absl::OkStatus();
      }
      if (expression.size() >= 2 && expression.front() == '"' && expression.back() == '"') {
        absl::StrAppend(out, Unescaped(expression.substr(1, expression.size() - 2)));
        continue;
      }
      if (expression.starts_with("range ")) {
        absl::StatusOr<Values> items = Pick(Trimmed(expression.substr(6)), value);
        if (!items.ok()) return items.status();
        const size_t begin = at_;
        std::string ignored;
        // Once for its end, also where there is nothing.
        if (absl::Status status = Fill(Json(), depth + 1, &ignored); !status.ok()) return status;
        const size_t end = at_;
        for (const Json* item : *items) {
          at_ = begin;
          if (absl::Status status = Fill(*item, depth + 1, out); !status.ok()) return status;
        }
        at_ = end;
        continue;
      }
      absl::StatusOr<Values> picked = Pick(expression, value);
      if (!picked.ok()) return picked.status();
      for (size_t i = 0; i < picked->size(); ++i) absl::StrAppend(out, i == 0 ? "" : " ", Text(*(*picked)[i]));
    }
    return depth == 0 ? absl::OkStatus() : absl::InvalidArgumentError("-o jsonpath: a {range} without its {end}");
  }

 private:
  static absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }
  static std::string_view Trimmed(std::string_view text) {
    const absl::string_view trimmed = absl::StripAsciiWhitespace(View(text));
    return {trimmed.data(), trimmed.size()};
  }
  static std::string Unescaped(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        out += text[i];
        continue;
      }
      ++i;
      out += text[i] == 'n' ? '\n' : text[i] == 't' ? '\t' : text[i];
    }
    return out;
  }

  const std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

absl::StatusOr<std::string> EvaluateJsonPath(std::string_view path, const Json& value) {
  const std::string text = path.find('{') == std::string_view::npos
                               ? absl::StrCat("{", absl::string_view(path.data(), path.size()), "}")
                               : std::string(path);
  std::string out;
  if (absl::Status status = Template(text).Fill(value, 0, &out); !status.ok()) return status;
  return out;
}

}  // namespace gateway::ctl
