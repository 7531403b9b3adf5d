#include "dataplane/config/enroller.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/base/private_file.h"
#include "common/base/thread.h"
#include "gateway/v1/join.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(5);
constexpr absl::Duration kRetryMin = absl::Seconds(1);
// A certificate is looked at this often, since an operator may replace it.
constexpr absl::Duration kLookEvery = absl::Minutes(1);
constexpr std::streamsize kTokenBytesMax = 1024;

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text(static_cast<size_t>(kTokenBytesMax), '\0');
  in.read(text.data(), kTokenBytesMax);
  text.resize(static_cast<size_t>(in.gcount()));
  absl::StripAsciiWhitespace(&text);
  if (text.empty()) {
    return absl::NotFoundError(
        absl::StrCat("data_plane.tls.join_token_file: '", path, "' cannot be read, or is empty"));
  }
  return text;
}

std::string Date(absl::Time time) { return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone()); }

prometheus::MetricFamily FamilyOf(const char* name, const char* help, prometheus::MetricType type) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

}  // namespace

Enroller::Enroller(const v1::ClientTlsSection& tls, std::vector<std::string> control_planes, std::string name)
    : files_{tls.cert(), tls.key(), tls.ca()},
      server_name_(tls.server_name()),
      token_file_(tls.join_token_file()),
      name_(std::move(name)),
      control_planes_(std::move(control_planes)) {}

Enroller::~Enroller() { Stop(); }

void Enroller::Start() {
  thread_ = StartThread("enroller", ThreadPriority::kBackground, [this] { Run(); });
}

void Enroller::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
    if (call_ != nullptr) call_->TryCancel();
  }
  if (thread_.joinable()) thread_.join();
}

absl::Time Enroller::RenewalTime(absl::Time not_before, absl::Time not_after, absl::BitGenRef random) {
  const absl::Duration life = not_after - not_before;
  return not_before + life * (2.0 / 3) - life * absl::Uniform<double>(random, 0, 0.05);
}

bool Enroller::Sleep(absl::Duration duration) {
  absl::MutexLock lock(&mu_);
  return !mu_.AwaitWithTimeout(absl::Condition(&stop_), std::max(duration, absl::ZeroDuration()));
}

void Enroller::Run() {
  std::string planned_for;  // the certificate that `due` is of
  absl::Time due;
  absl::Duration retry = kRetryMin;
  std::string told;
  while (true) {
    const absl::Time now = absl::Now();
    const absl::StatusOr<TlsMaterial> current = ReadTlsFiles(files_, now);
    const absl::StatusOr<CertificateInfo> info =
        current.ok() ? DescribeCertificate(current->certificate_chain) : current.status();
    not_after_ = info.ok() ? absl::ToUnixSeconds(info->not_after) : 0;
    if (info.ok()) {
      if (planned_for != current->certificate_chain) {
        planned_for = current->certificate_chain;
        // Of a CA that is about to expire, each certificate is due almost at once.
        due = std::max(RenewalTime(info->not_before, info->not_after, random_), now + kRetryMin);
      }
      if (now < due) {
        if (!Sleep(std::min(due - now, kLookEvery))) return;
        continue;
      }
    }
    const Call call = info.ok() ? Call::kRenew : Call::kEnroll;
    // A certificate that may be good, but cannot be read now, is not replaced.
    absl::Status status = absl::IsUnavailable(current.status()) ? current.status() : Attempt(call);
    if (status.ok()) {
      retry = kRetryMin;
      told.clear();
      if (!Sleep(kRetryMin)) return;
      continue;
    }
    if (told != status.message()) {
      const std::string why = absl::IsNotFound(current.status()) || absl::IsUnavailable(current.status())
                                  ? ""
                                  : absl::StrCat(" (", info.status().message(), ")");
      spdlog::warn("join: {}: {}; tried again",
                   call == Call::kEnroll ? absl::StrCat("no certificate for this data plane", why)
                                         : "the certificate is not renewed",
                   std::string(status.message()));
      told = std::string(status.message());
    }
    if (!Sleep(retry * absl::Uniform<double>(random_, 0.5, 1))) return;
    retry = std::min(retry * 2, absl::FromChrono(kRetryMax));
  }
}

absl::StatusOr<std::string> Enroller::Key() {
  absl::StatusOr<std::string> there = ReadPemFile(files_.key);
  if (!absl::IsNotFound(there.status())) return there;
  absl::StatusOr<std::string> made = MakePrivateKey();
  if (!made.ok()) return made;
  if (absl::Status s = ReplacePrivateFile(files_.key, *made); !s.ok()) return s;
  return made;
}

