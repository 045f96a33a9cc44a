//! What a machine cost between two looks at it: plain arithmetic, by the billing rules of Vast.
//!
//! GPUs cost while they run; the disk costs from the first second to the last, running or not; a host that is not
//! heard of charges nothing. What changed between two looks is taken to have changed midway, which is right on average.

use serde::{Deserialize, Serialize};

use crate::domain::{Day, InstanceState, Timestamp, Usd, UsdPerHour};

const HOUR_MS: f64 = 3_600_000.0;

/// A rental's machine at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    pub at: Timestamp,
    /// `None`: there is none, not yet or no more.
    pub state: Option<InstanceState>,
    /// While it runs, storage included.
    pub usd_per_hour: UsdPerHour,
    pub storage_usd_per_hour: UsdPerHour,
}

/// What came together on one day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accrued {
    pub day: Day,
    pub gpu: Usd,
    pub storage: Usd,
}

impl Observation {
    /// Dollars an hour for its GPUs and for its disk.
    pub fn rates(&self) -> (UsdPerHour, UsdPerHour) {
        let storage = self.storage_usd_per_hour;
        match self.state {
            None | Some(InstanceState::Offline) => (UsdPerHour::ZERO, UsdPerHour::ZERO),
            Some(InstanceState::Running) => {
                let gpu = self.usd_per_hour - storage;
                (gpu.max(UsdPerHour::ZERO), storage)
            }
            Some(
                InstanceState::Loading
                | InstanceState::Scheduling
                | InstanceState::Stopped
                | InstanceState::Exited,
            ) => (UsdPerHour::ZERO, storage),
        }
    }

    /// Dollars an hour now, all together.
    pub fn rate(&self) -> UsdPerHour {
        let (gpu, storage) = self.rates();
        gpu + storage
    }

    /// The same at another moment, nothing having changed.
    pub fn still_at(self, at: Timestamp) -> Self {
        Self { at, ..self }
    }

    /// In another state at the same moment.
    pub fn turned(self, state: Option<InstanceState>) -> Self {
        Self { state, ..self }
    }
}

/// What it cost from `before` to `after`, day by day; nothing if `after` is not later.
pub fn accrue(before: &Observation, after: &Observation) -> Vec<Accrued> {
    let (from, to) = (before.at.as_millis(), after.at.as_millis());
    if to <= from {
        return Vec::new();
    }
    let midway = Timestamp::from_millis(from + (to - from) / 2);
    let mut out = Vec::with_capacity(2);
    add(&mut out, before.rates(), before.at, midway);
    add(&mut out, after.rates(), midway, after.at);
    out
}

fn add(
    out: &mut Vec<Accrued>,
    (gpu, storage): (UsdPerHour, UsdPerHour),
    mut from: Timestamp,
    to: Timestamp,
) {
    while from < to {
        let day = Day::of(from);
        let until = day.next().start().min(to);
        let hours = (until.as_millis() - from.as_millis()) as f64 / HOUR_MS;
        let (gpu, storage) = (Usd(gpu.0 * hours), Usd(storage.0 * hours));
        match out.last_mut().filter(|last| last.day == day) {
            Some(last) => {
                last.gpu += gpu;
                last.storage += storage;
            }
            None => out.push(Accrued { day, gpu, storage }),
        }
        from = until;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;

    fn seen(at_ms: u64, state: Option<InstanceState>) -> Observation {
        Observation {
            at: Timestamp::from_millis(at_ms),
            state,
            usd_per_hour: UsdPerHour(1.1),
            storage_usd_per_hour: UsdPerHour(0.1),
        }
    }

    fn total(parts: &[Accrued]) -> (f64, f64) {
        parts.iter().fold((0.0, 0.0), |sum, part| {
            (sum.0 + part.gpu.0, sum.1 + part.storage.0)
        })
    }

    #[track_caller]
    fn check(from: Option<InstanceState>, to: Option<InstanceState>, gpu: f64, storage: f64) {
        let (got_gpu, got_storage) = total(&accrue(&seen(0, from), &seen(2 * HOUR, to)));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(
            close(got_gpu, gpu) && close(got_storage, storage),
            "{got_gpu} {got_storage}"
        );
    }

    #[test]
    fn gpus_cost_while_they_run_and_the_disk_always() {
        let running = Some(InstanceState::Running);
        check(running, running, 2.0, 0.2);
        for idle in [
            InstanceState::Loading,
            InstanceState::Scheduling,
            InstanceState::Stopped,
        ] {
            check(Some(idle), Some(idle), 0.0, 0.2);
        }
        check(None, None, 0.0, 0.0);
        let offline = Some(InstanceState::Offline);
        check(offline, offline, 0.0, 0.0);
    }

    #[test]
    fn what_changed_between_two_looks_changed_midway() {
        let running = Some(InstanceState::Running);
        check(Some(InstanceState::Loading), running, 1.0, 0.2);
        check(running, Some(InstanceState::Stopped), 1.0, 0.2);
        check(running, None, 1.0, 0.1);
    }

    #[test]
    fn midnight_parts_the_days() {
        let running = Some(InstanceState::Running);
        let parts = accrue(&seen(21 * HOUR, running), &seen(25 * HOUR, running));
        let days: Vec<_> = parts.iter().map(|part| (part.day.0, part.gpu.0)).collect();
        assert_eq!(days.len(), 2);
        assert!((days[0].1 - 3.0).abs() < 1e-9 && (days[1].1 - 1.0).abs() < 1e-9);
        assert_eq!((days[0].0, days[1].0), (0, 1));
    }

    #[test]
    fn a_look_from_before_costs_nothing() {
        let running = Some(InstanceState::Running);
        assert!(accrue(&seen(5, running), &seen(5, running)).is_empty());
        assert!(accrue(&seen(5, running), &seen(4, running)).is_empty());
    }

    proptest! {
        /// However often somebody looks, and whatever midnights lie between, a machine that did not change costs its
        /// price times the time.
        #[test]
        fn the_pace_of_looking_does_not_matter(
            mut looks in prop::collection::vec(0u64..100 * HOUR, 2..40)
        ) {
            looks.sort_unstable();
            let running = Some(InstanceState::Running);
            let mut sum = (0.0, 0.0);
            for pair in looks.windows(2) {
                let (gpu, storage) = total(&accrue(&seen(pair[0], running), &seen(pair[1], running)));
                sum = (sum.0 + gpu, sum.1 + storage);
            }
            let hours = (looks[looks.len() - 1] - looks[0]) as f64 / HOUR_MS;
            prop_assert!((sum.0 - hours).abs() < 1e-6);
            prop_assert!((sum.1 - 0.1 * hours).abs() < 1e-6);
        }
    }
}
