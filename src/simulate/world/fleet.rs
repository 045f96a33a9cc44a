//! The workers of the world: the production state machine over pretended machines, orders carried out, bills added up.

use std::time::Duration;

use crate::domain::{
    Alternative, FailureReason, FleetSnapshot, Release, ScalingAction, ScalingPlan, Timestamp,
    Tokens, TokensPerSecond, UsdPerHour, WorkerEvent, WorkerGroup, WorkerId, WorkerPhase,
    WorkerView,
};
use crate::policy::lifecycle::{Effect, advance};
use crate::policy::offers::Holding;
use crate::policy::reputation::{HostEvent, hours};
use crate::policy::scaling::GroupSupply;
use crate::simulate::machines::{Bill, Machine, MachineState};
use crate::simulate::market::{Found, MARKET_STEP_S, MachineKind, Market};

use super::Scenario;
use super::record::Starts;
use super::renting::Renting;

/// Below this share of the capacity wanted nothing is tried out, as in the scaler.
const TRY_ABOVE: f64 = 0.7;
/// How fast a worker's speed is seen to change, seconds.
const SPEED_SEEN_S: f64 = 60.0;

pub(super) struct Member {
    pub view: WorkerView,
    pub machine: Machine,
    rented: Option<Alternative>,
    /// When its start was ordered, and whether that was a restart.
    ordered: Timestamp,
    restarted: bool,
    restart_failed: bool,
    ready_since: Option<Timestamp>,
    /// Share of the last second in which it worked.
    pub busy: f64,
    /// Nothing in flight, as whoever serves says.
    pub empty: bool,
    /// What it has is to go elsewhere.
    pub moves: bool,
    /// Where requests are modelled: its place among the workers that serve them.
    pub seat: Option<Seat>,
}

/// A worker where requests are modelled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub slot: usize,
    /// Its speed as far as the floor knows.
    pub speed: f64,
    pub hangs_since: Option<Timestamp>,
    /// Stopped, or on its way there or back.
    pub away: bool,
    /// Work it did and that no second's bill shows yet, tokens.
    pub done: f64,
}

impl Member {
    /// Ready, and does what is sent to it.
    pub fn works(&self) -> bool {
        self.view.phase.is_ready() && self.machine.works()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub starts: Starts,
    pub preemptions: u64,
    pub failures: u64,
    pub flaps: u64,
    pub wasted_start_s: f64,
}

pub(super) struct Fleet<'a> {
    scenario: &'a Scenario,
    /// In order of their rental, which is that of their ids.
    pub members: Vec<Member>,
    market: Market,
    renting: Renting<'a>,
    rentals: u64,
    /// Of machines that are gone.
    past: Bill,
    pub counts: Counts,
    /// Seats of members that are gone.
    pub vacated: Vec<usize>,
}

