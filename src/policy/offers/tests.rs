//! Which offer is taken, and what is said of the others.

use std::time::Duration;

use super::*;
use crate::domain::{
    EngineKind, GroupName, HostId, LaunchOptions, MachineId, OfferSearch, Source, SpeedPrior, Usd,
    VastLaunch,
};
use crate::policy::reputation::HostEvent;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

struct Market {
    group: WorkerGroup,
    settings: OfferSettings,
    offers: Vec<Offer>,
    holdings: Vec<Holding>,
    floor: f64,
    tried: Vec<OfferId>,
    room: f64,
    price_margin: f64,
    boot: Duration,
    speeds: SpeedBeliefs,
    hosts: BTreeMap<MachineKey, Reputation>,
}

fn market(offers: Vec<Offer>) -> Market {
    Market {
        group: WorkerGroup {
            name: GroupName::new("g"),
            engine: EngineKind::Vllm,
            source: Source::Fixed {
                workers: Vec::new(),
            },
            speed_prior: SpeedPrior {
                tokens_per_second: TokensPerSecond(1_000.0),
                concurrency: 16,
            },
            max_concurrency: None,
            kv_tokens: None,
            image_gb: 10.0,
            model_gb: 15.0,
            usd_per_hour: UsdPerHour::ZERO,
            interruptible: true,
            api_key: None,
        },
        settings: OfferSettings {
            interruptible: Interruptible::Burst,
            race: 0,
            race_below: 0.85,
            horizon: Duration::from_secs(7_200),
        },
        offers,
        holdings: Vec::new(),
        floor: 0.0,
        tried: Vec::new(),
        room: f64::INFINITY,
        price_margin: 0.0,
        boot: Duration::from_secs(2_400),
        speeds: SpeedBeliefs::default(),
        hosts: BTreeMap::new(),
    }
}

impl Market {
    fn choose(&self, draw: Option<u64>) -> OfferChoice {
        let situation = Situation {
            group: &self.group,
            settings: &self.settings,
            offers: &self.offers,
            holdings: &self.holdings,
            floor: TokensPerSecond(self.floor),
            tried: &self.tried,
            usd_per_hour_max: UsdPerHour(self.room),
            price_margin: self.price_margin,
            boot: self.boot,
            least_life: 2 * self.boot,
        };
        let beliefs = Beliefs {
            speeds: &self.speeds,
            hosts: &self.hosts,
        };
        choose(&situation, beliefs, draw, NOW)
    }

    #[track_caller]
    fn takes(&self, id: &str) -> OfferChoice {
        let choice = self.choose(None);
        let chosen = choice.chosen.as_ref().map(OfferId::as_str);
        assert_eq!(chosen, Some(id), "{choice:#?}");
        choice
    }

    fn learn(&mut self, id: &str, event: HostEvent) {
        let key = machine(id);
        self.hosts.entry(key).or_default().observe(event, NOW);
    }
}

fn machine(id: &str) -> MachineKey {
    MachineKey {
        host: HostId::new(format!("host-{id}")),
        machine: MachineId::new(format!("machine-{id}")),
    }
}

fn offer(id: &str, gpu: &str, usd_per_hour: f64) -> Offer {
    Offer {
        id: OfferId::new(id),
        usd_per_hour: UsdPerHour(usd_per_hour),
        interruptible: false,
        hardware: Some(Hardware {
            machine: machine(id),
            gpu_name: gpu.into(),
            gpu_count: 1,
            gpu_ram_mb_each: 24_000.0,
            dlperf: 0.0,
            reliability: 0.98,
            location: format!("Place {id}"),
            verified: true,
            down_mbit_per_s: 2_000.0,
            down_usd_per_gb: Usd::ZERO,
            up_usd_per_gb: Usd::ZERO,
            storage_usd_per_hour: UsdPerHour(0.02),
            available_for: 30 * DAY,
        }),
    }
}

fn with(mut offer: Offer, change: impl FnOnce(&mut Hardware)) -> Offer {
    if let Some(hardware) = &mut offer.hardware {
        change(hardware);
    }
    offer
}

/// The same machine, for whoever bids most.
fn bid_offer(of: &Offer, id: &str, usd_per_hour: f64) -> Offer {
    Offer {
        id: OfferId::new(id),
        usd_per_hour: UsdPerHour(usd_per_hour),
        interruptible: true,
        ..of.clone()
    }
}

fn bidding(usd_per_hour: f64) -> LaunchOptions {
    LaunchOptions {
        image: None,
        env: BTreeMap::new(),
        bid_price: Some(usd_per_hour),
        disk_gb: 20.0,
        extra: None,
        onstart: None,
        image_login: None,
        python_utf8: false,
        lang_utf8: false,
        jupyter_lab: false,
        jupyter_dir: None,
        force: false,
        cancel_unavail: false,
        template_hash: None,
        user: None,
        run_type: None,
        args: None,
        volume: None,
    }
}

