//! A child program that ends with its handle, politely first, so that it can end its own children.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::wait_until;

/// Between SIGTERM and SIGKILL when a handle is dropped.
const DROP_GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Output of both kinds is appended to the file `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Stopped by SIGSTOP.
    pub fn is_frozen(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        // The state follows the name, which may itself hold anything.
        stat.is_ok_and(|stat| {
            let state = stat.rsplit(") ").next();
            state.is_some_and(|state| state.starts_with('T'))
        })
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// SIGKILL: no goodbye.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        // An error here means that it ended already.
        let _ = self.child.kill();
        Ok(self.child.wait()?)
    }

    /// SIGTERM, then waits for its end.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.exit_status().is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait_for_exit(limit).await
    }

    /// Waits for an end that something else causes.
    pub async fn wait_for_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let mut status = None;
        wait_until(limit, || {
            status = self.exit_status();
            std::future::ready(status.is_some())
        })
        .await;
        status.with_context(|| format!("{name} did not end within {limit:?}"))
    }

    /// Waits until `ready`; fails early and with the log's end if the program exits.
    pub async fn wait_ready<F, Fut>(&mut self, limit: Duration, mut ready: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = bool>,
    {
        let mut exited = None;
        let in_time = wait_until(limit, || {
            exited = self.exit_status();
            let asked = exited.is_none().then(&mut ready);
            async move {
                match asked {
                    Some(asked) => asked.await,
                    None => true,
                }
            }
        })
        .await;
        if let Some(status) = exited {
            bail!("{} ended: {status}\n{}", self.name, self.log_tail());
        }
        if !in_time {
            bail!(
                "{} was not ready within {limit:?}\n{}",
                self.name,
                self.log_tail()
            );
        }
        Ok(())
    }

    /// All it wrote so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last 30 lines it wrote.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.exit_status().is_some() {
            return;
        }
        // Errors are of no use here: the kill below is the last word.
        let _ = self.signal(Signal::TERM);
        let _ = self.signal(Signal::CONT);
        let deadline = Instant::now() + DROP_GRACE;
        while self.exit_status().is_none() {
            if Instant::now() > deadline {
                let _ = self.kill();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Program {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Program::start("sh", command, &folder.join("log")).unwrap()
    }

    #[tokio::test]
    async fn a_program_that_ends_early_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut program = shell("echo no such file >&2; exit 4", folder.path());
        let error = program
            .wait_ready(Duration::from_secs(10), || async { false })
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no such file") && error.contains('4'),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_dropped_program_gets_to_say_goodbye() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap 'echo goodbye; exit 0' TERM; echo up; while :; do sleep 0.01; done";
        let mut program = shell(script, folder.path());
        let log = folder.path().join("log");
        let said = |word: &str| std::fs::read_to_string(&log).is_ok_and(|log| log.contains(word));
        program
            .wait_ready(Duration::from_secs(10), || std::future::ready(said("up")))
            .await
            .unwrap();
        drop(program);
        assert!(said("goodbye"));
    }

    #[tokio::test]
    async fn a_stopped_program_tells_how_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut program = shell("exit 7", folder.path());
        let status = program
            .wait_for_exit(Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(status.code(), Some(7));
        let mut sleeper = shell("exec sleep 60", folder.path());
        assert_eq!(sleeper.exit_status(), None);
        let status = sleeper.stop(Duration::from_secs(10)).await.unwrap();
        assert!(!status.success());
    }
}
