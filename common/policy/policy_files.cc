#include "common/policy/policy_files.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "common/base/base64.h"
#include "common/base/certificate.h"
#include "common/base/jwk.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/base/units.h"
#include "common/policy/resource.h"
#include "google/protobuf/message.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

using google::protobuf::Message;

constexpr size_t kPolicyFilesMax = 10'000;
constexpr int kPolicyFolderDepthMax = 32;
constexpr size_t kPolicyBytesMax = 256u << 20;  // of all files of one call
constexpr size_t kHiddenNamesMax = 10'000;      // of one file that is not YAML

const std::vector<ResourceKey> kHidesAll = {{"", ""}};

// The text of a file or of standard input, at most one byte more than may be parsed, so that the parser refuses it.
std::optional<std::string> ReadAll(std::istream& in) {
  const size_t most = YamlLimits().bytes_max + 1;
  std::string text;
  std::vector<char> chunk(64 << 10);
  while (text.size() < most && in) {
    in.read(chunk.data(), static_cast<std::streamsize>(std::min(chunk.size(), most - text.size())));
    text.append(chunk.data(), static_cast<size_t>(in.gcount()));
  }
  if (in.bad()) return std::nullopt;
  return text;
}

// Names that begin with a dot are left out: what Kubernetes mounts holds every file twice, once below "..data".
void ListFolder(const std::filesystem::path& folder, int depth, std::vector<std::string>* files,
                std::vector<PolicyProblem>* problems) {
  auto problem = [&](std::string message) {
    problems->push_back({folder.string(), {}, "", "", std::move(message), kHidesAll});
  };
  if (depth > kPolicyFolderDepthMax)
    return problem(fmt::format("nested deeper than {} folders", kPolicyFolderDepthMax));
  std::vector<std::filesystem::path> entries;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    entries.push_back(it->path());
    if (entries.size() > kPolicyFilesMax) return problem(fmt::format("more than {} entries", kPolicyFilesMax));
  }
  if (error) return problem(fmt::format("cannot be listed: {}", error.message()));
  std::sort(entries.begin(), entries.end());
  for (const std::filesystem::path& entry : entries) {
    if (entry.filename().string().starts_with(".")) continue;
    std::error_code ignored;  // what can't be examined is tried as a file, and said if that fails
    if (std::filesystem::is_directory(entry, ignored)) {
      ListFolder(entry, depth + 1, files, problems);
    } else if (entry.extension() == ".yaml" || entry.extension() == ".yml") {
      files->push_back(entry.string());
    }
  }
}

// The text of a file that a field of `document` names, relative to the document's file. Nothing: a problem was added.
std::optional<std::string> ReadNamedFile(const std::string& file, const PolicyDocument& document,
                                         const std::string& field, const std::string& name, size_t bytes_max,
                                         absl::Status (*check)(std::string_view text),
                                         std::vector<PolicyProblem>* problems) {
  std::filesystem::path path = name;
  if (path.is_relative() && file != "-") path = std::filesystem::path(file).parent_path() / path;
  const auto refuse = [&](std::string message) {
    YamlPosition position = document.position;
    if (const auto found = document.sources.find(field); found != document.sources.end()) position = found->second;
    problems->push_back({document.file, position, KeyOf(document.resource).ToString(), field, std::move(message)});
    return std::nullopt;
  };
  errno = 0;
  std::string text;
  std::error_code error;
  // A pipe could be waited for without end.
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error)) {
    return refuse(fmt::format("{} is not a file", QuoteForMessage(path.string())));
  }
  std::ifstream in(path, std::ios::binary);
  text.resize(bytes_max + 1);
  if (in) in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!in && !in.eof()) {
    return refuse(fmt::format("{} cannot be read: {}", QuoteForMessage(path.string()),
                              std::generic_category().message(errno == 0 ? EIO : errno)));
  }
  text.resize(static_cast<size_t>(in.gcount()));
  if (absl::Status status = check(text); !status.ok()) {
    return refuse(fmt::format("{}: {}", QuoteForMessage(path.string()), std::string(status.message())));
  }
  return text;
}

