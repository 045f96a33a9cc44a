//! Which CPU runs what, and what machine this is.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// A load average that more than the shell brings about.
const BUSY: f64 = 1.0;

const PROXY_CPU: &str = "0";
const LOAD_CPU: &str = "1";

/// The proxies on one CPU, the load and the workers on another, where there are two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinning {
    possible: bool,
    cpus: usize,
}

impl Pinning {
    pub fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let taskset = Command::new("taskset").arg("--version").output().is_ok();
        Self {
            possible: cpus >= 2 && taskset,
            cpus,
        }
    }

    /// Everything runs where the system puts it.
    pub fn none() -> Self {
        Self {
            possible: false,
            ..Self::of_this_machine()
        }
    }

    pub fn is_possible(self) -> bool {
        self.possible
    }

    /// All threads of this process; those started later, and its children, inherit it.
    pub fn pin_this_process(self) -> Result<()> {
        if !self.possible {
            return Ok(());
        }
        let output = Command::new("taskset")
            .args(["-a", "-c", "-p", LOAD_CPU, &std::process::id().to_string()])
            .output()
            .context("cannot start taskset")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "taskset: {}", complaint.trim());
        Ok(())
    }

    /// A command that runs `program` on the proxies' CPU. taskset becomes the program, so the process id is its own.
    pub fn command(self, program: &Path) -> Command {
        if !self.possible {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", PROXY_CPU]).arg(program);
        command
    }
}

/// What a reader has to know before comparing with figures of another run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub processor: String,
    pub cpus: usize,
    pub kernel: String,
    pub pinned: bool,
    /// Of one minute, before and after the run: this run itself brings about two.
    pub load_before: f64,
    pub load_after: f64,
}

impl Machine {
    pub fn of_this_run(pinning: Pinning) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let model = model.and_then(|line| line.split_once(':'));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cpus: pinning.cpus,
            kernel: kernel.trim().to_owned(),
            pinned: pinning.is_possible(),
            load_before: load_average(),
            load_after: 0.0,
        }
    }

    pub fn ended(&mut self) {
        self.load_after = load_average();
    }

    /// A paragraph for whoever reads figures from a machine that had other work when the run began.
    pub fn caution(&self) -> &'static str {
        if self.load_before > BUSY {
            "**A trial, not a result**: this machine had other work. Delays are of no use, and single figures of little.\n\n"
        } else {
            ""
        }
    }
}

fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|first| first.parse().ok()).unwrap_or(0.0)
}
