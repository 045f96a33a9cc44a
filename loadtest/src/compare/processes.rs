//! CPU time and memory of a program and all it started, from the kernel's books.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of /proc/PID/stat: 1/100 s on every usual Linux (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);

/// User and system time of the program and its descendants that live.
pub(super) fn cpu_time(root: u32) -> Result<Duration> {
    tree(root)?.into_iter().map(cpu_time_of).sum()
}

/// Resident kilobytes of the program and its descendants. What they share is counted once for each.
pub(crate) fn resident_kb(root: u32) -> Result<u64> {
    tree(root)?.into_iter().map(resident_kb_of).sum()
}

/// To the nanosecond where the kernel tells it so for each thread, else in ticks.
fn cpu_time_of(pid: u32) -> Result<Duration> {
    match run_time(pid) {
        Some(time) => Ok(time),
        None => ticks(pid),
    }
}

/// Threads that ended are left out: the measured programs keep theirs.
fn run_time(pid: u32) -> Option<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut nanos = 0;
    for thread in threads {
        // A thread may end while this looks at it.
        let Ok(text) = std::fs::read_to_string(thread.ok()?.path().join("schedstat")) else {
            continue;
        };
        nanos += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (nanos > 0).then_some(Duration::from_nanos(nanos))
}

fn ticks(pid: u32) -> Result<Duration> {
    let stat = read_stat(pid)?;
    let field = |index: usize| stat.get(index)?.parse::<u32>().ok();
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    Ok(TICK * ticks.with_context(|| format!("/proc/{pid}/stat is not as expected"))?)
}

fn resident_kb_of(pid: u32) -> Result<u64> {
    let status = read(Path::new(&format!("/proc/{pid}/status")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kb = number.and_then(|number| number.parse().ok());
    kb.context("no resident size in /proc")
}

/// The process and all below it, whatever else runs.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Some end while this looks at them.
        let parent = read_stat(pid)
            .ok()
            .and_then(|stat| stat.get(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

/// The fields behind the program's name, which may itself hold blanks and brackets; the state is the first.
fn read_stat(pid: u32) -> Result<Vec<String>> {
    Ok(fields(&read(Path::new(&format!("/proc/{pid}/stat")))?))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn fields(stat: &str) -> Vec<String> {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    behind_name.split_whitespace().map(str::to_owned).collect()
}

/// The processors' time since some moment: at work, and all, whoever with.
pub(crate) struct Busy(Option<(f64, f64)>);

impl Busy {
    pub(crate) fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let all = stat.lines().next().map(|line| {
            let fields = line.split_whitespace().skip(1);
            fields.filter_map(|n| n.parse().ok()).collect::<Vec<f64>>()
        });
        Self(all.filter(|ticks| ticks.len() >= 8).map(|ticks| {
            let all: f64 = ticks.iter().take(8).sum();
            // The fourth and fifth are idle and waiting for disks.
            (all - ticks[3] - ticks[4], all)
        }))
    }

    /// 0 to 1; 0 where the system does not tell.
    pub(crate) fn since(&self) -> f64 {
        let (Some((busy, all)), Some((busy_before, all_before))) = (Self::now().0, self.0) else {
            return 0.0;
        };
        (busy - busy_before) / (all - all_before).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_with_blanks_and_brackets_shifts_no_field() {
        let stat = "17 (a) b (c) S 4 17 17 0 -1 4194560 1 0 0 0 250 50 0 0 20 0";
        let got = fields(stat);
        assert_eq!((got[0].as_str(), got[1].as_str()), ("S", "4"));
        assert_eq!((got[11].as_str(), got[12].as_str()), ("250", "50"));
    }

    #[test]
    fn this_process_uses_cpu_and_its_use_only_grows() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_time(pid).unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(ticks(pid).is_ok() && resident_kb(pid).unwrap() > 1_000);
    }

    #[test]
    fn a_childs_child_belongs_to_the_tree() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        // The line says that the child has its own.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        let found = tree(child.id()).unwrap();
        for &pid in found.iter().rev() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
