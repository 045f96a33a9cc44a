//! The life of a local instance: boot, watch, stop, start again, destroy.

use std::sync::Arc;
use std::time::Duration;

use tokio::process::Child;

use super::processes::{self, ProcessMark};
use super::{LocalMarket, launch, record, unavailable};
use crate::domain::{InstanceId, InstanceState, RentalLabel};
use crate::market::MarketError;
use crate::telemetry::now;

/// How often processes are looked at that an earlier gateway started: they are not our children.
const ADOPTED_POLL: Duration = Duration::from_millis(250);

/// A process of an earlier gateway, watched under this order.
struct Adopted {
    id: InstanceId,
    order: u64,
    label: RentalLabel,
    mark: ProcessMark,
}

impl LocalMarket {
    /// Waits the pretended boot time, then starts the process, unless another order came.
    pub(super) async fn boot(self: Arc<Self>, id: InstanceId, order: u64, delay: Duration) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.boots_at = Some(now() + delay);
        }
        tokio::time::sleep(delay).await;
        match self.launch(&id, order) {
            Some((mut child, mark)) => {
                let ended = child.wait().await;
                tracing::info!(instance = %id, status = ?ended.ok(), "worker's process ended");
                self.ended_by_itself(&id, order, mark);
            }
            None => self.news.notify_one(),
        }
    }

    /// The lock is held throughout, so that no other order falls between the decision and the process.
    fn launch(&self, id: &InstanceId, order: u64) -> Option<(Child, ProcessMark)> {
        let mut books = self.lock();
        let taken: Vec<u16> = books
            .entries
            .values()
            .filter_map(|entry| entry.record.port)
            .collect();
        let entry = books.entries.get_mut(id)?;
        if entry.order != order || entry.record.state != InstanceState::Loading {
            return None;
        }
        let log = record::log_path(&self.settings.dir, id);
        let started = launch::free_port(&taken).and_then(|port| {
            entry.record.port = Some(port);
            self.save(id, &entry.record);
            launch::spawn(&entry.record, port, &log)
        });
        let started = started.map(marked);
        entry.record.boots_at = None;
        match &started {
            Ok((_, mark)) => {
                entry.record.state = InstanceState::Running;
                entry.record.process = Some(*mark);
            }
            Err(error) => {
                tracing::warn!(instance = %id, %error, "worker's process not started");
                launch::note(&log, &format!("not started: {error}"));
                entry.record.state = InstanceState::Exited;
            }
        }
        self.save(id, &entry.record);
        drop(books);
        self.news.notify_one();
        started.ok()
    }

    /// The process is gone without an order of ours.
    fn ended_by_itself(&self, id: &InstanceId, order: u64, mark: ProcessMark) {
        let mut unasked = false;
        let ended = |entry: &mut super::Entry| {
            if entry.order == order && entry.record.process == Some(mark) {
                unasked = true;
                processes::kill_rest_of_group(mark.pid);
                entry.record.state = InstanceState::Exited;
                entry.record.process = None;
            }
        };
        // Not found: destroyed meanwhile.
        let _ = self.change(id, ended);
        if unasked {
            // Its directory goes when it is destroyed; this is what is left to tell the cause.
            let said = launch::last_words(&record::log_path(&self.settings.dir, id));
            tracing::warn!(instance = %id, said, "worker's process ended by itself");
        }
    }

    /// Once: watches the processes that were found running, and stops those that should not run.
    pub(super) fn look_after_adopted(&self) {
        let mut books = self.lock();
        if std::mem::replace(&mut books.adopted, true) {
            return;
        }
        let Some(this) = self.this.upgrade() else {
            return;
        };
        let mut running = Vec::new();
        for (id, entry) in &books.entries {
            match (entry.record.state, entry.record.process) {
                (InstanceState::Loading, None) => {
                    let left = entry.record.boots_at.map(|at| at.since(now()));
                    let boot =
                        Arc::clone(&this).boot(id.clone(), entry.order, left.unwrap_or_default());
                    tokio::spawn(boot);
                }
                (InstanceState::Running, Some(mark)) => running.push(Adopted {
                    id: id.clone(),
                    order: entry.order,
                    label: entry.record.label.clone(),
                    mark,
                }),
                (InstanceState::Stopped, Some(_)) => {
                    let stopping = Arc::clone(&this).stop_now(id.clone());
                    tokio::spawn(async move {
                        if let Err(error) = stopping.await {
                            tracing::warn!(%error, "an instance found half stopped does not end");
                        }
                    });
                }
                _ => {}
            }
        }
        drop(books);
        if !running.is_empty() {
            tokio::spawn(this.watch_adopted(running));
        }
    }

    async fn watch_adopted(self: Arc<Self>, mut watched: Vec<Adopted>) {
        while !watched.is_empty() {
            tokio::time::sleep(ADOPTED_POLL).await;
            watched.retain(|adopted| self.is_current(adopted));
            let pids: Vec<u32> = watched.iter().map(|adopted| adopted.mark.pid).collect();
            let Ok(table) = processes::some(&pids) else {
                continue;
            };
            watched.retain(|adopted| {
                let lives = table
                    .iter()
                    .any(|process| process.is(adopted.mark, &adopted.label));
                if !lives {
                    tracing::info!(instance = %adopted.id, "worker's process ended");
                    self.ended_by_itself(&adopted.id, adopted.order, adopted.mark);
                }
                lives
            });
        }
    }

    fn is_current(&self, adopted: &Adopted) -> bool {
        self.lock()
            .entries
            .get(&adopted.id)
            .is_some_and(|entry| entry.order == adopted.order)
    }

    /// An instance that has exited stays exited.
    pub(super) async fn stop_now(self: Arc<Self>, id: InstanceId) -> Result<(), MarketError> {
        let _turn = self.turn(&id)?.lock_owned().await;
        let (label, process) = self.change(&id, |entry| {
            if entry.record.state != InstanceState::Exited {
                entry.record.state = InstanceState::Stopped;
                entry.order += 1;
            }
            (entry.record.label.clone(), entry.record.process)
        })?;
        if process.is_some() {
            processes::end(&label, process).await.map_err(unavailable)?;
        }
        self.change(&id, |entry| entry.record.process = None)
    }

    pub(super) async fn start_now(self: Arc<Self>, id: InstanceId) -> Result<(), MarketError> {
        let _turn = self.turn(&id)?.lock_owned().await;
        if self.lock().closing {
            return Err(MarketError::Refused("the gateway is ending".into()));
        }
        let begun = self.change(&id, |entry| {
            let record = &mut entry.record;
            match (record.state, record.process) {
                (InstanceState::Loading | InstanceState::Running, _) => Ok(None),
                (InstanceState::Exited, _) => {
                    Err(MarketError::Refused("it ended by itself".into()))
                }
                (InstanceState::Scheduling | InstanceState::Offline, _) => Err(
                    MarketError::Refused("no process is ever in this state".into()),
                ),
                (InstanceState::Stopped, Some(_)) => {
                    Err(MarketError::Unavailable("it has not stopped yet".into()))
                }
                (InstanceState::Stopped, None) => {
                    record.state = InstanceState::Loading;
                    record.port = None;
                    entry.order += 1;
                    Ok(Some((
                        entry.order,
                        Duration::from_millis(record.restart_ms),
                    )))
                }
            }
        })??;
        if let Some((order, delay)) = begun {
            tokio::spawn(self.boot(id, order, delay));
        }
        Ok(())
    }

    /// Until its processes are gone the instance stays listed, as exited: a gateway killed here
    /// leaves one that the next gateway destroys.
    pub(super) async fn destroy_now(self: Arc<Self>, id: InstanceId) -> Result<(), MarketError> {
        let Ok(turn) = self.turn(&id) else {
            return self.destroy_orphan(&id).await;
        };
        let _turn = turn.lock_owned().await;
        let order = self.change(&id, |entry| {
            entry.record.state = InstanceState::Exited;
            entry.order += 1;
            (entry.record.label.clone(), entry.record.process)
        });
        let Ok((label, process)) = order else {
            return Ok(());
        };
        processes::end(&label, process).await.map_err(unavailable)?;
        record::remove(&self.settings.dir, &id).map_err(unavailable)?;
        self.lock().entries.remove(&id);
        self.news.notify_one();
        Ok(())
    }

    async fn destroy_orphan(&self, id: &InstanceId) -> Result<(), MarketError> {
        for label in self.labels_on_the_machine().await? {
            if record::instance_id(&label) == *id {
                processes::end(&label, None).await.map_err(unavailable)?;
                self.news.notify_one();
            }
        }
        Ok(())
    }

    fn turn(&self, id: &InstanceId) -> Result<Arc<tokio::sync::Mutex<()>>, MarketError> {
        let books = self.lock();
        let entry = books.entries.get(id).ok_or(MarketError::NotFound)?;
        Ok(Arc::clone(&entry.turn))
    }
}

fn marked(child: Child) -> (Child, ProcessMark) {
    let mark = processes::mark_of_child(child.id().unwrap_or_default());
    (child, mark)
}
