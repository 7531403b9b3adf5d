#include "controlplane/acme/http.h"

#include <curl/curl.h>

#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/fetched_url.h"
#include "controlplane/acme/messages.h"

namespace gateway::controlplane::acme {
namespace {

constexpr long kConnectTimeoutMs = 10'000;
constexpr long kTimeoutMs = 30'000;
constexpr size_t kHeaderFieldsMax = 100;

using CurlPtr = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;
using FieldsPtr = std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)>;

struct Receiver {
  HttpResponse response;
  bool too_long = false;
  size_t fields = 0;
};

size_t OnBody(char* data, size_t, size_t size, void* to) {
  auto* const receiver = static_cast<Receiver*>(to);
  if (receiver->response.body.size() + size > kBodyBytesMax) {
    receiver->too_long = true;
    return 0;
  }
  receiver->response.body.append(data, size);
  return size;
}

size_t OnField(char* data, size_t, size_t size, void* to) {
  auto* const receiver = static_cast<Receiver*>(to);
  if (++receiver->fields > kHeaderFieldsMax) {
    receiver->too_long = true;
    return 0;
  }
  const absl::string_view line(data, size);
  const size_t colon = line.find(':');
  if (colon == absl::string_view::npos || size > kUrlBytesMax) return size;
  const absl::string_view name = line.substr(0, colon);
  const std::string value(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  if (absl::EqualsIgnoreCase(name, "location")) receiver->response.location = value;
  if (absl::EqualsIgnoreCase(name, "replay-nonce")) receiver->response.nonce = value;
  if (absl::EqualsIgnoreCase(name, "retry-after")) receiver->response.retry_after = value;
  return size;
}

int OnProgress(void* stopping, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return (*static_cast<const std::function<bool()>*>(stopping))() ? 1 : 0;
}

absl::StatusOr<HttpResponse> Perform(const HttpRequest& request, const std::function<bool()>& stopping) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  if (const absl::Status allowed = CheckFetchedUrl(request.url, "certificates"); !allowed.ok()) return allowed;
  const CurlPtr owner(curl_easy_init(), curl_easy_cleanup);
  CURL* const curl = owner.get();
  if (curl == nullptr) return absl::ResourceExhaustedError("out of memory");
  const FieldsPtr fields(curl_slist_append(nullptr, "Content-Type: application/jose+json"), curl_slist_free_all);
  Receiver receiver;
  char why[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "gateway");
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, kConnectTimeoutMs);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, kTimeoutMs);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &receiver);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, OnField);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &receiver);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &stopping);
  if (request.method == HttpRequest::Method::kHead) curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
  if (request.method == HttpRequest::Method::kPost) {
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, fields.get());
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request.body.data());
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, static_cast<long>(request.body.size()));
  }
  if (!request.ca_pem.empty()) {
    curl_blob blob{const_cast<char*>(request.ca_pem.data()), request.ca_pem.size(), CURL_BLOB_COPY};
    curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &blob);
    curl_easy_setopt(curl, CURLOPT_CAPATH, static_cast<char*>(nullptr));
  }
  const CURLcode code = curl_easy_perform(curl);
  if (receiver.too_long) return absl::InvalidArgumentError(absl::StrCat(request.url, ": the response is too long"));
  if (code == CURLE_ABORTED_BY_CALLBACK) return absl::CancelledError("the control plane is shutting down");
  if (code != CURLE_OK) {
    return absl::UnavailableError(absl::StrCat(request.url, ": ", why[0] != '\0' ? why : curl_easy_strerror(code)));
  }
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &receiver.response.status);
  return std::move(receiver.response);
}

}  // namespace

HttpTransport CurlTransport(std::function<bool()> stopping) {
  return [stopping = std::move(stopping)](const HttpRequest& request) { return Perform(request, stopping); };
}

}  // namespace gateway::controlplane::acme
