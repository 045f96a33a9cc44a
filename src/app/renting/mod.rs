//! The scaler, the ledger and a market that misbehaves: what is rented, found again, and never twice.

mod accounts;
mod bids;
mod chaos;
mod lives;
mod market;
mod prices;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::config::{self, SourceFile};
use crate::domain::{RentalState, WorkerEvent, WorkerPhase};
use crate::fleet::{EndpointFleet, Fleet, Worker};
use crate::ledger::Ledger;
use crate::market::{FixedMarket, Market};
use crate::scaler::{Markets, Scaler};
use crate::telemetry::{DecisionLog, Metrics, now};
use market::{INTERVAL, PRICE, Scripted, Show};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A gateway's control path over a scripted market; workers that run are taken for healthy, and those that are no more
/// for silent.
struct Gateway {
    fleet: Arc<Fleet>,
    ledger: Arc<Ledger>,
    tasks: Vec<JoinHandle<()>>,
}

/// `workers`: how many the endpoint wants.
fn endpoint(name: &str, workers: u32) -> String {
    format!(
        "endpoint_name: {name}\nmin_load: {}\ntarget_util: 1\ntimeouts: {{drain: 0.2, drain_limit: 1}}\nworker_groups:\n  - {{name: g, engine: fake, command: 'w {{port}}', tokens_per_second: 100, usd_per_hour: {PRICE}}}\n",
        workers * 100
    )
}

/// The same where machines are told apart and have prices of their own; `more` is further settings.
fn rented_endpoint(workers: u32, more: &str) -> String {
    format!(
        "endpoint_name: chat\nmarket: vast\nmin_load: {}\ntarget_util: 1\nbenchmark: off\noffers: {{race: 0}}\ntimeouts: {{drain: 0.2, drain_limit: 1, scheduling: 1, unresponsive: 0.5}}\n{more}\nworker_groups:\n  - {{name: g, engine: tgi, search_params: num_gpus=1, launch_args: \"--image i --disk 10 --ssh --env '-p 80:80' --onstart-cmd serve\", tokens_per_second: 100, image_gb: 0, model_gb: 0}}\n",
        workers * 100
    )
}

