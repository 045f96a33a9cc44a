//! Upgrade in place: a new process takes over from the old one, over a socket in the state directory.
//!
//! | new | old |
//! |---|---|
//! | hello | welcome: who it is and where it listens |
//! | want sockets | sends the listening sockets, by Pingora's own way |
//! | want control | stops its scaler, waits for its market calls, frees the ledger; sends what it has learned |
//! | serving | leaving: from here on it only finishes what it has |
//!
//! Then, until the old one has ended, it tells its loads and the new one its workers: what is busy there is not
//! released here, and what is held there is served by workers that came later. Whichever step fails before the last,
//! the old one takes back what it gave and goes on; the new one ends.

mod giving;
mod paths;
mod taking;

pub(super) use giving::{Giving, Successor};
pub(super) use paths::Paths;
pub(super) use taking::{Predecessor, Taking};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::{Loads, WorkerTable};

/// For an answer that needs no work.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long the market calls of the old process may take to return.
const CALLS_WITHIN: Duration = Duration::from_secs(20);
/// From control given to the new process serving.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
/// How often loads and workers are told, if they changed.
const TELL_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum FromNew {
    Hello { pid: u32, version: String },
    WantSockets,
    WantControl,
    Serving,
    Workers { workers: WorkerTable },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum FromOld {
    Welcome {
        pid: u32,
        version: String,
        listening: Vec<String>,
    },
    Refused {
        why: String,
    },
    Sockets,
    /// `learned` is a `Learned` of perhaps another version.
    Control {
        #[serde(default)]
        learned: serde_json::Value,
    },
    Leaving,
    Loads {
        loads: Loads,
    },
}

/// Why there was no handover.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the other process is gone")]
    Gone,
    #[error("the other process refused: {0}")]
    Refused(String),
    #[error("the other process said nothing for {0:?}")]
    Silent(Duration),
    #[error("the other process is not understood: {0}")]
    NotUnderstood(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// One message, one line.
fn line(message: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}
