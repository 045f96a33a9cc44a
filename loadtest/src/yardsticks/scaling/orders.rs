//! From what is wanted to orders.

use tidegate::domain::{
    GroupName, PlannedAction, Reason, Release, ScalingAction, ScalingPlan, TokensPerSecond,
    WorkerPhase, WorkerView,
};
use tidegate::policy::scaling::{GroupSupply, ScalingInputs};

/// In tokens a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wanted {
    pub running: f64,
    /// Stopped workers included; what is less than `running` means `running`.
    pub prepared: f64,
    /// Ready capacity is released only down to here.
    pub hold: f64,
    /// Stopped workers are kept down to here.
    pub hold_prepared: f64,
    /// Most workers in any state.
    pub workers_max: usize,
}

impl Wanted {
    /// No reserve: what is not needed is destroyed.
    pub(super) fn without_reserve(running: f64, hold: f64, workers_max: usize) -> Self {
        Self {
            running,
            prepared: 0.0,
            hold,
            hold_prepared: 0.0,
            workers_max,
        }
    }
}

/// Takes back drains, starts what is stopped, rents what is cheapest a token; releases the dearest a token.
pub(super) fn towards(wanted: &Wanted, inputs: &ScalingInputs) -> ScalingPlan {
    let mut hand = Hand::new(inputs, wanted.workers_max);
    while hand.sum(is_running) < wanted.running - 1e-6 {
        let done = hand.take_back() || hand.restart() || hand.rent();
        if !done {
            break;
        }
    }
    while hand.sum(exists) < wanted.prepared.max(wanted.running) - 1e-6 && hand.rent() {}
    hand.release(wanted);
    ScalingPlan {
        actions: hand.actions,
        predicted_load: TokensPerSecond(wanted.running),
        wanted: TokensPerSecond(wanted.running),
        prepared_wanted: TokensPerSecond(wanted.prepared.max(wanted.running)),
        forecast: None,
    }
}

struct Hand<'a> {
    workers: Vec<(&'a WorkerView, WorkerPhase)>,
    rented: Vec<f64>,
    groups: Vec<&'a GroupSupply>,
    actions: Vec<PlannedAction>,
    workers_max: usize,
}

impl<'a> Hand<'a> {
    fn new(inputs: &'a ScalingInputs, workers_max: usize) -> Self {
        let workers = inputs.snapshot.workers.iter();
        let rentable = inputs.groups.iter().filter(|group| group.rentable);
        let mut groups: Vec<_> = rentable.collect();
        let per_token = |group: &GroupSupply| group.usd_per_hour.0 / group.speed.0.max(1e-9);
        groups.sort_by(|a, b| per_token(a).total_cmp(&per_token(b)));
        Self {
            workers: workers.map(|worker| (worker, worker.phase)).collect(),
            rented: Vec::new(),
            groups,
            actions: Vec::new(),
            workers_max,
        }
    }

    fn sum(&self, counts: fn(WorkerPhase) -> bool) -> f64 {
        let workers = self.workers.iter().filter(|(_, phase)| counts(*phase));
        let there: f64 = workers.map(|(view, _)| capacity(view)).sum();
        there + self.rented.iter().sum::<f64>()
    }

    fn order(&mut self, index: usize, phase: WorkerPhase, action: ScalingAction) {
        self.workers[index].1 = phase;
        self.note(action);
    }

    fn note(&mut self, action: ScalingAction) {
        let have = TokensPerSecond(self.sum(is_running));
        let reason = Reason::CapacityBelowWanted { have, wanted: have };
        self.actions.push(PlannedAction { action, reason });
    }

    fn take_back(&mut self) -> bool {
        let draining = |phase| matches!(phase, WorkerPhase::Draining { .. });
        let found = self
            .workers
            .iter()
            .position(|&(view, phase)| draining(phase) && capacity(view) > 0.0);
        if let Some(index) = found {
            let worker = self.workers[index].0.id.clone();
            let action = ScalingAction::CancelDrain { worker };
            self.order(index, WorkerPhase::Ready, action);
        }
        found.is_some()
    }