absl::Status CheckCertificates(std::string_view text) { return ReadCertificates(text).status(); }

absl::Status CheckNotEmpty(std::string_view text) {
  return text.empty() ? absl::InvalidArgumentError("is empty") : absl::OkStatus();
}

absl::Status CheckKey(std::string_view text) { return ReadPrivateKey(text).status(); }

void InlineCa(const std::string& file, const std::string& field, const PolicyDocument& document, v1::UpstreamTls* tls,
              std::vector<PolicyProblem>* problems) {
  if (tls->ca().source_case() != v1::PemText::kFile) return;
  auto text = ReadNamedFile(file, document, field + ".ca.file", tls->ca().file(), kCertificateBytesMax,
                            &CheckCertificates, problems);
  if (text.has_value()) tls->mutable_ca()->set_inline_(*std::move(text));
}

// Puts the text of every file that a document names (`jwks.file`, `tls.ca.file`, those of a Certificate) into `inline`.
void InlineFiles(const std::string& file, PolicyDocument* document, std::vector<PolicyProblem>* problems) {
  v1::Resource& resource = document->resource;
  if (resource.has_service() && resource.service().has_tls()) {
    InlineCa(file, "tls", *document, resource.mutable_service()->mutable_tls(), problems);
  }
  if (resource.has_route() && resource.route().consul_service().template_().has_tls()) {
    InlineCa(file, "consul_service.template.tls", *document,
             resource.mutable_route()->mutable_consul_service()->mutable_template_()->mutable_tls(), problems);
  }
  if (resource.has_certificate()) {
    v1::Certificate* certificate = resource.mutable_certificate();
    if (certificate->certificate().has_file()) {
      auto text = ReadNamedFile(file, *document, "certificate.file", certificate->certificate().file(),
                                kCertificateBytesMax, &CheckCertificates, problems);
      if (text.has_value()) certificate->mutable_certificate()->set_inline_(*std::move(text));
    }
    if (certificate->key().has_file()) {
      auto text = ReadNamedFile(file, *document, "key.file", certificate->key().file(), kCertificateBytesMax, &CheckKey,
                                problems);
      if (text.has_value()) certificate->mutable_key()->set_inline_(*std::move(text));
    }
    if (certificate->acme().ca().has_file()) {
      auto text = ReadNamedFile(file, *document, "acme.ca.file", certificate->acme().ca().file(), kCertificateBytesMax,
                                &CheckCertificates, problems);
      if (text.has_value()) certificate->mutable_acme()->mutable_ca()->set_inline_(*std::move(text));
    }
    if (certificate->ocsp().has_file()) {
      auto bytes = ReadNamedFile(file, *document, "ocsp.file", certificate->ocsp().file(), kCertificateBytesMax,
                                 &CheckNotEmpty, problems);
      if (bytes.has_value()) {
        certificate->mutable_ocsp()->set_inline_(EncodeBase64(Base64::kStandard, *bytes));
      }
    }
  }
  if (!resource.has_auth()) return;
  v1::Auth* auth = resource.mutable_auth();
  for (int i = 0; i < auth->methods_size(); ++i) {
    if (!auth->methods(i).has_jwt() || auth->methods(i).jwt().jwks().source_case() != v1::Jwks::kFile) continue;
    v1::Jwks* jwks = auth->mutable_methods(i)->mutable_jwt()->mutable_jwks();
    auto text = ReadNamedFile(file, *document, fmt::format("methods[{}].jwt.jwks.file", i), jwks->file(),
                              JwkSet::kTextBytesMax, &CheckJwks, problems);
    if (text.has_value()) jwks->set_inline_(*std::move(text));
  }
}

// Written for another system: every field would be an error.
bool IsShapedLikeKubernetes(const YamlNode& node) {
  return node.Find("apiVersion") != nullptr || node.Find("metadata") != nullptr || node.Find("spec") != nullptr;
}

