//! What the ledger tells a person: sums of spending, and the story of one rental.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Ledger, LedgerError, LedgerEvent, SpendBy, SpendRow};
use crate::domain::{Day, Rental, WorkerId};

/// A table of spending with its sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpendReport {
    pub by: SpendBy,
    /// `None`: from the beginning.
    pub since: Option<Day>,
    pub rows: Vec<SpendRow>,
    pub total: SpendRow,
}

/// All that is known of one rental.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RentalStory {
    pub rental: Rental,
    /// Oldest first.
    pub history: Vec<LedgerEvent>,
    pub spent: Option<SpendRow>,
    /// Which offer was taken, with the others and the rule that decided; none where offers do not differ.
    pub choice: Option<Value>,
}

impl Ledger {
    pub fn spend_report(
        &self,
        by: SpendBy,
        since: Option<Day>,
    ) -> Result<SpendReport, LedgerError> {
        let rows = self.spend_by(by, since, None)?;
        // A rental may be in several rows of days and hosts; it is one all the same.
        let rentals = match by {
            SpendBy::Worker => rows.len(),
            _ => self.spend_by(SpendBy::Worker, since, None)?.len(),
        };
        let total = SpendRow {
            key: "total".into(),
            rentals: u32::try_from(rentals).unwrap_or(u32::MAX),
            ..sum(&rows)
        };
        Ok(SpendReport {
            by,
            since,
            rows,
            total,
        })
    }

    /// `None` where nothing was ever rented under this name.
    pub fn story_of(&self, worker: &WorkerId) -> Result<Option<RentalStory>, LedgerError> {
        let Some(rental) = self.rental(worker)? else {
            return Ok(None);
        };
        let spent = self.spend_by(SpendBy::Worker, None, None)?;
        Ok(Some(RentalStory {
            rental,
            history: self.events_of(worker)?,
            spent: spent.into_iter().find(|row| row.key == worker.as_str()),
            choice: self.recall_one("choice", worker.as_str())?,
        }))
    }
}

fn sum(rows: &[SpendRow]) -> SpendRow {
    let of = |read: fn(&SpendRow) -> f64| rows.iter().map(read).sum();
    SpendRow {
        total: of(|row| row.total),
        gpu: of(|row| row.gpu),
        storage: of(|row| row.storage),
        traffic: of(|row| row.traffic),
        serving: of(|row| row.serving),
        idle: of(|row| row.idle),
        cold_start: of(|row| row.cold_start),
        corrections: of(|row| row.corrections),
        ..SpendRow::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{
        EndpointName, GroupName, RentalState, SpendKind, SpendUse, Timestamp, Usd, UsdPerHour,
    };
    use crate::ledger::Booking;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn rent(ledger: &Ledger, worker: &str) {
        let rental = Rental {
            worker: WorkerId::new(worker),
            endpoint: EndpointName::new("chat"),
            group: GroupName::new("small"),
            state: RentalState::Intended,
            instance: None,
            usd_per_hour: UsdPerHour(0.4),
            intended_at: at(5),
            ended_at: None,
            reason: "requests wait".into(),
        };
        ledger.intend(&rental).expect("intend");
    }

    fn book(ledger: &Ledger, worker: &str, day: u32, usd: f64) {
        let booking = Booking {
            worker: WorkerId::new(worker),
            day: Day(day),
            kind: SpendKind::Gpu,
            good_for: SpendUse::Serving,
            usd: Usd(usd),
        };
        ledger.book(&[booking], &[]).expect("book");
    }

    #[test]
    fn a_rental_of_two_days_is_counted_once_in_the_total() {
        let dir = tempfile::tempdir().expect("directory");
        let ledger = Ledger::open(dir.path(), at(1)).expect("open");
        rent(&ledger, "w1");
        rent(&ledger, "w2");
        book(&ledger, "w1", 10, 0.5);
        book(&ledger, "w1", 11, 0.25);
        book(&ledger, "w2", 11, 1.0);
        let report = ledger.spend_report(SpendBy::Day, None).expect("report");
        let days: Vec<_> = report.rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(days, ["1970-01-11", "1970-01-12"]);
        assert_eq!((report.total.rentals, report.total.total), (2, 1.75));
        let later = ledger.spend_report(SpendBy::Endpoint, Some(Day(11)));
        assert_eq!(later.expect("report").total.total, 1.25);
    }

    #[test]
    fn a_story_has_the_rental_its_history_its_money_and_the_choice_that_led_to_it() {
        let dir = tempfile::tempdir().expect("directory");
        let ledger = Ledger::open(dir.path(), at(1)).expect("open");
        rent(&ledger, "w1");
        book(&ledger, "w1", 10, 0.5);
        let choice = json!({"rule": "cheapest_per_token"});
        ledger
            .remember("choice", "w1", &choice, at(6))
            .expect("kept");
        let story = ledger.story_of(&WorkerId::new("w1")).expect("read");
        let story = story.expect("a story");
        assert_eq!(story.history[0].state, "intended");
        assert_eq!(story.spent.map(|row| row.total), Some(0.5));
        assert_eq!(story.choice, Some(choice));
        assert_eq!(
            ledger.story_of(&WorkerId::new("nobody")).expect("read"),
            None
        );
    }
}
