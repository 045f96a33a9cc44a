//! Every dollar: what accrued by rental, day, kind and use; what a market's bill corrected; and sums of both.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::accrual::Observation;
use super::rows::{StoredTime, instance_state, millis};
use super::{Ledger, LedgerError, append_event};
use crate::domain::{
    Day, EndpointName, MachineKey, MarketKind, SpendKind, SpendUse, Timestamp, Usd, UsdPerHour,
    WorkerId,
};

/// Dollars that accrued for one rental.
#[derive(Clone, Debug, PartialEq)]
pub struct Booking {
    pub worker: WorkerId,
    pub day: Day,
    pub kind: SpendKind,
    pub good_for: SpendUse,
    pub usd: Usd,
}

/// What a rental turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    pub worker: WorkerId,
    pub market: MarketKind,
    pub machine: Option<MachineKey>,
    pub gpu_name: Option<String>,
    pub observed: Observation,
    /// It is in another state than before: a line of its history.
    pub changed: bool,
}

/// What sums are made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpendBy {
    Day,
    Endpoint,
    /// Host and machine as the market names them; `-` where it names none.
    Host,
    Worker,
}

/// A line of a table of spending, in dollars.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpendRow {
    pub key: String,
    pub rentals: u32,
    pub total: f64,
    pub gpu: f64,
    pub storage: f64,
    pub traffic: f64,
    pub serving: f64,
    pub idle: f64,
    pub cold_start: f64,
    /// Of the total, what the market's bill added or took off.
    pub corrections: f64,
}

impl Ledger {
    /// Writes what accrued, and up to when: both or neither, so that nothing is counted twice after a crash.
    pub fn book(&self, bookings: &[Booking], sightings: &[Sighting]) -> Result<(), LedgerError> {
        self.write(|tx| {
            for booking in bookings {
                add(tx, booking, "accrued")?;
            }
            for sighting in sightings {
                observe(tx, sighting)?;
            }
            Ok(())
        })
    }

    /// The last look at each rental that is open.
    pub fn observations(&self) -> Result<Vec<(WorkerId, Observation)>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT worker, observed_at, observed_state, observed_usd_per_hour, observed_storage_usd_per_hour
                     FROM rentals WHERE state <> 'ended' AND observed_at IS NOT NULL",
                )?
                .query_map([], |row| {
                    let state: Option<String> = row.get(2)?;
                    let observation = Observation {
                        at: row.get::<_, StoredTime>(1)?.0,
                        state: state.as_deref().and_then(instance_state),
                        usd_per_hour: UsdPerHour(row.get(3)?),
                        storage_usd_per_hour: UsdPerHour(row.get(4)?),
                    };
                    Ok((WorkerId::from(row.get::<_, String>(0)?), observation))
                })?
                .collect()
        })
    }

    /// Where each open rental is, as far as something was written of it.
    pub fn markets(&self) -> Result<BTreeMap<WorkerId, MarketKind>, LedgerError> {
        let written: Vec<(String, String)> = self.read(|connection| {
            connection
                .prepare("SELECT worker, market FROM rentals WHERE state <> 'ended' AND market IS NOT NULL")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        let kinds = [MarketKind::Local, MarketKind::Fixed, MarketKind::Vast];
        let known = written.into_iter().filter_map(|(worker, market)| {
            let kind = kinds.into_iter().find(|kind| kind.as_str() == market)?;
            Some((WorkerId::from(worker), kind))
        });
        Ok(known.collect())
    }

    /// What was spent from `first` on, by endpoint and day.
    pub fn spent_since(&self, first: Day) -> Result<Vec<(EndpointName, Day, Usd)>, LedgerError> {
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT endpoint, day, sum(usd) FROM spend JOIN rentals USING (worker)
                     WHERE day >= ?1 GROUP BY endpoint, day",
                )?
                .query_map([first.0], |row| {
                    let endpoint = EndpointName::from(row.get::<_, String>(0)?);
                    Ok((endpoint, Day(row.get(1)?), Usd(row.get(2)?)))
                })?
                .collect()
        })
    }

    /// Sums over the days from `first` to `last`, both included, in the order of their keys.
    pub fn spend_by(
        &self,
        by: SpendBy,
        first: Option<Day>,
        last: Option<Day>,
    ) -> Result<Vec<SpendRow>, LedgerError> {
        let key = match by {
            SpendBy::Day => "CAST(day AS TEXT)",
            SpendBy::Endpoint => "endpoint",
            SpendBy::Host => "coalesce(host || '/' || machine, '-')",
            SpendBy::Worker => "worker",
        };
        let rows: Vec<SpendRow> = self.read(|connection| {
            connection
                .prepare(&format!(
                    "SELECT {key} AS key, count(DISTINCT worker), sum(usd),
                            total(usd) FILTER (WHERE kind = 'gpu'),
                            total(usd) FILTER (WHERE kind = 'storage'),
                            total(usd) FILTER (WHERE kind = 'traffic'),
                            total(usd) FILTER (WHERE good_for = 'serving'),
                            total(usd) FILTER (WHERE good_for = 'idle'),
                            total(usd) FILTER (WHERE good_for = 'cold_start'),
                            total(usd) FILTER (WHERE source = 'correction')
                     FROM spend JOIN rentals USING (worker)
                     WHERE day BETWEEN ?1 AND ?2 GROUP BY key ORDER BY min(day), key"
                ))?
                .query_map(
                    params![
                        first.map_or(0, |day| day.0),
                        last.map_or(u32::MAX, |day| day.0)
                    ],
                    |row| {
                        Ok(SpendRow {
                            key: row.get(0)?,
                            rentals: row.get(1)?,
                            total: row.get(2)?,
                            gpu: row.get(3)?,
                            storage: row.get(4)?,
                            traffic: row.get(5)?,
                            serving: row.get(6)?,
                            idle: row.get(7)?,
                            cold_start: row.get(8)?,
                            corrections: row.get(9)?,
                        })
                    },
                )?
                .collect()
        })?;
        Ok(if by == SpendBy::Day {
            dated(rows)
        } else {
            rows
        })
    }
}

