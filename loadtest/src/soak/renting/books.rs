//! What the ledger says, read beside the gateway that holds it, as a backup would read it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};

const LEDGER: &str = "ledger.sqlite";

fn open(state_dir: &Path) -> Result<Connection> {
    let path = state_dir.join(LEDGER);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(&path, flags).with_context(|| path.display().to_string())
}

/// Every rental that has not ended, with its instance once there is one.
pub fn open_rentals(state_dir: &Path) -> Result<BTreeMap<String, Option<String>>> {
    let ledger = open(state_dir)?;
    let mut rows = ledger.prepare("SELECT worker, instance FROM rentals WHERE state <> 'ended'")?;
    let rentals = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rentals.collect::<rusqlite::Result<_>>()?)
}

/// For what each rental was ordered, in dollars an hour.
pub fn ordered(state_dir: &Path) -> Result<BTreeMap<String, f64>> {
    let ledger = open(state_dir)?;
    let mut rows = ledger.prepare("SELECT worker, usd_per_hour FROM rentals")?;
    let rentals = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rentals.collect::<rusqlite::Result<_>>()?)
}

/// Dollars of all time, corrections by the bill included; and of those what was reckoned without the bill.
pub fn spent(state_dir: &Path) -> Result<(f64, f64)> {
    let sum = "SELECT total(usd), total(CASE source WHEN 'accrued' THEN usd END) FROM spend";
    Ok(open(state_dir)?.query_row(sum, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}
