//! What rentals cost, as the ledger keeps it.

use tempfile::TempDir;

use super::*;
use crate::domain::{
    Charge, Day, EndpointName, GroupName, HostId, InstanceState, MachineId, MachineKey, MarketKind,
    RentalState, SpendKind, SpendUse, Usd,
};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

struct Fixture {
    _dir: TempDir,
    ledger: Ledger,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("directory");
    let ledger = Ledger::open(dir.path(), at(1)).expect("open");
    Fixture { _dir: dir, ledger }
}

impl Fixture {
    fn rented(&self, worker: &str, endpoint: &str, host: &str) {
        let rental = Rental {
            worker: WorkerId::new(worker),
            endpoint: EndpointName::new(endpoint),
            group: GroupName::new("g"),
            state: RentalState::Intended,
            instance: None,
            usd_per_hour: UsdPerHour(1.0),
            intended_at: at(5),
            ended_at: None,
            reason: String::new(),
        };
        self.ledger.intend(&rental).expect("intend");
        self.ledger
            .rented(
                &rental.worker,
                &InstanceId::new(format!("i-{worker}")),
                UsdPerHour(1.0),
                at(6),
            )
            .expect("rented");
        let sighting = Sighting {
            worker: rental.worker,
            market: MarketKind::Vast,
            machine: Some(MachineKey {
                host: HostId::new(host),
                machine: MachineId::new("1"),
            }),
            gpu_name: None,
            observed: seen(InstanceState::Running),
            changed: true,
        };
        self.ledger.book(&[], &[sighting]).expect("booked");
    }

    fn cost(&self, worker: &str, day: u32, kind: SpendKind, good_for: SpendUse, usd: f64) {
        let booking = Booking {
            worker: WorkerId::new(worker),
            day: Day(day),
            kind,
            good_for,
            usd: Usd(usd),
        };
        self.ledger.book(&[booking], &[]).expect("booked");
    }

    fn end(&self, worker: &str, ms: u64) {
        self.ledger
            .ended(&WorkerId::new(worker), "idle", at(ms))
            .expect("ended");
    }

    fn bill(&self, worker: &str, gpu: f64, storage: f64, traffic: f64) -> f64 {
        let charge = Charge {
            instance: InstanceId::new(format!("i-{worker}")),
            gpu: Usd(gpu),
            storage: Usd(storage),
            traffic: Usd(traffic),
        };
        let corrections = self
            .ledger
            .correct(MarketKind::Vast, &[charge], at(100), at(60), at(0))
            .expect("corrected");
        corrections.iter().map(|one| one.usd.0).sum()
    }

    fn rows(&self, by: SpendBy) -> Vec<(String, f64)> {
        let rows = self.ledger.spend_by(by, None, None).expect("rows");
        let rounded = |usd: f64| (usd * 1e6).round() / 1e6;
        rows.into_iter()
            .map(|row| (row.key, rounded(row.total)))
            .collect()
    }

    fn row(&self) -> SpendRow {
        let mut rows = self
            .ledger
            .spend_by(SpendBy::Endpoint, None, None)
            .expect("rows");
        rows.remove(0)
    }
}

fn seen(state: InstanceState) -> Observation {
    Observation {
        at: at(7),
        state: Some(state),
        usd_per_hour: UsdPerHour(1.0),
        storage_usd_per_hour: UsdPerHour(0.1),
    }
}

fn pairs(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
    let owned = expected.iter().map(|(key, usd)| ((*key).to_owned(), *usd));
    owned.collect()
}

#[test]
fn spending_adds_up_by_day_endpoint_host_and_worker() {
    let f = fixture();
    f.rented("w1", "chat", "h7");
    f.rented("w2", "chat", "h7");
    f.rented("w3", "code", "h9");
    f.cost("w1", 9, SpendKind::Gpu, SpendUse::Serving, 1.0);
    f.cost("w1", 10, SpendKind::Gpu, SpendUse::Serving, 0.5);
    f.cost("w1", 10, SpendKind::Gpu, SpendUse::Serving, 0.5);
    f.cost("w2", 10, SpendKind::Storage, SpendUse::Storage, 0.25);
    f.cost("w3", 10, SpendKind::Gpu, SpendUse::Idle, 2.0);
    assert_eq!(
        f.rows(SpendBy::Day),
        pairs(&[("1970-01-10", 1.0), ("1970-01-11", 3.25)])
    );
    assert_eq!(
        f.rows(SpendBy::Endpoint),
        pairs(&[("chat", 2.25), ("code", 2.0)])
    );
    assert_eq!(
        f.rows(SpendBy::Host),
        pairs(&[("h7/1", 2.25), ("h9/1", 2.0)])
    );
    assert_eq!(f.rows(SpendBy::Worker).len(), 3);
    let row = f.row();
    assert_eq!((row.rentals, row.serving, row.storage), (2, 2.0, 0.25));
    let since = f.ledger.spent_since(Day(10)).expect("sums");
    assert_eq!(
        since,
        [
            (EndpointName::new("chat"), Day(10), Usd(1.25)),
            (EndpointName::new("code"), Day(10), Usd(2.0))
        ]
    );
    let one_day = f
        .ledger
        .spend_by(SpendBy::Endpoint, Some(Day(9)), Some(Day(9)))
        .expect("rows");
    assert_eq!(one_day.len(), 1);
}

