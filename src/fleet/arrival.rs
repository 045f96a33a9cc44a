//! What is known of an endpoint's capacity that is there and that comes, for those who wait.

use std::collections::BTreeMap;
use std::time::Duration;

use super::endpoint::EndpointFleet;
use super::worker::Worker;
use crate::domain::{GroupName, Source, TimeLimits, Timestamp, Tokens, WaitReason, WorkerGroup};
use crate::policy::arrival::{RestartLuck, StartTime, Supply, retry_after, time_to_do};

/// From a local process begun to its first healthy answer, before one was seen.
const LOCAL_LOAD_PRIOR: Duration = Duration::from_secs(5);
/// A machine is believed to need this part of its boot deadline.
const BOOT_SHARE: u32 = 3;
/// A stopped machine has its image and model already.
const RESTART_SHARE: u32 = 10;

/// How long starts took, by group; stopped workers apart from new ones.
#[derive(Debug, Default)]
pub(super) struct StartTimes {
    times: BTreeMap<(GroupName, bool), StartTime>,
    restarts: BTreeMap<GroupName, RestartLuck>,
}

/// What starts of a group were like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearnedStarts {
    /// From the order to the first healthy answer; `None` while none was seen.
    pub cold: Option<Duration>,
    /// Believed of such machines before.
    pub cold_believed: Duration,
    pub restart: Duration,
    /// Share of the restarts that fail, in [0, 1].
    pub restart_fails: f64,
}

impl StartTimes {
    fn of(&mut self, group: &WorkerGroup, restart: bool, times: &TimeLimits) -> &mut StartTime {
        self.times
            .entry((group.name.clone(), restart))
            .or_insert_with(|| StartTime::prior(prior(group, restart, times)))
    }
}

fn prior(group: &WorkerGroup, restart: bool, times: &TimeLimits) -> Duration {
    match (&group.source, restart) {
        (Source::Local(local), false) => local.boot_time + LOCAL_LOAD_PRIOR,
        (Source::Local(local), true) => local.restart_time + LOCAL_LOAD_PRIOR,
        // Nothing is started: a probe finds it.
        (Source::Fixed { .. }, _) => 2 * times.probe_interval,
        (Source::Vast(_), false) => times.boot / BOOT_SHARE,
        (Source::Vast(_), true) => times.boot / RESTART_SHARE,
    }
}

impl EndpointFleet {
    /// A worker became ready, so long after it began to start.
    pub fn came_up(&self, worker: &Worker, took: Duration) {
        if worker.origin.start_unseen() {
            return;
        }
        let settings = self.settings();
        let mut groups = settings.groups.iter();
        if let Some(group) = groups.find(|group| group.name == worker.spec.group) {
            let restarted = worker.was_restarted();
            let mut starts = self.start_times.lock();
            starts.of(group, restarted, &settings.times).observe(took);
            if restarted {
                let luck = starts.restarts.entry(group.name.clone()).or_default();
                luck.observe(false);
            }
        }
    }

    /// A stopped worker that was asked to start is stopped again, or lost.
    pub fn restart_failed(&self, worker: &Worker) {
        let mut starts = self.start_times.lock();
        let group = worker.spec.group.clone();
        starts.restarts.entry(group).or_default().observe(true);
    }

    /// What starting a worker of a group is like.
    pub fn starts_of(&self, group: &WorkerGroup) -> LearnedStarts {
        let times = &self.settings().times;
        let mut starts = self.start_times.lock();
        let cold = *starts.of(group, false, times);
        LearnedStarts {
            cold: cold.was_seen().then(|| cold.expected()),
            cold_believed: prior(group, false, times),
            restart: starts.of(group, true, times).expected(),
            restart_fails: starts
                .restarts
                .get(&group.name)
                .copied()
                .unwrap_or_default()
                .fails(),
        }
    }

    /// Until `ahead` is worked off by the workers that serve and those that start. Without any: until one
    /// that would be started now is there.
    pub fn expected_wait(&self, ahead: Tokens, now: Timestamp) -> Option<Duration> {
        let settings = self.settings();
        let mut starts = self.start_times.lock();
        let mut supplies: Vec<Supply> = Vec::new();
        for worker in self.workers().iter() {
            let (phase, since) = worker.phase();
            let after = if worker.takes_requests() {
                Duration::ZERO
            } else if phase.is_starting() {
                let mut groups = settings.groups.iter();
                let Some(group) = groups.find(|group| group.name == worker.spec.group) else {
                    continue;
                };
                starts
                    .of(group, worker.was_restarted(), &settings.times)
                    .left(now.since(since))
            } else {
                continue;
            };
            supplies.push(Supply {
                after,
                speed: worker.speed(),
            });
        }
        if supplies.is_empty() {
            supplies.extend(settings.groups.iter().map(|group| Supply {
                after: starts.of(group, false, &settings.times).expected(),
                speed: group.speed_prior.tokens_per_second,
            }));
        }
        time_to_do(ahead, &supplies)
    }

    /// When a request that is refused now would find all who wait now served.
    pub fn retry_after(&self, now: Timestamp) -> Duration {
        let expected = self.expected_wait(self.waiting().cost, now);
        retry_after(expected.unwrap_or(Duration::MAX))
    }

    /// What those who wait wait for.
    pub fn wait_reason(&self) -> WaitReason {
        *self.reason.borrow()
    }

    /// Looks at the workers again and tells those who wait if the answer is another.
    pub(super) fn look_why_they_wait(&self) {
        let anyone_ready = self.workers().iter().any(|worker| worker.takes_requests());
        let reason = if anyone_ready {
            WaitReason::AllBusy
        } else {
            WaitReason::NoneReady
        };
        self.reason
            .send_if_modified(|now| std::mem::replace(now, reason) != reason);
    }
}
