//! One rented machine's life, which nobody steers but by orders, and its bill.
//!
//! What a rental meets is drawn for the n-th rental of the world and the n-th start of that rental: policies that rent
//! alike have the same luck.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chance::SplitMix;
use super::market::{Failures, Found, MachineKind};
use crate::domain::{InstanceState, Timestamp, WorkerEvent, WorkerPhase};

/// How long a stop and an end take.
const STOP: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(3);

/// Dollars by what they were paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bill {
    /// GPU time in which work was done.
    pub serving: f64,
    /// GPU time of machines that were up and did nothing, drained or were being stopped.
    pub idle: f64,
    /// GPU time of cold starts.
    pub cold: f64,
    /// GPU time of restarts.
    pub restart: f64,
    /// Disks, in every state.
    pub storage: f64,
    /// Downloads of images and models, and answers.
    pub traffic: f64,
}

impl Bill {
    pub fn total(&self) -> f64 {
        self.serving + self.idle + self.cold + self.restart + self.storage + self.traffic
    }

    pub fn add(&mut self, other: &Bill) {
        self.serving += other.serving;
        self.idle += other.idle;
        self.cold += other.cold;
        self.restart += other.restart;
        self.storage += other.storage;
        self.traffic += other.traffic;
    }

    pub fn minus(&self, earlier: &Bill) -> Bill {
        Bill {
            serving: self.serving - earlier.serving,
            idle: self.idle - earlier.idle,
            cold: self.cold - earlier.cold,
            restart: self.restart - earlier.restart,
            storage: self.storage - earlier.storage,
            traffic: self.traffic - earlier.traffic,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MachineState {
    /// Never ready where it is so drawn.
    Loading {
        billed_from: Timestamp,
        ready_at: Option<Timestamp>,
    },
    Restarting {
        ready_at: Timestamp,
    },
    /// Asked to start, and its GPU is somebody else's.
    WithoutGpu,
    Running,
    /// Answers nothing and costs as before.
    Hung,
    /// Ended by itself.
    Exited,
    /// Somebody bid more.
    Outbid,
    Stopping {
        until: Timestamp,
    },
    Stopped {
        since: Timestamp,
    },
    Ending {
        until: Timestamp,
    },
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Hang,
    Exit,
    Slow(f64),
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub found: Found,
    pub state: MachineState,
    pub bill: Bill,
    /// What it can do now, tokens a second.
    pub speed: f64,
    seed: u64,
    rental: u64,
    starts: u64,
    fault: Option<(Timestamp, Fault)>,
    outbid_at: Option<Timestamp>,
}

impl Machine {
    /// A machine just ordered; `rental` counts the rentals of the world, `gb` are downloaded.
    pub fn rent(
        found: Found,
        kind: &MachineKind,
        gb: f64,
        seed: u64,
        rental: u64,
        now: Timestamp,
    ) -> Self {
        let mut chance = SplitMix::about(seed, "cold starts", rental);
        let starts = &kind.starts;
        let never = chance.happens(starts.never_share);
        let took = seconds(chance.log_normal(starts.cold_s, starts.cold_cv));
        let billed = took.mul_f64(starts.billed_share.clamp(0.0, 1.0));
        Self {
            bill: Bill {
                traffic: gb * kind.down_usd_per_gb.0,
                ..Bill::default()
            },
            state: MachineState::Loading {
                billed_from: now + (took - billed),
                ready_at: (!never).then(|| now + took),
            },
            speed: found.speed,
            found,
            seed,
            rental,
            starts: 0,
            fault: None,
            outbid_at: None,
        }
    }

    /// A machine that was there before the world began; its cold start is on the bill.
    pub fn already_there(
        found: Found,
        kind: &MachineKind,
        seed: u64,
        rental: u64,
        now: Timestamp,
    ) -> Self {
        let mut machine = Self::rent(found, kind, 0.0, seed, rental, now);
        machine.bill.cold = kind.cold_usd(0.0);
        machine.run(kind, now);
        machine
    }

    /// Lets time pass up to `now`: what was drawn happens.
    pub fn live_on(&mut self, kind: &MachineKind, now: Timestamp) {
        match self.state {
            MachineState::Loading {
                ready_at: Some(at), ..
            }
            | MachineState::Restarting { ready_at: at }
                if at <= now =>
            {
                self.run(kind, now);
            }
            MachineState::Stopping { until } if until <= now => {
                self.state = MachineState::Stopped { since: now };
            }
            MachineState::Ending { until } if until <= now => self.state = MachineState::Gone,
            MachineState::Running => self.meet_faults(now),
            _ => {}
        }
    }

    fn run(&mut self, kind: &MachineKind, now: Timestamp) {
        self.state = MachineState::Running;
        self.starts += 1;
        let thing = self.rental << 16 | self.starts;
        self.fault = fault(&kind.failures, self.seed, thing, now);
        self.outbid_at = kind
            .spot
            .as_ref()
            .filter(|_| self.found.interruptible)
            .map(|spot| {
                let mut chance = SplitMix::about(self.seed, "bids", thing);
                now + seconds(3_600.0 * chance.weibull(spot.run_shape, spot.run_scale_h))
            });
    }

    fn meet_faults(&mut self, now: Timestamp) {
        if self.outbid_at.is_some_and(|at| at <= now) {
            self.state = MachineState::Outbid;
            return;
        }
        if let Some((_, fault)) = self.fault.take_if(|(at, _)| *at <= now) {
            match fault {
                Fault::Hang => self.state = MachineState::Hung,
                Fault::Exit => self.state = MachineState::Exited,
                Fault::Slow(factor) => self.speed *= factor,
            }
        }
    }

    /// Ordered to start again.
    pub fn restart(&mut self, kind: &MachineKind, now: Timestamp) {
        let thing = self.rental << 16 | self.starts;
        let mut chance = SplitMix::about(self.seed, "restarts", thing);
        let starts = &kind.starts;
        let hours = match self.state {
            MachineState::Stopped { since } => now.seconds_since(since) / 3_600.0,
            _ => 0.0,
        };
        let most = starts.restart_fails_most.max(starts.restart_fails);
        let fails = (starts.restart_fails + hours * starts.restart_fails_per_hour).min(most);
        let failed = chance.happens(fails);
        let took = chance.log_normal(starts.restart_s, starts.restart_cv);
        self.starts += 1;
        self.state = if failed {
            MachineState::WithoutGpu
        } else {
            MachineState::Restarting {
                ready_at: now + seconds(took),
            }
        };
    }

    pub fn stop(&mut self, now: Timestamp) {
        self.state = match self.state {
            MachineState::WithoutGpu | MachineState::Stopped { .. } => {
                MachineState::Stopped { since: now }
            }
            _ => MachineState::Stopping { until: now + STOP },
        };
    }

    pub fn destroy(&mut self, now: Timestamp) {
        if !matches!(self.state, MachineState::Ending { .. } | MachineState::Gone) {
            self.state = MachineState::Ending { until: now + END };
        }
    }

    /// Whether nothing is to be told of it: it does what its worker is believed to do.
    pub fn is_as_believed(&self, phase: WorkerPhase) -> bool {
        matches!(
            (self.state, phase),
            (MachineState::Running, WorkerPhase::Ready)
                | (MachineState::Stopped { .. }, WorkerPhase::Stopped)
        )
    }

    /// What a listing and a probe tell of it now.
    pub fn tells(&self) -> [WorkerEvent; 2] {
        use WorkerEvent::{InstanceMissing, InstanceSeen, ProbeFailed, ProbeSucceeded, Tick};
        match self.state {
            MachineState::Loading { .. } | MachineState::Restarting { .. } => {
                [InstanceSeen(InstanceState::Loading), Tick]
            }
            MachineState::Running => [ProbeSucceeded, Tick],
            MachineState::Hung => [ProbeFailed, Tick],
            MachineState::Exited => [ProbeFailed, InstanceSeen(InstanceState::Exited)],
            MachineState::Outbid => [ProbeFailed, InstanceSeen(InstanceState::Scheduling)],
            MachineState::WithoutGpu | MachineState::Stopped { .. } => {
                [InstanceSeen(InstanceState::Stopped), Tick]
            }
            MachineState::Stopping { .. } | MachineState::Ending { .. } => [Tick, Tick],
            MachineState::Gone => [InstanceMissing, Tick],
        }
    }

    /// Whether it does work that is sent to it.
    pub fn works(&self) -> bool {
        self.state == MachineState::Running
    }

    /// Adds `hours` of the state it is in; `busy` is the share of a serving machine's time in which it works.
    pub fn pay(&mut self, phase: WorkerPhase, busy: f64, now: Timestamp, hours: f64) {
        if matches!(self.state, MachineState::Gone) {
            return;
        }
        self.bill.storage += self.found.storage_usd_per_hour * hours;
        let usd = self.found.gpu_usd_per_hour * hours;
        let serves = matches!(phase, WorkerPhase::Ready | WorkerPhase::Draining { .. });
        match self.state {
            MachineState::Loading { billed_from, .. } if now < billed_from => {}
            MachineState::Loading { .. } => self.bill.cold += usd,
            MachineState::Restarting { .. } => self.bill.restart += usd,
            MachineState::Running if serves => {
                self.bill.serving += usd * busy;
                self.bill.idle += usd * (1.0 - busy);
            }
            MachineState::Running
            | MachineState::Hung
            | MachineState::Exited
            | MachineState::Stopping { .. } => self.bill.idle += usd,
            MachineState::WithoutGpu
            | MachineState::Outbid
            | MachineState::Stopped { .. }
            | MachineState::Ending { .. }
            | MachineState::Gone => {}
        }
    }
}

fn fault(failures: &Failures, seed: u64, thing: u64, now: Timestamp) -> Option<(Timestamp, Fault)> {
    if failures.mtbf_h <= 0.0 {
        return None;
    }
    let mut chance = SplitMix::about(seed, "faults", thing);
    let at = now + seconds(3_600.0 * chance.exponential(failures.mtbf_h));
    let (least, most) = failures.slow_to;
    let which = chance.unit();
    let slow = least + (most - least) * chance.unit();
    let fault = if which < failures.hang_share {
        Fault::Hang
    } else if which < failures.hang_share + failures.break_share {
        Fault::Exit
    } else {
        Fault::Slow(slow.clamp(0.01, 1.0))
    };
    Some((at, fault))
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(0);

    fn after(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn rented(kind: &MachineKind, rental: u64) -> Machine {
        let found = Found {
            kind: 0,
            machine: None,
            interruptible: kind.spot.is_some(),
            speed: kind.speed.0,
            gpu_usd_per_hour: kind.gpu_usd_per_hour(),
            storage_usd_per_hour: kind.storage_usd_per_hour.0,
        };
        Machine::rent(found, kind, 0.0, 1, rental, START)
    }

    /// Lives on second by second until `wanted`, paying; the second it was reached.
    fn until(
        machine: &mut Machine,
        kind: &MachineKind,
        from_s: u64,
        wanted: impl Fn(MachineState) -> bool,
    ) -> u64 {
        let phase = match machine.state {
            MachineState::Running => WorkerPhase::Ready,
            _ => WorkerPhase::Starting,
        };
        for second in from_s..from_s + 10_000_000 {
            machine.live_on(kind, after(second));
            if wanted(machine.state) {
                return second;
            }
            machine.pay(phase, 0.5, after(second), 1.0 / 3_600.0);
        }
        panic!("never");
    }

    #[test]
    fn the_last_part_of_a_cold_start_is_paid_and_the_disk_always() {
        let kind = MachineKind::plain("g", 100.0, 1.0);
        let (mut took, mut bill) = (0, Bill::default());
        for rental in 0..400 {
            let mut machine = rented(&kind, rental);
            took += until(&mut machine, &kind, 0, |s| s == MachineState::Running);
            bill.add(&machine.bill);
        }
        let mean = took as f64 / 400.0;
        assert!((mean - 300.0).abs() < 15.0, "{mean}");
        let hours = took as f64 / 3_600.0;
        assert!((bill.cold / (0.94 * 0.6 * hours) - 1.0).abs() < 0.02);
        assert!((bill.storage / (0.06 * hours) - 1.0).abs() < 0.01);
        assert_eq!((bill.serving, bill.idle), (0.0, 0.0));
    }

    #[test]
    fn some_restarts_find_no_gpu_and_cost_a_disk_only() {
        let kind = MachineKind::plain("g", 100.0, 1.0);
        let failed = (0..2_000).filter(|&rental| {
            let mut machine = rented(&kind, rental);
            machine.stop(START);
            machine.live_on(&kind, after(5));
            machine.restart(&kind, after(10));
            machine.state == MachineState::WithoutGpu
        });
        let share = failed.count() as f64 / 2_000.0;
        assert!((share - 0.15).abs() < 0.03, "{share}");
    }

    #[test]
    fn a_machine_that_may_be_bid_away_is_after_three_hours_on_average() {
        let mut kind = MachineKind::plain("g", 100.0, 1.0);
        kind.spot = Some(Default::default());
        let lives = (0..300).map(|rental| {
            let mut machine = rented(&kind, rental);
            let up = until(&mut machine, &kind, 0, |s| s == MachineState::Running);
            until(&mut machine, &kind, up, |s| s == MachineState::Outbid) - up
        });
        let mean = lives.sum::<u64>() as f64 / 300.0 / 3_600.0;
        assert!((2.2..4.0).contains(&mean), "{mean} h");
    }
}
