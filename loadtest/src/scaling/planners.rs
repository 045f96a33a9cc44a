//! Who plans: the production policy, the same with a part of it off, and yardsticks.

use std::sync::Arc;
use std::time::Duration;

use tidegate::domain::ScalingSettings;
use tidegate::simulate::load::Load;
use tidegate::simulate::planner::{Planner, Production};
use tidegate::simulate::world::{Scenario, usual_scaling};

use super::loads::NamedLoad;
use crate::yardsticks::scaling::{Fixed, Hpa, Knative, Oracle, Reactive, SkyServe};

type Make = dyn Fn(&Scenario) -> Box<dyn Planner> + Send + Sync;

#[derive(Clone)]
pub struct Planned {
    pub name: String,
    pub kind: Kind,
    make: Arc<Make>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    /// Ours with something else set.
    Ablation,
    Yardstick,
    /// Knows what nobody can.
    Oracle,
}

impl Planned {
    pub fn new(
        name: impl Into<String>,
        kind: Kind,
        make: impl Fn(&Scenario) -> Box<dyn Planner> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            kind,
            make: Arc::new(make),
        }
    }

    pub fn planner(&self, scenario: &Scenario) -> Box<dyn Planner> {
        (self.make)(scenario)
    }
}

pub fn ours(name: &str, kind: Kind, settings: ScalingSettings) -> Planned {
    Planned::new(name, kind, move |_| Box::new(Production::new(&settings)))
}

/// The production settings that keep the load's promise.
pub fn settings(load: &NamedLoad) -> ScalingSettings {
    let mut settings = usual_scaling();
    settings.slo.late_share = load.late_share;
    settings
}

pub fn vast_like(util: f64) -> Planned {
    Planned::new(format!("Vast-like, u {util}"), Kind::Yardstick, move |s| {
        let most = s.scaling.max_workers as usize;
        Box::new(Reactive::vast_like(util, 1.0, most))
    })
}

pub fn all(load: &NamedLoad) -> Vec<Planned> {
    let yardstick = |name: &str, make: fn(&Scenario) -> Box<dyn Planner>| {
        Planned::new(name, Kind::Yardstick, make)
    };
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let usual = settings(load);
    let with = |change: fn(&mut ScalingSettings)| {
        let mut settings = usual.clone();
        change(&mut settings);
        settings
    };
    let mut all = vec![
        ours("ours", Kind::Ours, usual.clone()),
        ours(
            "ours, no learned headroom (target_util 0.9)",
            Kind::Ablation,
            with(|settings| settings.target_util = Some(0.9)),
        ),
        ours(
            "ours, no pool (cold_mult 1)",
            Kind::Ablation,
            with(|settings| settings.cold_mult = Some(1.0)),
        ),
        ours(
            "ours, no waiting allowed (slo.wait 1 s)",
            Kind::Ablation,
            with(|settings| settings.slo.wait = Duration::from_secs(1)),
        ),
        ours(
            "ours, promise of 0.1%",
            Kind::Ablation,
            with(|settings| settings.slo.late_share = 0.001),
        ),
        ours(
            "ours, promise of 2%",
            Kind::Ablation,
            with(|settings| settings.slo.late_share = 0.02),
        ),
        vast_like(0.9),
        vast_like(0.7),
        vast_like(0.5),
        yardstick("Vast-like, u 0.9, cold_mult 3", |s| {
            Box::new(Reactive::vast_like(
                0.9,
                3.0,
                s.scaling.max_workers as usize,
            ))
        }),
        yardstick("Knative, 70%, no delay", |s| {
            let most = s.scaling.max_workers as usize;
            Box::new(Knative::new(0.7, Duration::ZERO, most))
        }),
        yardstick("Knative, 70%, delay 900 s", |s| {
            let most = s.scaling.max_workers as usize;
            Box::new(Knative::new(0.7, Duration::from_secs(900), most))
        }),
        yardstick("HPA, 70%", |s| {
            Box::new(Hpa::new(0.7, s.scaling.max_workers as usize))
        }),
        yardstick("SkyServe-like, 70%, 1 spare", |s| {
            Box::new(SkyServe::new(0.7, 1, s.scaling.max_workers as usize))
        }),
        yardstick("static peak (p99.5 of a minute)", |s| {
            let from = s.count_from.as_secs() as usize;
            Box::new(Fixed::peak(&s.load.work[from..], 0.995))
        }),
        Planned::new("oracle, one cold start ahead", Kind::Oracle, |s| {
            Box::new(oracle(&s.load))
        }),
    ];
    for util in [0.9, 0.8, 0.7, 0.6] {
        all.push(Planned::new(
            format!("reactive, u {util}"),
            Kind::Yardstick,
            move |s| {
                Box::new(Reactive::new(
                    util,
                    minutes(5),
                    s.scaling.max_workers as usize,
                ))
            },
        ));
    }
    all
}

/// Those that are played request by request too.
pub fn by_requests(load: &NamedLoad) -> Vec<Planned> {
    let names = [
        "ours",
        "Vast-like, u 0.9",
        "Vast-like, u 0.7",
        "reactive, u 0.7",
    ];
    let mut all = all(load);
    all.retain(|planned| names.contains(&planned.name.as_str()));
    all
}

fn oracle(load: &Load) -> Oracle {
    Oracle::new(&load.work, 8, 150, 480)
}
