#include "common/config/yaml.h"

#include <algorithm>
#include <array>
#include <istream>
#include <optional>
#include <streambuf>
#include <unordered_map>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "common/base/quote.h"
#include "spdlog/fmt/fmt.h"
#include "yaml-cpp/anchor.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace gateway {
namespace {

constexpr std::string_view kStringTag = "tag:yaml.org,2002:str";

// Ends the parse from inside the event handler; never leaves this file.
struct Refusal {
  YamlPosition position;
  std::string message;
};

// The library's commonest complaints in words that say what to look for; others as they are.
std::string PlainText(const std::string& complaint) {
  if (complaint == YAML::ErrorMsg::END_OF_MAP_FLOW) return "a '{' is not closed; expected ',' or '}'";
  if (complaint == YAML::ErrorMsg::END_OF_SEQ_FLOW) return "a '[' is not closed; expected ',' or ']'";
  if (complaint == YAML::ErrorMsg::MAP_VALUE) {
    return "misplaced ':'; check the indentation and the space after each ':', and quote text that has ': ' in it";
  }
  if (complaint.starts_with(YAML::ErrorMsg::UNKNOWN_ANCHOR)) {
    return "'*' refers to an anchor that is not defined; quote text that begins with '*'";
  }
  return complaint;
}

YamlPosition PositionOf(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1}; }

// The first tab among the white space that begins this line (1-based) or the one before it.
std::optional<YamlPosition> FindTabIndent(std::string_view text, int line) {
  size_t begin = 0;
  for (int number = 1; number <= line && begin <= text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (number + 1 >= line) {
      const std::string_view indent = text.substr(begin, std::min(text.find_first_not_of(" \t", begin), end) - begin);
      const size_t tab = indent.find('\t');
      if (tab != std::string_view::npos) return YamlPosition{number, static_cast<int>(tab) + 1};
    }
    begin = end + 1;
  }
  return std::nullopt;
}

YamlPosition PositionAt(std::string_view text, size_t offset) {
  std::string_view before = text.substr(0, offset);
  size_t line_start = before.rfind('\n');
  return {static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1,
          static_cast<int>(offset - (line_start == std::string_view::npos ? 0 : line_start + 1)) + 1};
}

// Gives the parser its text in small pieces, and ends the input early if the parser reads too far without an
// event: yaml-cpp keeps every token of a collection in brackets until it knows that it is not a key.
class PacedInput : public std::streambuf {
 public:
  PacedInput(std::string_view text, size_t stretch_bytes_max) : text_(text), stretch_bytes_max_(stretch_bytes_max) {}

  // An event has come. Throws Refusal where the input had been ended early, since then the event is about a torso.
  void Progress(const YAML::Mark& mark) {
    CheckStretch(PositionOf(mark));
    progress_ = given_;
  }

  void CheckStretch(YamlPosition position) const {
    if (!ended_early_) return;
    throw Refusal{position,
                  fmt::format("a scalar, or a collection in brackets, is longer than {} bytes", stretch_bytes_max_)};
  }

  bool ended_early() const { return ended_early_; }

 protected:
  int_type underflow() override {
    if (given_ == text_.size()) return traits_type::eof();
    if (given_ - progress_ > stretch_bytes_max_) {
      ended_early_ = true;
      return traits_type::eof();
    }
    size_t length = std::min(buffer_.size(), text_.size() - given_);
    std::copy_n(text_.data() + given_, length, buffer_.data());
    given_ += length;
    setg(buffer_.data(), buffer_.data(), buffer_.data() + length);
    return traits_type::to_int_type(buffer_[0]);
  }

 private:
  std::string_view text_;
  size_t stretch_bytes_max_;
  std::array<char, 4096> buffer_;
  size_t given_ = 0;
  size_t progress_ = 0;
  bool ended_early_ = false;
};

