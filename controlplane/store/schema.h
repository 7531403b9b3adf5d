// The tables, by schema version.
#ifndef GATEWAY_CONTROLPLANE_STORE_SCHEMA_H_
#define GATEWAY_CONTROLPLANE_STORE_SCHEMA_H_

#include <span>

namespace gateway::controlplane {

// "GWCP": tells the file from any other SQLite database.
inline constexpr int kApplicationId = 0x47574350;

// One entry for each schema version, in order; never edited once released, only added to.
std::span<const char* const> Migrations();

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_SCHEMA_H_
