// support-bundle: everything that a support engineer will ask for, in one archive, without secrets.
#include <algorithm>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/version.h"
#include "common/policy/policy_files.h"
#include "tools/gatewayctl/archive.h"
#include "tools/gatewayctl/commands.h"
#include "tools/gatewayctl/private_file.h"
#include "tools/gatewayctl/table.h"

namespace gateway::ctl {
namespace {

constexpr char kFolder[] = "gateway-support";
constexpr uint64_t kHistoryMax = 500;  // revisions
constexpr uint64_t kAuditMax = 1'000;  // entries
constexpr size_t kDataPlanesAsked = 20;

constexpr char kAbout[] =
    "What gatewayctl support-bundle found. Secrets of policy are redacted; what people wrote elsewhere (headers that "
    "a\n"
    "route sets, comments) is as they wrote it: look through it before you give it away.\n\n"
    "version.json            this gatewayctl and the control plane\n"
    "policy.yaml             the policy, built-in resources included\n"
    "lint.json               what is doubtful in it\n"
    "history.json            the newest revisions\n"
    "audit.json              the newest writes and denied attempts\n"
    "dataplanes.json         who is there, and what each serves\n"
    "rollout.json            who serves the current revision\n"
    "endpoints.json          endpoints as Consul and data planes see them, and what operators have set\n"
    "breakers.json, limits.json\n"
    "controlplane/           its effective bootstrap file, its metrics\n"
    "dataplanes/NAME/        the same of each data plane\n"
    "missing.txt             what is not here, and why\n";

// The archive, and what is not in it.
class Bundle {
 public:
  explicit Bundle(absl::Time now) : tar_(now) {}

  void Add(const std::string& name, const std::string& content) {
    if (const absl::Status s = tar_.Add(absl::StrCat(kFolder, "/", name), content); !s.ok()) Miss(name, s);
  }
  void AddJson(const std::string& name, const Json& value) { Add(name, JsonText(value)); }
  template <typename Message>
  void AddMessage(const std::string& name, const absl::StatusOr<Message>& message) {
    if (!message.ok()) return Miss(name, message.status());
    AddJson(name, MessageJson(*message));
  }
  void AddFiles(const std::string& folder, const absl::StatusOr<v1::DiagnoseResponse>& files) {
    if (!files.ok()) return Miss(folder, files.status());
    for (const v1::DiagnosticFile& file : files->files()) {
      // A name is one word; what comes from elsewhere leads nowhere else.
      if (!absl::StrContains(file.name(), '/')) Add(absl::StrCat(folder, "/", file.name()), file.content());
    }
  }
  void Miss(const std::string& name, const absl::Status& why) {
    missing_.push_back(absl::StrCat(name, ": ", std::string(why.message())));
  }

  const std::vector<std::string>& missing() const { return missing_; }
  std::string Finish() {
    std::string text;
    for (const std::string& line : missing_) absl::StrAppend(&text, Printable(line), "\n");
    Add("missing.txt", text);
    return tar_.Finish();
  }

 private:
  TarArchive tar_;
  std::vector<std::string> missing_;
};

void AddPolicy(Session& session, Bundle* bundle) {
  const absl::StatusOr<v1::ListResponse> list = session.client.List("");
  if (!list.ok()) return bundle->Miss("policy.yaml", list.status());
  std::string text = absl::StrCat("# revision ", list->revision(), "\n");
  for (const v1::StoredResource& stored : list->resources()) {
    absl::StrAppend(&text, "---\n", stored.built_in() ? "# built in\n" : "", EncodeResource(stored.resource()));
  }
  bundle->Add("policy.yaml", text);
}

void AddProcesses(Session& session, const absl::StatusOr<v1::ListDataPlanesResponse>& planes, Bundle* bundle) {
  bundle->AddFiles("controlplane", session.client.Diagnose(""));
  if (!planes.ok()) return;
  size_t asked = 0;
  for (const v1::DataPlaneState& plane : planes->data_planes()) {
    const std::string folder = absl::StrCat("dataplanes/", plane.name());
    if (!plane.connected()) {
      bundle->Miss(folder, absl::UnavailableError("it is not connected"));
    } else if (asked >= kDataPlanesAsked && !session.options.all) {
      bundle->Miss(folder, absl::CancelledError(absl::StrCat("not asked, as the first ", kDataPlanesAsked,
                                                             " were; --all asks every one")));
    } else {
      ++asked;
      bundle->AddFiles(folder, session.client.Diagnose(plane.name()));
    }
  }
}

}  // namespace

ExitCode SupportBundle(Session& session) {
  const std::string& path = session.options.output_file;
  const bool to_output = path == "-";
  if (to_output && session.terminal.out_is_terminal) {
    return session.Fail(absl::InvalidArgumentError("an archive cannot go to a terminal; expected a pipe or a FILE"));
  }
  if (!to_output && !absl::EndsWith(path, ".tar.gz") && !absl::EndsWith(path, ".tgz") &&
      !absl::EndsWith(path, ".tar")) {
    return session.Fail(
        absl::InvalidArgumentError(absl::StrCat("'", path, "': expected FILE.tar.gz, FILE.tgz, FILE.tar or -")));
  }
  const absl::StatusOr<v1::GetServerInfoResponse> info = session.client.GetServerInfo();
  if (!info.ok()) return session.Fail(info.status());
  Bundle bundle(session.terminal.now());
  bundle.Add("README.txt", kAbout);
  Json version = Json::object();
  version["client"]["version"] = std::string(kVersion);
  version["server"] = MessageJson(*info);
  bundle.AddJson("version.json", version);
  AddPolicy(session, &bundle);
  bundle.AddMessage("lint.json", session.client.Lint());
  bundle.AddMessage("history.json", session.client.History({}, kHistoryMax));
  bundle.AddMessage("audit.json", session.client.ListAudit(v1::ListAuditRequest(), kAuditMax));
  const absl::StatusOr<v1::ListDataPlanesResponse> planes = session.client.ListDataPlanes();
  bundle.AddMessage("dataplanes.json", planes);
  bundle.AddMessage("rollout.json", session.client.GetRollout(0));
  bundle.AddMessage("endpoints.json", session.client.ListEndpoints(""));
  bundle.AddMessage("breakers.json", session.client.ListBreakers(""));
  bundle.AddMessage("limits.json", session.client.ListLimits(""));
  AddProcesses(session, planes, &bundle);

  const std::vector<std::string> missing = bundle.missing();
  std::string archive = bundle.Finish();
  if (!absl::EndsWith(path, ".tar")) {
    absl::StatusOr<std::string> smaller = Gzip(archive);
    if (!smaller.ok()) return session.Fail(smaller.status());
    archive = *std::move(smaller);
  }
  if (to_output) {
    session.out().write(archive.data(), static_cast<std::streamsize>(archive.size()));
  } else if (const absl::Status written = WritePrivately(path, archive); !written.ok()) {
    return session.Fail(written);
  }
  for (const std::string& line : missing) session.err() << "left out: " << Printable(line) << "\n";
  if (!to_output)
    session.err() << archive.size() << " bytes are in " << path << "; look through it before you pass it on\n";
  return kDone;
}

}  // namespace gateway::ctl