// Whether one of the fields is the other, or lies inside it. The empty field is the whole document.
bool IsSameOrInside(const std::string& outer, const std::string& inner) {
  return inner.starts_with(outer) &&
         (outer.empty() || inner.size() == outer.size() || inner[outer.size()] == '.' || inner[outer.size()] == '[');
}

// Whether `message` ("rate limit 'x' is not defined; ...") misses `key`.
bool Misses(std::string_view message, const ResourceKey& key) {
  const size_t end = message.find(" is not defined");
  if (end == std::string_view::npos) return false;
  const size_t quote = message.find(" '");
  std::string noun;
  for (const char c : message.substr(0, quote)) {
    if (c != ' ') noun += absl::ascii_tolower(static_cast<unsigned char>(c));
  }
  return (key.kind.empty() || noun == absl::AsciiStrToLower(key.kind)) &&
         (key.name.empty() || message.substr(0, end).substr(std::min(quote + 1, end)) == QuoteForMessage(key.name));
}

// The resources that a text which is not YAML may contain: every `name` in it.
std::vector<ResourceKey> NamedIn(std::string_view text) {
  constexpr std::string_view kKey = "name:";
  constexpr std::string_view kBefore = " \t{,\n-\"'";
  std::vector<ResourceKey> named;
  for (size_t at = text.find(kKey); at != std::string_view::npos; at = text.find(kKey, at + 1)) {
    if (at > 0 && kBefore.find(text[at - 1]) == std::string_view::npos) continue;
    std::string_view name = text.substr(at + kKey.size());
    name = name.substr(0, name.find_first_of("\n,}#"));
    const size_t begin = name.find_first_not_of(" \t\r\"'");
    if (begin == std::string_view::npos) continue;
    name = name.substr(begin, name.find_last_not_of(" \t\r\"'") + 1 - begin);
    if (named.size() == kHiddenNamesMax) return kHidesAll;
    named.push_back({"", std::string(name)});
  }
  return named;
}

// Where `field` of a document stands, or the nearest thing around it.
YamlPosition PositionOf(const PolicyDocument& document, std::string field) {
  while (!field.empty()) {
    if (const auto it = document.sources.find(field); it != document.sources.end()) return it->second;
    const size_t cut = field.find_last_of(".[");
    field.resize(cut == std::string::npos ? 0 : cut);
  }
  return document.position;
}

}  // namespace

bool FollowsFrom(const PolicyProblem& error, const std::vector<PolicyProblem>& problems) {
  return std::any_of(problems.begin(), problems.end(), [&error](const PolicyProblem& other) {
    for (const ResourceKey& hidden : other.hides) {
      if (Misses(error.message, hidden)) return true;
    }
    // One whose name is wrong is known to the reading by its kind alone.
    const bool same = other.resource == error.resource ||
                      (other.field == "name" && error.field == "name" && error.resource.starts_with(other.resource));
    return same && !other.field.empty() &&
           (IsSameOrInside(other.field, error.field) || IsSameOrInside(error.field, other.field));
  });
}

PolicyPlaces::PolicyPlaces(const std::vector<PolicyDocument>& documents) {
  for (const PolicyDocument& document : documents) by_key_[KeyOf(document.resource)] = &document;
}

PolicyProblem PolicyPlaces::Locate(const v1::PolicyError& error) const {
  const ResourceKey key{error.kind(), error.name()};
  PolicyProblem problem;
  // As in ParsePolicy: an invalid name is not part of the label.
  problem.resource = CheckName(error.name()).ok() ? key.ToString() : error.kind();
  problem.field = error.field();
  problem.message = error.message();
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    problem.file = found->second->file;
    problem.position = PositionOf(*found->second, error.field());
  }
  return problem;
}

