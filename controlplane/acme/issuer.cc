#include "controlplane/acme/issuer.h"

#include <algorithm>
#include <set>

#include "absl/random/distributions.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/certificate.h"
#include "common/base/digest.h"
#include "common/base/strict_json.h"
#include "common/base/thread.h"
#include "common/base/timestamp.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

using nlohmann::json;

// The clock may be set, and policy may change without a word that is heard: looked at as often.
constexpr absl::Duration kLookEvery = absl::Minutes(1);
constexpr absl::Duration kWindowAskMin = absl::Minutes(1);
constexpr absl::Duration kWindowAskMax = absl::Hours(24);
constexpr int kBackoffFactor = 4;
constexpr size_t kPendingTold = 5;

// What an order depends on.
std::string SpecDigest(const v1::Acme& spec) {
  std::vector<std::string> hosts(spec.hosts().begin(), spec.hosts().end());
  std::sort(hosts.begin(), hosts.end());
  return Hex(Sha256(absl::StrCat(spec.directory(), "\n", absl::StrJoin(hosts, "\n"))));
}

bool SameSpec(const v1::Acme& a, const v1::Acme& b) { return a.SerializeAsString() == b.SerializeAsString(); }

std::string AccountSecret(const v1::Acme& spec) {
  return absl::StrCat("acme-account/", Hex(Sha256(absl::StrCat(spec.directory(), "\n", spec.email()))));
}

std::string StateSecret(const std::string& name) { return absl::StrCat("acme-certificate/", name); }

int64_t Seconds(const json& in, const char* name) {
  const auto found = in.find(name);
  return found != in.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

}  // namespace

AcmeIssuer::AcmeIssuer(Publisher* publisher, Hub* hub, AcmeOptions options)
    : publisher_(publisher), hub_(hub), options_(std::move(options)), transport_(acme::CurlTransport([bell = bell_] {
        std::lock_guard lock(bell->mu);
        return bell->ending;
      })) {
  const auto ring = [bell = bell_] {
    {
      std::lock_guard lock(bell->mu);
      ++bell->rung;
    }
    bell->rings.notify_all();
  };
  revisions_id_ = publisher_->revisions().Add(ring);
  ledger_id_ = hub_->ledger().Add(ring);
  thread_ = StartThread("acme", ThreadPriority::kBackground, [this] { Run(); });
}

AcmeIssuer::~AcmeIssuer() {
  publisher_->revisions().Remove(revisions_id_);
  hub_->ledger().Remove(ledger_id_);
  {
    std::lock_guard lock(bell_->mu);
    bell_->ending = true;
  }
  bell_->rings.notify_all();
  thread_.join();
}

bool AcmeIssuer::AwaitNews(uint64_t* seen, std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(bell_->mu);
  while (!bell_->ending && bell_->rung == *seen && bell_->rings.wait_until(lock, deadline) != std::cv_status::timeout) {
  }
  *seen = bell_->rung;
  return !bell_->ending;
}

