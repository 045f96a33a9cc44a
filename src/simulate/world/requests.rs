//! The load request by request: machines of the fleet become workers on a [`Floor`] and leave it as their phases go.
//!
//! Seconds are the grain at which the fleet's doings reach the floor; on it everything has its own moment.

use crate::domain::{
    BenchmarkSettings, DemandView, SpeedPrior, Timestamp, Tokens, WaitingView, WorkerPhase,
};
use crate::simulate::load::Arrival;
use crate::simulate::machines::MachineState;
use crate::simulate::serving::{
    Ended, Floor, Machine, MachineLaw, Outcome, Production, Rules, Tally, saturated,
};

use super::fleet::{Fleet, Member, Seat};
use super::record::{Counted, RequestTotals};
use super::{RequestRules, Scenario};

/// What counts as a prompt answer and as a fluent one.
const TTFT_S: f64 = 2.0;
const TPOT_S: f64 = 0.1;
/// Requests by which a machine's speed is found.
const SAMPLE: usize = 4_000;

pub(super) struct Requests<'a> {
    scenario: &'a Scenario,
    rules: &'a RequestRules,
    floor: Floor<'a>,
    usual_speed: f64,
    now: Timestamp,
    last_active: Option<Timestamp>,
    counted: Counted,
    totals: RequestTotals,
    ttft: super::record::Waits,
    attained: [u64; 3],
    /// What the gateway had counted before anything was.
    before: Tally,
}

impl<'a> Requests<'a> {
    pub fn new(scenario: &'a Scenario, rules: &'a RequestRules) -> Self {
        let requests = &scenario.load.requests;
        let router = Production::new(&rules.routing);
        let floor_rules = Rules {
            settings: rules.routing.clone(),
            reserve_tokens: rules.reserve_tokens,
            clients: rules.clients,
            seed: scenario.seed,
            patience: Some(rules.patience),
            late_after: scenario.scaling.slo.wait,
            leaps: true,
        };
        Self {
            scenario,
            rules,
            floor: Floor::new(floor_rules, requests, Box::new(router)),
            usual_speed: rules.speed_of(&rules.law, scenario),
            now: Timestamp::default(),
            last_active: None,
            counted: Counted::default(),
            totals: RequestTotals::default(),
            ttft: Default::default(),
            attained: [0; 3],
            before: Tally::default(),
        }
    }

    /// One second, from `now` on.
    pub fn pass(&mut self, fleet: &mut Fleet, now: Timestamp) {
        for slot in fleet.vacated.drain(..) {
            self.floor.retire(slot);
        }
        let takers = fleet.members.iter().filter(|member| member.works()).count();
        for index in 0..fleet.members.len() {
            self.seat(fleet, index, takers, now);
        }
        let second = (now.as_millis() / 1_000) as usize;
        self.floor.play_until(second + 1);
        self.now = now;
        if self.floor.present() > 0 {
            self.last_active = Some(now);
        }
        let from_s = self.scenario.count_from.as_secs_f64();
        for ended in std::mem::take(&mut self.floor.ended) {
            if self.scenario.load.requests[ended.id].at_s >= from_s {
                self.count(&ended);
            }
        }
        let counts = now.as_millis() as f64 / 1e3 >= from_s;
        if !counts {
            self.before = self.floor.tally;
        }
        if counts {
            self.counted.capacity += fleet.ready_capacity();
        }
        for member in &mut fleet.members {
            let done = self.show(member);
            if counts {
                self.counted.done += done;
            }
        }
    }

    /// What became of a member since the last second, to the floor.
    fn seat(&mut self, fleet: &mut Fleet, index: usize, takers: usize, now: Timestamp) {
        let member = &fleet.members[index];
        let phase = member.view.phase;
        let Some(mut seat) = member.seat else {
            if phase.is_ready() {
                let seat = self.sit(fleet, member);
                fleet.members[index].seat = Some(seat);
            }
            return;
        };
        let state = member.machine.state;
        let (works, slot) = (member.machine.works(), seat.slot);
        let leaves = matches!(phase, WorkerPhase::Stopping | WorkerPhase::Stopped);
        if member.machine.speed != seat.speed {
            seat.speed = member.machine.speed;
            self.floor
                .slow(slot, member.machine.found.speed / seat.speed);
        }
        if seat.away && phase.is_ready() {
            seat.away = false;
            self.floor.back(slot);
        }
        let takes =
            phase.is_ready() && state != MachineState::Exited && state != MachineState::Outbid;
        self.floor.set_taking(slot, takes);
        if state == MachineState::Hung {
            let since = *seat.hangs_since.get_or_insert_with(|| {
                self.floor.freeze(slot);
                now
            });
            // Those that stream are missed after a silence, the rest when the worker is given up.
            if now.since(since) >= self.scenario.times.silence && !phase.is_ready() {
                self.floor.evacuate(slot);
            }
        }
        let is_gone = !works && state != MachineState::Hung || phase.is_ending() || leaves;
        let moves = std::mem::take(&mut fleet.members[index].moves) && takers > 0;
        if (is_gone || moves) && self.floor.in_flight(slot) > 0 {
            self.floor.evacuate(slot);
        }
        seat.away |= leaves;
        fleet.members[index].seat = Some(seat);
    }

