#include "controlplane/identity/tokens.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "controlplane/identity/own_actors.h"
#include "controlplane/identity/rules.h"
#include "controlplane/identity/secret.h"
#include "google/protobuf/util/time_util.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

constexpr char kPrefix[] = "gwt_";  // so that scanners for leaked secrets find it
constexpr size_t kNameBytesMax = 128;
constexpr size_t kSecretTextBytesMax = 256;
constexpr size_t kLabelBytesMax = 256;
constexpr absl::Duration kLifetimeMax = absl::Hours(24 * 36'500);

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(time));
}
absl::Time FromTimestamp(const google::protobuf::Timestamp& time) {
  return absl::FromUnixMicros(google::protobuf::util::TimeUtil::TimestampToMicroseconds(time));
}

absl::Time ExpiryOf(const v1::Token& token) {
  return token.has_expires_at() ? FromTimestamp(token.expires_at()) : absl::InfiniteFuture();
}
bool IsInForce(const v1::Token& token, absl::Time now) { return !token.has_revoked_at() && ExpiryOf(token) > now; }

std::shared_ptr<const Scope> ScopeOf(const v1::Token& token) {
  if (token.only().empty() && token.kinds().empty()) return nullptr;
  auto scope = std::make_shared<Scope>();
  scope->only = {token.only().begin(), token.only().end()};
  scope->kinds = {token.kinds().begin(), token.kinds().end()};
  return scope;
}

// What a request asks for, checked; without times.
absl::StatusOr<v1::Token> TokenOf(const v1::CreateTokenRequest& request) {
  v1::Token token;
  const bool name_ok = !request.name().empty() && request.name().size() <= kNameBytesMax &&
                       std::all_of(request.name().begin(), request.name().end(), [](char c) {
                         return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.' || c == '@' || c == ':';
                       });
  if (!name_ok) {
    return absl::InvalidArgumentError("name: expected 1 to 128 letters, digits, '-', '_', '.', '@' and ':'");
  }
  if (IsOwnActor(request.name())) {
    return absl::InvalidArgumentError(absl::StrCat("name: '", request.name(), "' is the control plane's own"));
  }
  if (RoleName(request.role()).empty()) {
    return absl::InvalidArgumentError("role: expected viewer, operator, editor or admin");
  }
  if (request.role() != v1::Token::EDITOR && (!request.only().empty() || !request.kinds().empty())) {
    return absl::InvalidArgumentError(
        "only, kinds: expected the role editor; other roles cannot be bound to labels or kinds");
  }
  if (static_cast<size_t>(request.only_size()) > kTokenLabelsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("only: ", request.only_size(), " labels; at most ", kTokenLabelsMax));
  }
  for (const auto& [label, value] : request.only()) {
    if (label.empty() || label.size() > kLabelBytesMax || value.size() > kLabelBytesMax) {
      return absl::InvalidArgumentError("only: expected label=value, each of at most 256 bytes");
    }
  }
  token.set_name(request.name());
  token.set_role(request.role());
  *token.mutable_only() = request.only();
  for (const std::string& text : request.kinds()) {
    absl::StatusOr<std::string> kind = CanonicalKind(text);
    if (!kind.ok()) return absl::InvalidArgumentError(absl::StrCat("kinds: ", kind.status().message()));
    if (std::find(token.kinds().begin(), token.kinds().end(), *kind) == token.kinds().end()) token.add_kinds(*kind);
  }
  return token;
}