fn holding(id: &str, speed: f64) -> Holding {
    Holding {
        machine: Some(machine(id)),
        gpu_name: "RTX 4090".into(),
        location: format!("Place {id}"),
        interruptible: false,
        speed,
    }
}

fn why<'a>(choice: &'a OfferChoice, id: &str) -> &'a WhyNot {
    let found = choice
        .alternatives
        .iter()
        .find(|one| one.offer.as_str() == id);
    found
        .and_then(|one| one.why_not.as_ref())
        .expect("a reason")
}

#[test]
fn tokens_decide_and_not_hours() {
    // Three times the bandwidth for twice the price.
    let market = market(vec![
        offer("slow", "RTX 4090", 0.40),
        offer("fast", "H100 SXM", 0.80),
    ]);
    let choice = market.takes("fast");
    assert_eq!(choice.rule, ChoiceRule::CheapestPerToken);
    let best = choice.best().expect("one");
    let per_million = best.usd_per_million_tokens;
    let bare = 0.80 / (best.tokens_per_second.0 * 3_600.0) * 1e6;
    assert!(
        per_million > bare && per_million < 1.4 * bare,
        "{per_million} {bare}"
    );
    let WhyNot::Dearer { times } = why(&choice, "slow") else {
        panic!("{choice:?}");
    };
    assert!(*times > 1.3);
}

#[test]
fn what_was_measured_outweighs_what_the_description_promises() {
    let mut market = market(vec![
        offer("slow", "RTX 4090", 0.40),
        offer("fast", "H100 SXM", 0.80),
    ]);
    let fast = market.takes("fast").best().expect("one").clone();
    let third = TokensPerSecond(fast.stated_tokens_per_second.0 / 3.0);
    market.speeds.reference = gpu::middle_strength(&market.offers);
    let slow = Alternative {
        machine: Some(machine("another")),
        gpu_name: "RTX 4090".into(),
        stated_tokens_per_second: TokensPerSecond(300.0),
        ..fast.clone()
    };
    for _ in 0..3 {
        market.speeds.observe(&fast, third, NOW);
        market.speeds.observe(&slow, TokensPerSecond(300.0), NOW);
    }
    market.takes("slow");
}

#[test]
fn a_slow_line_and_dear_traffic_count() {
    let near = offer("near", "RTX 4090", 0.42);
    let far = with(offer("far", "RTX 4090", 0.40), |hardware| {
        hardware.down_mbit_per_s = 100.0;
    });
    market(vec![far, near.clone()]).takes("near");
    let metered = with(offer("metered", "RTX 4090", 0.40), |hardware| {
        hardware.down_usd_per_gb = Usd(0.05);
    });
    market(vec![metered, near]).takes("near");
}

#[test]
fn a_machine_that_failed_lately_is_avoided_and_one_that_lied_is_banned() {
    let mut market = market(vec![
        offer("a", "RTX 4090", 0.40),
        offer("b", "RTX 4090", 0.60),
    ]);
    market.takes("a");
    market.learn("a", HostEvent::NeverCameUp);
    market.takes("b");
    market.learn("b", HostEvent::Fraud);
    let choice = market.takes("a");
    assert!(matches!(why(&choice, "b"), WhyNot::Banned { .. }));
}

#[test]
fn the_floor_stands_on_demand_and_what_is_above_may_be_bid_for() {
    let steady = offer("steady", "RTX 4090", 0.50);
    let bid = bid_offer(&steady, "bid", 0.22);
    let mut market = market(vec![steady, bid]);
    market.floor = 1_500.0;
    market.holdings = vec![holding("x", 1_000.0)];
    let choice = market.takes("steady");
    assert_eq!(*why(&choice, "bid"), WhyNot::InterruptibleFloor);
    market.holdings.push(holding("y", 1_000.0));
    let best = market.takes("bid").best().expect("one").clone();
    assert!((best.bid.expect("a bid").0 - 1.15 * 0.20).abs() < 1e-9);
    assert!((best.usd_per_hour.0 - (1.15 * 0.20 + 0.02)).abs() < 1e-9);
    market.settings.interruptible = Interruptible::Never;
    assert_eq!(
        *why(&market.takes("steady"), "bid"),
        WhyNot::InterruptibleNever
    );
    market.settings.interruptible = Interruptible::All;
    market.holdings.clear();
    market.takes("bid");
}

