#include "tools/gatewayctl/archive.h"

#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace gateway::ctl {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kNameBytesMax = 100;
constexpr size_t kPrefixBytesMax = 155;
constexpr size_t kEndBlocks = 2;
constexpr int kGzipWindow = 15 + 16;  // zlib: the largest window, with gzip's header

// POSIX.1-1988, "ustar Interchange Format". Numbers are octal text.
struct Header {
  char name[100] = {};
  char mode[8] = "0000600";
  char uid[8] = "0000000";
  char gid[8] = "0000000";
  char size[12] = {};
  char mtime[12] = {};
  char checksum[8] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
  char type = '0';
  char link[100] = {};
  char magic[6] = "ustar";
  char version[2] = {'0', '0'};
  char user[32] = {};
  char group[32] = {};
  char major[8] = "0000000";
  char minor[8] = "0000000";
  char prefix[155] = {};
  char padding[12] = {};
};
static_assert(sizeof(Header) == kBlock);

template <size_t N>
void SetOctal(uint64_t value, char (&field)[N]) {
  const std::string text = absl::StrFormat("%0*o", static_cast<int>(N - 1), value);
  std::memcpy(field, text.c_str(), std::min(text.size() + 1, N));
}

}  // namespace

absl::Status TarArchive::Add(const std::string& path, const std::string& content) {
  Header header;
  std::string name = path, prefix;
  if (name.size() > kNameBytesMax) {
    // At the first slash that leaves a short enough name.
    const size_t slash = path.find('/', path.size() - kNameBytesMax - 1);
    if (slash != std::string::npos) {
      prefix = path.substr(0, slash);
      name = path.substr(slash + 1);
    }
  }
  if (name.empty() || name.size() > kNameBytesMax || prefix.size() > kPrefixBytesMax || path.front() == '/') {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is no name for a file in an archive"));
  }
  if (content.size() >= (uint64_t{1} << 33)) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is too long for an archive"));
  }
  std::copy(name.begin(), name.end(), header.name);
  std::copy(prefix.begin(), prefix.end(), header.prefix);
  SetOctal(content.size(), header.size);
  SetOctal(static_cast<uint64_t>(std::max<int64_t>(absl::ToUnixSeconds(time_), 0)), header.mtime);
  uint64_t sum = 0;
  const auto* bytes = reinterpret_cast<const unsigned char*>(&header);
  for (size_t i = 0; i < kBlock; ++i) sum += bytes[i];
  const std::string checksum = absl::StrFormat("%06o", sum);
  std::memcpy(header.checksum, checksum.c_str(), checksum.size() + 1);  // six digits, NUL, space
  bytes_.append(reinterpret_cast<const char*>(&header), kBlock);
  bytes_.append(content);
  bytes_.append((kBlock - content.size() % kBlock) % kBlock, '\0');
  return absl::OkStatus();
}

std::string TarArchive::Finish() {
  bytes_.append(kEndBlocks * kBlock, '\0');
  return std::exchange(bytes_, {});
}

absl::StatusOr<std::string> Gzip(const std::string& text) {
  z_stream stream{};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kGzipWindow, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    return absl::InternalError("zlib does not start");
  }
  std::string out;
  char room[64 << 10];
  size_t at = 0;
  int result = Z_OK;
  while (result == Z_OK) {
    if (stream.avail_in == 0 && at < text.size()) {
      const size_t piece = std::min<size_t>(text.size() - at, size_t{1} << 30);
      stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data() + at));
      stream.avail_in = static_cast<uInt>(piece);
      at += piece;
    }
    stream.next_out = reinterpret_cast<Bytef*>(room);
    stream.avail_out = sizeof room;
    result = deflate(&stream, at == text.size() ? Z_FINISH : Z_NO_FLUSH);
    out.append(room, sizeof room - stream.avail_out);
  }
  deflateEnd(&stream);
  if (result != Z_STREAM_END) return absl::InternalError(absl::StrCat("zlib gave up (", result, ")"));
  return out;
}

}  // namespace gateway::ctl
