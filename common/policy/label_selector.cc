#include "common/policy/label_selector.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/base/quote.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {

// Reads one selector, left to right. A word is any run of characters that are neither spaces nor "!=<>(),".
class SelectorParser {
 public:
  explicit SelectorParser(std::string_view text) : text_(text) {}

  absl::StatusOr<LabelSelector> Run() {
    if (text_.size() > kSelectorBytesMax) {
      return absl::InvalidArgumentError(fmt::format("the label selector is longer than {} bytes", kSelectorBytesMax));
    }
    LabelSelector selector;
    if (AtEnd()) return selector;
    do {
      if (selector.requirements_.size() == kSelectorRequirementsMax) {
        return absl::InvalidArgumentError(
            fmt::format("the label selector has more than {} requirements", kSelectorRequirementsMax));
      }
      absl::StatusOr<LabelSelector::Requirement> requirement = ReadRequirement();
      if (!requirement.ok()) return requirement.status();
      selector.requirements_.push_back(*std::move(requirement));
    } while (Take(","));
    if (!AtEnd()) return Expected("',' or the end");
    return selector;
  }

 private:
  using Operator = LabelSelector::Operator;

  void SkipSpaces() {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool AtEnd() {
    SkipSpaces();
    return at_ == text_.size();
  }
  bool Take(std::string_view token) {
    SkipSpaces();
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  // Empty if no word begins here.
  std::string_view Word() {
    SkipSpaces();
    const size_t begin = at_;
    while (at_ < text_.size() && !absl::ascii_isspace(static_cast<unsigned char>(text_[at_])) &&
           std::string_view("!=<>(),").find(text_[at_]) == std::string_view::npos) {
      ++at_;
    }
    return text_.substr(begin, at_ - begin);
  }
  absl::Status Expected(std::string_view what) {
    SkipSpaces();
    return absl::InvalidArgumentError(
        fmt::format("label selector {}: expected {} at column {}; the forms are key=value, key!=value, key in (a, b), "
                    "key notin (a, b), key, !key, key>7, key<7",
                    QuoteForMessage(text_), what, at_ + 1));
  }

  absl::StatusOr<LabelSelector::Requirement> ReadRequirement() {
    LabelSelector::Requirement requirement;
    const bool absent = Take("!");
    requirement.key = std::string(Word());
    if (requirement.key.empty()) return Expected("a label's key");
    if (absent) {
      requirement.op = Operator::kAbsent;
      return requirement;
    }
    if (Take("!=")) {
      requirement.op = Operator::kNotIn;
      requirement.values.emplace_back(Word());
      return requirement;
    }
    if (Take("==") || Take("=")) {
      requirement.op = Operator::kIn;
      requirement.values.emplace_back(Word());
      return requirement;
    }
    const bool greater = Take(">");
    if (greater || Take("<")) {
      requirement.op = greater ? Operator::kGreater : Operator::kLess;
      const size_t begin = at_;
      if (!absl::SimpleAtoi(std::string(Word()), &requirement.number)) {
        at_ = begin;
        return Expected("a whole number");
      }
      return requirement;
    }
    const size_t begin = at_;
    const std::string_view word = Word();
    if (word.empty()) return requirement;  // kExists
    if (word != "in" && word != "notin") {
      at_ = begin;
      return Expected("'=', '==', '!=', 'in', 'notin', '<', '>', ',' or the end");
    }
    requirement.op = word == "in" ? Operator::kIn : Operator::kNotIn;
    if (!Take("(")) return Expected("'('");
    do {
      if (requirement.values.size() == kSelectorValuesMax) {
        return absl::InvalidArgumentError(
            fmt::format("the label selector has more than {} values in one list", kSelectorValuesMax));
      }
      requirement.values.emplace_back(Word());
    } while (Take(","));
    if (!Take(")")) return Expected("',' or ')'");
    return requirement;
  }

  const std::string_view text_;
  size_t at_ = 0;
};

absl::StatusOr<LabelSelector> LabelSelector::Parse(std::string_view text) { return SelectorParser(text).Run(); }

bool LabelSelector::Matches(const Labels& labels) const {
  return std::all_of(requirements_.begin(), requirements_.end(), [&](const Requirement& requirement) {
    const auto found = labels.find(requirement.key);
    const bool has = found != labels.end();
    const auto listed = [&] {
      return std::find(requirement.values.begin(), requirement.values.end(), found->second) != requirement.values.end();
    };
    int64_t number = 0;
    switch (requirement.op) {
      case Operator::kIn:
        return has && listed();
      case Operator::kNotIn:
        return !has || !listed();
      case Operator::kExists:
        return has;
      case Operator::kAbsent:
        return !has;
      case Operator::kGreater:
        return has && absl::SimpleAtoi(found->second, &number) && number > requirement.number;
      case Operator::kLess:
        return has && absl::SimpleAtoi(found->second, &number) && number < requirement.number;
    }
    return false;
  });
}

}  // namespace gateway