    fn restart(&mut self) -> bool {
        let stopped = self.workers.iter().enumerate();
        let stopped =
            stopped.filter(|(_, (view, phase))| is_stopped(*phase) && capacity(view) > 0.0);
        let best = stopped.min_by(|(_, (a, _)), (_, (b, _))| dearness(a).total_cmp(&dearness(b)));
        let best = best.map(|(index, _)| index);
        if let Some(index) = best {
            let worker = self.workers[index].0.id.clone();
            let action = ScalingAction::Restart { worker };
            self.order(index, WorkerPhase::Starting, action);
        }
        best.is_some()
    }

    fn rent(&mut self) -> bool {
        let live = self
            .workers
            .iter()
            .filter(|(_, phase)| !phase.is_ending())
            .count();
        if live + self.rented.len() >= self.workers_max {
            return false;
        }
        let Some(group) = self.groups.first() else {
            return false;
        };
        let (name, speed): (GroupName, f64) = (group.group.clone(), group.speed.0);
        if speed <= 0.0 {
            return false;
        }
        self.note(ScalingAction::Rent { group: name });
        self.rented.push(speed);
        true
    }

    fn release(&mut self, wanted: &Wanted) {
        for index in self.dearest(WorkerPhase::is_ready) {
            let speed = capacity(self.workers[index].0);
            let ready = self.sum_there(WorkerPhase::is_ready);
            if ready - speed < wanted.hold.max(wanted.running) - 1e-6 {
                continue;
            }
            let there = self.sum_there(exists);
            let kept = there - speed < wanted.hold_prepared.max(wanted.prepared) - 1e-6;
            let then = if kept {
                Release::Stop
            } else {
                Release::Destroy
            };
            let since = self.workers[index].0.phase_since;
            let worker = self.workers[index].0.id.clone();
            let action = ScalingAction::Drain { worker, then };
            self.order(index, WorkerPhase::Draining { then, since }, action);
        }
        for index in self.dearest(is_stopped) {
            let speed = capacity(self.workers[index].0);
            if self.sum_there(exists) - speed >= wanted.hold_prepared.max(wanted.prepared) - 1e-6 {
                let worker = self.workers[index].0.id.clone();
                let action = ScalingAction::Destroy { worker };
                self.order(index, WorkerPhase::Destroying, action);
            }
        }
    }

    fn sum_there(&self, counts: fn(WorkerPhase) -> bool) -> f64 {
        let workers = self.workers.iter().filter(|(_, phase)| counts(*phase));
        workers.map(|(view, _)| capacity(view)).sum()
    }

    fn dearest(&self, counts: fn(WorkerPhase) -> bool) -> Vec<usize> {
        let workers = self.workers.iter().enumerate();
        let mut found: Vec<_> = workers.filter(|(_, (_, phase))| counts(*phase)).collect();
        found.sort_by(|(_, (a, _)), (_, (b, _))| {
            let by_price = dearness(b).total_cmp(&dearness(a));
            by_price.then_with(|| a.id.cmp(&b.id))
        });
        found.into_iter().map(|(index, _)| index).collect()
    }
}

fn capacity(view: &WorkerView) -> f64 {
    if view.spare || view.ends_soon {
        0.0
    } else {
        view.speed.0.max(0.0)
    }
}

fn dearness(view: &WorkerView) -> f64 {
    view.usd_per_hour.0 / view.speed.0.max(1e-9)
}

fn is_running(phase: WorkerPhase) -> bool {
    phase.is_ready() || phase.is_starting()
}

fn is_stopped(phase: WorkerPhase) -> bool {
    phase == WorkerPhase::Stopped
}

/// Is there or comes, and stays as far as is known.
fn exists(phase: WorkerPhase) -> bool {
    let leaves = matches!(
        phase,
        WorkerPhase::Draining {
            then: Release::Destroy,
            ..
        }
    );
    !leaves && !phase.is_ending()
}
