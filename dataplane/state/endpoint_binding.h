// Endpoints of services: from the names and addresses in policy or Consul to connections' targets and their balancer.
#ifndef GATEWAY_DATAPLANE_STATE_ENDPOINT_BINDING_H_
#define GATEWAY_DATAPLANE_STATE_ENDPOINT_BINDING_H_

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/time.h"
#include "common/policy/snapshot.h"
#include "dataplane/net/tls/client_context.h"
#include "dataplane/policy/endpoint_balancer.h"
#include "dataplane/state/endpoint_table.h"
#include "dataplane/state/kept.h"
#include "dataplane/state/runtime_state.h"
#include "dataplane/state/serving_state.h"
#include "dataplane/upstream/endpoint.h"
#include "dataplane/upstream/host_resolver.h"

namespace gateway::dataplane {

// An endpoint as policy or Consul name it.
struct Candidate {
  std::string host;
  uint16_t port = 0;
  uint32_t weight = 0;
  bool local = false;     // in this data plane's zone
  bool draining = false;  // by an operator; then of weight 0
  friend bool operator==(const Candidate&, const Candidate&) = default;
};

// What a service's requests are sent to.
struct BoundEndpoints {
  std::vector<std::shared_ptr<Endpoint>> all;
  std::shared_ptr<const EndpointBalancer> balancer;  // over `all`; null if that is empty
  std::shared_ptr<const SessionTable> sessions;      // null: without a session cookie
};

// The newest BoundEndpoints of one service, and what they were made from.
struct KeptEndpoints {
  BoundEndpoints bound;
  bool any_bind = false;  // `bound` is the result of one
  std::vector<Candidate> candidates;
  bool names_hosts = false;                  // then the same candidates may be other endpoints
  std::vector<RuntimeState::HostRow> hosts;  // the names among them; without the service's own
  BalancePolicy balance;
  std::shared_ptr<const UpstreamTlsPolicy> tls;
  UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
  std::string session_key;
  std::shared_ptr<EndpointGroup> group = std::make_shared<EndpointGroup>();
};

// Keeps endpoints by address, host and TLS settings, and the TLS contexts towards them; owns the resolver's thread. The
// configuration thread's, except what OnHostsChanged calls.
class EndpointBinder {
 public:
  struct Options {
    std::string zone;
    std::function<TimePoint()> clock;
    std::function<std::shared_ptr<const std::vector<std::string>>(const std::string& host)> find_host;
  };
  explicit EndpointBinder(Options options);

  void OnHostsChanged(std::function<void()> call) { resolver_.set_on_change(std::move(call)); }

  // A bind starts: names every host in `policy` and `table` to the resolver, so that new ones are looked up at the same
  // time.
  void Begin(const Snapshot& policy, const EndpointTable& table, uint64_t generation);
  // What `policy` says of the service's endpoints, with what operators have set. `name`: what operators call the
  // service, beside its name in Consul; `set`: Consul's, may be null. Valid until the next call.
  const std::vector<Candidate>& Collect(const ServicePolicy& policy, std::string_view name, const v1::EndpointSet* set,
                                        const OverrideTable& overrides);
  // Binds `candidates`; kept->bound is the same as before if nothing about them changed, and keeps what is remembered
  // of each endpoint.
  const BoundEndpoints& Bind(const ServicePolicy& policy, const std::vector<Candidate>& candidates,
                             KeptEndpoints* kept);
  void DropOlder();

 private:
  // A Service's TLS: what sets its connections apart from others', and what they are made with.
  struct BoundTls {
    std::string key;
    std::shared_ptr<const tls::ClientContext> context;  // null: it can't be made
  };
  // How a service's endpoints are connected to.
  struct Transport {
    const BoundTls* tls = nullptr;  // null: cleartext
    UpstreamProtocol protocol = UpstreamProtocol::kHttp1;
  };
  struct Members;

  BoundTls BindTls(const UpstreamTlsPolicy& policy);
  // `host`: what the endpoint is called in policy or in Consul.
  std::shared_ptr<Endpoint> GetOrCreate(const sockaddr_storage& address, socklen_t length, const std::string& host,
                                        const Transport& transport);
  // Of a host that is not a literal address.
  std::shared_ptr<const std::vector<std::string>> FindAddresses(const std::string& host);
  Members Resolve(const std::vector<Candidate>& candidates, const Transport& transport, KeptEndpoints* kept);
  void Remember(const KeptEndpoints& kept, Members* members) const;
  std::shared_ptr<const SessionTable> MakeSessions(const std::string& cookie,
                                                   const std::vector<std::shared_ptr<Endpoint>>& endpoints) const;

  const Options options_;
  const std::string own_key_;
  uint64_t generation_ = 0;
  std::string session_key_;                                                // of this bind
  TimePoint host_deadline_{};                                              // likewise
  uint64_t next_id_ = 1;                                                   // Endpoint::id
  absl::flat_hash_map<std::string, std::shared_ptr<Endpoint>> endpoints_;  // by Endpoint::name, and its TLS
  KeptMap<std::shared_ptr<const tls::ClientContext>> tls_contexts_;        // by their settings
  std::vector<Candidate> candidates_;                                      // of Collect; kept for its memory
  HostResolver resolver_;  // last: its thread ends before what it calls goes
};

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_STATE_ENDPOINT_BINDING_H_