    /// A worker is ready for the first time.
    fn sit(&mut self, fleet: &Fleet, member: &Member) -> Seat {
        let kind = fleet.kind(member);
        let law = self
            .rules
            .law_of(kind.law.as_ref(), kind.speed.0, self.usual_speed);
        let law = law.slowed(kind.speed.0 / member.machine.found.speed);
        let group = fleet.group(member);
        let machine = Machine {
            law,
            speed_prior: SpeedPrior {
                tokens_per_second: member.view.speed,
                concurrency: group.map_or(law.batch_max, |group| group.speed_prior.concurrency),
            },
            kv_tokens: group.and_then(|group| group.kv_tokens),
            max_concurrency: group.and_then(|group| group.max_concurrency),
            usd_per_hour: member.view.usd_per_hour,
        };
        let slot = self.floor.add(machine, true);
        self.floor.benchmark(slot, &usual_benchmark());
        self.floor.set_taking(slot, true);
        Seat {
            slot,
            speed: member.machine.found.speed,
            hangs_since: None,
            away: false,
            done: 0.0,
        }
    }

    /// What the floor knows of a member, to the fleet; the work it did in this second.
    fn show(&mut self, member: &mut Member) -> f64 {
        let Some(seat) = &mut member.seat else {
            member.empty = true;
            return 0.0;
        };
        // A prompt counts at its first token: what is more than a second's work was done in those before.
        let speed = member.machine.speed.max(f64::MIN_POSITIVE);
        let done = self.floor.take_done(seat.slot);
        seat.done += done;
        member.busy = (seat.done / speed).min(1.0);
        seat.done = (seat.done - speed).max(0.0);
        member.empty = self.floor.in_flight(seat.slot) == 0;
        let (speed, dependable, outstanding) = self.floor.believed(seat.slot);
        member.view.speed = speed;
        member.view.dependable = Some(dependable);
        member.view.outstanding = outstanding;
        member.view.in_flight = self.floor.in_flight(seat.slot);
        done
    }

    fn count(&mut self, ended: &Ended) {
        let arrival = &self.scenario.load.requests[ended.id];
        let work = arrival.work(self.rules.routing.kappa);
        let wait_s = self.scenario.scaling.slo.wait.as_secs_f64();
        let served = ended.outcome == Outcome::Served;
        self.totals.arrived += 1;
        self.counted.waits.add(ended.begun_s, work);
        if !served || ended.begun_s > wait_s {
            self.counted.late += work;
        }
        match ended.outcome {
            Outcome::Served => self.totals.served += 1,
            Outcome::Failed => self.totals.failed += 1,
            Outcome::Shed => self.totals.shed += 1,
        }
        if served {
            self.ttft.add(ended.first_token_s, 1.0);
            let attained = [ended.first_token_s <= TTFT_S, ended.per_token_s <= TPOT_S];
            self.attained[0] += u64::from(attained[0]);
            self.attained[1] += u64::from(attained[1]);
            self.attained[2] += u64::from(attained[0] && attained[1]);
        }
    }

    pub fn counted(&self) -> Counted {
        let [ttft, tpot, both] = self
            .attained
            .map(|count| count as f64 / self.totals.served.max(1) as f64);
        Counted {
            requests: Some(RequestTotals {
                retried: self.floor.tally.retried - self.before.retried,
                resumed: self.floor.tally.resumed - self.before.resumed,
                ttft_share: ttft,
                tpot_share: tpot,
                both_share: both,
                ttft_p50_s: self.ttft.quantile(0.5),
                ttft_p99_s: self.ttft.quantile(0.99),
                ..self.totals
            }),
            ..self.counted.clone()
        }
    }

    pub fn demand(&self) -> DemandView {
        let tally = &self.floor.tally;
        DemandView {
            arrived_total: Tokens(tally.arrived),
            corrected_total: Tokens(tally.corrected),
            late_total: Tokens(tally.late),
            last_active: self.last_active,
        }
    }

    pub fn waiting(&self) -> WaitingView {
        let (requests, cost, oldest_s) = self.floor.waiting();
        WaitingView {
            requests,
            bytes: 0,
            cost: Tokens(cost),
            oldest_since: oldest_s.map(|at_s| Timestamp::from_millis((at_s * 1e3) as u64)),
        }
    }

    pub fn oldest_s(&self) -> f64 {
        let (_, _, oldest_s) = self.floor.waiting();
        let now_s = self.now.as_millis() as f64 / 1e3 + 1.0;
        oldest_s.map_or(0.0, |at_s| (now_s - at_s).max(0.0))
    }
}

impl RequestRules {
    /// Output-equivalent tokens a second of a machine with this law, saturated with the load's requests.
    pub fn speed_of(&self, law: &MachineLaw, scenario: &Scenario) -> f64 {
        let requests = &scenario.load.requests;
        let every = requests.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<Arrival> = requests.iter().step_by(every).copied().collect();
        saturated(*law, &sample, self.routing.kappa)
    }

    /// The law of a kind, at its speed.
    fn law_of(&self, own: Option<&MachineLaw>, speed: f64, usual_speed: f64) -> MachineLaw {
        match own {
            Some(law) => *law,
            None => self.law.slowed(usual_speed / speed),
        }
    }
}

/// As the configuration's defaults.
fn usual_benchmark() -> BenchmarkSettings {
    BenchmarkSettings {
        prompts: Vec::new(),
        prompt_tokens: 200,
        output_tokens: 128,
        concurrency: None,
        length: std::time::Duration::from_secs(30),
        share_min: 0.4,
    }
}