impl Gateway {
    fn start(dir: &Path, market: &Arc<Scripted>, server: &str, endpoints: &[String]) -> Self {
        let source = |name: String, text: &str| SourceFile {
            name,
            text: text.to_owned(),
        };
        let files: Vec<SourceFile> = endpoints
            .iter()
            .enumerate()
            .map(|(n, text)| source(format!("e{n}.yaml"), text))
            .collect();
        let server = source("tidegate.yaml".to_owned(), server);
        let key = |name: &str| (name == "VAST_API_KEY").then(|| "k".to_owned());
        let config = config::parse(&server, &files, &key).expect("configuration");
        let is_vast = endpoints.iter().any(|text| text.contains("market: vast"));
        let fleet = Fleet::new(&config.endpoints);
        let ledger = Arc::new(Ledger::open(dir, now()).expect("ledger"));
        let decisions = DecisionLog::open(&dir.join("decisions.jsonl")).expect("log");
        let none = || Arc::new(FixedMarket::new(ledger.installation(), Vec::new()));
        let scaler = Scaler::new(
            Arc::clone(&fleet),
            Markets {
                local: if is_vast { none() } else { market.clone() },
                fixed: none(),
                vast: is_vast.then(|| market.clone() as Arc<dyn Market>),
            },
            Arc::clone(&ledger),
            Arc::new(Metrics::new().expect("metrics")),
            Arc::new(decisions),
            Arc::new(ArcSwap::from_pointee(config.server.spending.clone())),
            LOOK_EVERY,
        );
        let (probed, really) = (Arc::clone(&fleet), Arc::clone(market));
        Self {
            fleet,
            ledger,
            tasks: vec![
                tokio::spawn(async move { scaler.run().await }),
                tokio::spawn(async move {
                    loop {
                        speak_for(&probed, &really);
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                }),
            ],
        }
    }

    fn endpoint(&self) -> Arc<EndpointFleet> {
        self.fleet.endpoint("chat").expect("endpoint")
    }

    /// The only worker that is ready, or the first.
    fn worker(&self) -> Arc<Worker> {
        let workers = self.endpoint().workers();
        let mut ready = workers.iter().filter(|worker| worker.phase().0.is_ready());
        ready.next().expect("a ready worker").clone()
    }

    /// States and reasons in the ledger of every rental so far, the oldest first.
    fn history(&self) -> Vec<String> {
        let mut rentals = self.ledger.recent(99).expect("read");
        rentals.reverse();
        let events = rentals
            .iter()
            .flat_map(|one| self.ledger.events_of(&one.worker).expect("read"));
        events
            .map(|event| format!("{}: {}", event.state, event.reason))
            .collect()
    }

    async fn has_history(&self, what: &str) {
        let begun = Instant::now();
        while !self.history().iter().any(|line| line.contains(what)) {
            let history = self.history();
            assert!(begun.elapsed() < DEADLINE, "never: {what} in {history:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn ready(&self) -> usize {
        let workers = self.endpoint().workers();
        let ready = workers.iter().filter(|worker| worker.phase().0.is_ready());
        ready.count()
    }

    fn paused(&self) -> Vec<String> {
        let money = self.fleet.money();
        let markets = money.markets.iter();
        markets
            .flat_map(|market| market.renting_paused.clone())
            .collect()
    }

    /// What limits that are reached say of what is wanted.
    fn denials(&self) -> Vec<String> {
        let money = self.fleet.money();
        let limits = money.limits.iter().filter(|limit| limit.reached);
        limits.filter_map(|limit| limit.because.clone()).collect()
    }

    async fn denies_for_a_while(&self) {
        let end = Instant::now() + INTERVAL * 20;
        while Instant::now() < end {
            assert!(!self.denials().is_empty(), "it was taken back");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Every machine but one is gone again, and that one serves.
    async fn has_replaced(&self, market: &Scripted) {
        wait_until("it is replaced", || {
            market.creates() >= 2 && market.count() == 1
        })
        .await;
        self.has_ready(1).await;
    }

    async fn has_ready(&self, workers: usize) {
        let begun = Instant::now();
        while self.ready() != workers {
            let history = self.history();
            assert!(
                begun.elapsed() < DEADLINE,
                "not {workers} ready: {history:#?}"
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// As after SIGKILL: nothing is finished, nothing more is written.
    fn kill(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        self.ledger.release();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}

fn speak_for(fleet: &Fleet, market: &Scripted) {
    for endpoint in fleet.endpoints().values() {
        for worker in endpoint.workers().iter() {
            let answers = worker.instance().is_some_and(|id| market.runs(&id));
            let phase = worker.phase().0;
            if phase == WorkerPhase::Starting && worker.contact().is_some() && answers {
                endpoint.report(worker.id(), WorkerEvent::ProbeSucceeded);
            }
            if phase.is_ready() && !answers {
                endpoint.report(worker.id(), WorkerEvent::ProbeFailed);
            }
        }
    }
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn stage(seed: u64) -> (TempDir, Arc<Scripted>) {
    let dir = tempfile::tempdir().expect("directory");
    (dir, Arc::new(Scripted::new(seed)))
}

/// As many listings as make a doubt begin, and too few to settle it.
async fn a_while() {
    tokio::time::sleep(INTERVAL * 12).await;
}

#[tokio::test]
async fn a_lost_answer_that_took_effect_is_found_and_not_rented_again() {
    let (dir, market) = stage(1);
    market.with(|world| world.faults.lost_answers = 1);
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 1)]);
    gateway.has_ready(1).await;
    assert_eq!((market.creates(), market.count()), (1, 1));
    let rentals = gateway.ledger.open_rentals().expect("read");
    assert_eq!(rentals.len(), 1);
    assert_eq!(rentals[0].state, RentalState::Rented);
    assert!(rentals[0].instance.is_some());
}

#[tokio::test]
async fn a_lost_answer_holds_further_rentals_until_listings_tell() {
    let (dir, market) = stage(2);
    market.with(|world| world.faults.lost_calls = 1);
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 1)]);
    wait_until("it is asked", || market.creates() == 1).await;
    wait_until("it says why it waits", || {
        let paused = gateway.paused();
        paused.iter().any(|why| why.contains("took effect"))
    })
    .await;
    gateway.has_ready(1).await;
    let asked = market.with(|world| world.creates.clone());
    assert_eq!(asked.len(), 2);
    assert!(asked[1].1 - asked[0].1 >= INTERVAL * 15, "{asked:?}");
    assert_ne!(asked[0].0.worker, asked[1].0.worker);
    assert_eq!(market.count(), 1);
}

#[tokio::test]
async fn a_buyer_who_was_told_yes_and_got_nothing_is_noticed_and_replaced() {
    let (dir, market) = stage(3);
    market.with(|world| world.faults.silent_deaths = 1);
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 1)]);
    gateway.has_ready(1).await;
    assert_eq!((market.creates(), market.count()), (2, 1));
}

#[tokio::test]
async fn a_listing_that_shows_nothing_or_half_rents_nothing_and_ends_nothing() {
    for show in [Show::Nothing, Show::Half] {
        let (dir, market) = stage(4);
        let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 4)]);
        gateway.has_ready(4).await;
        market.with(|world| world.faults.show = show);
        wait_until("it is doubted", || !gateway.paused().is_empty()).await;
        if show == Show::Nothing {
            a_while().await;
        }
        assert_eq!((gateway.ready(), market.creates()), (4, 4), "{show:?}");
        market.with(|world| world.faults.show = Show::Everything);
        wait_until("both agree", || gateway.paused().is_empty()).await;
        assert_eq!((gateway.ready(), market.creates()), (4, 4), "{show:?}");
        assert!(market.with(|world| world.destroyed.is_empty()), "{show:?}");
    }
}