#[test]
fn a_bid_is_raised_where_it_lost_and_never_nears_the_price_on_demand() {
    let steady = offer("steady", "RTX 4090", 0.50);
    let bid = bid_offer(&steady, "bid", 0.22);
    let dear = bid_offer(&steady, "dear", 0.47);
    let mut market = market(vec![bid, dear, steady]);
    market.settings.interruptible = Interruptible::All;
    let bid_of = |market: &Market| {
        market
            .takes("bid")
            .best()
            .expect("one")
            .bid
            .expect("a bid")
            .0
    };
    assert_eq!(*why(&market.takes("bid"), "dear"), WhyNot::BidTooHigh);
    let before = bid_of(&market);
    market.learn("steady", HostEvent::Outbid);
    market.learn("steady", HostEvent::Outbid);
    assert!((bid_of(&market) / before - 1.1).abs() < 1e-9);
}

#[test]
fn no_host_holds_more_than_half_while_another_can_be_had() {
    let mut market = market(vec![
        offer("a", "RTX 4090", 0.40),
        offer("b", "RTX 4090", 0.55),
    ]);
    market.holdings = vec![holding("a", 1_000.0)];
    let choice = market.takes("b");
    assert!(matches!(why(&choice, "a"), WhyNot::HostShare { .. }));
    market.offers.pop();
    assert_eq!(market.takes("a").rule, ChoiceRule::LeastObjection);
}

#[test]
fn an_offer_is_tried_once_and_short_ones_are_a_last_resort() {
    let short = with(offer("short", "RTX 4090", 0.10), |hardware| {
        hardware.available_for = Duration::from_secs(7_200);
    });
    let mut market = market(vec![
        short,
        offer("b", "RTX 4090", 0.40),
        offer("c", "RTX 4090", 0.50),
    ]);
    let choice = market.takes("b");
    assert!(matches!(why(&choice, "short"), WhyNot::TooShort { .. }));
    market.tried.push(OfferId::new("b"));
    market.takes("c");
    market.tried.push(OfferId::new("c"));
    market.takes("short");
    market.boot = Duration::from_secs(3_601);
    assert!(matches!(
        why(&market.choose(None), "short"),
        WhyNot::EndsTooSoon { .. }
    ));
    let choice = market.choose(None);
    assert_eq!((choice.rule, choice.chosen), (ChoiceRule::NoneFits, None));
}

#[test]
fn what_the_spending_limits_do_not_leave_room_for_is_not_rented() {
    let mut market = market(vec![
        offer("a", "H100 SXM", 2.0),
        offer("b", "RTX 3090", 0.9),
    ]);
    market.room = 1.0;
    assert_eq!(*why(&market.takes("b"), "a"), WhyNot::AboveLimit);
    market.room = f64::NEG_INFINITY;
    assert_eq!(market.choose(None).rule, ChoiceRule::NoneFits);
}

#[test]
fn what_a_price_may_move_by_has_to_fit_too_and_a_bid_does_not_move() {
    let mut bid = offer("bid", "RTX 3090", 0.9);
    bid.interruptible = true;
    let mut market = market(vec![offer("a", "RTX 3090", 1.0), bid]);
    market.price_margin = 0.05;
    market.settings.interruptible = Interruptible::Never;
    market.room = 1.05;
    market.takes("a");
    market.room = 1.04;
    assert_eq!(market.choose(None).too_dear, Some(UsdPerHour(1.05)));
    market.offers.remove(0);
    market.settings.interruptible = Interruptible::All;
    market.takes("bid");
}

#[test]
fn where_only_money_is_missing_the_least_that_is_missing_is_told() {
    let mut bid = offer("bid", "RTX 3090", 0.1);
    bid.interruptible = true;
    let cheap = offer("a", "RTX 3090", 0.29);
    let mut market = market(vec![bid, offer("b", "H100 SXM", 2.0), cheap]);
    market.settings.interruptible = Interruptible::Never;
    assert_eq!(market.choose(None).too_dear, None);
    market.room = 0.05;
    // The bid is cheaper, and is not wanted whatever there is to spend.
    assert_eq!(market.choose(None).too_dear, Some(UsdPerHour(0.29)));
    market.tried.push(OfferId::new("a"));
    assert_eq!(market.choose(None).too_dear, Some(UsdPerHour(2.0)));
}

#[test]
fn a_market_without_machines_is_taken_by_price_again_and_again() {
    let plain = Offer::plain(OfferId::new("local"), UsdPerHour(0.05));
    let mut market = market(vec![plain]);
    market.tried.push(OfferId::new("local"));
    market.takes("local");
    assert_eq!(market.choose(Some(3)).rule, ChoiceRule::NoDifference);
}