#[test]
fn an_ended_rental_comes_to_what_was_billed() {
    let f = fixture();
    f.rented("w1", "chat", "h7");
    f.cost("w1", 0, SpendKind::Gpu, SpendUse::Serving, 3.0);
    f.cost("w1", 0, SpendKind::Gpu, SpendUse::ColdStart, 1.0);
    f.cost("w1", 0, SpendKind::Storage, SpendUse::Storage, 0.5);
    f.end("w1", 50);
    // Dearer in storage and traffic: at once. Cheaper in GPUs: once a second bill says the same.
    let first = f.bill("w1", 3.6, 0.6, 0.2);
    assert!((first - 0.3).abs() < 1e-9, "{first}");
    let second = f.bill("w1", 3.6, 0.6, 0.2);
    assert!((second + 0.4).abs() < 1e-9, "{second}");
    assert_eq!(f.bill("w1", 3.6, 0.6, 0.2), 0.0);
    let row = f.row();
    assert!((row.total - 4.4).abs() < 1e-9, "{row:?}");
    assert!((row.corrections + 0.1).abs() < 1e-9, "{row:?}");
    assert!((row.traffic - 0.2).abs() < 1e-9, "{row:?}");
    // Three quarters of the GPU's money served, and so of what came back.
    assert!((row.serving - (3.0 - 0.3)).abs() < 1e-9, "{row:?}");
    assert!((row.cold_start - (1.0 - 0.1 + 0.2)).abs() < 1e-9, "{row:?}");
}

#[test]
fn a_bill_that_lags_behind_takes_nothing_from_a_running_machine() {
    let f = fixture();
    f.rented("w1", "chat", "h7");
    f.cost("w1", 0, SpendKind::Gpu, SpendUse::Serving, 3.0);
    assert_eq!(f.bill("w1", 1.0, 0.0, 0.0), 0.0);
    assert_eq!(f.bill("w1", 1.0, 0.0, 0.0), 0.0);
    assert_eq!(f.rows(SpendBy::Worker), pairs(&[("w1", 3.0)]));
}

#[test]
fn bills_are_asked_for_until_they_agree_or_are_too_old() {
    let f = fixture();
    let unsettled = || {
        f.ledger
            .unsettled_since(MarketKind::Vast)
            .expect("read")
            .is_some()
    };
    assert!(!unsettled());
    f.rented("w1", "chat", "h7");
    assert!(unsettled());
    let awaited = |since| f.ledger.awaits_last_bill(MarketKind::Vast, at(since));
    assert!(!awaited(0).expect("read"));
    f.end("w1", 50);
    assert!(awaited(50).expect("read"));
    assert!(!awaited(51).expect("read"));
    for _ in 0..4 {
        assert!(unsettled());
        f.bill("w1", 1.0, 0.0, 0.0);
    }
    assert!(!unsettled());
    f.rented("w2", "chat", "h7");
    f.end("w2", 50);
    assert!(unsettled());
    f.ledger
        .correct(MarketKind::Vast, &[], at(100), at(0), at(51))
        .expect("corrected");
    assert!(!unsettled());
}

#[test]
fn what_accrued_and_up_to_when_survive_together() {
    let f = fixture();
    f.rented("w1", "chat", "h7");
    let seen = f.ledger.observations().expect("read");
    assert_eq!(
        seen,
        [(WorkerId::new("w1"), self::seen(InstanceState::Running))]
    );
    let history = f.ledger.events_of(&WorkerId::new("w1")).expect("read");
    assert_eq!(history[2].state, "machine running");
    f.end("w1", 60);
    assert!(f.ledger.observations().expect("read").is_empty());
}
