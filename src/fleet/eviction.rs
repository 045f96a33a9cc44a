//! Telling requests that their worker is being taken away.

use tokio::sync::watch;

use crate::domain::WorkerPhase;

/// Who has to leave; each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Eviction {
    #[default]
    Nobody,
    /// Requests whose client has seen nothing: they begin anew elsewhere at no loss.
    NotBegun,
    /// Streams too that another worker can go on with.
    Movable,
    /// Everybody: the worker is going or gone.
    All,
}

/// A worker's word to its requests.
#[derive(Debug)]
pub(super) struct Evictor(watch::Sender<Eviction>);

impl Default for Evictor {
    fn default() -> Self {
        Self(watch::Sender::new(Eviction::Nobody))
    }
}

impl Evictor {
    pub(super) fn say(&self, eviction: Eviction) {
        self.0.send_if_modified(|now| {
            let changed = *now != eviction;
            *now = eviction;
            changed
        });
    }

    pub(super) fn says(&self, kind: Eviction) -> bool {
        *self.0.borrow() >= kind
    }

    /// Returns when those of this kind have to leave.
    pub(super) async fn said(&self, kind: Eviction) {
        let mut word = self.0.subscribe();
        // The sender lives in the worker, which outlives its requests.
        let _ = word.wait_for(|eviction| *eviction >= kind).await;
    }
}

/// What a phase means for the requests at the worker; a drain says itself when its streams are to be moved.
pub(super) fn by_phase(phase: WorkerPhase) -> Option<Eviction> {
    match phase {
        WorkerPhase::Starting | WorkerPhase::Benchmarking | WorkerPhase::Ready => {
            Some(Eviction::Nobody)
        }
        // Its streams may still flow; what has not begun need not wait for it.
        WorkerPhase::Unhealthy { failed_probes } if failed_probes >= 2 => Some(Eviction::NotBegun),
        WorkerPhase::Unhealthy { .. } => Some(Eviction::Nobody),
        WorkerPhase::Draining { .. } => None,
        WorkerPhase::Stopping
        | WorkerPhase::Stopped
        | WorkerPhase::Failed { .. }
        | WorkerPhase::Destroying
        | WorkerPhase::Gone => Some(Eviction::All),
    }
}
