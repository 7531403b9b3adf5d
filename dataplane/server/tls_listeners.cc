#include "dataplane/server/tls_listeners.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "common/base/certificate.h"
#include "common/base/text.h"
#include "spdlog/spdlog.h"

namespace gateway::dataplane {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  // Reading a FIFO or a terminal would wait for ever.
  struct stat found {};
  if (::stat(path.c_str(), &found) == 0 && !S_ISREG(found.st_mode))
    return absl::InvalidArgumentError(Concat(path, ": expected a file of PEM, not a directory, pipe or device"));
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::InvalidArgumentError(Concat(path, ": can't be read: ", std::strerror(errno)));
  std::string text(kCertificateBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return absl::InvalidArgumentError(Concat(path, ": can't be read: ", std::strerror(errno)));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kCertificateBytesMax) return absl::InvalidArgumentError(Concat(path, ": larger than 1 MiB"));
  return text;
}

std::vector<std::string> FilesOf(const v1::ListenerTls& tls) {
  std::vector<std::string> files;
  for (const v1::CertificateFiles& each : tls.certificates()) {
    files.push_back(each.cert());
    files.push_back(each.key());
    files.push_back(each.ocsp());
  }
  files.push_back(tls.client_ca());
  files.push_back(tls.client_crl());
  std::erase(files, "");
  return files;
}

tls::ClientCertificate ModeOf(v1::ListenerTls::ClientCertificate setting) {
  switch (setting) {
    case v1::ListenerTls::OPTIONAL:
      return tls::ClientCertificate::kOptional;
    case v1::ListenerTls::REQUIRED:
      return tls::ClientCertificate::kRequired;
    default:
      return tls::ClientCertificate::kNone;
  }
}

// What is odd about the certificates, each once.
std::vector<std::string> WarningsOf(const std::vector<std::shared_ptr<const tls::ServerSettings>>& listeners) {
  std::vector<std::string> warnings;
  std::set<std::string> known;
  for (const auto& listener : listeners) {
    if (listener == nullptr) continue;
    for (const auto& each : listener->certificates) {
      for (const std::string& warning : each->warnings) {
        if (known.insert(warning).second) warnings.push_back(warning);
      }
    }
    if (listener->client_certificate == tls::ClientCertificate::kNone && !listener->client_ca_pem.empty()) {
      warnings.emplace_back(
          "a listener has tls.client_ca, but its client_certificate is none: clients are not asked "
          "for one");
    }
  }
  return warnings;
}

bool ReadTicketKey(const v1::TicketKey& from, tls::TicketKey* to) {
  if (from.name().size() != to->name.size() || from.cipher().size() != to->cipher.size() ||
      from.mac().size() != to->mac.size()) {
    return false;
  }
  std::copy(from.name().begin(), from.name().end(), to->name.begin());
  std::copy(from.cipher().begin(), from.cipher().end(), to->cipher.begin());
  std::copy(from.mac().begin(), from.mac().end(), to->mac.begin());
  return true;
}

// Names the file in a status that does not.
absl::Status In(const std::string& path, const absl::Status& status) {
  return absl::InvalidArgumentError(Concat(path, ": ", std::string(status.message())));
}

}  // namespace

TlsListeners::TlsListeners(const v1::ServerSection& server)
    : server_(server), tickets_(std::chrono::steady_clock::now()) {
  for (const v1::Listener& each : server.listeners()) any_ = any_ || each.has_tls();
}

TlsListeners::~TlsListeners() = default;

absl::StatusOr<std::unique_ptr<TlsListeners>> TlsListeners::Open(const v1::ServerSection& server, int workers) {
  std::vector<std::string> warnings;
  auto made = Make(server, workers, &warnings);
  for (const std::string& warning : warnings) spdlog::warn("{}", warning);
  return made;
}

absl::Status TlsListeners::Check(const v1::ServerSection& server, std::vector<std::string>* warnings) {
  return Make(server, 1, warnings).status();
}

