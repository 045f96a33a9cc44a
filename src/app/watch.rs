//! Taking a changed configuration without being asked. Editors truncate and write, or write elsewhere and rename:
//! what is read counts only when it has stayed the same for a while, and for longer where it looks like half of a
//! change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Origin;
use super::reload::Reloader;
use crate::config::{self, Files};

/// Some file systems tell nobody about changes: a look at the files this often finds them all the same.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a change has to have been complete.
const SETTLED_AFTER: Duration = Duration::from_millis(300);
/// The same where a file has gone or is empty, or the whole makes no sense.
const SETTLED_AFTER_DOUBT: Duration = Duration::from_secs(2);

/// Until dropped.
pub(super) async fn reload_on_change(reloader: &Reloader, wanted: bool) {
    let Some(origin) = reloader.origin.as_ref().filter(|_| wanted) else {
        return std::future::pending().await;
    };
    let dir = origin.lock().dir.clone();
    let news = Arc::new(Notify::new());
    let watcher = watcher(&dir, &news);
    if let Err(error) = &watcher {
        tracing::warn!(%error, "changes of the configuration are not announced; it is looked at every 2 s instead");
    }
    loop {
        let _ = tokio::time::timeout(LOOK_EVERY, news.notified()).await;
        take_new_certificate(reloader, origin).await;
        let taken = origin.lock().files.clone();
        let Some(files) = settled(&dir, &taken).await else {
            continue;
        };
        // Somebody may have asked for a reload meanwhile.
        if files != origin.lock().files {
            tracing::info!("the configuration's files have changed");
            // The result is logged and counted there.
            let _ = reloader.take(Some(files));
        }
    }
}

/// A renewal writes certificate and key one after the other: between the two they do not belong together.
async fn take_new_certificate(reloader: &Reloader, origin: &Mutex<Origin>) {
    let read = reloader.certificate.lock().clone();
    let seen = read.as_now();
    if seen == read {
        return;
    }
    let taken = origin.lock().files.clone();
    tokio::time::sleep(settling_time(&taken, &taken)).await;
    if seen.as_now() == seen && *reloader.certificate.lock() == read {
        // One that is refused is not tried again until it changes again.
        *reloader.certificate.lock() = seen;
        tracing::info!("the certificate's files have changed");
        let _ = reloader.take(Some(taken));
    }
}

/// The files once they have stayed the same; `None` when they still change, or are as before.
async fn settled(dir: &Path, taken: &Files) -> Option<Files> {
    let seen = read(dir).await.filter(|files| files != taken)?;
    tokio::time::sleep(settling_time(taken, &seen)).await;
    let again = read(dir).await?;
    (again == seen).then_some(seen)
}

fn settling_time(taken: &Files, seen: &Files) -> Duration {
    let env = |name: &str| std::env::var(name).ok();
    let doubtful = seen.lost_something_of(taken) || config::load_files(seen, &env).is_err();
    if doubtful {
        SETTLED_AFTER_DOUBT
    } else {
        SETTLED_AFTER
    }
}

/// Not on a runtime's thread: the files may lie far away.
async fn read(dir: &Path) -> Option<Files> {
    let dir = PathBuf::from(dir);
    tokio::task::spawn_blocking(move || config::read_files(&dir))
        .await
        .ok()
}

/// Announces changes in `dir` and its `endpoints/` while it lives.
fn watcher(dir: &Path, news: &Arc<Notify>) -> notify::Result<RecommendedWatcher> {
    let news = Arc::clone(news);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too.
        if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
            news.notify_one();
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    watcher.watch(&dir.join("endpoints"), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
