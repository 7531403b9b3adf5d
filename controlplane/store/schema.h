// The tables, by schema version.
#ifndef GATEWAY_CONTROLPLANE_STORE_SCHEMA_H_
#define GATEWAY_CONTROLPLANE_STORE_SCHEMA_H_

#include <span>

namespace gateway::controlplane {

// "GWCP": tells the file from any other SQLite database.
inline constexpr int kApplicationId = 0x47574350;

// The smallest database of SQLite has one page of 512 bytes. SQLite takes a shorter file for one that is new.
inline constexpr long kDatabaseBytesMin = 512;

// One entry for each schema version, in order; never edited once released, only added to.
std::span<const char* const> Migrations();

}  // namespace gateway::controlplane

#endif  // GATEWAY_CONTROLPLANE_STORE_SCHEMA_H_
