//! The fleet as it will be once the actions chosen so far are carried out: what counts as capacity, and what there
//! is room for.

use std::time::Duration;

use crate::domain::{
    GroupName, PlannedAction, Reason, Release, ScalingAction, Timestamp, TokensPerSecond,
    WorkerPhase, WorkerView,
};

use super::restarts::RESTART_PAUSE;
use super::{ScalingInputs, ScalingMemory, StartOutlook};

/// A start that is overdue is expected to take this share of the time it already took.
const OVERDUE: f64 = 0.25;
/// A stopped worker that did not come up when asked is not asked again for so long, if anything else can help, and is no
/// reserve meanwhile.
const RESTART_DOUBTED_FOR: Duration = Duration::from_secs(600);

/// A share below this is rounding, not a shortage.
const ROUNDING: f64 = 1e-6;

/// A worker that exists (`view`) or is about to be rented.
pub(super) struct Slot<'a> {
    pub view: Option<&'a WorkerView>,
    pub group: &'a GroupName,
    pub speed: f64,
    pub usd_per_speed: f64,
    pub phase: WorkerPhase,
    pub starts: StartOutlook,
    /// Seconds until it serves, if it is starting.
    pub starts_in_s: f64,
    /// This plan has an order for it.
    pub ordered: bool,
    /// It was stopped before it started.
    pub restarts: bool,
    /// It will serve as soon as a restart ordered now could: nothing quicker can be had.
    pub is_near: bool,
    /// When it was last asked in vain to start.
    pub failed_at: Option<Timestamp>,
    /// It was asked to start a moment ago and nothing came of it.
    pub is_refused: bool,
}

pub(super) struct Stock<'a> {
    pub slots: Vec<Slot<'a>>,
    pub actions: Vec<PlannedAction>,
    max_workers: usize,
    now: Timestamp,
}

