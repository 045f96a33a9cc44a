//! Markets of several kinds of machines, with failures and bids, and one in which some hosts are slower than they say.

use tidegate::domain::{GroupName, Interruptible, TokensPerSecond, UsdPerHour};
use tidegate::simulate::market::{Failures, MachineKind, SlowHosts, Spot};
use tidegate::simulate::world::{Chooser, Scenario, group_of};

use super::loads::{NamedLoad, WORKERS};
use super::planners::{Kind, Planned, ours, settings, vast_like};
use super::play::Task;

/// Name, speed and price for a machine of the first kind, hosts.
const KINDS: [(&str, f64, f64, u32); 3] = [
    ("RTX 4090", 1.0, 1.0, 120),
    ("A100 SXM4", 2.5, 2.9, 60),
    ("H100 SXM", 5.5, 6.6, 30),
];
const USD_PER_HOUR: f64 = 0.40;

pub fn tasks(load: &NamedLoad, seed: u64) -> Vec<Task> {
    let ours_here = || ours("ours", Kind::Ours, settings(load));
    let mut tasks: Vec<Task> = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
        .into_iter()
        .map(vast_like)
        .map(|planned| several(load, planned, seed, Chooser::CheapestByHour, false))
        .collect();
    tasks.push(several(load, ours_here(), seed, Chooser::Learned, true));
    let mut on_demand = ours_here();
    on_demand.name = "ours, on demand only".to_owned();
    on_demand.kind = Kind::Ablation;
    tasks.push(several(load, on_demand, seed, Chooser::Learned, false));
    let choosers = [
        ("ours, learned choice", Kind::Ours, Chooser::Learned),
        ("ours, knows every machine", Kind::Oracle, Chooser::Knowing),
        (
            "ours, cheapest by the hour",
            Kind::Ablation,
            Chooser::CheapestByHour,
        ),
    ];
    for (name, kind, chooser) in choosers {
        let planned = ours(name, kind, settings(load));
        tasks.push(slow_hosts(load, planned, seed, chooser));
    }
    tasks
}

fn several(load: &NamedLoad, planned: Planned, seed: u64, chooser: Chooser, bids: bool) -> Task {
    let of = load.clone();
    let scenario = move || {
        let mut scenario = base(&of, seed, |kind| {
            kind.failures = Failures::usual();
            kind.starts.never_share = 0.08;
            kind.spot = Some(Spot::default());
        });
        scenario.chooser = chooser;
        if bids {
            scenario.offers.interruptible = Interruptible::Burst;
        }
        scenario
    };
    Task {
        world: "several kinds, failures and bids".to_owned(),
        load: load.clone(),
        planned,
        seed,
        scenario: Box::new(scenario),
    }
}

fn slow_hosts(load: &NamedLoad, planned: Planned, seed: u64, chooser: Chooser) -> Task {
    let of = load.clone();
    let scenario = move || {
        let mut scenario = base(&of, seed, |kind| {
            kind.slow = Some(SlowHosts {
                every: 5,
                factor: 0.6,
            });
        });
        scenario.chooser = chooser;
        scenario
    };
    Task {
        world: "every fifth host 40% slower".to_owned(),
        load: load.clone(),
        planned,
        seed,
        scenario: Box::new(scenario),
    }
}

/// Machines of several kinds in one group, as one search finds them.
fn base(load: &NamedLoad, seed: u64, change: impl Fn(&mut MachineKind)) -> Scenario {
    let mut scenario = Scenario::of_aims(load.of(seed), WORKERS, seed);
    let speed = scenario.kinds[0].speed.0;
    scenario = scenario.counting_from(load.count_from);
    scenario.scaling.slo.late_share = load.late_share;
    scenario.kinds = KINDS
        .iter()
        .map(|&(name, factor, price, hosts)| {
            let usd = USD_PER_HOUR * price;
            let mut kind = MachineKind::plain("all", factor * speed, usd);
            kind.group = GroupName::new("all");
            kind.gpu_name = name.to_owned();
            kind.hosts = hosts;
            change(&mut kind);
            kind
        })
        .collect();
    let mut group = group_of(&scenario.kinds[0]);
    group.speed_prior.tokens_per_second = TokensPerSecond(speed);
    group.usd_per_hour = UsdPerHour(USD_PER_HOUR);
    scenario.groups = vec![group];
    scenario
}
