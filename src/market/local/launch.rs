//! Starting a worker's process: its port, its environment, its log.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::processes::LABEL_VARIABLE;
use super::record::Record;

/// What a worker gets of the gateway's own environment: what programs need to run, nothing that may
/// be a key. `HF_TOKEN` and its like are given in the group's `env`.
const INHERITED: [&str; 10] = [
    "PATH",
    "HOME",
    "LANG",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
];
const INHERITED_PREFIXES: [&str; 2] = ["LC_", "CUDA_"];

/// Starts the record's command on `port`, as the leader of a group of its own. It outlives the gateway.
pub(super) fn spawn(record: &Record, port: u16, log: &Path) -> io::Result<Child> {
    let port = port.to_string();
    let mut words = record
        .command
        .iter()
        .map(|word| word.replace("{port}", &port));
    let program = words
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "empty command"))?;
    let output = open_log(log)?;
    Command::new(program)
        .args(words)
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| is_inherited(name)))
        // Python's setproctitle would write its title over the environment, and with it over the label.
        .env("SPT_NOENV", "1")
        .envs(&record.env)
        .env(LABEL_VARIABLE, OsString::from(record.label.to_string()))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
}

/// A line of ours in the worker's log, for what its process could not say itself.
pub(super) fn note(log: &Path, line: &str) {
    let written = open_log(log).and_then(|mut file| writeln!(file, "tidegate: {line}"));
    if let Err(error) = written {
        tracing::warn!(log = %log.display(), %error, "worker's log not written");
    }
}

/// A port that is free now and not among `taken`, which may not listen on theirs yet.
pub(super) fn free_port(taken: &[u16]) -> io::Result<u16> {
    for _ in 0..32 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        "no free port on 127.0.0.1",
    ))
}

fn is_inherited(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        INHERITED.contains(&name)
            || INHERITED_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
    })
}

/// The end of a worker's log, on one line.
pub(super) fn last_words(log: &Path) -> String {
    const BYTES_MAX: u64 = 600;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
        let mut end = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().unwrap_or_default();
    let lines: Vec<_> = end.split(|byte| *byte == b'\n').collect();
    let last = &lines[lines.len().saturating_sub(6)..];
    let words: Vec<_> = last
        .iter()
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    words.join(" | ").trim_end_matches(" | ").to_owned()
}

fn open_log(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}
