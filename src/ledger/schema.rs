//! The tables, the steps from one schema to the next, and the installation's identity.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::LedgerError;
use super::open::{damaged, explain};
use super::rows::millis;
use crate::domain::{InstallationId, Timestamp};

/// Step `n` leads from schema `n` to `n + 1`; a step that was released is never changed.
pub(super) const MIGRATIONS: [&str; 4] = [RENTALS, LEARNED, MONEY, DEMAND_IN_MEMORY];

const RENTALS: &str = "
    CREATE TABLE installation (
        id         TEXT NOT NULL,
        created_at INTEGER NOT NULL
    );
    CREATE TABLE rentals (
        worker       TEXT PRIMARY KEY,
        endpoint     TEXT NOT NULL,
        worker_group TEXT NOT NULL,
        state        TEXT NOT NULL CHECK (state IN ('intended', 'rented', 'ended')),
        instance     TEXT,
        usd_per_hour REAL NOT NULL,
        intended_at  INTEGER NOT NULL,
        rented_at    INTEGER,
        ended_at     INTEGER,
        reason       TEXT NOT NULL
    );
    CREATE INDEX rentals_open ON rentals (intended_at) WHERE state <> 'ended';
    CREATE INDEX rentals_by_age ON rentals (intended_at);
    CREATE TABLE events (
        id     INTEGER PRIMARY KEY,
        at     INTEGER NOT NULL,
        worker TEXT NOT NULL,
        state  TEXT NOT NULL,
        reason TEXT NOT NULL
    );
    CREATE INDEX events_by_worker ON events (worker, id);
";

/// What a restart should still know: one JSON value for each key of a kind.
const LEARNED: &str = "
    CREATE TABLE learned (
        kind  TEXT NOT NULL,
        key   TEXT NOT NULL,
        value TEXT NOT NULL,
        at    INTEGER NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
";

/// What each rental turned out to be and when it was last looked at, what it cost, what was billed, and the demand.
const MONEY: &str = "
    ALTER TABLE rentals ADD COLUMN market TEXT;
    ALTER TABLE rentals ADD COLUMN host TEXT;
    ALTER TABLE rentals ADD COLUMN machine TEXT;
    ALTER TABLE rentals ADD COLUMN gpu_name TEXT;
    ALTER TABLE rentals ADD COLUMN observed_at INTEGER;
    ALTER TABLE rentals ADD COLUMN observed_state TEXT;
    ALTER TABLE rentals ADD COLUMN observed_usd_per_hour REAL;
    ALTER TABLE rentals ADD COLUMN observed_storage_usd_per_hour REAL;
    ALTER TABLE rentals ADD COLUMN billed_gpu REAL;
    ALTER TABLE rentals ADD COLUMN billed_storage REAL;
    ALTER TABLE rentals ADD COLUMN billed_traffic REAL;
    ALTER TABLE rentals ADD COLUMN agreeing_bills INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rentals ADD COLUMN settled INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX rentals_unsettled ON rentals (market, instance) WHERE settled = 0;
    CREATE TABLE spend (
        worker   TEXT NOT NULL,
        day      INTEGER NOT NULL,
        kind     TEXT NOT NULL CHECK (kind IN ('gpu', 'storage', 'traffic')),
        good_for TEXT NOT NULL CHECK (good_for IN ('serving', 'idle', 'cold_start', 'storage')),
        source   TEXT NOT NULL CHECK (source IN ('accrued', 'correction')),
        usd      REAL NOT NULL,
        PRIMARY KEY (worker, day, kind, good_for, source)
    ) WITHOUT ROWID;
    CREATE INDEX spend_by_day ON spend (day);
    CREATE TABLE demand (
        endpoint TEXT NOT NULL,
        step     INTEGER NOT NULL,
        tokens   REAL NOT NULL,
        PRIMARY KEY (endpoint, step)
    ) WITHOUT ROWID;
";

/// What was asked of an endpoint is part of what its scaler remembers.
const DEMAND_IN_MEMORY: &str = "DROP TABLE demand;";

/// Letters and digits that no one mixes up and every label may hold.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const IDENTITY_LENGTH: usize = 10;

/// Brings the schema up to date and returns who we are.
pub(super) fn prepare(
    connection: &mut Connection,
    path: &Path,
    now: Timestamp,
) -> Result<InstallationId, LedgerError> {
    let failed = |error| explain(path, error);
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    let known = MIGRATIONS.len() as i64;
    let Some(steps) = usize::try_from(found)
        .ok()
        .and_then(|done| MIGRATIONS.get(done..))
    else {
        return Err(LedgerError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    };
    if !steps.is_empty() {
        migrate(connection, steps, known).map_err(failed)?;
    }
    let id = identity(connection, now).map_err(failed)?;
    if id.is_empty() || id.contains('/') {
        return Err(damaged(path, format!("installation {id:?}")));
    }
    Ok(InstallationId::new(id))
}

fn migrate(connection: &mut Connection, steps: &[&str], version: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

fn identity(connection: &mut Connection, now: Timestamp) -> rusqlite::Result<String> {
    let transaction = connection.transaction()?;
    let known = transaction
        .query_row("SELECT id FROM installation", [], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let chance: Vec<u8> =
        transaction.query_row("SELECT randomblob(?1)", [IDENTITY_LENGTH as i64], |row| {
            row.get(0)
        })?;
    let id: String = chance
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect();
    transaction.execute(
        "INSERT INTO installation (id, created_at) VALUES (?1, ?2)",
        params![id, millis(now)],
    )?;
    transaction.commit()?;
    Ok(id)
}
