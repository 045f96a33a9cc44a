//! The new process: asks, step by step, for what it takes over. It blocks until it has all, for nothing of it runs
//! before; then it attends to the old one until that has ended.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use super::{
    ANSWER_WITHIN, CALLS_WITHIN, Failed, FromNew, FromOld, Paths, TELL_EVERY, line, version,
};
use crate::fleet::{Fleet, Learned, Loads};

pub(in crate::app) struct Taking {
    stream: BufReader<UnixStream>,
    paths: Paths,
    /// Addresses the old process listens on.
    pub(in crate::app) listening: Vec<String>,
}

impl Taking {
    /// `None` when no process leads here: a plain start then does.
    pub(in crate::app) fn ask(paths: &Paths) -> Result<Option<Self>> {
        let stream = match UnixStream::connect(&paths.talk) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| paths.talk.display().to_string()),
        };
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let mut taking = Self {
            stream: BufReader::new(stream),
            paths: paths.clone(),
            listening: Vec::new(),
        };
        taking.say(&FromNew::Hello {
            pid: std::process::id(),
            version: version(),
        })?;
        match taking.hear(ANSWER_WITHIN) {
            Ok(FromOld::Welcome {
                pid,
                version,
                listening,
            }) => {
                tracing::info!(pid, version, "taking over from a running gateway");
                taking.listening = listening;
                Ok(Some(taking))
            }
            // It ended in this moment.
            Err(Failed::Gone) => Ok(None),
            other => Err(unexpected(other).into()),
        }
    }

    /// Before Pingora waits for them.
    pub(in crate::app) fn want_sockets(&mut self) -> Result<(), Failed> {
        // What an earlier attempt left would be taken for ours.
        let _ = std::fs::remove_file(&self.paths.sockets);
        self.say(&FromNew::WantSockets)
    }

    /// After Pingora has them. When this returns the old process has stopped scaling and its ledger is free, or it has
    /// died: nobody else can go on then.
    pub(in crate::app) fn want_control_or_go_on_alone(&mut self) -> Result<Learned, Failed> {
        self.want_control().or_else(|failed| match failed {
            Failed::Gone => {
                tracing::warn!("the old gateway is gone");
                Ok(Learned::default())
            }
            failed => Err(failed),
        })
    }

    fn want_control(&mut self) -> Result<Learned, Failed> {
        match self.hear(ANSWER_WITHIN)? {
            FromOld::Sockets => {}
            other => return Err(unexpected(Ok(other))),
        }
        self.say(&FromNew::WantControl)?;
        match self.hear(CALLS_WITHIN + ANSWER_WITHIN)? {
            FromOld::Control { learned } => Ok(serde_json::from_value(learned).unwrap_or_default()),
            other => Err(unexpected(Ok(other))),
        }
    }

    /// Nothing is unread between two steps.
    pub(in crate::app) fn attendable(self) -> Predecessor {
        Predecessor(self.stream.into_inner())
    }

    fn say(&mut self, message: &FromNew) -> Result<(), Failed> {
        Ok(self.stream.get_mut().write_all(&line(message)?)?)
    }

    fn hear(&mut self, limit: Duration) -> Result<FromOld, Failed> {
        self.stream.get_mut().set_read_timeout(Some(limit))?;
        let mut text = String::new();
        match self.stream.read_line(&mut text) {
            Ok(0) => Err(Failed::Gone),
            Ok(_) => understood(&text),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Failed::Silent(limit))
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(Failed::Gone),
            Err(error) => Err(error.into()),
        }
    }
}

fn understood(text: &str) -> Result<FromOld, Failed> {
    match serde_json::from_str(text) {
        Ok(FromOld::Refused { why }) => Err(Failed::Refused(why)),
        Ok(message) => Ok(message),
        Err(error) => Err(Failed::NotUnderstood(error.to_string())),
    }
}

fn unexpected(heard: Result<FromOld, Failed>) -> Failed {
    match heard {
        Ok(message) => Failed::NotUnderstood(format!("{message:?}")),
        Err(failed) => failed,
    }
}

/// The old process, to be told that we serve.
pub(in crate::app) struct Predecessor(UnixStream);

impl Predecessor {
    /// Tells it that we serve and hears that it leaves; then its loads are followed until it has ended. An error
    /// means that it took everything back: this process has to end. One that died takes nothing back.
    pub(in crate::app) async fn confirm(
        self,
        fleet: Arc<Fleet>,
    ) -> Result<impl Future<Output = ()> + Send, Failed> {
        self.0.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(self.0)?;
        let (read, mut write) = stream.into_split();
        let mut lines = tokio::io::BufReader::new(read).lines();
        let said = write.write_all(&line(&FromNew::Serving)?).await;
        if let Err(error) = said {
            tracing::warn!(%error, "the old gateway is gone");
        } else {
            let heard = tokio::time::timeout(ANSWER_WITHIN, lines.next_line())
                .await
                .map_err(|_| Failed::Silent(ANSWER_WITHIN))?;
            match heard {
                Ok(Some(text)) => match understood(&text)? {
                    FromOld::Leaving => {}
                    other => return Err(unexpected(Ok(other))),
                },
                Ok(None) | Err(_) => tracing::warn!("the old gateway is gone"),
            }
        }
        Ok(attend(fleet, lines, write))
    }
}

type Lines = tokio::io::Lines<tokio::io::BufReader<tokio::net::unix::OwnedReadHalf>>;

async fn attend(fleet: Arc<Fleet>, mut lines: Lines, mut write: tokio::net::unix::OwnedWriteHalf) {
    let following = async {
        while let Ok(Some(text)) = lines.next_line().await {
            if let Ok(FromOld::Loads { loads }) = serde_json::from_str(&text) {
                fleet.take_loads(&loads);
            }
        }
    };
    let telling = async {
        let mut told = None;
        loop {
            let workers = fleet.worker_table();
            if told.as_ref() != Some(&workers) {
                let Ok(line) = line(&FromNew::Workers {
                    workers: workers.clone(),
                }) else {
                    return;
                };
                if write.write_all(&line).await.is_err() {
                    return std::future::pending().await;
                }
                told = Some(workers);
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = telling => {}
    }
    fleet.take_loads(&Loads::default());
    tracing::info!("the old gateway has ended");
}
