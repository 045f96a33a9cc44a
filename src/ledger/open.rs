//! Getting at the database: the private directory, the lock, the connection, and what its errors mean.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::LedgerError;
use crate::domain::{AccountId, InstallationId, InstanceId, MarketKind, WorkerId};

/// A reader from outside (a backup, a shell) holds a write up no longer than this.
const BUSY_WAIT: Duration = Duration::from_secs(5);

pub(super) fn create_private_dir(dir: &Path) -> Result<(), LedgerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| io_error(dir, error))
}

/// Two gateways on one ledger would rent everything twice.
pub(super) fn lock(path: &Path) -> Result<File, LedgerError> {
    let file = private_file(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::Locked(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(path, error)),
    }
}

/// A connection whose commits are on the disk when they return.
pub(super) fn connect(path: &Path) -> Result<Connection, LedgerError> {
    // Made here and not by SQLite, so that nobody else may read it.
    private_file(path)?;
    let checked = Connection::open(path).and_then(|connection| {
        connection.busy_timeout(BUSY_WAIT)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let health: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((connection, health))
    });
    let (connection, health) = checked.map_err(|error| explain(path, error))?;
    if health != "ok" {
        return Err(damaged(path, health));
    }
    Ok(connection)
}

/// Whose ledger lies in `state_dir`, read beside a process that holds it.
pub fn installation_of(state_dir: &Path) -> Result<InstallationId, LedgerError> {
    let path = state_dir.join("ledger.sqlite");
    let id: String = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|connection| {
            connection.busy_timeout(BUSY_WAIT)?;
            connection.query_row("SELECT id FROM installation", [], |row| row.get(0))
        })
        .map_err(|error| explain(&path, error))?;
    Ok(InstallationId::new(id))
}

/// A rental that is not ended, as another process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRental {
    pub worker: WorkerId,
    pub instance: Option<InstanceId>,
    /// `None`: nothing was written of it yet.
    pub market: Option<String>,
    pub account: Option<AccountId>,
}

impl OpenRental {
    /// It is, or may be, at a market that takes money.
    pub fn is_paid(&self) -> bool {
        match (&self.market, &self.instance) {
            (Some(market), _) => market == MarketKind::Vast.as_str(),
            (None, Some(id)) => id.as_str().bytes().all(|b| b.is_ascii_digit()),
            (None, None) => true,
        }
    }
}

/// What the ledger in `state_dir` holds open, read beside a process that holds it.
pub fn open_rentals_of(state_dir: &Path) -> Result<Vec<OpenRental>, LedgerError> {
    let path = state_dir.join("ledger.sqlite");
    let read = |connection: Connection| {
        connection.busy_timeout(BUSY_WAIT)?;
        connection
            .prepare(
                "SELECT worker, instance, market, learned.value FROM rentals
                 LEFT JOIN learned ON kind = 'account' AND key = worker
                 WHERE state <> 'ended'",
            )?
            .query_map([], |row| {
                let account: Option<String> = row.get(3)?;
                Ok(OpenRental {
                    worker: WorkerId::from(row.get::<_, String>(0)?),
                    instance: row.get::<_, Option<String>>(1)?.map(InstanceId::from),
                    market: row.get(2)?,
                    account: account.and_then(|text| serde_json::from_str(&text).ok()),
                })
            })?
            .collect()
    };
    Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(read)
        .map_err(|error| explain(&path, error))
}

/// Tells damage, which stays, from trouble, which may pass.
pub(super) fn explain(path: &Path, error: rusqlite::Error) -> LedgerError {
    let lasting = match &error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt
        ),
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..) => true,
        _ => false,
    };
    if lasting {
        return damaged(path, error.to_string());
    }
    LedgerError::Database {
        path: path.to_owned(),
        error,
    }
}

pub(super) fn damaged(path: &Path, detail: String) -> LedgerError {
    LedgerError::Damaged {
        path: path.to_owned(),
        detail,
    }
}

fn private_file(path: &Path) -> Result<File, LedgerError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| io_error(path, error))
}

fn io_error(path: &Path, error: std::io::Error) -> LedgerError {
    LedgerError::Io {
        path: path.to_owned(),
        error,
    }
}
