#include "common/policy/policy_texts.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/policy/route/route_pattern.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {

std::string FoldField(std::string_view name) {
  std::string folded = absl::AsciiStrToLower(std::string(name));
  std::replace(folded.begin(), folded.end(), '_', '-');
  return folded;
}

bool IsIdentityField(std::string_view name) {
  const std::string folded = FoldField(name);
  return folded == "x-consumer" || folded.starts_with("x-consumer-") || IsCertificateField(name);
}

bool IsCertificateField(std::string_view name) {
  const std::string folded = FoldField(name);
  return folded == "x-forwarded-client-cert" || folded == "client-cert" || folded == "client-cert-chain";
}

std::string FoldCertificateIdentity(std::string_view identity) {
  constexpr size_t kFingerprintDigits = 64;
  std::string folded = absl::AsciiStrToLower(std::string(identity));
  std::string digits = folded;
  std::erase(digits, ':');
  const bool fingerprint =
      digits.size() == kFingerprintDigits && digits.find_first_not_of("0123456789abcdef") == std::string::npos;
  return fingerprint ? digits : folded;
}

std::vector<std::string> VariablesOf(const v1::PathMatch& path) {
  std::vector<std::string> names;
  if (!path.has_template_()) return names;
  absl::StatusOr<std::vector<TemplateSegment>> segments = ParseTemplate(path.template_());
  if (!segments.ok()) return names;
  for (TemplateSegment& segment : *segments) {
    if (segment.kind != TemplateSegment::Kind::kLiteral) names.push_back(std::move(segment.text));
  }
  return names;
}

absl::StatusOr<TextTemplate> ParseText(std::string_view text, const std::vector<std::string>& variables, bool one_line,
                                       size_t bytes_max) {
  using Kind = TextPiece::Kind;
  static constexpr std::array<std::pair<std::string_view, Kind>, 7> kWords = {{{"client_ip", Kind::kClientIp},
                                                                               {"request_id", Kind::kRequestId},
                                                                               {"consumer", Kind::kConsumer},
                                                                               {"host", Kind::kHost},
                                                                               {"path", Kind::kPath},
                                                                               {"method", Kind::kMethod},
                                                                               {"route", Kind::kRoute}}};
  if (text.size() > bytes_max) {
    return absl::InvalidArgumentError(fmt::format("has {} bytes; at most {}", text.size(), bytes_max));
  }
  if (one_line) {
    for (const char c : text) {
      if ((static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f) {
        return absl::InvalidArgumentError("has a line break or another control byte");
      }
    }
  }
  TextTemplate pieces;
  size_t variables_used = 0;
  std::string literal;
  while (!text.empty()) {
    if (text.starts_with("$${")) {
      literal += "${";
      text.remove_prefix(3);
      continue;
    }
    if (!text.starts_with("${")) {
      literal += text.front();
      text.remove_prefix(1);
      continue;
    }
    const size_t end = text.find('}');
    if (end == std::string_view::npos) {
      return absl::InvalidArgumentError("has a ${ without its }; $${ is a ${ that is meant");
    }
    const std::string_view word = text.substr(2, end - 2);
    text.remove_prefix(end + 1);
    if (++variables_used > kTextVariablesMax) {
      return absl::InvalidArgumentError(fmt::format("has more than {} variables", kTextVariablesMax));
    }
    TextPiece piece;
    const auto known =
        std::find_if(kWords.begin(), kWords.end(), [word](const auto& each) { return each.first == word; });
    if (known != kWords.end()) {
      piece.kind = known->second;
    } else if (word.starts_with("path.")) {
      if (word == "path.**") {
        return absl::InvalidArgumentError(
            "'path.**' is not a variable: ** has no name; expected a {name} of match.path.template, or "
            "path");
      }
      const auto found = std::find(variables.begin(), variables.end(), word.substr(5));
      if (found == variables.end() || word.size() == 5) {
        return absl::InvalidArgumentError(
            fmt::format("variable {} is not in match.path.template", QuoteForMessage(word.substr(5))));
      }
      piece.kind = Kind::kPathVariable;
      piece.variable = static_cast<int>(found - variables.begin());
    } else {
      return absl::InvalidArgumentError(fmt::format(
          "{} is not a variable; expected client_ip, request_id, consumer, host, path, method, route or path.NAME",
          QuoteForMessage(word)));
    }
    if (!literal.empty()) pieces.push_back({.kind = Kind::kLiteral, .literal = std::exchange(literal, {})});
    pieces.push_back(std::move(piece));
  }
  if (!literal.empty()) pieces.push_back({.kind = Kind::kLiteral, .literal = std::move(literal)});
  return pieces;
}

}  // namespace gateway