absl::StatusOr<std::unique_ptr<TlsListeners>> TlsListeners::Make(const v1::ServerSection& server, int workers,
                                                                 std::vector<std::string>* warnings) {
  std::unique_ptr<TlsListeners> self(new TlsListeners(server));
  for (int i = 0; i < workers; ++i) {
    self->workers_.push_back(std::make_unique<ForWorker>());
    if (!self->any_) continue;
    self->workers_.back()->library.reset(OSSL_LIB_CTX_new());
    if (self->workers_.back()->library == nullptr) return absl::ResourceExhaustedError("TLS: out of memory");
  }
  if (!self->any_) return self;
  self->loaded_ = self->seen_ = self->Fingerprint();
  auto settings = self->Read();
  if (!settings.ok()) return settings.status();
  absl::MutexLock lock(&self->change_mutex_);
  if (absl::Status status = self->Compile(*settings, {}); !status.ok()) return status;
  *warnings = WarningsOf(*settings);
  return self;
}

absl::StatusOr<TlsListeners::Settings> TlsListeners::Read() const {
  Settings all(static_cast<size_t>(server_.listeners_size()));
  for (int i = 0; i < server_.listeners_size(); ++i) {
    if (!server_.listeners(i).has_tls()) continue;
    const v1::ListenerTls& from = server_.listeners(i).tls();
    const auto wrong = [&](const absl::Status& status) {
      return absl::InvalidArgumentError(Concat("server.listeners[", i, "].tls: ", std::string(status.message())));
    };
    auto settings = std::make_shared<tls::ServerSettings>();
    for (const v1::CertificateFiles& files : from.certificates()) {
      CertificateSource source;
      source.name = files.cert();
      auto chain = ReadFile(files.cert());
      if (!chain.ok()) return wrong(chain.status());
      source.chain_pem = *std::move(chain);
      auto key = ReadFile(files.key());
      if (!key.ok()) return wrong(key.status());
      source.key_pem = *std::move(key);
      if (!files.ocsp().empty()) {
        auto ocsp = ReadFile(files.ocsp());
        if (!ocsp.ok()) return wrong(ocsp.status());
        source.ocsp_der = *std::move(ocsp);
      }
      auto certificate = ParseCertificate(std::move(source), absl::Now());
      if (!certificate.ok()) return wrong(certificate.status());
      settings->certificates.push_back(std::make_shared<const Certificate>(*std::move(certificate)));
    }
    settings->tls13_only = from.min_version() == "1.3";
    settings->ciphers = from.ciphers();
    settings->groups = from.groups();
    settings->client_certificate = ModeOf(from.client_certificate());
    if (!from.client_ca().empty()) {
      auto authorities = ReadFile(from.client_ca());
      if (!authorities.ok()) return wrong(authorities.status());
      if (const auto read = ReadCertificates(*authorities); !read.ok())
        return wrong(In(from.client_ca(), read.status()));
      settings->client_ca_pem = *std::move(authorities);
    }
    if (!from.client_crl().empty()) {
      auto crl = ReadFile(from.client_crl());
      if (!crl.ok()) return wrong(crl.status());
      if (const auto read = ReadCrls(*crl); !read.ok()) return wrong(In(from.client_crl(), read.status()));
      settings->client_crl_pem = *std::move(crl);
    }
    const auto& protocols = server_.listeners(i).protocols();
    settings->protocols.assign(protocols.begin(), protocols.end());
    if (settings->protocols.empty()) settings->protocols = {"h2", "http/1.1"};
    all[static_cast<size_t>(i)] = std::move(settings);
  }
  return all;
}

bool TlsListeners::asks_certificates() const {
  return std::any_of(server_.listeners().begin(), server_.listeners().end(), [](const v1::Listener& listener) {
    return listener.has_tls() && ModeOf(listener.tls().client_certificate()) != tls::ClientCertificate::kNone;
  });
}