// Makes trees of events. Copies a node that has an anchor, and again for each alias; both are counted before they are
// made.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, const YamlLimits& limits, PacedInput* input, std::vector<YamlProblem>* problems)
      : text_(text), limits_(limits), input_(input), problems_(problems) {}

  std::vector<YamlNode> TakeDocuments() { return std::move(documents_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    input_->Progress(mark);
    // yaml-cpp reads what is left over behind a document as another one.
    if (!documents_.empty() && !text_.substr(std::min<size_t>(mark.pos, text_.size())).starts_with("---")) {
      throw Refusal{PositionOf(mark), "expected the end of the document, or '---' before another one"};
    }
    frames_.clear();
    anchors_.clear();
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    input_->Progress(mark);
    if (ExpectsKey()) {
      problems_->push_back({PositionOf(mark), "a key is missing"});
      SetKey("", PositionOf(mark), /*counts=*/false);
      return;
    }
    CountNodes(1, PositionOf(mark));
    Part part;
    part.node.position = PositionOf(mark);
    Finish(std::move(part), anchor);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    input_->Progress(mark);
    auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw Refusal{PositionOf(mark), "an alias is inside its own anchor"};
    const Part& target = found->second;
    if (ExpectsKey()) {
      if (target.node.kind != YamlNode::Kind::kScalar) throw Refusal{PositionOf(mark), "a key must be a scalar"};
      ChargeCopy(target, PositionOf(mark));
      SetKey(target.node.scalar, PositionOf(mark), /*counts=*/true);
      return;
    }
    if (frames_.size() + target.height > static_cast<size_t>(limits_.depth_max)) RefuseDepth(mark);
    CountNodes(target.nodes, PositionOf(mark));
    ChargeCopy(target, PositionOf(mark));
    Finish(Part(target), YAML::NullAnchor);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    input_->Progress(mark);
    bool quoted = tag == "!" || tag == kStringTag;
    if (!quoted) CheckTag(mark, tag);
    if (ExpectsKey()) {
      if (anchor != YAML::NullAnchor) {
        Part part;
        part.node.kind = YamlNode::Kind::kScalar;
        part.node.scalar = value;
        part.node.quoted = quoted;
        part.node.position = PositionOf(mark);
        part.bytes = value.size();
        ChargeCopy(part, PositionOf(mark));
        anchors_[anchor] = std::move(part);
      }
      if (value == "<<" && !quoted) frames_.back().merging = true;
      SetKey(value, PositionOf(mark), /*counts=*/true);
      return;
    }
    CountNodes(1, PositionOf(mark));
    Part part;
    part.node.kind = YamlNode::Kind::kScalar;
    part.node.position = PositionOf(mark);
    part.node.scalar = value;
    part.node.quoted = quoted;
    part.bytes = value.size();
    Finish(std::move(part), anchor);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(YamlNode::Kind::kSequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(YamlNode::Kind::kMap, mark, tag, anchor);
  }
  void OnMapEnd() override {
    Merge(&frames_.back());
    Close();
  }

 private:
  // A node and what a copy of it costs.
  struct Part {
    YamlNode node;
    size_t nodes = 1;
    size_t bytes = 0;
    size_t height = 0;  // levels of collections
  };
  // A collection that is not closed yet.
  struct Frame {
    Part part;
    YAML::anchor_t anchor = YAML::NullAnchor;
    bool has_key = false;  // of a map: `key` waits for its value
    bool drop = false;     // the value belongs to a duplicate key
    bool merging = false;  // the key is <<
    std::string key;
    YamlPosition key_position;
    absl::flat_hash_map<std::string, int> key_lines;
    std::vector<YamlNode> merges;
  };

  bool ExpectsKey() const {
    return !frames_.empty() && frames_.back().part.node.kind == YamlNode::Kind::kMap && !frames_.back().has_key;
  }

  [[noreturn]] void RefuseDepth(const YAML::Mark& mark) const {
    throw Refusal{PositionOf(mark), fmt::format("nested deeper than {} levels", limits_.depth_max)};
  }

  void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    // (Not repeated: it may be a password that begins with '!'.)
    YamlProblem& problem = problems_->emplace_back();
    problem.position = PositionOf(mark);
    problem.message = "tags are not supported; remove it, or quote a text that starts with '!'";
  }

  void SetKey(const std::string& key, YamlPosition position, bool counts) {
    CountNodes(1, position);
    Frame& frame = frames_.back();
    frame.part.bytes += key.size();
    frame.has_key = true;
    frame.key = key;
    frame.key_position = position;
    if (!counts) {
      frame.drop = true;
      return;
    }
    auto [first, added] = frame.key_lines.emplace(key, position.line);
    if (added) return;
    frame.drop = true;
    problems_->push_back(
        {position, fmt::format("duplicate key {}; it is on line {} already", QuoteForMessage(key), first->second),
         key});
  }

  void CountNodes(size_t nodes, YamlPosition position) {
    nodes_ += nodes;
    if (nodes_ > limits_.nodes_max) throw Refusal{position, fmt::format("more than {} values", limits_.nodes_max)};
  }

  void ChargeCopy(const Part& part, YamlPosition position) {
    alias_nodes_ += part.nodes;
    alias_bytes_ += part.bytes;
    if (alias_nodes_ > limits_.alias_nodes_max || alias_bytes_ > limits_.alias_bytes_max) {
      throw Refusal{position, fmt::format("anchors and aliases expand to more than {} values or {} bytes",
                                          limits_.alias_nodes_max, limits_.alias_bytes_max)};
    }
  }

  void Open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    input_->Progress(mark);
    CheckTag(mark, tag);
    if (ExpectsKey()) throw Refusal{PositionOf(mark), "a key must be a scalar"};
    if (frames_.size() >= static_cast<size_t>(limits_.depth_max)) RefuseDepth(mark);
    CountNodes(1, PositionOf(mark));
    Frame frame;
    frame.part.node.kind = kind;
    frame.part.node.position = PositionOf(mark);
    frame.part.height = 1;
    frame.anchor = anchor;
    frames_.push_back(std::move(frame));
  }

  void Close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    Finish(std::move(frame.part), frame.anchor);
  }

  // Puts a finished node into its place.
  void Finish(Part part, YAML::anchor_t anchor) {
    if (anchor != YAML::NullAnchor) {
      ChargeCopy(part, part.node.position);
      anchors_[anchor] = part;
    }
    if (frames_.empty()) {
      documents_.push_back(std::move(part.node));
      return;
    }
    Frame& parent = frames_.back();
    parent.part.nodes += part.nodes;
    parent.part.bytes += part.bytes;
    parent.part.height = std::max(parent.part.height, part.height + 1);
    if (parent.part.node.kind == YamlNode::Kind::kSequence) {
      parent.part.node.items.push_back(std::move(part.node));
      return;
    }
    if (!parent.drop) {
      if (parent.merging) {
        parent.merges.push_back(std::move(part.node));
      } else {
        parent.part.node.entries.push_back({std::move(parent.key), parent.key_position, std::move(part.node)});
      }
    }
    parent.has_key = parent.drop = parent.merging = false;
  }

  // Adds what `<<` names: a map, or a list of maps of which the first that has a key gives it. A map's own keys win.
  void Merge(Frame* frame) {
    for (YamlNode& merge : frame->merges) {
      std::vector<YamlNode> sources;
      if (merge.kind == YamlNode::Kind::kSequence) {
        sources = std::move(merge.items);
      } else {
        sources.push_back(std::move(merge));
      }
      for (YamlNode& source : sources) {
        if (source.kind != YamlNode::Kind::kMap) {
          YamlProblem& problem = problems_->emplace_back();
          problem.position = source.position;
          problem.message = "expected a map, or a list of maps, to merge with <<";
          continue;
        }
        for (YamlNode::Entry& entry : source.entries) {
          if (frame->key_lines.emplace(entry.key, entry.position.line).second) {
            frame->part.node.entries.push_back(std::move(entry));
          }
        }
      }
    }
  }

  std::string_view text_;
  const YamlLimits& limits_;
  PacedInput* input_;
  std::vector<YamlProblem>* problems_;
  std::vector<YamlNode> documents_;
  std::vector<Frame> frames_;
  std::unordered_map<YAML::anchor_t, Part> anchors_;
  size_t nodes_ = 0;
  size_t alias_nodes_ = 0;
  size_t alias_bytes_ = 0;
};