std::string PolicyProblem::ToString() const {
  std::string text = file;
  if (position.line > 0) text += fmt::format("{}{}:{}", text.empty() ? "" : ":", position.line, position.column);
  for (const std::string& part : {resource, field, message}) {
    if (part.empty()) continue;
    if (!text.empty()) text += ": ";
    text += part;
  }
  return text;
}

std::vector<PolicyDocument> ParsePolicy(std::string_view text, std::string_view file,
                                        std::vector<PolicyProblem>* problems) {
  std::vector<PolicyDocument> documents;
  std::vector<YamlProblem> yaml_problems;
  std::vector<YamlNode> nodes = ParseYaml(text, &yaml_problems);
  for (YamlProblem& problem : yaml_problems) {
    const bool whole = !problem.duplicate.empty() && problem.duplicate != "kind" && problem.duplicate != "name";
    problems->push_back({std::string(file), problem.position, "", "", std::move(problem.message),
                         whole ? std::vector<ResourceKey>() : NamedIn(text)});
  }
  std::vector<std::string> kinds(ResourceKinds().begin(), ResourceKinds().end());
  size_t shaped_like_kubernetes = 0, first_of_these = 0;
  for (const YamlNode& node : nodes) {
    if (node.kind == YamlNode::Kind::kNull) continue;
    auto problem = [&](YamlPosition position, std::string resource, std::string field, std::string message,
                       std::vector<ResourceKey> hides) {
      problems->push_back(
          {std::string(file), position, std::move(resource), std::move(field), std::move(message), std::move(hides)});
    };
    if (node.kind != YamlNode::Kind::kMap) {
      problem(node.position, "", "", "expected a document with kind and name, found " + DescribeForMessage(node, false),
              {});
      continue;
    }
    if (IsShapedLikeKubernetes(node)) {
      if (++shaped_like_kubernetes == 1) {
        first_of_these = problems->size();
        problem(node.position, "", "",
                "kind and name stand at the top level; there is no spec (nor apiVersion or metadata)", {});
      }
      const YamlNode* metadata = node.Find("metadata");
      const YamlNode* own = metadata == nullptr ? node.Find("name") : metadata->Find("name");
      if (own != nullptr && !own->scalar.empty()) (*problems)[first_of_these].hides.push_back({"", own->scalar});
      continue;
    }
    const YamlNode* kind = node.Find("kind");
    const YamlNode* name = node.Find("name");
    std::string label = kind != nullptr && kind->kind == YamlNode::Kind::kScalar ? kind->scalar : "";
    if (label.size() > 128 || !std::all_of(label.begin(), label.end(), absl::ascii_isalnum)) label = "";
    if (!label.empty() && name != nullptr && CheckName(name->scalar).ok()) label += "/" + name->scalar;
    // What it would have been referred to by. Without a name nothing can mean it.
    const auto hidden = [name](std::string of_kind) {
      const bool named = name != nullptr && name->kind == YamlNode::Kind::kScalar && !name->scalar.empty();
      return named ? std::vector<ResourceKey>{{std::move(of_kind), name->scalar}} : std::vector<ResourceKey>();
    };
    if (kind == nullptr || kind->kind != YamlNode::Kind::kScalar) {
      problem(kind == nullptr ? node.position : kind->position, label, "kind",
              fmt::format("{}expected one of: {}", kind == nullptr ? "is required; " : "", fmt::join(kinds, ", ")),
              hidden(""));
      continue;
    }
    PolicyDocument document;
    document.file = file;
    document.position = node.position;
    Message* body = MutableBodyOf(&document.resource, kind->scalar);
    if (body == nullptr) {
      // "route" and "Routes" name it plainly enough to say what was meant, not to be taken for it.
      absl::StatusOr<std::string> meant = CanonicalKind(kind->scalar);
      problem(kind->position, label, "kind",
              fmt::format("unknown kind {}; {}", QuoteForMessage(kind->scalar),
                          meant.ok() ? fmt::format("did you mean '{}'?", *meant) : DidYouMean(kind->scalar, kinds)),
              hidden(meant.ok() ? *meant : NearestName(kind->scalar, kinds)));
      continue;
    }
    std::vector<FieldProblem> field_problems;
    DecodeYaml(node, body, &field_problems, &document.sources, {"kind"});
    bool name_told = std::any_of(field_problems.begin(), field_problems.end(),
                                 [](const FieldProblem& told) { return told.field == "name"; });
    if (absl::Status status = CheckName(KeyOf(document.resource).name); !status.ok() && !name_told) {
      field_problems.push_back({name == nullptr ? node.position : name->position, "name",
                                name == nullptr ? "is required" : std::string(status.message())});
    }
    for (FieldProblem& told : field_problems) {
      std::vector<ResourceKey> hides;
      if (told.field == "name") hides = hidden(kind->scalar);
      problem(told.position, label, std::move(told.field), std::move(told.message), std::move(hides));
    }
    documents.push_back(std::move(document));
  }
  if (shaped_like_kubernetes > 1) {
    (*problems)[first_of_these].message += fmt::format("; so it is in {} documents", shaped_like_kubernetes);
  }
  return documents;
}