impl<'a> Fleet<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        let market = Market::new(&scenario.kinds, scenario.seed);
        let mut fleet = Self {
            scenario,
            members: Vec::new(),
            renting: Renting::new(scenario, &market),
            market,
            rentals: 0,
            past: Bill::default(),
            counts: Counts::default(),
            vacated: Vec::new(),
        };
        for _ in 0..scenario.begin_with {
            fleet.place_first();
        }
        fleet
    }

    /// A worker of the first group that is there before the world begins.
    fn place_first(&mut self) {
        let now = Timestamp::default();
        let Some(group) = self.scenario.groups.first() else {
            return;
        };
        let holdings = self.holdings();
        let best = self
            .renting
            .choose(&group.name, &self.market, holdings, false, now);
        let Some((best, found)) = best.and_then(|best| {
            let found = self.market.find(&best.offer)?;
            Some((best, found))
        }) else {
            return;
        };
        let kind = self.market.kind(found.kind).clone();
        let (seed, rental) = (self.scenario.seed, self.rentals);
        let machine = Machine::already_there(found.clone(), &kind, seed, rental, now);
        self.join(machine, best, &found, group.name.clone(), now);
        let index = self.members.len() - 1;
        self.apply(index, WorkerEvent::ProbeSucceeded, now);
        self.members[index].ready_since = None;
    }

    fn join(
        &mut self,
        machine: Machine,
        rented: Alternative,
        found: &Found,
        group: crate::domain::GroupName,
        now: Timestamp,
    ) {
        if let Some(host) = found.machine {
            self.market.set_rented(host, true);
        }
        let view = WorkerView {
            id: WorkerId::new(format!("w{:07}", self.rentals)),
            group,
            phase: WorkerPhase::Starting,
            phase_since: now,
            speed: rented.tokens_per_second,
            dependable: None,
            outstanding: Tokens::ZERO,
            in_flight: 0,
            usd_per_hour: UsdPerHour(found.gpu_usd_per_hour + found.storage_usd_per_hour),
            stopped_usd_per_hour: UsdPerHour(found.storage_usd_per_hour),
            spare: false,
            ends_soon: false,
            ejected_until: None,
        };
        self.rentals += 1;
        self.members.push(Member {
            view,
            machine,
            rented: Some(rented),
            ordered: now,
            restarted: false,
            restart_failed: false,
            ready_since: None,
            busy: 0.0,
            empty: true,
            moves: false,
            seat: None,
        });
    }

    /// Time up to `now`: machines live, and the gateway hears of it.
    pub fn live_on(&mut self, now: Timestamp) {
        if now.as_millis().is_multiple_of(MARKET_STEP_S * 1_000) {
            self.market.step();
        }
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let kind = self.market.kind(member.machine.found.kind);
            member.machine.live_on(kind, now);
            if member.machine.is_as_believed(member.view.phase) {
                self.see_speed(index);
                continue;
            }
            self.hear(index, now);
        }
        if self
            .members
            .iter()
            .any(|member| member.view.phase == WorkerPhase::Gone)
        {
            self.forget_gone();
        }
    }

    /// A running worker's speed is measured all the time.
    fn see_speed(&mut self, index: usize) {
        let member = &mut self.members[index];
        let (seen, real) = (member.view.speed.0, member.machine.speed);
        // Where requests are modelled it is the gateway's own estimate.
        if member.seat.is_some() {
            return;
        }
        if (seen - real).abs() > 1e-3 * real && member.view.phase.is_ready() {
            member.view.speed = TokensPerSecond(seen + (real - seen) / SPEED_SEEN_S);
        }
    }

    fn hear(&mut self, index: usize, now: Timestamp) {
        for event in self.members[index].machine.tells() {
            self.apply(index, event, now);
        }
        self.apply(index, WorkerEvent::Tick, now);
        let member = &self.members[index];
        if matches!(member.view.phase, WorkerPhase::Draining { .. }) && member.empty {
            self.apply(index, WorkerEvent::Emptied, now);
        }
    }

    fn apply(&mut self, index: usize, event: WorkerEvent, now: Timestamp) {
        let member = &mut self.members[index];
        let (before, since) = (member.view.phase, member.view.phase_since);
        let next = advance(before, since, event, &self.scenario.times, now);
        member.view.phase = next.phase;
        member.view.phase_since = next.since;
        if next.phase.as_str() != before.as_str() {
            self.changed(index, before, since, now);
        }
        for effect in next.effects {
            self.effect(index, effect, now);
        }
    }

    fn effect(&mut self, index: usize, effect: Effect, now: Timestamp) {
        let member = &mut self.members[index];
        match effect {
            Effect::Start => {
                let kind = self.market.kind(member.machine.found.kind);
                member.machine.restart(kind, now);
                member.restart_failed = member.machine.state == MachineState::WithoutGpu;
                member.restarted = true;
                member.ordered = now;
                self.counts.starts.restart += 1;
            }
            Effect::Stop => member.machine.stop(now),
            Effect::Destroy => member.machine.destroy(now),
            Effect::MoveRequests => member.moves = true,
            Effect::Forget => member.view.phase = WorkerPhase::Gone,
        }
    }

    /// A worker came to another phase: what is learned and counted.
    fn changed(&mut self, index: usize, before: WorkerPhase, since: Timestamp, now: Timestamp) {
        self.renting.changed();
        let member = &mut self.members[index];
        let after = member.view.phase;
        let group = member.view.group.clone();
        let took = now.since(member.ordered);
        if after.is_ready() && before.is_starting() {
            member.ready_since = Some(now);
            // Measured before it serves, as the gateway does.
            member.view.speed = TokensPerSecond(member.machine.speed);
            if member.restarted {
                self.renting.restart_ended(&group, Some(took));
            } else {
                self.renting.cold_start_took(&group, took);
            }
            self.learn(index, &[HostEvent::CameUp], now);
            return;
        }
        if before.is_starting() {
            let failed = matches!(after, WorkerPhase::Failed { .. } | WorkerPhase::Stopped);
            self.counts.wasted_start_s += took.as_secs_f64();
            if failed && member.restarted {
                self.counts.starts.restart_failed += 1;
                self.renting.restart_ended(&group, None);
            } else if failed {
                self.counts.starts.cold_failed += 1;
            }
        }
        if matches!(after, WorkerPhase::Draining { .. }) {
            self.note_release(index, now);
        }
        if let WorkerPhase::Failed { reason } = after {
            self.failed(index, before, since, reason, now);
        }
    }

    fn note_release(&mut self, index: usize, now: Timestamp) {
        let member = &self.members[index];
        let cold_s = self.market.kind(member.machine.found.kind).starts.cold_s;
        let soon = |at: Timestamp| now.seconds_since(at) < 2.0 * cold_s;
        self.counts.flaps += u64::from(member.ready_since.is_some_and(soon));
    }

    fn failed(
        &mut self,
        index: usize,
        before: WorkerPhase,
        since: Timestamp,
        reason: FailureReason,
        now: Timestamp,
    ) {
        let served = !before.is_starting() && before != WorkerPhase::Stopped;
        match reason {
            FailureReason::Outbid => self.counts.preemptions += 1,
            _ if served => self.counts.failures += 1,
            _ => {}
        }
        if !reason.is_expected() {
            let group = self.members[index].view.group.clone();
            self.renting.count_failure(&group);
        }
        let mut events = Vec::new();
        if before.is_ready() {
            let hours = hours(now.since(since));
            events.push(HostEvent::Survived { hours });
        }
        events.extend(HostEvent::of(reason, served));
        self.learn(index, &events, now);
    }

    fn learn(&mut self, index: usize, events: &[HostEvent], now: Timestamp) {
        let member = &self.members[index];
        let Some(rented) = &member.rented else {
            return;
        };
        if let Some(machine) = &rented.machine {
            self.renting.learn_of_host(machine, events, now);
            if member.ready_since.is_some() {
                let speed = member.view.speed.0;
                self.renting
                    .learn_speed(&member.view.group, rented, speed, now);
            }
        }
    }

    fn forget_gone(&mut self) {
        let (past, market) = (&mut self.past, &mut self.market);
        let vacated = &mut self.vacated;
        self.members.retain(|member| {
            let gone = member.view.phase == WorkerPhase::Gone;
            if gone {
                past.add(&member.machine.bill);
                vacated.extend(member.seat.map(|seat| seat.slot));
                if let Some(host) = member.machine.found.machine {
                    market.set_rented(host, false);
                }
            }
            !gone
        });
    }

    pub fn supply(&mut self, now: Timestamp) -> Vec<GroupSupply> {
        let members = &self.members;
        self.renting.supply(&self.market, || holdings(members), now)
    }

    fn holdings(&self) -> Vec<Holding> {
        holdings(&self.members)
    }

    pub fn views(&self) -> Vec<WorkerView> {
        self.members
            .iter()
            .map(|member| member.view.clone())
            .collect()
    }

    pub fn carry_out(&mut self, plan: &ScalingPlan, snapshot: &FleetSnapshot, now: Timestamp) {
        let there = snapshot.workers.iter();
        let have: f64 = there
            .filter(|worker| worker.phase.is_ready() || worker.phase.is_starting())
            .map(|worker| worker.speed.0)
            .sum();
        let tries = have > 0.0 && have >= TRY_ABOVE * plan.wanted.0;
        for planned in &plan.actions {
            let (id, event) = match &planned.action {
                ScalingAction::Rent { group } => {
                    self.rent(group, tries, now);
                    continue;
                }
                ScalingAction::Restart { worker } => (worker, WorkerEvent::RestartOrdered),
                ScalingAction::Drain { worker, then } => (worker, WorkerEvent::DrainOrdered(*then)),
                ScalingAction::CancelDrain { worker } => (worker, WorkerEvent::DrainCancelled),
                ScalingAction::Destroy { worker } => {
                    (worker, WorkerEvent::DrainOrdered(Release::Destroy))
                }
            };
            let index = self
                .members
                .binary_search_by(|member| member.view.id.cmp(id));
            if let Ok(index) = index {
                self.apply(index, event, now);
            }
        }
    }

    fn rent(&mut self, name: &crate::domain::GroupName, tries: bool, now: Timestamp) {
        let holdings = self.holdings();
        let best = self
            .renting
            .choose(name, &self.market, holdings, tries, now);
        let found = best.as_ref().and_then(|best| self.market.find(&best.offer));
        let (Some(best), Some(found), Some(group)) = (best, found, self.renting.group(name)) else {
            self.counts.starts.refused += 1;
            return;
        };
        let kind = self.market.kind(found.kind).clone();
        let gb = group.image_gb + group.model_gb;
        let (seed, rental) = (self.scenario.seed, self.rentals);
        let machine = Machine::rent(found.clone(), &kind, gb, seed, rental, now);
        self.counts.starts.cold += 1;
        self.join(machine, best, &found, name.clone(), now);
    }

    pub fn kind(&self, member: &Member) -> &MachineKind {
        self.market.kind(member.machine.found.kind)
    }

    pub fn group(&self, member: &Member) -> Option<&'a WorkerGroup> {
        self.renting.group(&member.view.group)
    }

    /// What ready workers can really do, tokens a second.
    pub fn ready_capacity(&self) -> f64 {
        let working = self.members.iter().filter(|member| member.works());
        working.fold(0.0, |sum, member| sum + member.machine.speed)
    }

    /// Adds a second of every machine's state to its bill.
    pub fn pay(&mut self, time: Duration, now: Timestamp) {
        let hours = hours(time);
        for member in &mut self.members {
            member
                .machine
                .pay(member.view.phase, member.busy, now, hours);
        }
    }

    pub fn bill(&self) -> Bill {
        let mut sum = self.past;
        for member in &self.members {
            sum.add(&member.machine.bill);
        }
        sum
    }

    pub fn count(&self, counts: impl Fn(WorkerPhase) -> bool) -> u32 {
        let counted = self
            .members
            .iter()
            .filter(|member| counts(member.view.phase));
        counted.count() as u32
    }

    /// In what the gateway believes of their speeds.
    pub fn capacity(&self, counts: impl Fn(WorkerPhase) -> bool) -> f64 {
        let counted = self
            .members
            .iter()
            .filter(|member| counts(member.view.phase));
        counted.fold(0.0, |sum, member| sum + member.view.speed.0)
    }
}

/// Machines the endpoint has and keeps.
fn holdings(members: &[Member]) -> Vec<Holding> {
    let leaves = |phase: WorkerPhase| {
        let draining = matches!(
            phase,
            WorkerPhase::Draining {
                then: Release::Destroy,
                ..
            }
        );
        draining || phase.is_ending()
    };
    let kept = members.iter().filter(|member| !leaves(member.view.phase));
    kept.map(|member| {
        let speed = member.view.speed.0;
        match &member.rented {
            Some(offer) => Holding {
                speed,
                ..Holding::of(offer)
            },
            None => Holding {
                speed,
                ..Holding::default()
            },
        }
    })
    .collect()
}
