// Private keys of Certificates in the cache: sealed, so that the cache alone discloses none.
#ifndef GATEWAY_DATAPLANE_CONFIG_CACHE_KEYS_H_
#define GATEWAY_DATAPLANE_CONFIG_CACHE_KEYS_H_

#include <string>

#include "gateway/v1/config_stream.pb.h"

namespace gateway::dataplane {

// Both use a key derived from this data plane's own private key (PEM, in `key_file`; "": it has none), which is read
// once a call, if `update` has a Certificate.

// Seals the private keys in `update`; redacts those that cannot be sealed.
void SealKeys(const std::string& key_file, v1::PolicyUpdate* update);
// Opens what SealKeys sealed; redacts what cannot be opened.
void OpenKeys(const std::string& key_file, v1::PolicyUpdate* update);

}  // namespace gateway::dataplane

#endif  // GATEWAY_DATAPLANE_CONFIG_CACHE_KEYS_H_
