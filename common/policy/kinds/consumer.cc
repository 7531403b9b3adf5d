#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "common/base/digest.h"
#include "common/base/password.h"
#include "common/base/quote.h"
#include "common/base/text.h"
#include "common/policy/kinds/kinds.h"
#include "common/policy/policy_texts.h"
#include "spdlog/fmt/fmt.h"

namespace gateway {
namespace {

constexpr size_t kConsumersMax = 100'000;

void CheckConsumer(const Report& report, const v1::Consumer& consumer) {
  for (int i = 0; i < consumer.groups_size(); ++i) {
    const std::string& group = consumer.groups(i);
    if (group.empty() || group.size() > 128 || !IsTargetText(group) || group.find(',') != std::string::npos) {
      report.Add(At("groups", i),
                 fmt::format("{} is not a group name; expected 1 to 128 characters without a space, a comma or "
                             "beyond ASCII",
                             QuoteForMessage(group)));
    }
  }
  for (int i = 0; i < consumer.credentials_size(); ++i) {
    const v1::Credential& credential = consumer.credentials(i);
    const std::string field = At("credentials", i);
    switch (credential.credential_case()) {
      case v1::Credential::kApiKeySha256: {
        const std::string& digest = credential.api_key_sha256();
        if (digest.size() != 64 || !std::all_of(digest.begin(), digest.end(), [](char c) {
              return absl::ascii_isxdigit(static_cast<unsigned char>(c));
            })) {
          report.Add(field + ".api_key_sha256",
                     "is not a SHA-256 in hexadecimal (64 digits); `gatewayctl hash api-key` makes one from a key");
        }
        break;
      }
      case v1::Credential::kBasic: {
        const std::string& user = credential.basic().username();
        if (user.size() > 256 || user.find(':') != std::string::npos ||
            std::any_of(user.begin(), user.end(),
                        [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); })) {
          report.Add(field + ".basic.username",
                     "is longer than 256 bytes, or has a colon or a control byte (RFC 7617)");
        }
        if (!credential.basic().password_hash().empty()) {
          report.AddIfBad(field + ".basic.password_hash", CheckPasswordHash(credential.basic().password_hash()));
        }
        break;
      }
      case v1::Credential::kJwt:
        break;
      case v1::Credential::kClientCertificate: {
        const std::string& identity = credential.client_certificate().identity();
        if (identity.size() > 2048 || std::any_of(identity.begin(), identity.end(), [](char c) {
              return absl::ascii_iscntrl(static_cast<unsigned char>(c));
            })) {
          report.Add(field + ".client_certificate.identity", "is longer than 2048 bytes, or has a control byte");
        }
        break;
      }
      case v1::Credential::CREDENTIAL_NOT_SET:
        report.Add(field, "is empty; expected api_key_sha256, basic, jwt or client_certificate");
        break;
    }
  }
}

// Reports what two of them share; makes the table of what they show, each thing once.
void CheckConsumers(Compilation* compilation) {
  const Documents<v1::Consumer> consumers = compilation->All<v1::Consumer>();
  if (consumers.size() > kConsumersMax) {
    const ResourceKey key{"Consumer", std::string(consumers.name(consumers.size() - 1))};
    Report(key, &compilation->errors).Add("", fmt::format("is one consumer too many: at most {}", kConsumersMax));
  }
  auto table = std::make_shared<ConsumerTable>();
  for (uint32_t index = 0; index < consumers.size(); ++index) {
    const v1::Consumer& consumer = consumers[index];
    ConsumerPolicy& policy = table->consumers.emplace_back();
    policy.name = consumer.name();
    policy.groups.assign(consumer.groups().begin(), consumer.groups().end());
    std::sort(policy.groups.begin(), policy.groups.end());
    table->by_name.emplace(policy.name, index);
    const ResourceKey key{"Consumer", policy.name};
    const Report report(key, &compilation->errors);
    for (int i = 0; i < consumer.credentials_size(); ++i) {
      const v1::Credential& credential = consumer.credentials(i);
      const auto report_shared = [&](uint32_t other, std::string_view what) {
        report.Add(At("credentials", i),
                   fmt::format("has the same {} as Consumer/{}", what, table->consumers[other].name));
      };
      switch (credential.credential_case()) {
        case v1::Credential::kApiKeySha256: {
          const auto [at, added] =
              table->by_key_digest.emplace(absl::HexStringToBytes(credential.api_key_sha256()), index);
          if (!added) report_shared(at->second, "API key");
          break;
        }
        case v1::Credential::kBasic: {
          const auto [at, added] =
              table->by_username.emplace(credential.basic().username(), static_cast<uint32_t>(table->passwords.size()));
          if (added) {
            table->passwords.push_back({.consumer = index, .hash = credential.basic().password_hash()});
          } else {
            report_shared(table->passwords[at->second].consumer, "user name");
          }
          break;
        }
        case v1::Credential::kJwt: {
          const auto [at, added] =
              table->by_subject.emplace(Concat(credential.jwt().issuer(), "\n", credential.jwt().subject()), index);
          if (!added) report_shared(at->second, "subject");
          break;
        }
        case v1::Credential::kClientCertificate: {
          const std::string& identity = credential.client_certificate().identity();
          const auto [at, added] = table->by_folded_certificate.emplace(FoldCertificateIdentity(identity), index);
          if (!added) report_shared(at->second, "client certificate identity (upper and lower case are alike)");
          table->by_certificate.emplace(identity, index);
          break;
        }
        case v1::Credential::CREDENTIAL_NOT_SET:
          break;
      }
    }
  }
  std::string hashes;
  for (const ConsumerTable::Password& password : table->passwords) Append(&hashes, password.hash, "\n");
  const Digest decoys = Sha256(hashes);
  table->decoys = KeyedDigest(std::string_view(reinterpret_cast<const char*>(decoys.data()), decoys.size()));
  compilation->consumers = std::move(table);
}

// A subject is a consumer's only by a method that pins its issuer. One warning for each issuer.
void WarnOfIssuers(Compilation* compilation) {
  const Documents<v1::Consumer> consumers = compilation->All<v1::Consumer>();
  const Documents<v1::Auth> auths = compilation->All<v1::Auth>();
  std::map<std::string_view, std::pair<std::string_view, size_t>> strange;  // the first consumer, and how many more
  for (size_t i = 0; i < consumers.size(); ++i) {
    for (const v1::Credential& credential : consumers[i].credentials()) {
      if (!credential.has_jwt()) continue;
      const auto [at, added] = strange.try_emplace(credential.jwt().issuer(), consumers.name(i), 0);
      if (!added) ++at->second.second;
    }
  }
  for (size_t i = 0; i < auths.size(); ++i) {
    for (const v1::AuthMethod& method : auths[i].methods()) strange.erase(method.jwt().issuer());
  }
  for (const auto& [issuer, those] : strange) {
    const std::string more = those.second == 0 ? "" : fmt::format(" (and {} more credentials)", those.second);
    compilation->warnings.push_back(
        fmt::format("Consumer/{}: no Auth has a jwt method with the issuer {}, so its token is never accepted{}",
                    those.first, QuoteForMessage(issuer), more));
  }
}

// The same of client certificates; one warning for all.
void WarnOfCertificates(Compilation* compilation) {
  const Documents<v1::Consumer> consumers = compilation->All<v1::Consumer>();
  const Documents<v1::Auth> auths = compilation->All<v1::Auth>();
  for (size_t i = 0; i < auths.size(); ++i) {
    for (const v1::AuthMethod& method : auths[i].methods()) {
      if (method.has_client_certificate()) return;
    }
  }
  for (size_t i = 0; i < consumers.size(); ++i) {
    for (const v1::Credential& credential : consumers[i].credentials()) {
      if (!credential.has_client_certificate()) continue;
      compilation->warnings.push_back(
          fmt::format("Consumer/{}: no Auth has a client_certificate method, so its certificate is never accepted",
                      consumers.name(i)));
      return;
    }
  }
}

void CompileConsumers(Compilation* compilation) {
  WarnOfIssuers(compilation);
  WarnOfCertificates(compilation);
}

}  // namespace

Kind ConsumerKind() {
  return {
      .number = v1::Resource::kConsumer,
      .short_names = {"con", "user"},
      .labels = [](const v1::Resource& resource) -> const Labels& { return resource.consumer().labels(); },
      .check = [](const Report& report, const v1::Resource& resource) { CheckConsumer(report, resource.consumer()); },
      .check_all = &CheckConsumers,
      .compile = &CompileConsumers,
  };
}

}  // namespace gateway