std::vector<PolicyDocument> ReadPolicyFiles(const std::vector<std::string>& paths,
                                            std::vector<PolicyProblem>* problems) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code ignored;  // a path that isn't there fails when it is opened, with a better message
    if (path != "-" && std::filesystem::is_directory(path, ignored)) {
      ListFolder(path, 0, &files, problems);
    } else {
      files.push_back(path);
    }
  }
  if (files.size() > kPolicyFilesMax) {
    problems->push_back({"", {}, "", "", fmt::format("more than {} files", kPolicyFilesMax), kHidesAll});
    return {};
  }
  std::vector<PolicyDocument> documents;
  std::map<ResourceKey, std::string> seen;  // where each resource stands
  size_t bytes = 0;
  for (const std::string& file : files) {
    std::optional<std::string> text;
    if (file == "-") {
      text = ReadAll(std::cin);
    } else {
      errno = 0;
      std::ifstream in(file, std::ios::binary);
      if (in) text = ReadAll(in);
    }
    if (!text.has_value()) {
      int code = errno == 0 ? EIO : errno;
      problems->push_back({file, {}, "", "", "cannot be read: " + std::generic_category().message(code), kHidesAll});
      continue;
    }
    std::string shown = file == "-" ? "standard input" : file;
    bytes += text->size();
    if (bytes > kPolicyBytesMax) {
      problems->push_back(
          {shown, {}, "", "", fmt::format("all files together are longer than {} bytes", kPolicyBytesMax), kHidesAll});
      break;
    }
    for (PolicyDocument& document : ParsePolicy(*text, shown, problems)) {
      ResourceKey key = KeyOf(document.resource);
      auto [first, added] =
          seen.emplace(key, fmt::format("{}:{}:{}", shown, document.position.line, document.position.column));
      if (!added && !key.name.empty()) {
        problems->push_back(
            {shown, document.position, key.ToString(), "", fmt::format("is given twice; first at {}", first->second)});
        continue;
      }
      InlineFiles(file, &document, problems);
      documents.push_back(std::move(document));
    }
  }
  return documents;
}

std::string EncodeResource(const v1::Resource& resource) {
  const Message* body = BodyOf(resource);
  return body == nullptr ? "" : Concat("kind: ", body->GetDescriptor()->name(), "\n", EncodeYaml(*body));
}

std::string EncodeResourceWithSecrets(const v1::Resource& resource) {
  const Message* body = BodyOf(resource);
  if (body == nullptr) return "";
  return Concat("kind: ", body->GetDescriptor()->name(), "\n", EncodeYaml(*body, 0, Secrets::kAsStored));
}

std::string EncodeResourceJson(const v1::Resource& resource) {
  const Message* body = BodyOf(resource);
  return body == nullptr ? "{}" : EncodeJson(*body, body->GetDescriptor()->name());
}

}  // namespace gateway
