//! Processes of this machine: which of them belong to a rental, whether one still lives, how they end.
//! A label in a process's environment outlives the gateway that wrote it there.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use serde::{Deserialize, Serialize};
use sysinfo::{ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};
use tokio::time::Instant;

use crate::domain::RentalLabel;

/// The variable that holds a `RentalLabel`; children inherit it.
pub(super) const LABEL_VARIABLE: &str = "TIDEGATE_LABEL";

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// From SIGKILL to giving up.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// The machine's start time, of which these are computed, moves a little when its clock is set.
const START_TOLERANCE_S: u64 = 2;

/// A process to be recognised later; its start time tells it from another with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessMark {
    pub(super) pid: u32,
    pub(super) started_at_s: u64,
}

/// A living process: neither a zombie nor this one.
#[derive(Clone, Debug)]
pub(super) struct LiveProcess {
    pub(super) mark: ProcessMark,
    pub(super) label: Option<RentalLabel>,
}

impl LiveProcess {
    /// A process that overwrote its environment has no label left; then the start time decides.
    pub(super) fn is(&self, mark: ProcessMark, label: &RentalLabel) -> bool {
        self.mark.pid == mark.pid
            && match &self.label {
                Some(found) => found == label,
                None => self.mark.started_at_s.abs_diff(mark.started_at_s) <= START_TOLERANCE_S,
            }
    }

    /// Asked by the group's existence: a group led from outside a container has no number in it.
    pub(super) fn leads_its_group(&self) -> bool {
        as_pid(self.mark.pid)
            .is_some_and(|pid| matches!(test_kill_process_group(pid), Ok(()) | Err(Errno::PERM)))
    }

    fn belongs_to(&self, label: &RentalLabel, mark: Option<ProcessMark>) -> bool {
        self.label.as_ref() == Some(label) || mark.is_some_and(|mark| self.is(mark, label))
    }
}

/// Every process whose environment may be read by us, and the bare facts of the others.
pub(super) fn all() -> io::Result<Vec<LiveProcess>> {
    read(ProcessesToUpdate::All)
}

/// Those of `pids` that live.
pub(super) fn some(pids: &[u32]) -> io::Result<Vec<LiveProcess>> {
    let pids: Vec<_> = pids
        .iter()
        .map(|pid| sysinfo::Pid::from_u32(*pid))
        .collect();
    read(ProcessesToUpdate::Some(&pids))
}

/// The mark of a process that was just started by us.
pub(super) fn mark_of_child(pid: u32) -> ProcessMark {
    let started_at_s = some(&[pid])
        .ok()
        .and_then(|found| found.first().map(|process| process.mark.started_at_s))
        .unwrap_or_default();
    ProcessMark { pid, started_at_s }
}

/// Ends what is left of a group whose leader has just ended: it may hold the port or a GPU.
pub(super) fn kill_rest_of_group(leader: u32) {
    if let Some(group) = as_pid(leader) {
        // An empty group is the usual case, not an error.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Ends every process of a rental: SIGTERM once, SIGKILL after five seconds, an error after seven.
pub(super) async fn end(label: &RentalLabel, mark: Option<ProcessMark>) -> io::Result<()> {
    let begun = Instant::now();
    let mut asked = HashSet::new();
    let mut pause = Duration::from_millis(20);
    loop {
        let table = tokio::task::spawn_blocking(all).await??;
        let left: Vec<&LiveProcess> = table
            .iter()
            .filter(|process| process.belongs_to(label, mark))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= GRACE + KILL_WAIT {
            return Err(io::Error::other(format!("{label} cannot be killed")));
        }
        if begun.elapsed() >= GRACE {
            to_kill(&left).for_each(|target| target.send(Signal::KILL));
        } else {
            to_ask(&left)
                .filter(|target| asked.insert(*target))
                .for_each(|target| target.send(Signal::TERM));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Groups while one of them is led, which reaches each member once; then those that are left over.
fn to_ask<'a>(left: &'a [&LiveProcess]) -> impl Iterator<Item = Target> + 'a {
    let any_led = left.iter().any(|process| process.leads_its_group());
    to_kill(left).filter(move |target| matches!(target, Target::Group(_)) == any_led)
}

fn to_kill<'a>(left: &'a [&LiveProcess]) -> impl Iterator<Item = Target> + 'a {
    left.iter().filter_map(|process| {
        let pid = as_pid(process.mark.pid)?;
        Some(match process.leads_its_group() {
            true => Target::Group(pid),
            false => Target::Process(pid),
        })
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Group(Pid),
    Process(Pid),
}

impl Target {
    fn send(self, signal: Signal) {
        let sent = match self {
            Target::Group(group) => kill_process_group(group, signal),
            Target::Process(pid) => kill_process(pid, signal),
        };
        if let Err(error) = sent {
            // Usually it ended in between; the next look at the table tells.
            tracing::debug!(%error, "signal not delivered");
        }
    }
}

fn read(which: ProcessesToUpdate<'_>) -> io::Result<Vec<LiveProcess>> {
    let mut system = System::new().map_err(|error| io::Error::other(error.to_string()))?;
    let wanted = ProcessRefreshKind::nothing()
        .without_tasks()
        .with_environ(UpdateKind::Always);
    system.refresh_processes_specifics(which, true, wanted);
    let own = std::process::id();
    Ok(system
        .processes()
        .values()
        .filter(|process| process.pid().as_u32() != own && lives(process.status()))
        .map(live_process)
        .collect())
}

fn lives(status: ProcessStatus) -> bool {
    !matches!(status, ProcessStatus::Zombie | ProcessStatus::Dead)
}

fn live_process(process: &sysinfo::Process) -> LiveProcess {
    LiveProcess {
        mark: ProcessMark {
            pid: process.pid().as_u32(),
            started_at_s: process.start_time(),
        },
        label: process.environ().iter().find_map(|variable| {
            let (name, value) = variable.to_str()?.split_once('=')?;
            (name == LABEL_VARIABLE).then(|| value.parse().ok())?
        }),
    }
}

/// Never 0 or 1: a signal to those would reach far more than a worker.
fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 1)
        .and_then(Pid::from_raw)
}