fn dated(mut rows: Vec<SpendRow>) -> Vec<SpendRow> {
    for row in &mut rows {
        if let Ok(day) = row.key.parse() {
            row.key = Day(day).to_string();
        }
    }
    rows
}

/// Adds to the row of the same day and purpose, so that a rental has few.
pub(super) fn add(tx: &Connection, booking: &Booking, source: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO spend (worker, day, kind, good_for, source, usd) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (worker, day, kind, good_for, source) DO UPDATE SET usd = usd + excluded.usd",
    )?
    .execute(params![
        booking.worker.as_str(),
        booking.day.0,
        booking.kind.as_str(),
        booking.good_for.as_str(),
        source,
        booking.usd.0,
    ])?;
    Ok(())
}

fn observe(tx: &Connection, sighting: &Sighting) -> rusqlite::Result<()> {
    let seen = &sighting.observed;
    let machine = sighting.machine.as_ref();
    let changed = tx
        .prepare_cached(
            "UPDATE rentals SET market = ?2, host = coalesce(?3, host), machine = coalesce(?4, machine),
                    gpu_name = coalesce(?5, gpu_name), observed_at = ?6, observed_state = ?7,
                    observed_usd_per_hour = ?8, observed_storage_usd_per_hour = ?9
             WHERE worker = ?1",
        )?
        .execute(params![
            sighting.worker.as_str(),
            sighting.market.as_str(),
            machine.map(|machine| machine.host.as_str()),
            machine.map(|machine| machine.machine.as_str()),
            sighting.gpu_name,
            millis(seen.at),
            seen.state.map(|state| state.as_str()),
            seen.usd_per_hour.0,
            seen.storage_usd_per_hour.0,
        ])?;
    if changed > 0 && sighting.changed {
        let state = seen.state.map_or("absent", |state| state.as_str());
        let price = format!("{:.4} $/h", seen.rate().0);
        append_event(
            tx,
            &sighting.worker,
            &format!("machine {state}"),
            &price,
            millis(seen.at),
        )?;
    }
    Ok(())
}

/// The last day something accrued for a rental, or the day it was intended.
pub(super) fn last_day(tx: &Connection, worker: &WorkerId, at: Timestamp) -> rusqlite::Result<Day> {
    let day: Option<u32> = tx.query_row(
        "SELECT max(day) FROM spend WHERE worker = ?1 AND source = 'accrued'",
        [worker.as_str()],
        |row| row.get(0),
    )?;
    Ok(day.map_or(Day::of(at), Day))
}
