//! The decision log: one JSON line a decision, with what it was made from, so that it can be replayed.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{EndpointName, Timestamp};

/// Size at which the file is moved to `<name>.1` and begun anew.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Decisions kept in memory for the admin port.
const RECENT_MAX: usize = 100;

pub struct DecisionLog {
    path: PathBuf,
    inner: Mutex<Log>,
}

struct Log {
    file: Option<File>,
    bytes: u64,
    recent: VecDeque<Box<RawValue>>,
}

impl DecisionLog {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            inner: Mutex::new(Log {
                file: Some(file),
                bytes,
                recent: VecDeque::new(),
            }),
        })
    }

    /// A decision that cannot be written is still made: the failure is logged and the record kept in memory.
    pub fn record(&self, record: &impl Serialize) {
        let line = match serde_json::value::to_raw_value(record) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "decision could not be recorded");
                return;
            }
        };
        let mut log = self.inner.lock();
        if let Err(error) = log.append(&self.path, line.get()) {
            tracing::error!(%error, path = %self.path.display(), "decision log not written");
        }
        if log.recent.len() == RECENT_MAX {
            log.recent.pop_front();
        }
        log.recent.push_back(line);
    }

    /// The decisions of one moment, also those that are only in the file. Reads all of it: not for the request path.
    pub fn made_at(&self, at: Timestamp) -> Vec<Box<RawValue>> {
        let begin = beginning(at);
        let recent: Vec<_> = {
            let log = self.inner.lock();
            let made = log.recent.iter();
            let made = made.filter(|line| line.get().starts_with(&begin));
            made.cloned().collect()
        };
        match recent.is_empty() {
            true => find_decisions(&self.path, at),
            false => recent,
        }
    }

    /// The latest decision that speaks of this endpoint.
    pub fn last_of(&self, endpoint: &EndpointName) -> Option<Box<RawValue>> {
        let log = self.inner.lock();
        let of = |line: &str| {
            serde_json::from_str::<Head>(line)
                .is_ok_and(|head| head.inputs.snapshot.endpoint == *endpoint)
        };
        let mut latest = log.recent.iter().rev();
        latest.find(|line| of(line.get())).cloned()
    }

    /// The latest decisions, oldest first, as a JSON array.
    pub fn recent_json(&self) -> Vec<u8> {
        let log = self.inner.lock();
        serde_json::to_vec(&log.recent).unwrap_or_else(|_| b"[]".to_vec())
    }
}

impl Log {
    fn append(&mut self, path: &Path, line: &str) -> io::Result<()> {
        if self.bytes > FILE_BYTES_MAX || self.file.is_none() {
            self.file = None;
            if self.bytes > FILE_BYTES_MAX {
                std::fs::rename(path, path.with_extension("jsonl.1"))?;
            }
            self.file = Some(open(path)?);
            self.bytes = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(format!("{line}\n").as_bytes())?;
            self.bytes += line.len() as u64 + 1;
        }
        Ok(())
    }
}

/// Decisions of one moment in a log that nobody holds open.
pub fn find_decisions(path: &Path, at: Timestamp) -> Vec<Box<RawValue>> {
    let begin = beginning(at);
    let files = [path.with_extension("jsonl.1"), path.to_owned()];
    let lines = files.iter().filter_map(|path| File::open(path).ok());
    lines
        .flat_map(|file| BufReader::new(file).lines().map_while(Result::ok))
        .filter(|line| line.starts_with(&begin))
        .filter_map(|line| RawValue::from_string(line).ok())
        .collect()
}

/// A record's first field is its time.
fn beginning(at: Timestamp) -> String {
    format!("{{\"at\":{},", at.as_millis())
}

/// Of a record, whom it is about.
#[derive(Deserialize)]
struct Head {
    inputs: HeadInputs,
}

#[derive(Deserialize)]
struct HeadInputs {
    snapshot: HeadSnapshot,
}

#[derive(Deserialize)]
struct HeadSnapshot {
    endpoint: EndpointName,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(at: u64, endpoint: &str) -> impl Serialize {
        #[derive(Serialize)]
        struct Record {
            at: u64,
            inputs: serde_json::Value,
        }
        let inputs = json!({"snapshot": {"endpoint": endpoint}});
        Record { at, inputs }
    }

    #[test]
    fn a_decision_is_found_by_its_time_in_memory_and_in_the_file() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("decisions.jsonl");
        let log = DecisionLog::open(&path).expect("open");
        for at in 0..=RECENT_MAX as u64 {
            log.record(&record(at, "chat"));
        }
        let at = Timestamp::from_millis;
        assert_eq!(log.made_at(at(5)).len(), 1);
        // The first one is in the file only.
        assert_eq!(log.made_at(at(0)).len(), 1);
        assert!(log.made_at(at(1_000)).is_empty());
        assert_eq!(find_decisions(&path, at(7)).len(), 1);
    }

    #[test]
    fn the_last_decision_of_an_endpoint_is_its_own() {
        let dir = tempfile::tempdir().expect("directory");
        let log = DecisionLog::open(&dir.path().join("decisions.jsonl")).expect("open");
        for (at, endpoint) in [(1, "chat"), (2, "chat"), (3, "code")] {
            log.record(&record(at, endpoint));
        }
        let last = log.last_of(&EndpointName::new("chat")).expect("one");
        assert!(last.get().starts_with("{\"at\":2,"), "{last}");
        assert!(log.last_of(&EndpointName::new("none")).is_none());
    }
}
