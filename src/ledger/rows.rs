//! Rows of the database as nouns of the domain.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};

use super::LedgerEvent;
use crate::domain::{
    EndpointName, GroupName, InstanceId, InstanceState, Rental, RentalState, Timestamp, UsdPerHour,
    WorkerId,
};

/// In the order `rental_of` reads them.
pub(super) const RENTAL_COLUMNS: &str =
    "worker, endpoint, worker_group, state, instance, usd_per_hour, intended_at, ended_at, reason";

/// SQLite's integers are signed; a moment beyond them is none we can meet.
pub(super) fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn rental_of(row: &Row<'_>) -> rusqlite::Result<Rental> {
    Ok(Rental {
        worker: WorkerId::from(row.get::<_, String>(0)?),
        endpoint: EndpointName::from(row.get::<_, String>(1)?),
        group: GroupName::from(row.get::<_, String>(2)?),
        state: row.get::<_, StoredState>(3)?.0,
        instance: row.get::<_, Option<String>>(4)?.map(InstanceId::from),
        usd_per_hour: UsdPerHour(row.get(5)?),
        intended_at: row.get::<_, StoredTime>(6)?.0,
        ended_at: row.get::<_, Option<StoredTime>>(7)?.map(|time| time.0),
        reason: row.get(8)?,
    })
}

pub(super) fn event_of(row: &Row<'_>) -> rusqlite::Result<LedgerEvent> {
    Ok(LedgerEvent {
        at: row.get::<_, StoredTime>(0)?.0,
        worker: WorkerId::from(row.get::<_, String>(1)?),
        state: row.get(2)?,
        reason: row.get(3)?,
    })
}

/// `None` for words of a later version too: such a machine is looked at again before it counts.
pub(super) fn instance_state(word: &str) -> Option<InstanceState> {
    [
        InstanceState::Loading,
        InstanceState::Running,
        InstanceState::Scheduling,
        InstanceState::Stopped,
        InstanceState::Offline,
        InstanceState::Exited,
    ]
    .into_iter()
    .find(|state| state.as_str() == word)
}

pub(super) struct StoredTime(pub(super) Timestamp);

impl FromSql for StoredTime {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let stored = value.as_i64()?;
        u64::try_from(stored)
            .map(|millis| Self(Timestamp::from_millis(millis)))
            .map_err(|_| FromSqlError::OutOfRange(stored))
    }
}

struct StoredState(RentalState);

impl FromSql for StoredState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "intended" => Ok(Self(RentalState::Intended)),
            "rented" => Ok(Self(RentalState::Rented)),
            "ended" => Ok(Self(RentalState::Ended)),
            other => Err(FromSqlError::Other(format!("state {other:?}").into())),
        }
    }
}
