//! What machines cost between looks, calls, restarts and bills.

use tempfile::TempDir;

use super::*;
use crate::domain::{GroupName, InstallationId, InstanceId, Rental, RentalLabel, RentalState};
use crate::ledger::{SpendBy, SpendRow};

const HOUR: u64 = 3_600_000;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn chat() -> EndpointName {
    EndpointName::new("chat")
}

fn worker() -> WorkerId {
    WorkerId::new("w1")
}

struct Shop {
    dir: TempDir,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    books: Books,
}

fn shop() -> Shop {
    let dir = tempfile::tempdir().expect("directory");
    let ledger = Arc::new(Ledger::open(dir.path(), at(1)).expect("open"));
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let rental = Rental {
        worker: worker(),
        endpoint: chat(),
        group: GroupName::new("g"),
        state: RentalState::Intended,
        instance: None,
        usd_per_hour: UsdPerHour(1.1),
        intended_at: at(0),
        ended_at: None,
        reason: String::new(),
    };
    ledger.intend(&rental).expect("intend");
    let books = Books::new(Arc::clone(&ledger), Arc::clone(&metrics));
    books.open(&worker(), &chat(), MarketKind::Vast, at(0));
    Shop {
        dir,
        ledger,
        metrics,
        books,
    }
}

fn instance(state: InstanceState) -> Instance {
    let label = RentalLabel {
        installation: InstallationId::new("i"),
        endpoint: chat(),
        worker: worker(),
    };
    let price = UsdPerHour(1.1);
    let mut instance = Instance::plain(InstanceId::new("7"), label, state, None, price);
    instance.storage_usd_per_hour = UsdPerHour(0.1);
    instance
}

impl Shop {
    fn rented(&self, ms: u64) {
        self.books
            .rented(&worker(), UsdPerHour(1.1), UsdPerHour(0.1), at(ms));
    }

    fn seen(&self, state: InstanceState, ms: u64) {
        self.books
            .seen(&worker(), &instance(state), UsdPerHour(1.1), at(ms));
    }

    fn row(&self) -> SpendRow {
        self.books.write_all(at(50 * HOUR));
        let mut rows = self
            .ledger
            .spend_by(SpendBy::Worker, None, None)
            .expect("rows");
        rows.pop().unwrap_or_default()
    }

    #[track_caller]
    fn costs(&self, gpu: f64, storage: f64) {
        let row = self.row();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(
            close(row.gpu, gpu) && close(row.storage, storage),
            "{row:?}"
        );
    }

    fn counted(&self) -> f64 {
        SpendUse::ALL
            .iter()
            .map(|good_for| {
                let labels = ["chat", good_for.as_str()];
                self.metrics.spend_usd.with_label_values(&labels).get()
            })
            .sum()
    }
}

#[test]
fn a_life_costs_its_disk_throughout_and_its_gpu_while_it_runs() {
    let shop = shop();
    shop.rented(HOUR);
    shop.seen(InstanceState::Loading, 2 * HOUR);
    shop.seen(InstanceState::Running, 4 * HOUR);
    shop.seen(InstanceState::Running, 5 * HOUR);
    shop.books
        .turned(&worker(), Some(InstanceState::Stopped), at(6 * HOUR));
    shop.seen(InstanceState::Stopped, 8 * HOUR);
    shop.books.turned(&worker(), None, at(9 * HOUR));
    shop.books.close(&worker(), at(20 * HOUR));
    // Running from midway between 2 and 4 until the stop at 6; the disk from 1 to 9.
    shop.costs(3.0, 0.8);
    assert!((shop.counted() - 3.8).abs() < 1e-9);
}

#[test]
fn a_machine_that_vanished_cost_until_midway_to_the_first_listing_without_it() {
    let shop = shop();
    shop.rented(0);
    shop.seen(InstanceState::Running, 0);
    shop.seen(InstanceState::Running, HOUR);
    shop.books.missed(&worker(), at(3 * HOUR));
    shop.books.missed(&worker(), at(4 * HOUR));
    shop.books.close(&worker(), at(5 * HOUR));
    shop.costs(2.0, 0.2);
}