absl::Status WritePrivate(const std::string& path, const std::string& text) {
  const auto failed = [&path](int error) {
    return absl::UnavailableError(
        absl::StrCat("cannot write the first admin token to '", path, "': ", strerror(error)));
  };
  // Never into a file that is there: whoever made it may hold it open, or have it point elsewhere.
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return failed(errno);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return failed(errno);
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(fd) == 0;
  const int error = errno;
  close(fd);
  return written ? absl::OkStatus() : failed(error);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokens>> Tokens::Open(Store* store) {
  absl::StatusOr<std::vector<StoredToken>> stored = store->LoadTokens();
  if (!stored.ok()) return stored.status();
  std::unique_ptr<Tokens> tokens(new Tokens(store));
  std::lock_guard lock(tokens->mu_);
  for (StoredToken& each : *stored) tokens->Put(std::move(each.token), each.digest);
  return tokens;
}

void Tokens::Put(v1::Token token, const Digest& digest) {
  const std::string name = token.name();
  if (const auto it = by_name_.find(name); it != by_name_.end()) names_.erase(it->second.digest);
  std::shared_ptr<const Scope> scope = ScopeOf(token);
  by_name_[name] = {std::move(token), digest, std::move(scope)};
  names_[digest] = name;
}

absl::Status Tokens::MakeFirst(const std::string& path, absl::Time now) {
  {
    std::lock_guard lock(mu_);
    if (!by_name_.empty()) return absl::OkStatus();
  }
  std::lock_guard write_lock(write_mu_);
  const absl::StatusOr<std::string> secret = NewSecret(kPrefix);
  if (!secret.ok()) return secret.status();
  // The file first: a token that counts but that nobody knows would never be made again.
  if (absl::Status s = WritePrivate(path, *secret + "\n"); !s.ok()) return s;
  v1::Token token;
  token.set_name(kFirstToken);
  token.set_role(v1::Token::ADMIN);
  token.set_created_by(kFirstToken);
  *token.mutable_created_at() = ToTimestamp(now);
  const Digest digest = Sha256(*secret);
  if (absl::Status s = store_->PutToken({token, digest}); !s.ok()) return s;
  spdlog::info("the first start: the token of an admin is in '{}'", path);
  std::lock_guard lock(mu_);
  Put(std::move(token), digest);
  return absl::OkStatus();
}

absl::StatusOr<v1::CreateTokenResponse> Tokens::Create(const v1::CreateTokenRequest& request, const std::string& by,
                                                       absl::Time now) {
  absl::StatusOr<v1::Token> token = TokenOf(request);
  if (!token.ok()) return token.status();
  if (request.has_expires_in()) {
    const absl::Duration lifetime =
        absl::Seconds(request.expires_in().seconds()) + absl::Nanoseconds(request.expires_in().nanos());
    if (lifetime <= absl::ZeroDuration() || lifetime > kLifetimeMax) {
      return absl::InvalidArgumentError("expires_in: expected more than nothing and at most 36500 days");
    }
    *token->mutable_expires_at() = ToTimestamp(now + lifetime);
  }
  token->set_created_by(by);
  *token->mutable_created_at() = ToTimestamp(now);

  std::lock_guard write_lock(write_mu_);
  {
    std::lock_guard lock(mu_);
    const auto known = by_name_.find(token->name());
    if (known != by_name_.end() && IsInForce(known->second.token, now)) {
      return absl::AlreadyExistsError(
          absl::StrCat("there is a token '", token->name(), "' in force; revoke it, or take another name"));
    }
    if (known == by_name_.end() && by_name_.size() >= kTokensMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", kTokensMax, " tokens; give a new one the name of one that is revoked or expired"));
    }
  }
  const absl::StatusOr<std::string> secret = NewSecret(kPrefix);
  if (!secret.ok()) return secret.status();
  const Digest digest = Sha256(*secret);
  if (absl::Status s = store_->PutToken({*token, digest}); !s.ok()) return s;
  v1::CreateTokenResponse response;
  response.set_secret(*secret);
  *response.mutable_token() = *token;
  std::lock_guard lock(mu_);
  Put(*std::move(token), digest);
  return response;
}

absl::Status Tokens::Revoke(const std::string& name, absl::Time now) {
  std::unique_lock write_lock(write_mu_);
  StoredToken next;
  {
    std::lock_guard lock(mu_);
    const auto known = by_name_.find(name);
    if (known == by_name_.end()) return absl::NotFoundError(absl::StrCat("there is no token '", name, "'"));
    if (known->second.token.has_revoked_at()) return absl::OkStatus();
    next = {known->second.token, known->second.digest};
  }
  *next.token.mutable_revoked_at() = ToTimestamp(now);
  if (absl::Status s = store_->PutToken(next); !s.ok()) return s;
  {
    std::lock_guard lock(mu_);
    Put(std::move(next.token), next.digest);
  }
  write_lock.unlock();
  revocations_.Notify();
  return absl::OkStatus();
}

std::vector<v1::Token> Tokens::List() const {
  std::lock_guard lock(mu_);
  std::vector<v1::Token> all;
  for (const auto& [name, record] : by_name_) all.push_back(record.token);
  return all;
}

absl::StatusOr<Tokens::Grant> Tokens::Find(std::string_view secret, absl::Time now) const {
  if (secret.empty() || secret.size() > kSecretTextBytesMax)
    return absl::UnauthenticatedError("the token is not known");
  const Digest digest = Sha256(secret);
  std::lock_guard lock(mu_);
  const auto name = names_.find(digest);
  if (name == names_.end()) return absl::UnauthenticatedError("the token is not known");
  const Record& record = by_name_.at(name->second);
  if (record.token.has_revoked_at()) {
    return absl::UnauthenticatedError(absl::StrCat("the token '", record.token.name(), "' is revoked"));
  }
  if (ExpiryOf(record.token) <= now) {
    return absl::UnauthenticatedError(absl::StrCat("the token '", record.token.name(), "' has expired"));
  }
  return Grant{record.token.name(), digest, record.token.role(), record.scope, ExpiryOf(record.token)};
}

bool Tokens::InForce(const Digest& digest, absl::Time now) const {
  std::lock_guard lock(mu_);
  const auto name = names_.find(digest);
  return name != names_.end() && IsInForce(by_name_.at(name->second).token, now);
}

}  // namespace gateway::controlplane
