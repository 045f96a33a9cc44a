//! The decision log: one JSON line a decision, with what it was made from, so that it can be replayed.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;

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

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