std::optional<v1::AcmeState> AcmeIssuer::StateOf(const std::string& name) const {
  std::lock_guard lock(mu_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return std::nullopt;
  v1::AcmeState state = found->second.state;
  if (state.phase() != v1::AcmeState::ORDERING) {
    state.set_phase(state.last_error().empty() ? v1::AcmeState::WAITING : v1::AcmeState::FAILED);
    if (const absl::Time at = DueAt(found->second); at != absl::InfinitePast() && at != absl::InfiniteFuture()) {
      SetTime(at, state.mutable_next_try());
    }
  }
  return state;
}

std::array<uint64_t, 3> AcmeIssuer::counts() const {
  std::lock_guard lock(mu_);
  return counts_;
}

std::vector<AcmeIssuer::Row> AcmeIssuer::Rows() const {
  std::vector<Row> rows;
  std::lock_guard lock(mu_);
  for (const auto& [name, entry] : entries_) {
    rows.push_back({name, entry.chain_pem.empty() ? absl::InfinitePast() : entry.not_after, entry.state.failures()});
  }
  return rows;
}

void AcmeIssuer::Run() {
  uint64_t seen = 0;
  std::unique_lock lock(mu_);
  while (true) {
    const std::shared_ptr<const PolicyState> state = publisher_->current();
    if (!reconciled_ || state->revision != seen_revision_) Reconcile(*state);
    // While a change is under way, policy takes no certificate, and an order would spend the CA's limits on nothing.
    const bool may_order = state->pending == nullptr;
    const absl::Time now = options_.now();
    absl::Time next = now + kLookEvery;
    std::string name, window_name;
    absl::Time first = absl::InfiniteFuture();
    for (auto& [each_name, entry] : entries_) {
      const absl::Time due = DueAt(entry);
      if (may_order) next = std::min(next, due);
      if (may_order && due <= now && due < first) {
        first = due;
        name = each_name;
      } else if ((due > now || !may_order) && entry.fits && entry.ask_window_at <= now && window_name.empty()) {
        window_name = each_name;
      }
      if (entry.fits) next = std::min(next, entry.ask_window_at);
    }
    if (!name.empty()) {
      Entry& entry = entries_[name];
      entry.state.set_phase(v1::AcmeState::ORDERING);
      entry.state.clear_next_try();
      const Entry copy = entry;
      lock.unlock();
      std::optional<absl::Duration> retry_after;
      const absl::Status status = Issue(name, copy, &retry_after);
      lock.lock();
      if (absl::IsCancelled(status)) return;
      Ended(name, copy.spec, status, retry_after);
      continue;
    }
    if (!window_name.empty()) {
      const Entry copy = entries_[window_name];
      lock.unlock();
      AskWindow(window_name, copy);
      lock.lock();
      continue;
    }
    lock.unlock();
    const auto wait = absl::ToChronoMilliseconds(std::max(next - now, absl::ZeroDuration()));
    if (!AwaitNews(&seen, std::chrono::steady_clock::now() + wait + std::chrono::milliseconds(1))) return;
    lock.lock();
  }
}

void AcmeIssuer::Reconcile(const PolicyState& state) {
  reconciled_ = true;
  seen_revision_ = state.revision;
  std::set<std::string> there;
  for (const auto& [key, record] : *state.resources) {
    if (!record.resource->has_certificate() || !record.resource->certificate().has_acme()) continue;
    const v1::Certificate& certificate = record.resource->certificate();
    there.insert(key.name);
    const auto [it, added] = entries_.try_emplace(key.name);
    Entry& entry = it->second;
    if (added) Recall(key.name, &entry);
    if (!added && !SameSpec(entry.spec, certificate.acme())) {
      // A changed document is tried at once, however the last tries ended.
      entry.state.clear_last_error();
      entry.state.clear_last_error_at();
      entry.state.set_failures(0);
      entry.next_try = absl::InfinitePast();
    }
    entry.spec = certificate.acme();
    const std::string& chain = certificate.certificate().inline_();
    if (chain != entry.chain_pem) {
      entry.chain_pem = chain;
      entry.suggested.reset();
      entry.ask_window_at = absl::InfinitePast();
    }
    Schedule(&entry);
  }
  for (auto it = entries_.begin(); it != entries_.end();) {
    if (there.contains(it->first)) {
      ++it;
      continue;
    }
    if (const absl::Status s = publisher_->store().DeleteSecret(StateSecret(it->first)); !s.ok()) {
      spdlog::warn("ACME: what is known of '{}' is not forgotten: {}", it->first, std::string(s.message()));
    }
    it = entries_.erase(it);
  }
}

void AcmeIssuer::Schedule(Entry* entry) {
  entry->fits = false;
  entry->renew_at = absl::InfinitePast();
  if (entry->chain_pem.empty()) return;
  const auto chain = ReadCertificates(entry->chain_pem);
  if (!chain.ok()) return;
  const X509* const leaf = chain->front().get();
  entry->not_after = ExpiryOf(leaf);
  entry->not_before = StartOf(leaf);
  const AlternativeNames names = AlternativeNamesOf(leaf);
  std::set<std::string> has(names.dns.begin(), names.dns.end());
  has.insert(names.addresses.begin(), names.addresses.end());
  entry->fits = entry->issued_spec == SpecDigest(entry->spec) &&
                has == std::set<std::string>(entry->spec.hosts().begin(), entry->spec.hosts().end());
  if (!entry->fits) return;
  // The same for all looks at it, and another for each certificate: not all of a fleet at one moment.
  const absl::Duration lifetime = entry->not_after - entry->not_before;
  const double jitter = Sha256(entry->chain_pem)[0] / 255.0 / 20;  // up to a twentieth earlier
  entry->renew_at = entry->suggested.value_or(entry->not_before + lifetime * (2.0 / 3 - jitter));
}

absl::Time AcmeIssuer::DueAt(const Entry& entry) const { return std::max(entry.renew_at, entry.next_try); }

void AcmeIssuer::Remember(const std::string& name, const Entry& entry) {
  json kept = {{"issued_spec", entry.issued_spec}, {"failures", entry.state.failures()}};
  if (!entry.state.last_error().empty()) {
    kept["spec"] = SpecDigest(entry.spec);
    kept["last_error"] = entry.state.last_error();
    kept["last_error_at"] = entry.state.last_error_at().seconds();
    kept["next_try"] = absl::ToUnixSeconds(entry.next_try);
  }
  const absl::Status s =
      publisher_->store().PutSecret(StateSecret(name), kept.dump(-1, ' ', false, json::error_handler_t::replace));
  if (!s.ok()) spdlog::warn("ACME: how '{}' fares is not kept: {}", name, std::string(s.message()));
}

void AcmeIssuer::Recall(const std::string& name, Entry* entry) {
  const absl::StatusOr<std::string> text = publisher_->store().Secret(StateSecret(name));
  if (!text.ok()) {
    if (!absl::IsNotFound(text.status())) spdlog::warn("ACME: '{}': {}", name, std::string(text.status().message()));
    return;
  }
  const absl::StatusOr<json> kept = ParseJsonObject(*text);
  if (!kept.ok()) return;
  if (const std::string* const spec = FindString(*kept, "issued_spec")) entry->issued_spec = *spec;
  const std::string* const error = FindString(*kept, "last_error");
  if (error == nullptr) return;
  entry->state.set_last_error(*error);
  entry->state.mutable_last_error_at()->set_seconds(Seconds(*kept, "last_error_at"));
  entry->state.set_failures(static_cast<uint32_t>(std::max<int64_t>(Seconds(*kept, "failures"), 0)));
  entry->next_try =
      std::min(absl::FromUnixSeconds(Seconds(*kept, "next_try")), options_.now() + options_.retry_after_max);
}

absl::StatusOr<std::unique_ptr<acme::Client>> AcmeIssuer::ClientOf(const v1::Acme& spec) {
  acme::Client::Options options;
  options.directory = spec.directory();
  options.ca_pem = spec.ca().inline_();
  options.email = spec.email();
  options.transport = transport_;
  options.now = options_.now;
  options.wait = [this](absl::Duration time) { return Wait(time); };
  absl::StatusOr<std::string> kept = publisher_->store().Secret(AccountSecret(spec));
  if (kept.ok()) {
    const absl::StatusOr<json> account = ParseJsonObject(*kept);
    const std::string* const pem = account.ok() ? FindString(*account, "key") : nullptr;
    const std::string* const url = account.ok() ? FindString(*account, "url") : nullptr;
    if (pem != nullptr && url != nullptr) {
      absl::StatusOr<acme::AccountKey> key = acme::AccountKey::FromPem(*pem);
      if (key.ok()) return std::make_unique<acme::Client>(std::move(options), *std::move(key), *url);
    }
    spdlog::warn("ACME: the account at {} cannot be read; a new one is made", spec.directory());
  } else if (absl::IsFailedPrecondition(kept.status())) {
    // Its sealing key is lost, and with it the account: waiting does not bring it back.
    spdlog::warn("ACME: {}; a new account is made at {}", std::string(kept.status().message()), spec.directory());
  } else if (!absl::IsNotFound(kept.status())) {
    return kept.status();
  }
  absl::StatusOr<acme::AccountKey> key = acme::AccountKey::Generate();
  if (!key.ok()) return key.status();
  return std::make_unique<acme::Client>(std::move(options), *std::move(key), "");
}

void AcmeIssuer::KeepAccount(const v1::Acme& spec, const acme::Client& client) {
  const absl::StatusOr<std::string> pem = client.key().ToPem();
  if (!pem.ok()) return;
  const json account = {{"key", *pem}, {"url", client.account()}};
  if (const absl::Status s = publisher_->store().PutSecret(AccountSecret(spec), account.dump()); !s.ok()) {
    spdlog::warn("ACME: the account at {} is not kept: {}", spec.directory(), std::string(s.message()));
  }
}

absl::Status AcmeIssuer::Issue(const std::string& name, const Entry& entry,
                               std::optional<absl::Duration>* retry_after) {
  spdlog::info("ACME: ordering a certificate for '{}' ({}) from {}", name, absl::StrJoin(entry.spec.hosts(), ", "),
               entry.spec.directory());
  absl::StatusOr<std::unique_ptr<acme::Client>> client = ClientOf(entry.spec);
  if (!client.ok()) return client.status();
  const std::string before = (*client)->account();
  const std::vector<std::string> hosts(entry.spec.hosts().begin(), entry.spec.hosts().end());
  absl::StatusOr<acme::Client::Issued> issued =
      (*client)->Order(hosts, entry.spec.challenge(), entry.fits ? entry.chain_pem : "",
                       [this](std::vector<v1::Challenge> challenges) { return Present(std::move(challenges)); });
  if ((*client)->account() != before) KeepAccount(entry.spec, **client);
  if (!issued.ok()) {
    *retry_after = (*client)->retry_after();
    // The CA has forgotten the account: the next try makes another one.
    if (issued.status().message().find("(accountDoesNotExist)") != absl::string_view::npos) {
      (void)publisher_->store().DeleteSecret(AccountSecret(entry.spec));
    }
    return issued.status();
  }
  // A change that began meanwhile ends first: otherwise the certificate would be lost.
  for (uint64_t seen = 0;;) {
    if (publisher_->current()->pending == nullptr) {
      const absl::Status status = publisher_->Issue(name, entry.spec, issued->chain_pem, issued->key_pem);
      if (!absl::IsAborted(status)) return status;
    }
    if (!AwaitNews(&seen, std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(kLookEvery))) {
      return absl::CancelledError("the control plane is shutting down");
    }
  }
}

void AcmeIssuer::AskWindow(const std::string& name, const Entry& entry) {
  absl::StatusOr<std::unique_ptr<acme::Client>> client = ClientOf(entry.spec);
  absl::StatusOr<std::optional<acme::Client::Window>> window = std::nullopt;
  if (client.ok()) {
    window = (*client)->RenewalWindow(entry.chain_pem);
  } else {
    window = client.status();
  }
  std::lock_guard lock(mu_);
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second.chain_pem != entry.chain_pem) return;
  Entry& current = found->second;
  const absl::Time now = options_.now();
  if (!window.ok() || !window->has_value()) {
    if (!window.ok()) spdlog::debug("ACME: renewalInfo of '{}': {}", name, std::string(window.status().message()));
    current.ask_window_at = now + kWindowAskMax / 4;
    return;
  }
  current.ask_window_at = now + std::clamp((*window)->holds, kWindowAskMin, kWindowAskMax);
  const acme::RenewalInfo& suggested = (*window)->window;
  if (suggested.start <= current.not_before) return;  // of no use: the next one would be renewed at once, too
  const absl::Time last_chance = current.not_after - (current.not_after - current.not_before) / 10;
  const absl::Time picked = suggested.start + (suggested.end - suggested.start) * absl::Uniform(random_, 0.0, 1.0);
  // Later than makes sense is a CA's fault that costs us the certificate.
  current.suggested = std::min(picked, last_chance);
  Schedule(&current);
}

