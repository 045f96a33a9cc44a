//! The old process: is asked, and gives what it has to the new one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pingora::server::ListenFds;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::{
    ANSWER_WITHIN, CALLS_WITHIN, Failed, FromNew, FromOld, Paths, SERVING_WITHIN, TELL_EVERY, line,
    version,
};
use crate::fleet::{Fleet, Learned};
use crate::telemetry::now;

/// A new process that waits for its sockets retries only each second; it is given time to begin.
const SOCKET_THERE_WITHIN: Duration = Duration::from_secs(5);

/// Where a new process asks. Only the process that holds the ledger may open it.
pub(in crate::app) struct Giving {
    listener: UnixListener,
    paths: Paths,
    fds: ListenFds,
}

impl Giving {
    pub(in crate::app) fn open(paths: &Paths, fds: ListenFds) -> io::Result<Self> {
        match std::fs::remove_file(&paths.talk) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self {
            listener: UnixListener::bind(&paths.talk)?,
            paths: paths.clone(),
            fds,
        })
    }

    /// Returns when a new process has the sockets and wants control. Until then nothing is given up.
    pub(in crate::app) async fn asked(&self) -> Successor {
        loop {
            let talked = match self.listener.accept().await {
                Ok((stream, _)) => self.introduce(stream).await,
                Err(error) => Err(error.into()),
            };
            match talked {
                Ok(successor) => return successor,
                Err(error) => {
                    tracing::warn!(%error, "no upgrade: a new process asked and did not come to take over");
                    tokio::time::sleep(TELL_EVERY).await;
                }
            }
        }
    }

    async fn introduce(&self, stream: UnixStream) -> Result<Successor, Failed> {
        let (read, write) = stream.into_split();
        let mut successor = Successor {
            lines: BufReader::new(read).lines(),
            write,
        };
        match successor.hear(ANSWER_WITHIN).await? {
            FromNew::Hello { pid, version } => {
                tracing::info!(pid, version, "a new process asks to take over");
            }
            other => return Err(Failed::NotUnderstood(format!("{other:?}"))),
        }
        let (listening, _) = self.fds.lock().serialize();
        let welcome = FromOld::Welcome {
            pid: std::process::id(),
            version: version(),
            listening,
        };
        successor.say(&welcome).await?;
        successor.expect(&FromNew::WantSockets).await?;
        match self.send_sockets().await {
            Ok(()) => successor.say(&FromOld::Sockets).await?,
            Err(error) => return Err(successor.refuse(error).await),
        }
        successor.expect(&FromNew::WantControl).await?;
        Ok(successor)
    }

    async fn send_sockets(&self) -> Result<(), String> {
        let there = async {
            while !self.paths.sockets.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOCKET_THERE_WITHIN, there)
            .await
            .map_err(|_| "it does not wait for the sockets".to_owned())?;
        let (fds, path) = (Arc::clone(&self.fds), self.paths.sockets());
        tokio::task::spawn_blocking(move || fds.lock().send_to_sock(path.as_str()))
            .await
            .map_err(|error| error.to_string())?
            .map(drop)
            .map_err(|error| format!("the sockets cannot be sent: {error}"))
    }
}

/// A new process that takes over.
pub(in crate::app) struct Successor {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Successor {
    /// How long market calls may hold a handover up.
    pub(in crate::app) const CALLS_WITHIN: Duration = CALLS_WITHIN;

    /// The scaler has stopped and the ledger is free. Returns when the new process serves.
    pub(in crate::app) async fn give_control(&mut self, learned: &Learned) -> Result<(), Failed> {
        let learned = serde_json::to_value(learned).map_err(io::Error::from)?;
        self.say(&FromOld::Control { learned }).await?;
        match self.hear(SERVING_WITHIN).await? {
            FromNew::Serving => Ok(()),
            other => Err(Failed::NotUnderstood(format!("{other:?}"))),
        }
    }

    /// The last word: from here on there is no way back.
    pub(in crate::app) async fn leave(&mut self) -> Result<(), Failed> {
        self.say(&FromOld::Leaving).await
    }

    /// Tells it why it has to end; returns what it was told.
    pub(in crate::app) async fn refuse(&mut self, why: impl ToString) -> Failed {
        let why = why.to_string();
        // Whoever does not hear this sees the connection close.
        let refused = FromOld::Refused { why: why.clone() };
        let _ = self.say(&refused).await;
        Failed::Refused(why)
    }

    /// Until dropped: tells it what is still in flight and held here, and knows the workers it knows.
    pub(in crate::app) async fn follow(mut self, fleet: &Fleet) {
        let write = &mut self.write;
        let telling = async {
            let mut told = None;
            loop {
                let loads = fleet.loads();
                if told.as_ref() != Some(&loads) {
                    let message = FromOld::Loads {
                        loads: loads.clone(),
                    };
                    let Ok(line) = line(&message) else { return };
                    if write.write_all(&line).await.is_err() {
                        return;
                    }
                    told = Some(loads);
                }
                tokio::time::sleep(TELL_EVERY).await;
            }
        };
        let lines = &mut self.lines;
        let hearing = async {
            while let Ok(Some(text)) = lines.next_line().await {
                if let Ok(FromNew::Workers { workers }) = serde_json::from_str(&text) {
                    fleet.take_worker_table(&workers, now());
                }
            }
        };
        tokio::join!(telling, hearing);
        tracing::warn!("the new gateway is gone; what is in flight here goes on");
        std::future::pending().await
    }

    async fn expect(&mut self, expected: &FromNew) -> Result<(), Failed> {
        let heard = self.hear(ANSWER_WITHIN).await?;
        if std::mem::discriminant(&heard) == std::mem::discriminant(expected) {
            return Ok(());
        }
        Err(Failed::NotUnderstood(format!("{heard:?}")))
    }

    async fn say(&mut self, message: &FromOld) -> Result<(), Failed> {
        let line = line(message)?;
        tokio::time::timeout(ANSWER_WITHIN, self.write.write_all(&line))
            .await
            .map_err(|_| Failed::Silent(ANSWER_WITHIN))?
            .map_err(|_| Failed::Gone)
    }

    async fn hear(&mut self, limit: Duration) -> Result<FromNew, Failed> {
        let heard = tokio::time::timeout(limit, self.lines.next_line()).await;
        match heard.map_err(|_| Failed::Silent(limit))? {
            Ok(Some(text)) => serde_json::from_str(&text)
                .map_err(|error| Failed::NotUnderstood(error.to_string())),
            Ok(None) | Err(_) => Err(Failed::Gone),
        }
    }
}