#[tokio::test]
async fn an_outage_changes_nothing_and_heals_by_itself() {
    let (dir, market) = stage(5);
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 3)]);
    gateway.has_ready(3).await;
    market.with(|world| world.faults.down = true);
    wait_until("it is noticed", || !gateway.paused().is_empty()).await;
    // Far longer than any listing's doubt would last.
    tokio::time::sleep(INTERVAL * 60).await;
    assert_eq!((gateway.ready(), market.creates()), (3, 3));
    // What dies meanwhile is replaced once the market is back.
    market.with(|world| {
        world.machines.pop_first();
        world.faults.down = false;
    });
    wait_until("it is replaced", || market.creates() == 4).await;
    gateway.has_ready(3).await;
}

#[tokio::test]
async fn what_is_ours_and_unknown_goes_and_what_is_not_ours_stays() {
    let (dir, market) = stage(6);
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 1)]);
    gateway.has_ready(1).await;
    let foreign = market.put("somebody", "theirs");
    let stray = market.put(gateway.ledger.installation().as_str(), "nobody");
    wait_until("it is gone", || !market.has(&stray)).await;
    a_while().await;
    assert!(market.has(&foreign));
    assert_eq!((gateway.ready(), market.count()), (1, 2));
    let found = gateway.ledger.recent(9).expect("read");
    let line = found.iter().find(|one| one.worker.as_str() == "nobody");
    assert!(line.is_some_and(|line| line.state == RentalState::Ended));
}