absl::Status AcmeIssuer::Present(std::vector<v1::Challenge> challenges) {
  const bool withdrawn = challenges.empty();
  const uint64_t version = hub_->PublishChallenges(std::move(challenges));
  if (withdrawn) return absl::OkStatus();
  if (hub_->counts().connected == 0) {
    return absl::FailedPreconditionError("no data plane is connected that could respond to the CA's challenge");
  }
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(options_.acknowledged_wait);
  std::vector<std::string> pending;
  for (uint64_t seen = 0;;) {
    pending = hub_->ChallengesPending(version, kPendingTold);
    if (pending.empty()) return absl::OkStatus();
    if (std::chrono::steady_clock::now() >= deadline) break;
    if (!AwaitNews(&seen, deadline)) return absl::CancelledError("the control plane is shutting down");
  }
  return absl::FailedPreconditionError(
      absl::StrCat("not all data planes respond to the CA's challenge (", absl::StrJoin(pending, ", "),
                   "): they do not take the challenge within ", absl::FormatDuration(options_.acknowledged_wait),
                   ", or are too old; the CA was not asked"));
}

bool AcmeIssuer::Wait(absl::Duration time) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(time);
  for (uint64_t seen = 0; std::chrono::steady_clock::now() < until;) {
    if (!AwaitNews(&seen, until)) return false;
  }
  return true;
}

