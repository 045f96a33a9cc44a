//! What is remembered of a rented machine's host, and how long it is held against it.
//!
//! Everything fades: a host that failed a week ago is nearly a new one. Outbids are no failures: whoever bids knows.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{FailureReason, Timestamp};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// What was seen counts half after this.
const HALF_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// The extra weight of recent failures counts half after this.
const PENALTY_HALF_LIFE: Duration = Duration::from_secs(12 * 3_600);
/// Each recent failure makes a machine look this many times as dear.
const PENALTY_BASE: f64 = 4.0;
/// So many failures within a day ban a machine for a day.
const FAILURES_UNTIL_BAN: usize = 3;
/// What the market says of a machine's reliability counts as so many starts.
const STATED_STARTS: f64 = 20.0;
/// Even a spotless machine fails now and then.
const STATED_FAILURES: f64 = 0.5;
/// Hours between two deaths of a wholly reliable host, before any was seen.
const HOURS_BETWEEN_DEATHS: f64 = 200.0;
/// The same for being outbid.
const HOURS_BETWEEN_OUTBIDS: f64 = 3.0;

/// What happened with a machine of this host.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostEvent {
    CameUp,
    NeverCameUp,
    /// It served, and failed.
    Died,
    /// It is not what was offered: another GPU, or far too slow for it.
    Fraud,
    /// Somebody bid more.
    Outbid,
    /// It existed for so long.
    Survived {
        hours: f64,
    },
}

impl HostEvent {
    /// What a failure tells of the host; `was_ready`: it had served before. `None`: nothing.
    pub fn of(reason: FailureReason, was_ready: bool) -> Option<Self> {
        match reason {
            // The offer was gone, or a listing lost it: no machine of this host ever failed us.
            FailureReason::RentRefused => None,
            FailureReason::WrongHardware | FailureReason::TooSlow => Some(HostEvent::Fraud),
            FailureReason::Outbid => Some(HostEvent::Outbid),
            // Somebody else has its GPU; a stopped machine is promised nothing.
            FailureReason::NoGpu => None,
            FailureReason::BootDeadline
            | FailureReason::MarketError
            | FailureReason::BenchmarkFailed
            | FailureReason::HostOffline
            | FailureReason::Exited
            | FailureReason::Vanished
            | FailureReason::Unresponsive => Some(if was_ready {
                HostEvent::Died
            } else {
                HostEvent::NeverCameUp
            }),
        }
    }
}

/// One machine's record; `default()` is one nobody knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reputation {
    /// Faded sums, as of `updated_at`.
    came_up: f64,
    never_came_up: f64,
    deaths: f64,
    outbids: f64,
    hours: f64,
    penalty: f64,
    updated_at: Timestamp,
    /// The latest of a day, oldest first.
    failures: Vec<Timestamp>,
    outbid_at: Vec<Timestamp>,
    banned_until: Option<Timestamp>,
}

impl Reputation {
    pub fn observe(&mut self, event: HostEvent, now: Timestamp) {
        self.fade(now);
        match event {
            HostEvent::CameUp => self.came_up += 1.0,
            HostEvent::NeverCameUp => {
                self.never_came_up += 1.0;
                self.failed(now);
            }
            HostEvent::Died => {
                self.deaths += 1.0;
                self.failed(now);
            }
            HostEvent::Fraud => {
                self.never_came_up += 1.0;
                self.failed(now);
                self.ban(now);
            }
            HostEvent::Outbid => {
                self.outbids += 1.0;
                self.outbid_at.push(now);
            }
            HostEvent::Survived { hours } if hours.is_finite() && hours > 0.0 => {
                self.hours += hours;
            }
            HostEvent::Survived { .. } => {}
        }
    }

    fn failed(&mut self, now: Timestamp) {
        self.penalty += 1.0;
        self.failures.push(now);
        if self.failures.len() >= FAILURES_UNTIL_BAN {
            self.ban(now);
        }
    }

    fn ban(&mut self, now: Timestamp) {
        self.banned_until = Some(now + DAY);
    }

    fn fade(&mut self, now: Timestamp) {
        let age = now.since(self.updated_at);
        let kept = half(age, HALF_LIFE);
        for sum in [
            &mut self.came_up,
            &mut self.never_came_up,
            &mut self.deaths,
            &mut self.outbids,
            &mut self.hours,
        ] {
            *sum *= kept;
        }
        self.penalty *= half(age, PENALTY_HALF_LIFE);
        self.updated_at = self.updated_at.max(now);
        self.failures.retain(|&at| now.since(at) < DAY);
        self.outbid_at.retain(|&at| now.since(at) < DAY);
    }

    /// The two counts of the Beta distribution of a start's success; `reliability` is what the market says.
    pub fn starts(&self, reliability: f64, now: Timestamp) -> (f64, f64) {
        let stated = if reliability.is_finite() {
            reliability.clamp(0.0, 1.0)
        } else {
            0.5
        };
        let kept = half(now.since(self.updated_at), HALF_LIFE);
        let good = STATED_STARTS * stated + self.came_up * kept;
        let bad = STATED_STARTS * (1.0 - stated) + STATED_FAILURES + self.never_came_up * kept;
        (good.max(STATED_FAILURES), bad)
    }

    /// Expected share of starts that come up.
    pub fn chance(&self, reliability: f64, now: Timestamp) -> f64 {
        let (good, bad) = self.starts(reliability, now);
        good / (good + bad)
    }

