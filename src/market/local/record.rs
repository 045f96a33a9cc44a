//! What a local instance's directory says of it, so that the next gateway can go on with it.
//! The file holds the group's environment, which may hold secrets: it is readable by its owner only
//! and goes when the instance is destroyed. Without it a stopped worker could not be started again.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::processes::{LiveProcess, ProcessMark};
use crate::domain::{InstanceId, InstanceState, LocalLaunch, RentalLabel, Timestamp, UsdPerHour};

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) label: RentalLabel,
    pub(super) usd_per_hour: UsdPerHour,
    /// With `{port}` as written: each start may get another port.
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) boot_ms: u64,
    pub(super) restart_ms: u64,
    /// What is intended while a call is under way: written before the process is told.
    pub(super) state: InstanceState,
    /// Written before the process starts.
    pub(super) port: Option<u16>,
    /// The process until it is known to be gone.
    pub(super) process: Option<ProcessMark>,
    /// When a boot ends that another gateway began and left to us.
    #[serde(default)]
    pub(super) boots_at: Option<Timestamp>,
}

impl Record {
    pub(super) fn new(label: &RentalLabel, usd_per_hour: UsdPerHour, launch: &LocalLaunch) -> Self {
        Self {
            label: label.clone(),
            usd_per_hour,
            command: launch.command.clone(),
            env: launch.env.clone(),
            boot_ms: launch.boot_time.as_millis() as u64,
            restart_ms: launch.restart_time.as_millis() as u64,
            state: InstanceState::Loading,
            port: None,
            process: None,
            boots_at: None,
        }
    }

    /// A slot is held while something runs or may run again.
    pub(super) fn holds_a_slot(&self) -> bool {
        self.state != InstanceState::Exited || self.process.is_some()
    }

    /// Brings what an earlier gateway wrote in line with the processes that live.
    pub(super) fn adopt(&mut self, table: &[LiveProcess]) {
        self.process = self.living(table).map(|process| process.mark);
        if matches!(self.state, InstanceState::Loading | InstanceState::Running) {
            // Without a process, a boot that was under way is lost, unless it was handed over.
            self.state = match (self.process, self.boots_at) {
                (Some(_), _) => InstanceState::Running,
                (None, Some(_)) => InstanceState::Loading,
                (None, None) => InstanceState::Exited,
            };
        }
    }

    /// A gateway killed between the start of a process and the note of it leaves only the label.
    fn living<'a>(&self, table: &'a [LiveProcess]) -> Option<&'a LiveProcess> {
        match self.process {
            Some(mark) => table.iter().find(|process| process.is(mark, &self.label)),
            None => table
                .iter()
                .filter(|process| process.label.as_ref() == Some(&self.label))
                .filter(|process| process.leads_its_group())
                .min_by_key(|process| (process.mark.started_at_s, process.mark.pid)),
        }
    }
}

/// The same for a rental with or without its directory.
pub(super) fn instance_id(label: &RentalLabel) -> InstanceId {
    let worker: String = label
        .worker
        .as_str()
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => c,
            _ => '_',
        })
        .collect();
    InstanceId::new(format!("local-{worker}"))
}

pub(super) fn log_path(dir: &Path, id: &InstanceId) -> PathBuf {
    dir.join(id.as_str()).join("worker.log")
}

/// Makes a directory that only its owner can look into; one that exists is left as it is.
pub(super) fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Replaces the record in one step.
pub(super) fn write(dir: &Path, id: &InstanceId, record: &Record) -> io::Result<()> {
    let place = dir.join(id.as_str());
    create_private_dir(&place)?;
    let draft = place.join("instance.json.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(record)?)?;
    fs::rename(&draft, place.join("instance.json"))
}

pub(super) fn remove(dir: &Path, id: &InstanceId) -> io::Result<()> {
    match fs::remove_dir_all(dir.join(id.as_str())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Every instance that stands in `dir`. One that cannot be read is reported and left to its label.
pub(super) fn read_all(dir: &Path) -> io::Result<Vec<(InstanceId, Record)>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(dir)? {
        let place = entry?.path();
        let Some(name) = place.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        match read(&place) {
            Ok(record) => records.push((InstanceId::new(name), record)),
            Err(error) => {
                tracing::warn!(directory = %place.display(), %error, "not a readable instance");
            }
        }
    }
    Ok(records)
}

fn read(place: &Path) -> io::Result<Record> {
    let text = fs::read(place.join("instance.json"))?;
    Ok(serde_json::from_slice(&text)?)
}