void AcmeIssuer::Ended(const std::string& name, const v1::Acme& spec, const absl::Status& status,
                       std::optional<absl::Duration> retry_after) {
  const Result result = status.ok()                         ? Result::kIssued
                        : absl::IsResourceExhausted(status) ? Result::kRateLimited
                                                            : Result::kFailed;
  ++counts_[static_cast<size_t>(result)];
  const auto found = entries_.find(name);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  const absl::Time now = options_.now();
  entry.state.set_phase(v1::AcmeState::WAITING);
  if (status.ok()) {
    entry.issued_spec = SpecDigest(spec);
    entry.next_try = absl::InfinitePast();
    entry.state.clear_last_error();
    entry.state.clear_last_error_at();
    entry.state.set_failures(0);
    SetTime(now, entry.state.mutable_issued_at());
    reconciled_ = false;  // the chain is in policy by now
    Remember(name, entry);
    spdlog::info("ACME: '{}' has a new certificate", name);
    return;
  }
  entry.state.set_failures(entry.state.failures() + 1);
  absl::Duration base = options_.backoff_min;
  for (uint32_t i = 1; i < entry.state.failures() && base < options_.backoff_max; ++i) base *= kBackoffFactor;
  base = std::min(base, options_.backoff_max);
  if (!entry.chain_pem.empty())
    base = std::min(base, std::max((entry.not_after - entry.not_before) / 20, absl::Seconds(1)));
  absl::Duration wait = base * absl::Uniform(random_, 0.75, 1.25);
  if (retry_after.has_value()) wait = std::max(wait, std::min(*retry_after, options_.retry_after_max));
  entry.next_try = now + wait;
  entry.state.set_last_error(acme::Printable({status.message().data(), status.message().size()}));
  SetTime(now, entry.state.mutable_last_error_at());
  Remember(name, entry);
  spdlog::error("ACME: '{}' is not issued: {}; {}, next try in {}", name, entry.state.last_error(),
                entry.chain_pem.empty() ? "no certificate is issued yet" : "the last one serves on",
                absl::FormatDuration(absl::Trunc(wait, absl::Seconds(1))));
}

}  // namespace gateway::controlplane
