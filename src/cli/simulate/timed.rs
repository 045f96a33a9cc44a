//! The production planner with a clock held beside it, and its progress told.

use rustix::time::{ClockId, clock_gettime};

use super::is_watched;
use crate::domain::{ScalingPlan, Timestamp};
use crate::policy::scaling::ScalingInputs;
use crate::simulate::planner::Planner;

pub(super) struct Timed<P> {
    planner: P,
    pub cpu_s: f64,
    length_s: usize,
    what: String,
    told: u64,
}

impl<P> Timed<P> {
    pub fn new(planner: P, length_s: usize, what: String) -> Self {
        Self {
            planner,
            cpu_s: 0.0,
            length_s,
            what,
            told: 0,
        }
    }

    fn tell(&mut self, now: Timestamp) {
        let percent = now.as_millis() / 10 / (self.length_s as u64).max(1);
        if percent > self.told && is_watched() {
            self.told = percent;
            eprint!("\r{}: {percent}%", self.what);
        }
    }

    pub fn done(&self) {
        if is_watched() {
            eprintln!("\r{}: done", self.what);
        } else {
            eprintln!("{}: done", self.what);
        }
    }
}

impl<P: Planner> Planner for Timed<P> {
    fn plan(&mut self, inputs: &ScalingInputs, now: Timestamp) -> ScalingPlan {
        let before = thread_s();
        let plan = self.planner.plan(inputs, now);
        self.cpu_s += thread_s() - before;
        self.tell(now);
        plan
    }
}

/// CPU time of this thread, seconds.
fn thread_s() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
