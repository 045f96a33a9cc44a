//! The durable record of what is rented and what it costs: a SQLite database in the state directory.
//! A method that changes something returns when the change is on the disk.

mod accrual;
mod charges;
mod learned;
mod open;
mod report;
mod rows;
mod schema;
mod spend;
#[cfg(test)]
mod spend_tests;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use crate::domain::{
    InstallationId, InstanceId, Rental, RentalLabel, Timestamp, UsdPerHour, WorkerId,
};
use rows::{RENTAL_COLUMNS, event_of, millis, rental_of};

pub use accrual::{Accrued, Observation, accrue};
pub use charges::Correction;
pub use open::{OpenRental, installation_of, open_rentals_of};
pub use report::{RentalStory, SpendReport};
pub use spend::{Booking, Sighting, SpendBy, SpendRow};

/// A file of this name in the state directory is the operator's word that nothing may be rented and everything goes.
pub const STOP_MARK: &str = "stop-spending";

/// One gateway at a time: the lock is held until the ledger is released, dropped or the process ends.
pub struct Ledger {
    /// `None` while another gateway has it.
    open: Mutex<Option<Open>>,
    installation: InstallationId,
    state_dir: PathBuf,
    path: PathBuf,
}

struct Open {
    connection: Connection,
    _lock: File,
}

/// A line of a worker's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEvent {
    pub at: Timestamp,
    pub worker: WorkerId,
    pub state: String,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Retry when the other gateway has ended.
    #[error("{}: locked by another gateway that uses this state directory", .0.display())]
    Locked(PathBuf),
    /// The operator's: disk, permissions, path.
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    /// No retry helps. The installation's identity is in the ledger too.
    #[error("{}: the ledger is damaged ({detail}); restore it, or move it away to begin a new one: what it rented must then be ended by hand", path.display())]
    Damaged { path: PathBuf, detail: String },
    /// Written by a later version.
    #[error("{}: schema {found} is newer than {known}, the newest this version knows", path.display())]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    /// Another gateway has taken over; this one changes nothing any more.
    #[error("{}: handed over to another gateway", .0.display())]
    Released(PathBuf),
    /// A rental that was never intended.
    #[error("worker {0} is not in the ledger")]
    Unknown(WorkerId),
    /// A full disk, a locked file: a retry may help.
    #[error("{}: {error}", path.display())]
    Database {
        path: PathBuf,
        error: rusqlite::Error,
    },
}

impl Ledger {
    /// Opens the ledger in `state_dir`, made when missing; the first time gives the installation its identity.
    pub fn open(state_dir: &Path, now: Timestamp) -> Result<Ledger, LedgerError> {
        let path = state_dir.join("ledger.sqlite");
        let (open, installation) = Open::new(state_dir, &path, now)?;
        Ok(Ledger {
            open: Mutex::new(Some(open)),
            installation,
            state_dir: state_dir.to_owned(),
            path,
        })
    }

    /// Lets another gateway have it. Whoever writes here meanwhile is refused.
    pub fn release(&self) {
        *self.lock() = None;
    }

    /// After a release, once the other gateway is gone.
    pub fn retake(&self, now: Timestamp) -> Result<(), LedgerError> {
        let mut open = self.lock();
        if open.is_none() {
            *open = Some(Open::new(&self.state_dir, &self.path, now)?.0);
        }
        Ok(())
    }

    /// While this file is there, nothing may be rented and everything goes; the command line makes it.
    pub fn stop_mark(&self) -> PathBuf {
        self.state_dir.join(STOP_MARK)
    }

    pub fn installation(&self) -> InstallationId {
        self.installation.clone()
    }

    /// Notes a rental before the market is asked, as intended and without an instance, whatever it says itself.
    pub fn intend(&self, rental: &Rental) -> Result<(), LedgerError> {
        let at = millis(rental.intended_at);
        self.write(|tx| {
            tx.execute(
                "INSERT INTO rentals (worker, endpoint, worker_group, state, usd_per_hour, intended_at, reason)
                 VALUES (?1, ?2, ?3, 'intended', ?4, ?5, ?6)",
                params![
                    rental.worker.as_str(),
                    rental.endpoint.as_str(),
                    rental.group.as_str(),
                    rental.usd_per_hour.0,
                    at,
                    rental.reason,
                ],
            )?;
            append_event(tx, &rental.worker, "intended", &rental.reason, at)
        })
    }

