//! The containers: real processes of this machine, each in a group of its own, that end with the fake.
//!
//! A container's first process reads from a pipe that the fake holds: when the fake is gone, however it went, the pipe
//! ends and the whole group is killed. What left its group bears the fake's folder in its environment and is found by it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc::UnboundedSender;

use super::stand_ins;

/// In the environment of every process of a fake: its folder, and which container it belongs to.
const FOLDER: &str = "FAKE_VAST_DIR";
const CONTAINER: &str = "FAKE_VAST_CONTAINER";

/// What a container runs.
#[derive(Clone, Debug)]
pub enum Program {
    /// This script, and goes on when it has ended.
    Onstart(String),
    /// These words, and ends with them.
    Entrypoint(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Launch {
    pub instance: u64,
    pub program: Program,
    pub variables: Vec<(String, String)>,
}

/// A container ended by itself.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub instance: u64,
    pub pid: u32,
}

struct Container {
    pid: u32,
    /// Of all containers of this fake, also of the same instance.
    number: u64,
    /// Held, never written to.
    _pipe: Option<ChildStdin>,
}

pub struct Processes {
    folder: PathBuf,
    running: HashMap<u64, Container>,
    started: u64,
    ended: UnboundedSender<Ended>,
}

impl Processes {
    /// Prepares the folder and ends what an earlier fake left in it.
    pub fn prepare(
        folder: &Path,
        worker: &Path,
        ended: UnboundedSender<Ended>,
    ) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        kill_marked(FOLDER, folder.as_os_str());
        fs::create_dir_all(folder.join("instances"))?;
        stand_ins::install(&folder.join("bin"), worker)?;
        Ok(Self {
            folder,
            running: HashMap::new(),
            started: 0,
            ended,
        })
    }

    /// All that an instance has written, of every start.
    pub fn log_path(&self, instance: u64) -> PathBuf {
        self.home(instance).join("log")
    }

    fn home(&self, instance: u64) -> PathBuf {
        self.folder.join("instances").join(instance.to_string())
    }

    /// Starts a container; what it writes is appended to the instance's log.
    pub fn start(&mut self, launch: Launch) -> io::Result<()> {
        let home = self.home(launch.instance);
        let data = home.join("root");
        fs::create_dir_all(&data)?;
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path(launch.instance))?;
        let mut command = Command::new("/bin/sh");
        command.arg(self.folder.join("bin/container"));
        match &launch.program {
            Program::Onstart(script) => {
                let file = home.join("onstart.sh");
                fs::write(&file, script)?;
                command.arg("onstart").arg(file);
            }
            Program::Entrypoint(words) => {
                command.arg("entrypoint").args(words);
            }
        }
        self.started += 1;
        let number = self.started;
        let real_path = std::env::var_os("PATH").unwrap_or_default();
        let mut path = OsString::from(self.folder.join("bin"));
        path.push(":");
        path.push(&real_path);
        let mut child = command
            .env_clear()
            .envs(launch.variables)
            .env("PATH", path)
            .env("HOME", &data)
            .env("DATA_DIRECTORY", &data)
            .env("FAKE_VAST_REAL_PATH", real_path)
            .env(FOLDER, &self.folder)
            .env(CONTAINER, number.to_string())
            .current_dir(&data)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pid = child.id().unwrap_or(0);
        let container = Container {
            pid,
            number,
            _pipe: child.stdin.take(),
        };
        self.running.insert(launch.instance, container);
        let (ended, instance) = (self.ended.clone(), launch.instance);
        tokio::spawn(async move {
            // An error would mean that it is gone already.
            let _ = child.wait().await;
            // Nobody listens any more: the fake is ending.
            let _ = ended.send(Ended { instance, pid });
        });
        Ok(())
    }

    /// Whether this end is that of the instance's present container, and not of one that was killed.
    pub fn is_current(&self, ended: Ended) -> bool {
        let container = self.running.get(&ended.instance);
        container.is_some_and(|container| container.pid == ended.pid)
    }

    /// Ends a container with all its processes. None running is no error.
    pub fn kill(&mut self, instance: u64) {
        let Some(container) = self.running.remove(&instance) else {
            return;
        };
        kill_group(container.pid);
        let (folder, number) = (self.folder.clone(), container.number.to_string());
        // What left the group; reading the process table takes longer than the caller should wait.
        std::thread::spawn(move || kill_of_container(&folder, &number));
    }

    /// Ends all of them.
    pub fn kill_all(&mut self) {
        for (_, container) in self.running.drain() {
            kill_group(container.pid);
        }
        kill_marked(FOLDER, self.folder.as_os_str());
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn kill_group(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already, if this fails.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn kill_of_container(folder: &Path, number: &str) {
    let folder = marked(FOLDER, folder.as_os_str());
    let number = marked(CONTAINER, number.as_ref());
    kill_where(|environment| holds(environment, &folder) && holds(environment, &number));
}

fn kill_marked(name: &str, value: &std::ffi::OsStr) {
    let wanted = marked(name, value);
    kill_where(|environment| holds(environment, &wanted));
}

fn marked(name: &str, value: &std::ffi::OsStr) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_encoded_bytes()].concat()
}

/// Whether an environment has this variable, as `NAME=value`.
fn holds(environment: &[u8], wanted: &[u8]) -> bool {
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == wanted)
}

fn kill_where(is_ours: impl Fn(&[u8]) -> bool) {
    let own = std::process::id();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.filter(|pid: &u32| *pid != own) else {
            continue;
        };
        // Others' processes cannot be read, and are none of ours.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if is_ours(&environment)
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
