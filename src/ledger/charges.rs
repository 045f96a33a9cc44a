//! The market's bill against what accrued here: the difference is booked as rows of its own, so that the ledger's
//! total is the bill's.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{StoredTime, millis};
use super::spend::{Booking, add, last_day};
use super::{Ledger, LedgerError, append_event};
use crate::domain::{
    Charge, Day, EndpointName, InstanceId, MarketKind, SpendKind, SpendUse, Timestamp, Usd,
    WorkerId,
};

/// Below this a difference is rounding.
const CENT_FRACTION: f64 = 1e-7;

/// A bill that says the same so often after a rental's end is its last.
const AGREEING_BILLS: u32 = 3;

/// What a bill changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    pub endpoint: EndpointName,
    pub day: Day,
    pub good_for: SpendUse,
    pub usd: Usd,
}

struct Billed {
    worker: WorkerId,
    endpoint: EndpointName,
    ended: bool,
    /// Gpu, storage and traffic of the last bill, and how many in a row said so.
    before: [Option<f64>; 3],
    agreeing: u32,
}

impl Ledger {
    /// Since when bills are of interest: the oldest rental of a market whose last bill may be to come.
    pub fn unsettled_since(&self, market: MarketKind) -> Result<Option<Timestamp>, LedgerError> {
        self.read(|connection| {
            connection.query_row(
                "SELECT min(intended_at) FROM rentals
                 WHERE market = ?1 AND instance IS NOT NULL AND settled = 0",
                [market.as_str()],
                |row| Ok(row.get::<_, Option<StoredTime>>(0)?.map(|time| time.0)),
            )
        })
    }

    /// Whether a rental of this market has ended since `ended_after` whose last bill may be to come.
    pub fn awaits_last_bill(
        &self,
        market: MarketKind,
        ended_after: Timestamp,
    ) -> Result<bool, LedgerError> {
        self.read(|connection| {
            connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM rentals WHERE market = ?1 AND instance IS NOT NULL
                                AND settled = 0 AND ended_at >= ?2)",
                params![market.as_str(), millis(ended_after)],
                |row| row.get(0),
            )
        })
    }

    /// Takes a bill for true. A running machine's bill may lag behind, so only more than accrued counts for it; an
    /// ended one's counts downwards once two bills say the same. Once several do, a rental that ended before `settle`
    /// is asked for no more, and one that ended before `give_up` in any case.
    pub fn correct(
        &self,
        market: MarketKind,
        bill: &[Charge],
        now: Timestamp,
        settle: Timestamp,
        give_up: Timestamp,
    ) -> Result<Vec<Correction>, LedgerError> {
        self.write(|tx| {
            let mut corrections = Vec::new();
            for charge in bill {
                if let Some(billed) = billed(tx, market, &charge.instance)? {
                    corrections.extend(correct_one(tx, &billed, charge, now)?);
                }
            }
            tx.execute(
                "UPDATE rentals SET settled = 1 WHERE market = ?1 AND settled = 0 AND ended_at < ?2",
                params![market.as_str(), millis(give_up)],
            )?;
            tx.execute(
                "UPDATE rentals SET settled = 1
                 WHERE market = ?1 AND settled = 0 AND ended_at < ?2 AND agreeing_bills >= ?3",
                params![market.as_str(), millis(settle), AGREEING_BILLS],
            )?;
            Ok(corrections)
        })
    }
}

fn billed(
    tx: &Connection,
    market: MarketKind,
    instance: &InstanceId,
) -> rusqlite::Result<Option<Billed>> {
    tx.query_row(
        "SELECT worker, endpoint, state, billed_gpu, billed_storage, billed_traffic, agreeing_bills
         FROM rentals WHERE market = ?1 AND instance = ?2 AND settled = 0
         ORDER BY intended_at DESC LIMIT 1",
        params![market.as_str(), instance.as_str()],
        |row| {
            Ok(Billed {
                worker: WorkerId::from(row.get::<_, String>(0)?),
                endpoint: EndpointName::from(row.get::<_, String>(1)?),
                ended: row.get::<_, String>(2)? == "ended",
                before: [row.get(3)?, row.get(4)?, row.get(5)?],
                agreeing: row.get(6)?,
            })
        },
    )
    .optional()
}

