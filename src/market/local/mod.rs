//! The local market: instances are processes on this machine.
//! Each has a directory and a label in its environment; both outlive a gateway that was killed, so
//! that the next one finds, serves or ends what runs. Starting and ending is in `life`.

mod launch;
mod life;
mod logs;
mod processes;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Market, MarketError, Order};
use crate::domain::{
    InstallationId, Instance, InstanceId, InstanceState, LocalLaunch, Offer, OfferId, RentalLabel,
    Source, Timestamp, UsdPerHour, WorkerGroup,
};
use record::Record;

/// Bound of `shutdown_all`: a process gets SIGKILL well before.
const SHUTDOWN_TIME: Duration = Duration::from_secs(8);

pub struct LocalMarketSettings {
    /// One directory an instance; nobody else may use it.
    pub dir: PathBuf,
    /// Most instances in any state but ended.
    pub slots: u32,
    pub installation: InstallationId,
}

/// One waiter of `changed` is woken by each change; a change without a waiter is kept for the next.
pub struct LocalMarket {
    settings: LocalMarketSettings,
    books: Mutex<Books>,
    news: Notify,
    /// Another gateway looks after the instances: nothing here may change them or what is on disk.
    released: AtomicBool,
    /// For the tasks that outlast a call.
    this: Weak<LocalMarket>,
}

#[derive(Default)]
struct Books {
    entries: BTreeMap<InstanceId, Entry>,
    /// Set by `shutdown_all`: nothing is rented or started any more.
    closing: bool,
    /// The found entries are looked after from the first call on: before, there may be no runtime.
    adopted: bool,
}

impl Books {
    /// What earlier gateways left in the directory and running on this machine.
    fn found(settings: &LocalMarketSettings) -> io::Result<Self> {
        let table = processes::all()?;
        let mut books = Books::default();
        for (id, mut record) in record::read_all(&settings.dir)? {
            if record.label.installation != settings.installation {
                tracing::warn!(instance = %id, label = %record.label, "belongs to another installation; left alone");
                continue;
            }
            record.adopt(&table);
            record::write(&settings.dir, &id, &record)?;
            books.entries.insert(id, Entry::new(record));
        }
        Ok(books)
    }
}

struct Entry {
    record: Record,
    /// Counts orders; what was begun under an earlier one (a boot, a watch) no longer applies.
    order: u64,
    /// When a boot that is under way ends.
    boots_at: Option<Timestamp>,
    /// Held while an order is carried out.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Entry {
    fn new(record: Record) -> Self {
        Self {
            record,
            order: 0,
            boots_at: None,
            turn: Arc::default(),
        }
    }
}

impl LocalMarket {
    /// Reads `dir` (made when missing) and the processes of this machine. Needs no runtime.
    pub fn new(settings: LocalMarketSettings) -> io::Result<Arc<Self>> {
        record::create_private_dir(&settings.dir)?;
        let books = Books::found(&settings)?;
        Ok(Arc::new_cyclic(|this| Self {
            settings,
            books: Mutex::new(books),
            news: Notify::new(),
            released: AtomicBool::new(false),
            this: this.clone(),
        }))
    }

    /// Lets another gateway look after the instances, from what is on disk: boots that are under way are left to it
    /// as well. Calls must have returned before.
    pub fn release(&self) {
        let mut books = self.lock();
        for (id, entry) in &mut books.entries {
            entry.order += 1;
            if entry.record.state == InstanceState::Loading && entry.record.process.is_none() {
                entry.record.boots_at = entry.boots_at;
            }
            self.save(id, &entry.record);
        }
        self.released.store(true, SeqCst);
    }

    /// After a release, when the other gateway is gone.
    pub fn retake(&self) -> io::Result<()> {
        let mut books = self.lock();
        *books = Books::found(&self.settings)?;
        self.released.store(false, SeqCst);
        drop(books);
        self.news.notify_one();
        Ok(())
    }

