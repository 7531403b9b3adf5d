#include "controlplane/sources/consul/access.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "spdlog/spdlog.h"

namespace gateway::controlplane {
namespace {

namespace ssl = boost::asio::ssl;

constexpr std::chrono::seconds kLookInterval{1};

}  // namespace

absl::StatusOr<std::string> ReadConsulToken(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("consul.token_file: cannot read ", path));
  struct stat info;
  std::string text(kConsulTokenBytesMax + 1, '\0');
  ssize_t got = -1;
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
    do {
      got = read(fd, text.data(), text.size());
    } while (got < 0 && errno == EINTR);
  }
  close(fd);
  if (got < 0) return absl::InvalidArgumentError(absl::StrCat("consul.token_file: ", path, ": not a readable file"));
  if (static_cast<size_t>(got) > kConsulTokenBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("consul.token_file: ", path, ": longer than ", kConsulTokenBytesMax, " bytes"));
  }
  text.resize(static_cast<size_t>(got));
  std::string token(absl::StripAsciiWhitespace(text));
  if (token.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("consul.token_file: ", path, ": empty, expected a token"));
  }
  if (!std::all_of(token.begin(), token.end(), [](unsigned char c) { return absl::ascii_isgraph(c); })) {
    return absl::InvalidArgumentError(
        absl::StrCat("consul.token_file: ", path, ": expected one token of printable ASCII without spaces"));
  }
  return token;
}

const std::string& ConsulToken::Get(Clock::time_point now) {
  if (path_.empty() || now < look_again_) return token_;
  look_again_ = now + kLookInterval;
  std::string stamp = TlsFilesStamp({.key = path_});
  if (stamp == stamp_) return token_;
  const bool first = stamp_.empty();
  stamp_ = std::move(stamp);
  absl::StatusOr<std::string> token = ReadConsulToken(path_);
  if (!token.ok()) {
    spdlog::error("{}; the last token that was read stays", std::string(token.status().message()));
    return token_;
  }
  if (!first && *token != token_) spdlog::info("consul: {} has another token", path_);
  token_ = *std::move(token);
  return token_;
}

absl::StatusOr<std::shared_ptr<ssl::context>> MakeConsulTlsContext(const ConsulAccess::Tls& tls) {
  absl::StatusOr<TlsMaterial> material = ReadTlsFiles(tls.files, absl::Now());
  if (!material.ok()) {
    return absl::Status(material.status().code(), absl::StrCat("consul.tls: ", material.status().message()));
  }
  auto context = std::make_shared<ssl::context>(ssl::context::tls_client);
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  boost::system::error_code ec;
  context->set_verify_mode(ssl::verify_peer, ec);
  if (tls.files.ca.empty()) {
    context->set_default_verify_paths(ec);
  } else {
    context->add_certificate_authority(boost::asio::buffer(material->ca), ec);
  }
  if (!ec && !material->certificate_chain.empty()) {
    context->use_certificate_chain(boost::asio::buffer(material->certificate_chain), ec);
    if (!ec) context->use_private_key(boost::asio::buffer(material->private_key), ssl::context::pem, ec);
  }
  if (ec) return absl::InvalidArgumentError(absl::StrCat("consul.tls: ", ec.message()));
  // HTTP/2 first: queries then share a connection.
  static constexpr unsigned char kProtocols[] = "\x02h2\x08http/1.1";
  SSL_CTX_set_alpn_protos(context->native_handle(), kProtocols, sizeof(kProtocols) - 1);
  return context;
}

absl::Status CheckConsulAccess(const ConsulAccess& access) {
  if (!access.token_file.empty()) {
    if (const auto token = ReadConsulToken(access.token_file); !token.ok()) return token.status();
  }
  if (!access.tls.on) return absl::OkStatus();
  return MakeConsulTlsContext(access.tls).status();
}

}  // namespace gateway::controlplane