    /// Expected ends an hour that nobody asked for.
    pub fn hazard_per_hour(&self, reliability: f64, interruptible: bool, now: Timestamp) -> f64 {
        let kept = half(now.since(self.updated_at), HALF_LIFE);
        let hours = self.hours * kept;
        let stated = reliability.clamp(0.1, 1.0);
        let deaths = (self.deaths * kept + 1.0) / (hours + HOURS_BETWEEN_DEATHS * stated);
        let outbids = if interruptible {
            (self.outbids * kept + 1.0) / (hours + HOURS_BETWEEN_OUTBIDS)
        } else {
            0.0
        };
        deaths + outbids
    }

    /// How many times as dear it is to look because of recent failures.
    pub fn penalty(&self, now: Timestamp) -> f64 {
        let age = now.since(self.updated_at);
        PENALTY_BASE.powf((self.penalty * half(age, PENALTY_HALF_LIFE)).min(10.0))
    }

    pub fn banned_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.banned_until.filter(|&until| now < until)
    }

    /// Times within the last day that somebody bid more.
    pub fn outbids_of_a_day(&self, now: Timestamp) -> usize {
        let recent = |at: &&Timestamp| now.since(**at) < DAY;
        self.outbid_at.iter().filter(recent).count()
    }

    /// Faded so far that it says no more than nothing.
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        now.since(self.updated_at) > HALF_LIFE * 6
    }

    pub fn updated_at(&self) -> Timestamp {
        self.updated_at
    }
}

/// Hours of a stretch of time.
pub fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / HOUR.as_secs_f64()
}

fn half(age: Duration, half_life: Duration) -> f64 {
    (-(age.as_secs_f64() / half_life.as_secs_f64())).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn after(hours: u64) -> Timestamp {
        START + HOUR * hours as u32
    }

    fn seen(events: &[(u64, HostEvent)]) -> Reputation {
        let mut host = Reputation::default();
        for &(at, event) in events {
            host.observe(event, after(at));
        }
        host
    }

    #[test]
    fn an_unknown_machine_is_believed_what_the_market_says_of_it() {
        let host = Reputation::default();
        assert!((host.chance(0.99, START) - 0.966).abs() < 0.01);
        assert!((host.chance(0.60, START) - 0.585).abs() < 0.01);
        assert_eq!(host.penalty(START), 1.0);
        assert!(host.chance(f64::NAN, START).is_finite());
    }

    #[test]
    fn starts_move_the_chance_and_fade_within_weeks() {
        let good = seen(&[(0, HostEvent::CameUp); 20]);
        assert!(good.chance(0.9, after(1)) > Reputation::default().chance(0.9, START));
        let bad = seen(&[(0, HostEvent::NeverCameUp); 2]);
        let fresh = Reputation::default().chance(0.95, START);
        assert!(bad.chance(0.95, after(1)) < fresh - 0.05);
        assert!((bad.chance(0.95, after(24 * 60)) - fresh).abs() < 0.001);
    }

    #[test]
    fn each_failure_makes_it_four_times_as_dear_and_half_a_day_later_twice() {
        let host = seen(&[(0, HostEvent::NeverCameUp)]);
        assert!((host.penalty(after(0)) - 4.0).abs() < 1e-9);
        assert!((host.penalty(after(12)) - 2.0).abs() < 1e-9);
        assert!(host.penalty(after(96)) < 1.02);
    }

    #[test]
    fn three_failures_within_a_day_ban_for_a_day_and_three_over_a_week_do_not() {
        let failed = HostEvent::Died;
        let quick = seen(&[(0, failed), (5, failed), (20, failed)]);
        assert_eq!(quick.banned_until(after(21)), Some(after(44)));
        assert_eq!(quick.banned_until(after(44)), None);
        let slow = seen(&[(0, failed), (50, failed), (100, failed)]);
        assert_eq!(slow.banned_until(after(101)), None);
    }

    #[test]
    fn a_machine_that_is_not_what_it_says_is_banned_at_once() {
        let host = seen(&[(0, HostEvent::Fraud)]);
        assert_eq!(host.banned_until(after(23)), Some(after(24)));
    }

    #[test]
    fn being_outbid_is_nobodys_fault() {
        let event = HostEvent::of(FailureReason::Outbid, true).expect("worth remembering");
        let host = seen(&[(0, event), (1, event), (2, event), (3, event)]);
        assert_eq!(host.banned_until(after(3)), None);
        assert_eq!(host.penalty(after(3)), 1.0);
        assert_eq!(host.outbids_of_a_day(after(4)), 4);
        assert_eq!(host.outbids_of_a_day(after(25)), 2);
        let steady = Reputation::default();
        let hazard = |host: &Reputation| host.hazard_per_hour(0.99, true, after(4));
        assert!(hazard(&host) > 2.0 * hazard(&steady));
    }

    #[test]
    fn hours_survived_lower_the_expected_deaths() {
        let mut host = seen(&[(0, HostEvent::Survived { hours: 1_000.0 })]);
        let before = Reputation::default().hazard_per_hour(0.9, false, START);
        assert!(host.hazard_per_hour(0.9, false, after(1)) < before / 4.0);
        host.observe(HostEvent::Survived { hours: f64::NAN }, after(1));
        assert!(host.hazard_per_hour(0.9, false, after(1)).is_finite());
    }

    #[test]
    fn a_machine_that_never_was_ours_is_not_judged() {
        assert_eq!(HostEvent::of(FailureReason::RentRefused, false), None);
        assert_eq!(HostEvent::of(FailureReason::NoGpu, false), None);
        let never = Some(HostEvent::NeverCameUp);
        assert_eq!(HostEvent::of(FailureReason::BootDeadline, false), never);
        let died = Some(HostEvent::Died);
        assert_eq!(HostEvent::of(FailureReason::Unresponsive, true), died);
    }
}