fn correct_one(
    tx: &Connection,
    billed: &Billed,
    charge: &Charge,
    now: Timestamp,
) -> rusqlite::Result<Vec<Correction>> {
    let now_billed = [charge.gpu, charge.storage, charge.traffic];
    let same =
        |one: Option<f64>, other: Usd| one.is_some_and(|one| (one - other.0).abs() < CENT_FRACTION);
    let agrees = (0..3).all(|n| same(billed.before[n], now_billed[n]));
    let mut corrections = Vec::new();
    for (kind, usd) in SpendKind::ALL.into_iter().zip(now_billed) {
        if !usd.0.is_finite() {
            continue;
        }
        let difference = usd.0 - booked(tx, &billed.worker, kind)?;
        let counts = difference > 0.0 || (billed.ended && agrees);
        if counts && difference.abs() > CENT_FRACTION {
            corrections.extend(spread(tx, billed, kind, difference, now)?);
        }
    }
    let agreeing = if agrees && billed.ended {
        billed.agreeing + 1
    } else {
        0
    };
    tx.execute(
        "UPDATE rentals SET billed_gpu = ?2, billed_storage = ?3, billed_traffic = ?4, agreeing_bills = ?5
         WHERE worker = ?1",
        params![
            billed.worker.as_str(),
            charge.gpu.0,
            charge.storage.0,
            charge.traffic.0,
            agreeing,
        ],
    )?;
    if !corrections.is_empty() {
        let sum: f64 = corrections.iter().map(|one| one.usd.0).sum();
        append_event(
            tx,
            &billed.worker,
            "billed",
            &format!("corrected by {sum:+.6} $"),
            millis(now),
        )?;
    }
    Ok(corrections)
}

fn booked(tx: &Connection, worker: &WorkerId, kind: SpendKind) -> rusqlite::Result<f64> {
    tx.query_row(
        "SELECT total(usd) FROM spend WHERE worker = ?1 AND kind = ?2",
        params![worker.as_str(), kind.as_str()],
        |row| row.get(0),
    )
}

/// A difference belongs to what the same kind of money was good for, in the same shares. Traffic does not accrue: nearly all
/// of it is images and models that are pulled.
fn spread(
    tx: &Connection,
    billed: &Billed,
    kind: SpendKind,
    usd: f64,
    now: Timestamp,
) -> rusqlite::Result<Vec<Correction>> {
    let mut shares: Vec<(SpendUse, f64)> = Vec::new();
    for good_for in SpendUse::ALL {
        let share: f64 = tx.query_row(
            "SELECT total(usd) FROM spend
             WHERE worker = ?1 AND kind = ?2 AND good_for = ?3 AND source = 'accrued'",
            params![billed.worker.as_str(), kind.as_str(), good_for.as_str()],
            |row| row.get(0),
        )?;
        if share > 0.0 {
            shares.push((good_for, share));
        }
    }
    if shares.is_empty() {
        let good_for = match kind {
            SpendKind::Storage => SpendUse::Storage,
            SpendKind::Gpu | SpendKind::Traffic => SpendUse::ColdStart,
        };
        shares.push((good_for, 1.0));
    }
    let whole: f64 = shares.iter().map(|(_, share)| share).sum();
    let day = last_day(tx, &billed.worker, now)?;
    let mut out = Vec::with_capacity(shares.len());
    for (good_for, share) in shares {
        let booking = Booking {
            worker: billed.worker.clone(),
            day,
            kind,
            good_for,
            usd: Usd(usd * share / whole),
        };
        add(tx, &booking, "correction")?;
        out.push(Correction {
            endpoint: billed.endpoint.clone(),
            day,
            good_for,
            usd: booking.usd,
        });
    }
    Ok(out)
}
