#include "controlplane/store/schema.h"

namespace gateway::controlplane {
namespace {

constexpr const char* kMigrations[] = {
    R"sql(
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE resources(
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  body BLOB NOT NULL,          -- CanonicalBytes of the resource
  checksum INTEGER NOT NULL,   -- over the whole row: a flipped bit passes SQLite's own checks
  revision INTEGER NOT NULL,
  changed_at INTEGER NOT NULL, -- microseconds since 1970
  built_in INTEGER NOT NULL,
  PRIMARY KEY(kind, name)) STRICT;
CREATE TABLE revisions(
  revision INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,
  actor TEXT NOT NULL,
  peer TEXT NOT NULL,
  comment TEXT NOT NULL) STRICT;
-- A row is what a revision made of a resource. The newest row at or below the oldest kept revision stays, so that every
-- kept revision can be put together again.
CREATE TABLE history(
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  revision INTEGER NOT NULL,
  op INTEGER NOT NULL,
  body BLOB,                   -- NULL: nothing in effect from here on
  checksum INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  built_in INTEGER NOT NULL,
  PRIMARY KEY(kind, name, revision)) STRICT;
CREATE INDEX history_by_revision ON history(revision);
)sql",
    R"sql(
CREATE TABLE tokens(
  name TEXT PRIMARY KEY,
  digest BLOB NOT NULL UNIQUE, -- SHA-256 of the secret
  body BLOB NOT NULL,          -- gateway.v1.Token
  checksum INTEGER NOT NULL) STRICT;
CREATE TABLE audit(
  number INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,       -- microseconds since 1970
  actor TEXT NOT NULL,
  body BLOB NOT NULL) STRICT;  -- gateway.v1.AuditEntry, without its number
CREATE INDEX audit_by_actor ON audit(actor, number);
)sql",
    R"sql(
CREATE TABLE overrides(
  service TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  body BLOB NOT NULL,          -- gateway.v1.EndpointOverride
  checksum INTEGER NOT NULL,
  PRIMARY KEY(service, endpoint)) STRICT;
)sql",
    R"sql(
-- The set that owns the resource (ApplyRequest.set); '': no set.
ALTER TABLE resources ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE history ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE TABLE requests(
  number INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  digest BLOB NOT NULL,        -- SHA-256 of the request and of who asked
  revision INTEGER NOT NULL,
  response BLOB NOT NULL) STRICT;
)sql",
    R"sql(
CREATE TABLE secrets(
  name TEXT PRIMARY KEY,
  body TEXT NOT NULL) STRICT;  -- sealed under the name
)sql",
    R"sql(
CREATE TABLE drains(
  name TEXT PRIMARY KEY,       -- of the data plane
  body BLOB NOT NULL,          -- gateway.v1.DataPlaneDrain
  checksum INTEGER NOT NULL) STRICT;
)sql",
    R"sql(
CREATE TABLE pending_changes(
  revision INTEGER PRIMARY KEY,
  body BLOB NOT NULL,          -- gateway.v1.PendingChange
  checksum INTEGER NOT NULL) STRICT;
)sql",
    R"sql(
-- Of each Route the newest row is in force; older ones stay while a change may still be taken back.
CREATE TABLE canaries(
  route TEXT NOT NULL,
  revision INTEGER NOT NULL,
  written INTEGER NOT NULL,    -- the revision that last changed the Route itself
  shape TEXT NOT NULL,         -- what of the Route the state belongs to
  body BLOB NOT NULL,          -- gateway.v1.CanaryState
  checksum INTEGER NOT NULL,
  PRIMARY KEY(route, revision)) STRICT;
CREATE TABLE join_tokens(
  digest BLOB PRIMARY KEY,     -- SHA-256 of the secret
  name TEXT NOT NULL,          -- of the data plane
  expires INTEGER NOT NULL,    -- microseconds since 1970
  spent_by BLOB,               -- SHA-256 of the public key; NULL: not spent
  checksum INTEGER NOT NULL) STRICT;
)sql"};

}  // namespace

std::span<const char* const> Migrations() { return kMigrations; }

}  // namespace gateway::controlplane