TlsContexts TlsListeners::contexts(int worker) const {
  absl::MutexLock lock(&change_mutex_);
  return workers_[static_cast<size_t>(worker)]->contexts;
}

absl::Status TlsListeners::Compile(const Settings& settings, const Certificates& of_policy) {
  Settings joined = settings;
  for (auto& listener : joined) {
    if (listener == nullptr || of_policy.empty()) continue;
    auto more = std::make_shared<tls::ServerSettings>(*listener);
    more->certificates.insert(more->certificates.end(), of_policy.begin(), of_policy.end());
    listener = std::move(more);
  }
  std::vector<TlsContexts> compiled;
  for (const auto& worker : workers_) {
    TlsContexts contexts;
    for (size_t i = 0; i < joined.size(); ++i) {
      if (joined[i] == nullptr) {
        contexts.emplace_back();
        continue;
      }
      auto context = tls::ServerContext::Create(worker->library.get(), joined[i], &tickets_, &challenges_);
      if (!context.ok()) {
        return absl::InvalidArgumentError(
            Concat("server.listeners[", i, "].tls: ", std::string(context.status().message())));
      }
      contexts.push_back(*std::move(context));
    }
    compiled.push_back(std::move(contexts));
  }
  for (size_t i = 0; i < workers_.size(); ++i) workers_[i]->contexts = std::move(compiled[i]);
  settings_ = settings;
  of_policy_ = of_policy;
  absl::MutexLock lock(&mutex_);
  certificates_.clear();
  std::set<std::string> named;
  for (const auto& listener : joined) {
    if (listener == nullptr) continue;
    for (const auto& each : listener->certificates) {
      if (named.insert(each->source.name).second) certificates_.push_back(each);
    }
  }
  return absl::OkStatus();
}

void TlsListeners::InstallAll(const Install& install) const {
  for (size_t i = 0; i < workers_.size(); ++i) install(static_cast<int>(i), workers_[i]->contexts);
}

void TlsListeners::UseCertificates(std::span<const std::shared_ptr<const Certificate>> certificates,
                                   const Install& install) {
  if (!any_) return;
  absl::MutexLock lock(&change_mutex_);
  const bool same = std::equal(
      certificates.begin(), certificates.end(), of_policy_.begin(), of_policy_.end(), [](const auto& a, const auto& b) {
        return a == b || (a->source.name == b->source.name && a->dns_names == b->dns_names &&
                          a->source.chain_pem == b->source.chain_pem && a->source.key_pem == b->source.key_pem &&
                          a->source.ocsp_der == b->source.ocsp_der);
      });
  if (same) return;
  if (const absl::Status status = Compile(settings_, {certificates.begin(), certificates.end()}); !status.ok()) {
    spdlog::error("the certificates of policy are not changed: {}", std::string(status.message()));
    return;
  }
  InstallAll(install);
  spdlog::info("listeners serve {} certificates of policy", certificates.size());
}

absl::Status TlsListeners::UseTicketKeys(const v1::TicketKeysUpdate& update) {
  tls::FleetTicketKeys keys;
  if (!update.has_current() || !ReadTicketKey(update.current(), &keys.current) || !update.has_next() ||
      !ReadTicketKey(update.next(), &keys.next)) {
    return absl::InvalidArgumentError("session ticket keys: expected a current and a next one of 16, 32 and 32 bytes");
  }
  if (update.has_previous() && !ReadTicketKey(update.previous(), &keys.previous.emplace())) {
    return absl::InvalidArgumentError("session ticket keys: the previous one: expected 16, 32 and 32 bytes");
  }
  keys.next_in = std::clamp<std::chrono::steady_clock::duration>(
      std::chrono::seconds(update.next_in().seconds()) + std::chrono::nanoseconds(update.next_in().nanos()),
      std::chrono::seconds(0), tls::TicketKeys::kRotation);
  tickets_.Use(keys, std::chrono::steady_clock::now());
  OPENSSL_cleanse(&keys, sizeof keys);
  return absl::OkStatus();
}