// What a plain scalar may hold and still be the same string in every YAML: no indicators, nothing that begins like a
// number, a date or a special value.
bool IsPlain(std::string_view value) {
  if (value.empty()) return false;
  auto inner = [](char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '/' || c == '.' || c == '-' || c == '@';
  };
  if (!absl::ascii_isalpha(value[0]) && value[0] != '_' && value[0] != '/') return false;
  for (size_t i = 1; i < value.size(); ++i) {
    bool last = i + 1 == value.size();
    if (inner(value[i])) continue;
    if (value[i] == ' ' && !last && value[i + 1] != ' ') continue;
    if (value[i] == ':' && !last && inner(value[i + 1])) continue;
    return false;
  }
  static constexpr std::array<std::string_view, 9> kSpecial = {"true", "false", "yes", "no", "on",
                                                               "off",  "null",  "y",   "n"};
  return std::none_of(kSpecial.begin(), kSpecial.end(), [&](std::string_view word) {
    return std::equal(word.begin(), word.end(), value.begin(), value.end(),
                      [](char a, char b) { return a == absl::ascii_tolower(b); });
  });
}

}  // namespace

const YamlNode* YamlNode::Find(std::string_view key) const {
  for (const Entry& entry : entries) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

std::vector<YamlNode> ParseYaml(std::string_view text, std::vector<YamlProblem>* problems, const YamlLimits& limits) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  if (text.size() > limits.bytes_max) {
    problems->push_back({{1, 1}, fmt::format("longer than {} bytes", limits.bytes_max)});
    return {};
  }
  for (size_t i = 0; i < text.size();) {
    size_t length = Utf8SequenceLength(text.substr(i));
    if (length == 0) {
      problems->push_back({PositionAt(text, i), "not UTF-8"});
      return {};
    }
    auto byte = static_cast<unsigned char>(text[i]);
    if ((byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f) {
      problems->push_back({PositionAt(text, i), fmt::format("the control character 0x{:02x} is not allowed", byte)});
      return {};
    }
    i += length;
  }

  PacedInput input(text, limits.stretch_bytes_max);
  TreeBuilder builder(text, limits, &input, problems);
  try {
    std::istream stream(&input);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
    input.CheckStretch(PositionAt(text, text.size()));
  } catch (const Refusal& refusal) {
    problems->push_back({refusal.position, refusal.message});
  } catch (const YAML::Exception& error) {
    if (input.ended_early()) {
      problems->push_back(
          {PositionOf(error.mark), fmt::format("a scalar, or a collection in brackets, is longer than {} "
                                               "bytes",
                                               limits.stretch_bytes_max)});
    } else {
      const YamlPosition position = PositionOf(error.mark);
      const std::optional<YamlPosition> tab = FindTabIndent(text, position.line);
      problems->push_back(tab.has_value() ? YamlProblem{*tab, "a tab cannot indent; YAML takes spaces alone"}
                                          : YamlProblem{position, fmt::format("not YAML: {}", PlainText(error.msg))});
    }
  } catch (const std::exception& error) {
    problems->push_back({{}, fmt::format("cannot be read as YAML: {}", error.what())});
  }
  return builder.TakeDocuments();
}

std::string YamlScalar(std::string_view value) {
  if (IsPlain(value)) return std::string(value);
  std::string text = "\"";
  for (size_t i = 0; i < value.size();) {
    size_t length = Utf8SequenceLength(value.substr(i));
    if (length > 1) {
      std::string_view sequence = value.substr(i, length);
      if (!IsUnprintable(sequence)) {
        text += sequence;
      } else if (length == 2) {
        text += fmt::format("\\x{:02x}", static_cast<unsigned char>(sequence[1]));  // U+0080 to U+009F
      } else {
        unsigned code = (sequence[0] & 0x0fu) << 12 | (sequence[1] & 0x3fu) << 6 | (sequence[2] & 0x3fu);
        text += fmt::format("\\u{:04x}", code);
      }
      i += length;
      continue;
    }
    char c = value[i++];
    switch (c) {
      case '"':
        text += "\\\"";
        break;
      case '\\':
        text += "\\\\";
        break;
      case '\n':
        text += "\\n";
        break;
      case '\t':
        text += "\\t";
        break;
      case '\r':
        text += "\\r";
        break;
      default:
        if (length == 0) {
          text += "\ufffd";  // not UTF-8, which YAML cannot say
        } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
          text += c;
        }
    }
  }
  return text + "\"";
}

std::string DescribeForMessage(const YamlNode& node, bool secret) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "nothing";
    case YamlNode::Kind::kSequence:
      return "a list";
    case YamlNode::Kind::kMap:
      return "a map";
    case YamlNode::Kind::kScalar:
      break;
  }
  if (secret) return "something else";
  return node.quoted ? "the string " + QuoteForMessage(node.scalar) : QuoteForMessage(node.scalar);
}

}  // namespace gateway