    /// The market named an instance. One that was believed ended is open again: it exists.
    pub fn rented(
        &self,
        worker: &WorkerId,
        instance: &InstanceId,
        price: UsdPerHour,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let known = self.write(|tx| {
            let changed = tx.execute(
                "UPDATE rentals SET state = 'rented', instance = ?2, usd_per_hour = ?3, rented_at = ?4, ended_at = NULL
                 WHERE worker = ?1",
                params![worker.as_str(), instance.as_str(), price.0, millis(now)],
            )?;
            if changed > 0 {
                append_event(tx, worker, "rented", instance.as_str(), millis(now))?;
            }
            Ok(changed > 0)
        })?;
        known
            .then_some(())
            .ok_or_else(|| LedgerError::Unknown(worker.clone()))
    }

    /// A machine with our label that nobody needs, before it is destroyed. One that no rental was intended for has a line
    /// from now on, an ended one.
    pub fn found(
        &self,
        label: &RentalLabel,
        instance: &InstanceId,
        price: UsdPerHour,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let at = millis(now);
        self.write(|tx| {
            tx.execute(
                "INSERT INTO rentals (worker, endpoint, worker_group, state, instance, usd_per_hour, intended_at,
                                      ended_at, reason)
                 VALUES (?1, ?2, '', 'ended', ?3, ?4, ?5, ?5, 'found, and nobody knew it')
                 ON CONFLICT (worker) DO UPDATE SET instance = coalesce(instance, excluded.instance), settled = 0",
                params![
                    label.worker.as_str(),
                    label.endpoint.as_str(),
                    instance.as_str(),
                    price.0,
                    at,
                ],
            )?;
            append_event(tx, &label.worker, "found", instance.as_str(), at)
        })
    }

    /// The first end counts; ending what has ended or was never here changes nothing.
    pub fn ended(
        &self,
        worker: &WorkerId,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.write(|tx| {
            let changed = tx.execute(
                "UPDATE rentals SET state = 'ended', ended_at = ?2, reason = ?3
                 WHERE worker = ?1 AND state <> 'ended'",
                params![worker.as_str(), millis(now), reason],
            )?;
            if changed > 0 {
                append_event(tx, worker, "ended", reason, millis(now))?;
            }
            Ok(())
        })
    }

    /// Appends to a worker's history; the worker need not be rented.
    pub fn event(
        &self,
        worker: &WorkerId,
        state: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.write(|tx| append_event(tx, worker, state, reason, millis(now)))
    }

    /// What may cost money: intended or rented, oldest first.
    pub fn open_rentals(&self) -> Result<Vec<Rental>, LedgerError> {
        self.rentals(
            "WHERE state <> 'ended' ORDER BY intended_at, rowid",
            u32::MAX,
        )
    }

    /// The last `limit` rentals in any state, newest first.
    pub fn recent(&self, limit: u32) -> Result<Vec<Rental>, LedgerError> {
        self.rentals("ORDER BY intended_at DESC, rowid DESC", limit)
    }

    pub fn rental(&self, worker: &WorkerId) -> Result<Option<Rental>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare(&format!(
                    "SELECT {RENTAL_COLUMNS} FROM rentals WHERE worker = ?1"
                ))?
                .query_map([worker.as_str()], rental_of)?
                .next()
                .transpose()
        })
    }

    /// A worker's history, oldest first.
    pub fn events_of(&self, worker: &WorkerId) -> Result<Vec<LedgerEvent>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT at, worker, state, reason FROM events WHERE worker = ?1 ORDER BY id",
                )?
                .query_map([worker.as_str()], event_of)?
                .collect()
        })
    }

    fn rentals(&self, which: &str, limit: u32) -> Result<Vec<Rental>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare(&format!(
                    "SELECT {RENTAL_COLUMNS} FROM rentals {which} LIMIT ?1"
                ))?
                .query_map([limit], rental_of)?
                .collect()
        })
    }

    /// All or nothing.
    fn write<T>(
        &self,
        change: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        self.read(|connection| {
            // Rolled back when dropped without a commit.
            let transaction = connection.unchecked_transaction()?;
            let out = change(&transaction)?;
            transaction.commit()?;
            Ok(out)
        })
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        match &*self.lock() {
            Some(open) => query(&open.connection).map_err(|error| open::explain(&self.path, error)),
            None => Err(LedgerError::Released(self.path.clone())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn new(
        state_dir: &Path,
        path: &Path,
        now: Timestamp,
    ) -> Result<(Self, InstallationId), LedgerError> {
        open::create_private_dir(state_dir)?;
        let lock = open::lock(&state_dir.join("ledger.lock"))?;
        let mut connection = open::connect(path)?;
        let installation = schema::prepare(&mut connection, path, now)?;
        let open = Self {
            connection,
            _lock: lock,
        };
        Ok((open, installation))
    }
}

fn append_event(
    connection: &Connection,
    worker: &WorkerId,
    state: &str,
    reason: &str,
    at: i64,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO events (at, worker, state, reason) VALUES (?1, ?2, ?3, ?4)",
        params![at, worker.as_str(), state, reason],
    )?;
    Ok(())
}