void TlsListeners::UseChallenges(const v1::ChallengesUpdate& update) {
  std::vector<tls::AcmeChallenges::Challenge> challenges;
  for (const v1::Challenge& each : update.challenges()) {
    challenges.push_back({absl::AsciiStrToLower(each.host()), each.token(), each.key_authorization(),
                          each.type() == v1::Acme::TLS_ALPN_01});
  }
  challenges_.Set(std::move(challenges));
}

std::string TlsListeners::Fingerprint() const {
  std::string text;
  for (const v1::Listener& listener : server_.listeners()) {
    if (!listener.has_tls()) continue;
    for (const std::string& file : FilesOf(listener.tls())) {
      struct stat status {};
      if (stat(file.c_str(), &status) != 0) {
        text += Concat(errno, ";");
        continue;
      }
      text += Concat(status.st_dev, " ", status.st_ino, " ", status.st_size, " ", status.st_mtim.tv_sec, " ",
                     status.st_mtim.tv_nsec, " ", status.st_ctim.tv_sec, " ", status.st_ctim.tv_nsec, ";");
    }
  }
  return text;
}

void TlsListeners::Refresh(bool forced, const Install& install) {
  if (!any_) return;
  std::string fingerprint = Fingerprint();
  const bool settled = fingerprint == seen_;
  seen_ = fingerprint;
  if (!forced && (fingerprint == loaded_ || !settled)) return;
  loaded_ = std::move(fingerprint);
  auto settings = Read();
  absl::MutexLock lock(&change_mutex_);
  const absl::Status status = settings.ok() ? Compile(*settings, of_policy_) : settings.status();
  if (!status.ok()) {
    spdlog::error("the certificates are not changed: {}", std::string(status.message()));
    return;
  }
  InstallAll(install);
  for (const std::string& warning : WarningsOf(*settings)) spdlog::warn("{}", warning);
  spdlog::info("the certificates of server.listeners were read again");
}

std::vector<MetricFamily> TlsListeners::Families() const {
  if (!any_) return {};
  MetricFamily handshakes{
      "gateway_tls_handshakes_total", "TLS handshakes of clients by their result.", MetricType::Counter, {}};
  for (size_t i = 0; i < TlsCounters::kResults; ++i) {
    uint64_t count = 0;
    for (const auto& each : workers_) count += each->counters.handshakes[i].load(std::memory_order_relaxed);
    ClientMetric metric;
    metric.label = {{"result", std::string(HandshakeErrorName(static_cast<tls::HandshakeError>(i)))}};
    metric.counter.value = static_cast<double>(count);
    handshakes.metric.push_back(std::move(metric));
  }
  MetricFamily resumed{"gateway_tls_resumed_total", "Of these, those that resumed a session.", MetricType::Counter, {}};
  uint64_t count = 0;
  for (const auto& each : workers_) count += each->counters.resumed.load(std::memory_order_relaxed);
  resumed.metric.emplace_back();
  resumed.metric.back().counter.value = static_cast<double>(count);
  MetricFamily shared{"gateway_tls_ticket_keys_shared",
                      "1 while new session tickets are sealed with the fleet's keys; 0: with this process' own.",
                      MetricType::Gauge,
                      {}};
  shared.metric.emplace_back();
  shared.metric.back().gauge.value = tickets_.of_fleet() ? 1 : 0;
  MetricFamily expiry{"gateway_certificate_expiry_timestamp_seconds",
                      "When a certificate expires, since the epoch.",
                      MetricType::Gauge,
                      {}};
  absl::MutexLock lock(&mutex_);
  for (const auto& each : certificates_) {
    ClientMetric metric;
    metric.label = {{"certificate", each->source.name}};
    metric.gauge.value = absl::ToDoubleSeconds(each->not_after - absl::UnixEpoch());
    expiry.metric.push_back(std::move(metric));
  }
  return {std::move(handshakes), std::move(resumed), std::move(shared), std::move(expiry)};
}

}  // namespace gateway::dataplane
