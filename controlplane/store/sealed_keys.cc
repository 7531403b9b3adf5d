// Private keys of certificates are sealed on disk.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "controlplane/store/store_impl.h"

namespace gateway::controlplane {

absl::Status Store::Impl::ReadSealingKey() {
  absl::StatusOr<Sealer> read = Sealer::Read(SealingKeyPath());
  if (read.ok()) {
    sealer.emplace(*std::move(read));
    return absl::OkStatus();
  }
  return absl::IsNotFound(read.status()) ? absl::OkStatus() : read.status();
}

// Only where nothing is sealed under one that was lost: a new key in its place would hide that.
absl::Status Store::Impl::MakeSealingKey() {
  if (sealer.has_value()) return absl::OkStatus();
  absl::StatusOr<Sealer> made = Sealer::Create(SealingKeyPath());
  if (!made.ok()) return made.status();
  sealer.emplace(*std::move(made));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Store::Impl::Sealed(const ResourceKey& key, const v1::Resource& resource) const {
  if (!resource.has_certificate() || resource.certificate().key().inline_().empty()) return CanonicalBytes(resource);
  if (!sealer.has_value()) return absl::FailedPreconditionError("there is no sealing key");
  absl::StatusOr<std::string> sealed =
      sealer->Seal(resource.certificate().key().inline_(), absl::StrCat(key.ToString(), " key"));
  if (!sealed.ok()) return sealed.status();
  v1::Resource copy = resource;
  copy.mutable_certificate()->mutable_key()->set_inline_(*std::move(sealed));
  return CanonicalBytes(copy);
}

absl::Status Store::Impl::Unseal(const ResourceKey& key, v1::Resource* resource) const {
  if (!resource->has_certificate() || !IsSealed(resource->certificate().key().inline_())) return absl::OkStatus();
  const std::string where =
      absl::StrCat("the database '", options.path, "': the private key of ", key.ToString(), ": ");
  if (!sealer.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, "its sealing key '", SealingKeyPath(), "' is missing; restore it"));
  }
  absl::StatusOr<std::string> plain =
      sealer->Open(resource->certificate().key().inline_(), absl::StrCat(key.ToString(), " key"));
  if (!plain.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat(where, plain.status().message(), " (the sealing key is '", SealingKeyPath(), "')"));
  }
  resource->mutable_certificate()->mutable_key()->set_inline_(*std::move(plain));
  return absl::OkStatus();
}

}  // namespace gateway::controlplane