impl<'a> Stock<'a> {
    pub fn new(
        inputs: &'a ScalingInputs,
        memory: &ScalingMemory,
        max_workers: u32,
        now: Timestamp,
    ) -> Self {
        let unknown = StartOutlook::default();
        let slot = |view: &'a WorkerView| {
            let mut supplies = inputs.groups.iter();
            let supply = supplies.find(|supply| supply.group == view.group);
            let starts = supply.map_or(&unknown, |supply| &supply.starts);
            let began_at = memory.restarts.began_at(&view.id);
            Slot {
                is_refused: memory.restarts.is_refused(&view.id),
                ..Slot::existing(view, starts, began_at, now)
            }
        };
        Self {
            slots: inputs.snapshot.workers.iter().map(slot).collect(),
            actions: Vec::new(),
            max_workers: max_workers as usize,
            now,
        }
    }

    /// Capacity that takes requests now.
    pub fn ready(&self) -> f64 {
        self.capacity(|phase| phase.is_ready())
    }

    /// Capacity that takes requests now or will without further orders. A starting worker counts fully, so that
    /// waiting for it orders no second one; an unhealthy one does not, as it serves nobody.
    pub fn running(&self) -> f64 {
        self.capacity(is_running)
    }

    /// Capacity that takes requests now or will as soon as any that is not ordered yet could.
    pub fn soon(&self) -> f64 {
        self.capacity_of(|slot| slot.phase.is_ready() || slot.phase.is_starting() && slot.is_near)
    }

    /// Capacity that is running or can be started.
    pub fn prepared(&self) -> f64 {
        self.capacity_of(|slot| is_prepared(slot.phase) && !self.is_doubted(slot))
    }

    fn capacity(&self, counts: impl Fn(WorkerPhase) -> bool) -> f64 {
        self.capacity_of(|slot| counts(slot.phase))
    }

    fn capacity_of(&self, counts: impl Fn(&Slot) -> bool) -> f64 {
        let counted = self.slots.iter().filter(|slot| counts(slot));
        // Not `sum()`: of nothing that is -0.0, which reads oddly in a reason.
        counted.fold(0.0, |sum, slot| sum + slot.speed)
    }

    /// A stopped worker that was asked to start a while ago and is stopped still.
    fn is_doubted(&self, slot: &Slot) -> bool {
        let failed_at = slot
            .failed_at
            .filter(|_| slot.phase == WorkerPhase::Stopped);
        failed_at.is_some_and(|at| self.now.since(at) < RESTART_DOUBTED_FOR)
    }

    /// A stopped worker that may be asked to start; a doubted one only where `even_doubted`.
    pub fn is_restartable(&self, slot: &Slot, even_doubted: bool) -> bool {
        let pauses = |at: Timestamp| self.now.since(at) < RESTART_PAUSE;
        let may = match even_doubted {
            true => !slot.failed_at.is_some_and(pauses),
            false => !self.is_doubted(slot),
        };
        slot.phase == WorkerPhase::Stopped && slot.speed > 0.0 && !slot.is_refused && may
    }

    /// What a slot adds to the prepared capacity.
    pub fn prepared_speed(&self, slot: &Slot) -> f64 {
        if self.is_doubted(slot) {
            0.0
        } else {
            slot.speed
        }
    }

    pub fn has_restartable(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| self.is_restartable(slot, false))
    }

    /// Work that running and starting capacity does beyond `load` within `within_s`.
    pub fn done_beyond(&self, load: f64, within_s: f64) -> f64 {
        let mut coming: Vec<(f64, f64)> = self
            .slots
            .iter()
            .filter(|slot| is_running(slot.phase))
            .map(|slot| (slot.starts_in_s.min(within_s), slot.speed))
            .collect();
        coming.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let (mut at, mut speed, mut done) = (0.0, 0.0_f64, 0.0);
        for (next, adds) in coming.into_iter().chain([(within_s, 0.0)]) {
            done += (speed - load).max(0.0) * (next - at);
            at = next;
            speed += adds;
        }
        done
    }

    pub fn count(&self, counts: impl Fn(WorkerPhase) -> bool) -> usize {
        self.slots.iter().filter(|slot| counts(slot.phase)).count()
    }

    /// How many more than `max_workers` will stay.
    pub fn excess(&self) -> usize {
        self.count(is_prepared).saturating_sub(self.max_workers)
    }

    /// Whether one more may stay that was to be destroyed.
    pub fn may_keep_one_more(&self) -> bool {
        self.count(is_prepared) < self.max_workers
    }

    /// Whether one more may be rented. Workers that are being ended do not count: the order to destroy them is given
    /// and repeated, and a slow market must not keep a failed worker from being replaced. They may be as many again
    /// as `max_workers`, and no more: a market that confirms no end cannot run up an unbounded bill.
    pub fn may_rent(&self) -> bool {
        let existing = self.count(|phase| phase != WorkerPhase::Gone);
        self.count(|phase| !phase.is_ending()) < self.max_workers
            && existing < self.max_workers.saturating_mul(2)
    }

    pub fn rent(&mut self, group: &'a GroupName, speed: f64, reason: Reason) {
        self.slots.push(Slot {
            view: None,
            group,
            speed,
            usd_per_speed: 0.0,
            phase: WorkerPhase::Starting,
            starts: StartOutlook::default(),
            starts_in_s: f64::MAX,
            ordered: true,
            restarts: false,
            is_near: false,
            failed_at: None,
            is_refused: false,
        });
        let group = group.clone();
        self.push(ScalingAction::Rent { group }, reason);
    }

    pub fn restart(&mut self, index: usize, reason: Reason) {
        self.slots[index].is_near = true;
        self.slots[index].restarts = true;
        self.order(index, WorkerPhase::Starting, reason, |view| {
            let worker = view.id.clone();
            ScalingAction::Restart { worker }
        });
    }

    pub fn cancel_drain(&mut self, index: usize, reason: Reason) {
        self.order(index, WorkerPhase::Ready, reason, |view| {
            let worker = view.id.clone();
            ScalingAction::CancelDrain { worker }
        });
    }

    pub fn drain(&mut self, index: usize, then: Release, reason: Reason) {
        let since = match self.slots[index].phase {
            WorkerPhase::Draining { since, .. } => since,
            _ => Default::default(),
        };
        let phase = WorkerPhase::Draining { then, since };
        self.order(index, phase, reason, |view| {
            let worker = view.id.clone();
            ScalingAction::Drain { worker, then }
        });
    }

    pub fn destroy(&mut self, index: usize, reason: Reason) {
        self.order(index, WorkerPhase::Destroying, reason, |view| {
            let worker = view.id.clone();
            ScalingAction::Destroy { worker }
        });
    }

    /// Gives an order to an existing worker; one that is only about to be rented takes none.
    fn order(
        &mut self,
        index: usize,
        phase: WorkerPhase,
        reason: Reason,
        action: impl FnOnce(&WorkerView) -> ScalingAction,
    ) {
        if let Some(view) = self.slots[index].view {
            self.slots[index].phase = phase;
            self.slots[index].ordered = true;
            self.push(action(view), reason);
        }
    }

    fn push(&mut self, action: ScalingAction, reason: Reason) {
        self.actions.push(PlannedAction { action, reason });
    }

    /// Existing workers without an order yet that `wanted` accepts, those to let go first in front: dearest for their speed, then least
    /// outstanding work, then by id.
    pub fn worst_first(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<usize> {
        let mut found: Vec<(usize, &Slot, &WorkerView)> = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(view) = slot.view.filter(|_| !slot.ordered && wanted(slot)) {
                found.push((index, slot, view));
            }
        }
        found.sort_by(|(_, a, a_view), (_, b, b_view)| {
            b.usd_per_speed
                .total_cmp(&a.usd_per_speed)
                .then(a_view.outstanding.0.total_cmp(&b_view.outstanding.0))
                .then_with(|| a_view.id.cmp(&b_view.id))
        });
        found.into_iter().map(|(index, ..)| index).collect()
    }
}

