//! One rented instance: its life, what it owes in each state, and when something happens to it next.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::bill::{Meter, Rates};
use super::clock::At;
use super::faults::Fate;
use super::market::Machine;

/// What a customer asked for: the body of the creation, read.
#[derive(Clone, Debug, Default)]
pub struct Rental {
    pub image: String,
    /// As sent, ports and volumes included.
    pub env: Map<String, Value>,
    /// Dollars an hour bid for it.
    pub price: Option<f64>,
    pub disk_gb: f64,
    pub label: Option<String>,
    pub onstart: Option<String>,
    pub runtype: String,
    pub args: Vec<String>,
    pub cancel_unavail: bool,
}

impl Rental {
    /// Ports inside, with their protocol, of the keys `-p OUTSIDE:INSIDE[/PROTOCOL]`.
    pub fn ports(&self) -> Vec<(u16, &str)> {
        let wanted = self.env.keys().filter_map(|key| key.strip_prefix("-p "));
        wanted
            .filter_map(|ports| {
                let (_, inside) = ports.split_once(':')?;
                let (port, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
                Some((port.trim().parse().ok()?, protocol))
            })
            .collect()
    }

    /// The variables inside.
    pub fn variables(&self) -> impl Iterator<Item = (&str, String)> {
        let plain = self.env.iter().filter(|(key, _)| !key.starts_with('-'));
        plain.map(|(key, value)| match value {
            Value::String(text) => (key.as_str(), text.clone()),
            other => (key.as_str(), other.to_string()),
        })
    }

    /// The container keeps its image's entrypoint, and ends with it.
    pub fn runs_entrypoint(&self) -> bool {
        self.runtype == "args"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No container yet: `actual_status` is null.
    Creating,
    Loading,
    Running,
    /// Its entrypoint has ended.
    Exited,
    Stopped,
    /// Asked to run, without GPUs.
    Scheduling,
    Offline,
    /// Destroyed, or vanished.
    Gone,
}

#[derive(Clone, Debug)]
pub struct Instance {
    pub id: u64,
    /// Which creation made it, counted over the fake's life.
    pub call: u64,
    pub account: usize,
    /// `CONTAINER_API_KEY`: opens this instance only.
    pub key: String,
    pub rental: Rental,
    /// Index into the market's machines.
    pub machine: usize,
    /// The machine as it was when rented.
    pub hardware: Machine,
    pub ask: u64,
    pub gpu_usd_per_hour: f64,
    pub storage_usd_per_hour: f64,
    pub fate: Fate,
    pub phase: Phase,
    pub phase_since: At,
    /// When the present phase ends by itself.
    pub due: Option<At>,
    pub wanted_running: bool,
    pub status_msg: String,
    pub created: At,
    pub ends: At,
    pub ended: Option<(At, String)>,
    /// Its rental has run out: it cannot start again.
    pub expired: bool,
    pub meter: Meter,
    pub bill_scale: f64,
    /// Inside and outside, while a container exists.
    pub ports: BTreeMap<String, u16>,
    /// Containers started so far.
    pub starts: u32,
    pub running_since: Option<At>,
    pub first_running: Option<At>,
}

/// What a new instance is made of.
#[derive(Debug)]
pub struct Deal {
    pub id: u64,
    pub call: u64,
    pub account: usize,
    pub key: String,
    pub rental: Rental,
    pub machine: usize,
    pub hardware: Machine,
    pub fate: Fate,
    pub ends: At,
    /// When it leaves the queue.
    pub due: At,
    pub bill_scale: f64,
}

impl Instance {
    pub fn new(now: At, deal: Deal) -> Self {
        let Deal {
            rental, hardware, ..
        } = deal;
        let mut instance = Self {
            id: deal.id,
            call: deal.call,
            account: deal.account,
            key: deal.key,
            machine: deal.machine,
            ask: hardware.ask,
            gpu_usd_per_hour: rental.price.unwrap_or(hardware.price),
            storage_usd_per_hour: hardware.storage_usd_per_hour(rental.disk_gb),
            rental,
            hardware,
            fate: deal.fate,
            phase: Phase::Creating,
            phase_since: now,
            due: None,
            wanted_running: true,
            status_msg: String::new(),
            created: now,
            ends: deal.ends,
            ended: None,
            expired: false,
            meter: Meter::start(now, Rates::default()),
            bill_scale: deal.bill_scale,
            ports: BTreeMap::new(),
            starts: 0,
            running_since: None,
            first_running: None,
        };
        instance.enter(now, Phase::Creating, Some(deal.due));
        instance
    }

    pub fn is_bid(&self) -> bool {
        self.rental.price.is_some()
    }

    pub fn exists(&self) -> bool {
        self.phase != Phase::Gone
    }

    /// Whether it holds its machine's GPUs.
    pub fn holds_gpus(&self) -> bool {
        matches!(
            self.phase,
            Phase::Creating | Phase::Loading | Phase::Running | Phase::Exited | Phase::Offline
        )
    }

    /// Enters a phase; what it owes changes with it.
    pub fn enter(&mut self, now: At, phase: Phase, due: Option<At>) {
        (self.phase, self.phase_since, self.due) = (phase, now, due);
        self.running_since = (phase == Phase::Running).then_some(now);
        if phase == Phase::Running {
            self.first_running.get_or_insert(now);
        }
        let rates = self.rates();
        self.meter.change(now, rates);
    }

    /// GPU while it runs, storage while it exists and its host is online.
    fn rates(&self) -> Rates {
        let storage = self.storage_usd_per_hour * self.bill_scale;
        match self.phase {
            Phase::Running => Rates {
                gpu: self.gpu_usd_per_hour * self.bill_scale,
                storage,
            },
            Phase::Offline | Phase::Gone => Rates::default(),
            _ => Rates { gpu: 0.0, storage },
        }
    }

    /// Another bid holds from now on.
    pub fn bid(&mut self, now: At, usd_per_hour: f64) {
        self.rental.price = Some(usd_per_hour);
        self.gpu_usd_per_hour = usd_per_hour;
        let rates = self.rates();
        self.meter.change(now, rates);
    }

    pub fn end(&mut self, now: At, how: &str) {
        self.enter(now, Phase::Gone, None);
        self.ended = Some((now, how.to_owned()));
        self.ports.clear();
    }

    /// As Vast says it.
    pub fn actual_status(&self) -> Option<&'static str> {
        match self.phase {
            Phase::Creating => None,
            Phase::Loading => Some("loading"),
            Phase::Running => Some("running"),
            Phase::Exited => Some("exited"),
            Phase::Stopped | Phase::Scheduling => Some("stopped"),
            Phase::Offline => Some("offline"),
            Phase::Gone => Some("destroyed"),
        }
    }

    /// What its claim on the hardware is.
    pub fn cur_state(&self) -> &'static str {
        match self.phase {
            Phase::Stopped | Phase::Scheduling => "stopped",
            Phase::Gone => "unloaded",
            _ => "running",
        }
    }

    pub fn intended_status(&self) -> &'static str {
        if self.wanted_running {
            "running"
        } else {
            "stopped"
        }
    }
}