    /// Ends every instance and takes no more orders. Returns after eight seconds at the latest.
    pub async fn shutdown_all(&self) {
        let Some(this) = self.this.upgrade() else {
            return;
        };
        self.lock().closing = true;
        let mut ids: HashSet<InstanceId> = self.lock().entries.keys().cloned().collect();
        match self.instances().await {
            Ok(found) => ids.extend(found.into_iter().map(|instance| instance.id)),
            Err(error) => tracing::warn!(%error, "processes could not be listed"),
        }
        let mut ends = JoinSet::new();
        for id in ids {
            ends.spawn(Arc::clone(&this).destroy_now(id));
        }
        let all_ended = async {
            while let Some(ended) = ends.join_next().await {
                if let Ok(Err(error)) = ended {
                    tracing::warn!(%error, "an instance is left behind");
                }
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIME, all_ended)
            .await
            .is_err()
        {
            tracing::warn!("instances are left behind: they did not end in time");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, books: &Books) -> bool {
        let held = books
            .entries
            .values()
            .filter(|entry| entry.record.holds_a_slot())
            .count();
        held < self.settings.slots as usize
    }

    /// Changes an entry and its record on disk. What is in memory counts: a full disk must not
    /// keep anything from being ended.
    fn change<T>(
        &self,
        id: &InstanceId,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Result<T, MarketError> {
        let mut books = self.lock();
        let entry = books.entries.get_mut(id).ok_or(MarketError::NotFound)?;
        let out = change(entry);
        self.save(id, &entry.record);
        drop(books);
        self.news.notify_one();
        Ok(out)
    }

    fn save(&self, id: &InstanceId, record: &Record) {
        if self.released.load(SeqCst) {
            return;
        }
        if let Err(error) = record::write(&self.settings.dir, id, record) {
            tracing::warn!(instance = %id, %error, "record not written");
        }
    }

    /// Enters the rental under the lock, so that slots are never oversold.
    fn enter(&self, record: Record) -> Result<(InstanceId, u64), MarketError> {
        let id = record::instance_id(&record.label);
        let mut books = self.lock();
        if books.closing {
            return Err(MarketError::Refused("the gateway is ending".into()));
        }
        if books.entries.contains_key(&id) {
            return Err(MarketError::Refused(format!("{id} is rented already")));
        }
        if !self.has_room(&books) {
            let slots = self.settings.slots;
            return Err(MarketError::Full(format!("all {slots} slots are taken")));
        }
        if let Err(error) = record::write(&self.settings.dir, &id, &record) {
            let _ = record::remove(&self.settings.dir, &id);
            return Err(MarketError::Refused(format!("record not written: {error}")));
        }
        let entry = Entry::new(record);
        let order = entry.order;
        books.entries.insert(id.clone(), entry);
        Ok((id, order))
    }

    /// Our labels that processes carry. `all` reads the whole machine, so not on a runtime's thread.
    async fn labels_on_the_machine(&self) -> Result<HashSet<RentalLabel>, MarketError> {
        let table = tokio::task::spawn_blocking(processes::all)
            .await
            .map_err(unavailable)?
            .map_err(unavailable)?;
        Ok(table
            .into_iter()
            .filter_map(|process| process.label)
            .filter(|label| label.installation == self.settings.installation)
            .collect())
    }

    fn this(&self) -> Result<Arc<Self>, MarketError> {
        self.this
            .upgrade()
            .ok_or_else(|| MarketError::Unavailable("the market is gone".into()))
    }
}

#[async_trait]
impl Market for LocalMarket {
    async fn offers(&self, group: &WorkerGroup) -> Result<Vec<Offer>, MarketError> {
        let books = self.lock();
        if books.closing || !self.has_room(&books) || launch_of(group).is_err() {
            return Ok(Vec::new());
        }
        let id = OfferId::new(group.name.as_str());
        Ok(vec![Offer::plain(id, group.usd_per_hour)])
    }

    async fn rent(&self, order: &Order<'_>) -> Result<InstanceId, MarketError> {
        self.look_after_adopted();
        let launch = launch_of(order.group)?;
        if order.label.installation != self.settings.installation {
            return Err(MarketError::Refused("label of another installation".into()));
        }
        let this = self.this()?;
        (order.last_word)()?;
        let record = Record::new(order.label, order.offer.usd_per_hour, launch);
        let (id, order) = self.enter(record)?;
        tokio::spawn(this.boot(id.clone(), order, launch.boot_time));
        self.news.notify_one();
        Ok(id)
    }

    async fn instances(&self) -> Result<Vec<Instance>, MarketError> {
        self.look_after_adopted();
        // Known before or after the look at the machine: what was just rented or destroyed is no orphan.
        let mut known: HashSet<RentalLabel> = labels(&self.lock());
        let found = self.labels_on_the_machine().await?;
        let books = self.lock();
        known.extend(labels(&books));
        let listed = books
            .entries
            .iter()
            .map(|(id, entry)| instance(id, &entry.record));
        let orphans: HashMap<InstanceId, RentalLabel> = found
            .into_iter()
            .filter(|label| !known.contains(label))
            .map(|label| (record::instance_id(&label), label))
            .collect();
        Ok(listed.chain(orphans.into_iter().map(orphan)).collect())
    }

    async fn start(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.look_after_adopted();
        finished(tokio::spawn(self.this()?.start_now(id.clone()))).await
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.look_after_adopted();
        finished(tokio::spawn(self.this()?.stop_now(id.clone()))).await
    }

    async fn destroy(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.look_after_adopted();
        finished(tokio::spawn(self.this()?.destroy_now(id.clone()))).await
    }

    async fn logs(&self, id: &InstanceId, lines: u32) -> Result<String, MarketError> {
        if !self.lock().entries.contains_key(id) {
            return Err(MarketError::NotFound);
        }
        let path = record::log_path(&self.settings.dir, id);
        tokio::task::spawn_blocking(move || logs::tail(&path, lines))
            .await
            .map_err(unavailable)?
            .map_err(unavailable)
    }

    async fn changed(&self) {
        self.look_after_adopted();
        self.news.notified().await;
    }
}

/// Orders run to their end in a task of their own, whether the caller waits or not.
async fn finished(
    order: tokio::task::JoinHandle<Result<(), MarketError>>,
) -> Result<(), MarketError> {
    order.await.map_err(unavailable)?
}

fn unavailable(error: impl std::fmt::Display) -> MarketError {
    MarketError::Unavailable(error.to_string())
}

fn launch_of(group: &WorkerGroup) -> Result<&LocalLaunch, MarketError> {
    match &group.source {
        Source::Local(launch) if !launch.command.is_empty() => Ok(launch),
        _ => Err(MarketError::Refused(format!(
            "group {} has no command for this machine",
            group.name
        ))),
    }
}

fn labels(books: &Books) -> HashSet<RentalLabel> {
    let entries = books.entries.values();
    entries.map(|entry| entry.record.label.clone()).collect()
}

fn instance(id: &InstanceId, record: &Record) -> Instance {
    let listens = record.state == InstanceState::Running;
    let port = record.port.filter(|_| listens);
    Instance::plain(
        id.clone(),
        record.label.clone(),
        record.state,
        port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        record.usd_per_hour,
    )
}

/// Runs, but where it listens and how it would start again went with its directory: fit only to be ended.
fn orphan((id, label): (InstanceId, RentalLabel)) -> Instance {
    Instance::plain(id, label, InstanceState::Exited, None, UsdPerHour::ZERO)
}