impl<'a> Slot<'a> {
    pub fn stopped_since(&self) -> Timestamp {
        self.view.map(|view| view.phase_since).unwrap_or_default()
    }

    fn existing(
        view: &'a WorkerView,
        starts: &StartOutlook,
        restarted_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let starting = view.phase.is_starting();
        let since = restarted_at.filter(|_| starting);
        let elapsed_s = now.seconds_since(since.unwrap_or(view.phase_since));
        let restart_s = starts.restart.as_secs_f64();
        let takes_s = match since {
            Some(_) => restart_s,
            None => starts.cold.as_secs_f64(),
        };
        let starts_in_s = match starting {
            true => (takes_s - elapsed_s).max(OVERDUE * elapsed_s),
            false => 0.0,
        };
        let dependable = sane(view.dependable().0);
        // Back before another could help, an ejected one still counts.
        let back = now + starts.cold;
        let speed = match view.ejected_until {
            _ if view.spare || view.ends_soon => 0.0,
            Some(until) if until > back => 0.0,
            _ => dependable,
        };
        Self {
            view: Some(view),
            group: &view.group,
            speed,
            usd_per_speed: match view.ejected_until {
                Some(_) => usd_per_speed(view.usd_per_hour.0, dependable),
                None => usd_per_speed(view.usd_per_hour.0, speed),
            },
            phase: view.phase,
            starts: starts.clone(),
            starts_in_s,
            ordered: false,
            restarts: since.is_some(),
            is_near: since.is_some() || starts_in_s <= restart_s,
            failed_at: restarted_at.filter(|_| !starting),
            is_refused: false,
        }
    }
}

pub(super) fn is_running(phase: WorkerPhase) -> bool {
    phase.is_ready() || phase.is_starting()
}

/// Stays in existence as far as is known: neither ending nor draining towards its end.
pub(super) fn is_prepared(phase: WorkerPhase) -> bool {
    let leaves = matches!(
        phase,
        WorkerPhase::Draining {
            then: Release::Destroy,
            ..
        }
    );
    !leaves && !phase.is_ending()
}

/// Price of a unit of capacity; without any capacity the worst there is.
pub(super) fn usd_per_speed(usd_per_hour: f64, speed: f64) -> f64 {
    if speed > 0.0 {
        sane(usd_per_hour) / speed
    } else {
        f64::MAX
    }
}

pub(super) fn is_short(have: f64, wanted: f64) -> bool {
    have < wanted * (1.0 - ROUNDING) - f64::EPSILON
}

/// Measured figures that are no number count as none.
pub(super) fn sane(figure: f64) -> f64 {
    if figure.is_finite() {
        figure.max(0.0)
    } else {
        0.0
    }
}

pub(super) fn tps(figure: f64) -> TokensPerSecond {
    TokensPerSecond(figure)
}