#[test]
fn draws_try_what_is_near_and_not_what_is_far_and_replay() {
    let near = (0..6).map(|n| {
        offer(
            &format!("near-{n}"),
            "RTX 4090",
            0.40 + 0.005 * f64::from(n),
        )
    });
    let far = offer("far", "RTX 4090", 4.0);
    let market = market(near.chain([far]).collect());
    let mut taken = std::collections::BTreeSet::new();
    for draw in 0..200 {
        let choice = market.choose(Some(draw));
        assert_eq!(choice, market.choose(Some(draw)));
        taken.extend(choice.chosen);
    }
    assert!(taken.len() >= 4, "{taken:?}");
    assert!(!taken.contains(&OfferId::new("far")));
}

#[test]
fn an_unseen_class_is_tried_in_one_of_four_starts_at_most() {
    let mut market = market(vec![
        offer("seen", "RTX 4090", 0.40),
        offer("new", "RTX 3090", 0.30),
    ]);
    let seen = market
        .choose(None)
        .alternatives
        .into_iter()
        .find(|one| one.offer.as_str() == "seen");
    let seen = seen.expect("there");
    market
        .speeds
        .observe(&seen, seen.stated_tokens_per_second, NOW);
    let new = |draw: &u64| market.choose(Some(*draw)).chosen == Some(OfferId::new("new"));
    let tried = (0..400).filter(new).count();
    assert!(tried > 0 && tried <= 100, "{tried}");
}

#[test]
fn offers_full_of_nonsense_are_read_as_such() {
    let nan = with(offer("nan", "RTX 4090", f64::NAN), |_| {});
    let odd = with(offer("odd", "", 0.2), |hardware| {
        hardware.dlperf = f64::INFINITY;
        hardware.reliability = f64::NAN;
        hardware.down_mbit_per_s = -5.0;
        hardware.gpu_count = 0;
    });
    let market = market(vec![nan, odd, offer("good", "RTX 4090", 0.4)]);
    let choice = market.choose(Some(1));
    assert_eq!(*why(&choice, "nan"), WhyNot::Unreadable);
    assert!(
        choice
            .alternatives
            .iter()
            .all(|one| one.offer.as_str() == "nan" || one.usd_per_million_tokens.is_finite())
    );
}

#[test]
fn what_cannot_be_there_by_the_boot_deadline_is_not_paid_for() {
    let line = |id: &str, price, mbit| {
        with(offer(id, "RTX 4090", price), |hardware| {
            hardware.down_mbit_per_s = mbit;
        })
    };
    // 25 GB take 1000 s over 200 Mbit/s, and as much again where half of the line is had.
    let mut market = market(vec![
        line("never", 0.01, 50.0),
        line("hardly", 0.10, 200.0),
        line("soon", 0.90, 2_000.0),
    ]);
    market.boot = Duration::from_secs(1_200);
    let choice = market.takes("soon");
    assert!(
        matches!(why(&choice, "never"), WhyNot::StartsTooLate { start_s, surely: true } if *start_s > 4_000.0)
    );
    assert!(matches!(
        why(&choice, "hardly"),
        WhyNot::StartsTooLate { surely: false, .. }
    ));
    market.offers.pop();
    assert_eq!(market.takes("hardly").rule, ChoiceRule::LeastObjection);
    market.offers.pop();
    assert_eq!(market.choose(None).rule, ChoiceRule::NoneFits);
    market.group.image_gb = 0.0;
    market.group.model_gb = 0.0;
    market.boot = Duration::from_secs(8);
    assert_eq!(market.takes("never").rule, ChoiceRule::CheapestPerToken);
}

#[test]
fn nobody_bids_more_than_the_operator_said() {
    let machine = offer("machine", "RTX 4090", 0.50);
    let mut market = market(vec![
        bid_offer(&machine, "cheap", 0.22),
        bid_offer(&machine, "dear", 0.33),
    ]);
    market.settings.interruptible = Interruptible::Never;
    market.floor = 1_000.0;
    market.group.source = Source::Vast(Box::new(VastLaunch {
        search: OfferSearch::default(),
        launch: bidding(0.21),
        port: 80,
        account_key: None,
    }));
    let choice = market.takes("cheap");
    assert_eq!(*why(&choice, "dear"), WhyNot::AboveBidPrice);
    // Less than the usual share above the least bid, and storage is not part of it.
    let best = choice.best().expect("one");
    assert_eq!(best.bid, Some(UsdPerHour(0.21)));
    assert!((best.usd_per_hour.0 - 0.23).abs() < 1e-9);
    market.offers.remove(0);
    assert_eq!(market.choose(None).rule, ChoiceRule::NoneFits);
}
