#include "tools/gatewayctl/documents.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <tuple>
#include <utility>

namespace gateway::ctl {
namespace {

// The server's errors with their positions in the files.
std::vector<PolicyProblem> Locate(const v1::PolicyErrors& errors, const std::vector<PolicyDocument>& documents) {
  const PolicyPlaces places(documents);
  std::vector<PolicyProblem> problems;
  for (const v1::PolicyError& error : errors.errors()) problems.push_back(places.Locate(error));
  return problems;
}

// `what` would not be valid. `left_out`: mistakes that the server had no room to tell.
ExitCode Refuse(Session& session, std::string_view what, std::vector<PolicyProblem> problems, size_t left_out) {
  // In the order of the files as given; what stands in no file comes last.
  std::vector<std::string> files;
  for (const PolicyProblem& problem : problems) {
    if (std::find(files.begin(), files.end(), problem.file) == files.end()) files.push_back(problem.file);
  }
  const auto rank = [&](const PolicyProblem& p) {
    return std::tuple(p.file.empty(), std::find(files.begin(), files.end(), p.file), p.position.line,
                      p.position.column);
  };
  std::stable_sort(problems.begin(), problems.end(),
                   [&](const PolicyProblem& a, const PolicyProblem& b) { return rank(a) < rank(b); });
  const size_t shown = session.options.all_errors ? problems.size() : std::min<size_t>(problems.size(), kErrorsShown);
  for (size_t i = 0; i < shown; ++i) session.err() << problems[i].ToString() << "\n";
  const size_t all = problems.size() + left_out;
  session.err() << "gatewayctl: " << what << " is invalid: " << all << (all == 1 ? " error" : " errors");
  if (all > shown) session.err() << ", of which " << all - shown << " are not shown";
  if (problems.size() > shown) session.err() << " (--all-errors)";
  session.err() << "; nothing was changed\n";
  return kInvalidPolicy;
}

// What can be read of --file, and what is wrong with it. Nothing to read: says so, sets `code`, and returns nothing.
std::optional<std::vector<PolicyDocument>> ReadFiles(Session& session, std::vector<PolicyProblem>* problems,
                                                     ExitCode* code) {
  for (const std::string& path : session.options.files) {
    std::error_code error;
    if (path != "-" && !std::filesystem::exists(path, error)) {
      session.err() << "gatewayctl: " << path << ": " << (error ? error.message() : std::strerror(ENOENT)) << "\n";
      *code = kUsage;
      return std::nullopt;
    }
  }
  std::vector<PolicyDocument> documents = ReadPolicyFiles(session.options.files, problems);
  if (documents.empty() && problems->empty() && !session.options.allow_empty) {
    session.err() << "gatewayctl: the files hold no policy"
                  << (session.options.set_name.empty() ? "" : "; --allow-empty deletes all that the set has") << "\n";
    *code = kUsage;
    return std::nullopt;
  }
  return documents;
}

}  // namespace

v1::ApplyRequest RequestOf(const std::vector<PolicyDocument>& documents) {
  v1::ApplyRequest request;
  for (const PolicyDocument& document : documents) *request.add_resources() = document.resource;
  return request;
}

std::optional<std::vector<PolicyDocument>> ReadDocuments(Session& session, ExitCode* code) {
  std::vector<PolicyProblem> problems;
  auto documents = ReadFiles(session, &problems, code);
  if (!documents.has_value()) return std::nullopt;
  if (problems.empty()) return documents;
  // All errors at once: the server is asked about what could be read too, if it is there.
  v1::ApplyRequest request;
  for (const PolicyDocument& document : *documents) {
    if (!KeyOf(document.resource).name.empty()) *request.add_resources() = document.resource;
  }
  request.set_dry_run(true);
  const absl::StatusOr<v1::ApplyResponse> checked = session.client.Apply(request);
  const std::vector<PolicyProblem> told = problems;
  const v1::PolicyErrors errors = PolicyErrorsOf(checked.status());
  for (PolicyProblem& problem : Locate(errors, *documents)) {
    if (!FollowsFrom(problem, told)) problems.push_back(std::move(problem));
  }
  *code = Refuse(session, kThePolicy, std::move(problems), errors.left_out());
  return std::nullopt;
}

std::optional<std::vector<PolicyDocument>> ReadFilesAlone(Session& session, ExitCode* code) {
  std::vector<PolicyProblem> problems;
  auto documents = ReadFiles(session, &problems, code);
  if (!documents.has_value() || problems.empty()) return documents;
  *code = Refuse(session, kThePolicy, std::move(problems), 0);
  return std::nullopt;
}

ExitCode FailApply(Session& session, const absl::Status& status, const std::vector<PolicyDocument>& documents,
                   std::string_view what) {
  const v1::PolicyErrors errors = PolicyErrorsOf(status);
  return errors.errors().empty() ? session.Fail(status)
                                 : Refuse(session, what, Locate(errors, documents), errors.left_out());
}

std::vector<v1::Change> RealChanges(const google::protobuf::RepeatedPtrField<v1::Change>& changes) {
  std::vector<v1::Change> real;
  std::copy_if(changes.begin(), changes.end(), std::back_inserter(real),
               [](const v1::Change& change) { return change.op() != v1::Change::UNCHANGED; });
  return real;
}

std::string ActorOf(const Session& session) {
  return session.options.actor.empty() ? session.terminal.actor : session.options.actor;
}

}  // namespace gateway::ctl