absl::Status Enroller::Attempt(Call call) {
  const absl::StatusOr<std::string> key = Key();
  if (!key.ok()) return key.status();
  const absl::Time now = absl::Now();
  absl::StatusOr<TlsMaterial> current = ReadTlsFiles(call == Call::kRenew ? files_ : TlsFiles{.ca = files_.ca}, now);
  if (!current.ok()) return current.status();
  std::vector<std::string> problems;
  for (const std::string& address : control_planes_) {
    const absl::Status asked = Ask(call, address, *key, *current);
    if (asked.ok()) return asked;
    problems.emplace_back(asked.message());
    absl::MutexLock lock(&mu_);
    if (stop_) break;
  }
  return absl::UnavailableError(absl::StrJoin(problems, "; "));
}

absl::Status Enroller::Ask(Call call, const std::string& address, const std::string& key, const TlsMaterial& current) {
  const absl::StatusOr<std::string> request = MakeSigningRequest(key, name_.substr(0, 64));
  if (!request.ok())
    return absl::Status(request.status().code(), absl::StrCat(files_.key, ": ", request.status().message()));
  v1::EnrollRequest enroll;
  if (call == Call::kEnroll) {
    absl::StatusOr<std::string> token = ReadToken(token_file_);
    if (!token.ok()) return token.status();
    enroll.set_token(*std::move(token));
    enroll.set_certificate_request(*request);
  }
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (!server_name_.empty()) arguments.SetSslTargetNameOverride(server_name_);
  const auto stub = v1::Join::NewStub(grpc::CreateCustomChannel(
      address, grpc::SslCredentials({current.ca, current.private_key, current.certificate_chain}), arguments));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallTimeout));
  {
    absl::MutexLock lock(&mu_);
    if (stop_) return absl::CancelledError("stopping");
    call_ = &context;
  }
  v1::EnrollResponse response;
  grpc::Status status;
  if (call == Call::kEnroll) {
    status = stub->Enroll(&context, enroll, &response);
  } else {
    v1::RenewRequest renew;
    renew.set_certificate_request(*request);
    status = stub->Renew(&context, renew, &response);
  }
  {
    absl::MutexLock lock(&mu_);
    call_ = nullptr;
  }
  absl::Status result;
  if (!status.ok()) {
    result = absl::UnavailableError(absl::StrCat("control plane ", address, ": ", status.error_message()));
  } else if (const auto info = DescribeCertificate(response.certificate()); !info.ok()) {
    result =
        absl::UnavailableError(absl::StrCat("control plane ", address, ": its response ", info.status().message()));
  } else if (const absl::Time now = absl::Now(); info->not_before > now || info->not_after <= now) {
    result = absl::UnavailableError(absl::StrCat("control plane ", address, ": its certificate is valid from ",
                                                 Date(info->not_before), " to ", Date(info->not_after),
                                                 ", and here it is ", Date(now), ": the clocks differ"));
  } else {
    result = ReplacePrivateFile(files_.cert, response.certificate());
    if (result.ok()) {
      spdlog::info("join: {} by the control plane {}: a certificate valid to {}",
                   call == Call::kEnroll ? "enrolled" : "renewed", address, Date(info->not_after));
    }
  }
  ++(call == Call::kEnroll ? (result.ok() ? enrolled_ : enrol_errors_) : (result.ok() ? renewed_ : renew_errors_));
  return result;
}

std::vector<prometheus::MetricFamily> Enroller::Families() const {
  prometheus::MetricFamily attempts =
      FamilyOf("gateway_join_attempts_total", "Certificates that this data plane asked control planes for.",
               prometheus::MetricType::Counter);
  for (const auto& [call, result, count] :
       {std::tuple{"enroll", "ok", &enrolled_}, std::tuple{"enroll", "error", &enrol_errors_},
        std::tuple{"renew", "ok", &renewed_}, std::tuple{"renew", "error", &renew_errors_}}) {
    prometheus::ClientMetric& metric = attempts.metric.emplace_back();
    metric.label = {{"call", call}, {"result", result}};
    metric.counter.value = static_cast<double>(count->load());
  }
  prometheus::MetricFamily expiry =
      FamilyOf("gateway_join_certificate_not_after_seconds",
               "End of the certificate for control planes, in seconds since 1970; 0: without one.",
               prometheus::MetricType::Gauge);
  expiry.metric.emplace_back().gauge.value = static_cast<double>(not_after_.load());
  return {std::move(attempts), std::move(expiry)};
}

}  // namespace gateway::dataplane