#[test]
fn a_machine_that_only_one_listing_forgot_cost_all_the_time() {
    let shop = shop();
    shop.seen(InstanceState::Running, 0);
    shop.books.missed(&worker(), at(HOUR));
    shop.seen(InstanceState::Running, 2 * HOUR);
    shop.costs(2.0, 0.2);
}

#[test]
fn a_rental_that_came_to_nothing_costs_nothing() {
    let shop = shop();
    shop.books.close(&worker(), at(HOUR));
    shop.costs(0.0, 0.0);
}

#[test]
fn an_answer_that_was_lost_costs_from_midway_to_the_listing_that_shows_the_machine() {
    let shop = shop();
    shop.seen(InstanceState::Loading, 2 * HOUR);
    shop.seen(InstanceState::Loading, 3 * HOUR);
    shop.costs(0.0, 0.2);
}

#[test]
fn gpu_time_is_shared_out_by_what_it_was_used_for() {
    let shop = shop();
    shop.seen(InstanceState::Running, 0);
    shop.books.sample(&worker(), SpendUse::ColdStart, at(HOUR));
    shop.books
        .sample(&worker(), SpendUse::Serving, at(3 * HOUR));
    shop.books.sample(&worker(), SpendUse::Idle, at(4 * HOUR));
    shop.seen(InstanceState::Running, 4 * HOUR);
    let row = shop.row();
    assert!((row.cold_start - 1.0).abs() < 1e-9, "{row:?}");
    assert!((row.serving - 2.0).abs() < 1e-9, "{row:?}");
    assert!((row.idle - 1.0).abs() < 1e-9, "{row:?}");
}

#[test]
fn what_ran_while_no_gateway_looked_is_counted_by_the_next_one() {
    let shop = shop();
    shop.rented(0);
    shop.seen(InstanceState::Running, 0);
    shop.seen(InstanceState::Running, HOUR);
    shop.books.write_all(at(HOUR));
    // Not written any more: as if it had been killed.
    shop.seen(InstanceState::Running, 2 * HOUR);
    let Shop {
        dir,
        ledger,
        metrics,
        books,
    } = shop;
    drop((books, ledger));
    let ledger = Arc::new(Ledger::open(dir.path(), at(3 * HOUR)).expect("open"));
    let books = Books::new(Arc::clone(&ledger), Arc::clone(&metrics));
    let rental = ledger.open_rentals().expect("read").remove(0);
    let rentals = [(rental, MarketKind::Vast)];
    books.recover(&rentals, at(3 * HOUR)).expect("recovered");
    let next = Shop {
        dir,
        ledger,
        metrics,
        books,
    };
    let spent = next.books.spent(at(4 * HOUR));
    assert!((spent[&chat()].today.0 - 4.4).abs() < 1e-9, "{spent:?}");
    next.seen(InstanceState::Running, 4 * HOUR);
    next.costs(4.0, 0.4);
}

#[test]
fn what_is_spent_today_includes_what_no_listing_has_shown_yet() {
    let shop = shop();
    shop.seen(InstanceState::Running, 20 * HOUR);
    let spent = shop.books.spent(at(26 * HOUR))[&chat()];
    assert!((spent.today.0 - 2.2).abs() < 1e-6, "{spent:?}");
    // Half of the first twenty hours too: between the intention and the listing that showed it.
    assert!((spent.this_month.0 - 6.6 - 11.0).abs() < 1e-6, "{spent:?}");
}

#[test]
fn a_counter_never_falls_and_still_comes_to_the_truth() {
    let shop = shop();
    shop.seen(InstanceState::Running, 0);
    shop.seen(InstanceState::Running, 2 * HOUR);
    let correction = |usd| Correction {
        endpoint: chat(),
        day: Day(0),
        good_for: SpendUse::ColdStart,
        usd: Usd(usd),
    };
    shop.books.corrected(&[correction(-0.5)]);
    assert!((shop.counted() - 2.2).abs() < 1e-9);
    shop.seen(InstanceState::Running, 3 * HOUR);
    assert!((shop.counted() - 2.8).abs() < 1e-9, "{}", shop.counted());
    let spent = shop.books.spent(at(3 * HOUR))[&chat()];
    assert!((spent.today.0 - 2.8).abs() < 1e-9, "{spent:?}");
}