#[tokio::test]
async fn a_restart_adopts_what_is_wanted_and_ends_what_is_not() {
    let (dir, market) = stage(7);
    let both = [endpoint("chat", 2), endpoint("code", 1)];
    let mut first = Gateway::start(dir.path(), &market, "", &both);
    wait_until("all are there", || market.count() == 3).await;
    first.has_ready(2).await;
    first.kill();
    let next = Gateway::start(dir.path(), &market, "", &both[..1]);
    next.has_ready(2).await;
    wait_until("the other is gone", || market.count() == 2).await;
    assert_eq!(market.creates(), 3);
    wait_until("its line is closed", || {
        next.ledger.open_rentals().expect("read").len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_gateway_killed_while_it_rents_finds_its_machine() {
    let (dir, market) = stage(8);
    let one = [endpoint("chat", 1)];
    let mut first = Gateway::start(dir.path(), &market, "", &one);
    wait_until("it is asked", || market.creates() == 1).await;
    first.kill();
    let next = Gateway::start(dir.path(), &market, "", &one);
    next.has_ready(1).await;
    assert_eq!((market.creates(), market.count()), (1, 1));
}

#[tokio::test]
async fn a_limit_an_hour_holds_whatever_is_wanted() {
    let (dir, market) = stage(9);
    let server = "spending: {max_usd_per_hour: 2.5}\n";
    let gateway = Gateway::start(dir.path(), &market, server, &[endpoint("chat", 5)]);
    gateway.has_ready(2).await;
    wait_until("it says so", || {
        let money = gateway.fleet.money();
        money.limits.iter().any(|limit| limit.reached)
    })
    .await;
    a_while().await;
    assert_eq!((market.creates(), market.count()), (2, 2));
}

#[tokio::test]
async fn a_limit_that_the_next_machine_would_pass_is_said_for_as_long_as_one_is_wanted() {
    let (dir, market) = stage(13);
    let server = "spending: {max_usd_per_hour: 0.5}\n";
    let gateway = Gateway::start(dir.path(), &market, server, &[endpoint("chat", 1)]);
    let words = "the cheapest fitting offer, $1.00/h, does not fit: limit of the hour for (all): $0.00 + $1.00 of $0.50";
    wait_until("it says so", || gateway.denials() == [words]).await;
    gateway.denies_for_a_while().await;
    assert_eq!(market.creates(), 0);
}

#[tokio::test]
async fn a_limit_that_a_restart_would_pass_is_said_for_as_long_as_it_is_wanted() {
    let (dir, market) = stage(14);
    let kept = endpoint("chat", 0).replace(
        "target_util",
        "cold_workers: 1\ninactivity_timeout: 0.05\nscale_down_delay: 0.05\ntarget_util",
    );
    let mut first = Gateway::start(dir.path(), &market, "", &[kept]);
    wait_until("one lies stopped", || {
        let workers = first.endpoint().workers();
        workers
            .iter()
            .any(|worker| worker.phase().0 == WorkerPhase::Stopped)
    })
    .await;
    first.kill();
    let server = "spending: {max_usd_per_hour: 0.5}\n";
    let next = Gateway::start(dir.path(), &market, server, &[endpoint("chat", 1)]);
    wait_until("it says so", || !next.denials().is_empty()).await;
    next.denies_for_a_while().await;
    assert_eq!(market.with(|world| world.starts), 0);
}

#[tokio::test]
async fn an_enforced_limit_lets_machines_go_and_rents_no_others() {
    let (dir, market) = stage(10);
    let free = [endpoint("chat", 3)];
    let mut first = Gateway::start(dir.path(), &market, "", &free);
    first.has_ready(3).await;
    first.kill();
    let server = "spending: {max_usd_per_hour: 1.5, enforce: hard}\n";
    let next = Gateway::start(dir.path(), &market, server, &free);
    wait_until("two are gone", || market.count() == 1).await;
    next.has_ready(1).await;
    a_while().await;
    assert_eq!((market.creates(), market.count()), (3, 1));
}

#[tokio::test]
async fn the_mark_ends_everything_and_its_removal_begins_again() {
    let (dir, market) = stage(11);
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 2)]);
    gateway.has_ready(2).await;
    std::fs::write(gateway.ledger.stop_mark(), "").expect("mark");
    wait_until("nothing is left", || market.count() == 0).await;
    wait_until("the ledger knows", || {
        gateway.ledger.open_rentals().expect("read").is_empty()
    })
    .await;
    a_while().await;
    assert_eq!((market.creates(), market.count()), (2, 0));
    assert!(gateway.fleet.money().stopped);
    std::fs::remove_file(gateway.ledger.stop_mark()).expect("mark");
    gateway.has_ready(2).await;
}

#[tokio::test]
async fn what_was_spent_is_in_the_ledger() {
    let (dir, market) = stage(12);
    let gateway = Gateway::start(dir.path(), &market, "", &[endpoint("chat", 1)]);
    gateway.has_ready(1).await;
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::write(gateway.ledger.stop_mark(), "").expect("mark");
    wait_until("nothing is left", || market.count() == 0).await;
    let most = begun.elapsed().as_secs_f64() + 0.5;
    wait_until("the ledger knows", || {
        gateway.ledger.open_rentals().expect("read").is_empty()
    })
    .await;
    let rows = gateway
        .ledger
        .spend_by(crate::ledger::SpendBy::Endpoint, None, None)
        .expect("rows");
    let seconds = rows[0].total * 3_600.0 / PRICE;
    assert!((0.5..most).contains(&seconds), "{seconds} of {most}");
}
