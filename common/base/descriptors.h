// How many descriptors this process may have open.
#ifndef GATEWAY_COMMON_BASE_DESCRIPTORS_H_
#define GATEWAY_COMMON_BASE_DESCRIPTORS_H_

#include <cstddef>

namespace gateway {

// RLIMIT_NOFILE as it is now.
size_t DescriptorLimit();

// Raises RLIMIT_NOFILE to the hard limit (systemd and shells give 1024 unless told otherwise; nothing here uses
// select). Returns what holds then.
size_t RaiseDescriptorLimit();

}  // namespace gateway

#endif  // GATEWAY_COMMON_BASE_DESCRIPTORS_H_
