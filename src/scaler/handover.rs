//! Giving the control path to another gateway, and taking it back: exactly one scaler acts at any time.

use std::time::Duration;

use super::Scaler;
use crate::domain::{WorkerEvent, WorkerPhase};
use crate::ledger::LedgerError;
use crate::telemetry::now;

const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Scaler {
    /// Returns after the first look at the markets: what runs is known then.
    pub async fn recovered(&self) {
        // The sender lives as long as `self`.
        let _ = self.recovered.subscribe().wait_for(|done| *done).await;
    }

    /// Waits for the market calls that are under way; `run` must have been dropped before. False if they take longer
    /// than `limit`.
    pub async fn is_quiet_within(&self, limit: Duration) -> bool {
        let quiet = async {
            while !self.calls.is_quiet() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(limit, quiet).await.is_ok()
    }

    /// Gives the ledger up: nothing can be rented here any more.
    pub fn release(&self) {
        self.books.write_all(now());
        self.keep_memories(now());
        self.ledger.release();
    }

    /// After a release, once the other gateway is gone; `run` may go on then.
    pub fn retake(&self) -> Result<(), LedgerError> {
        self.ledger.retake(now())
    }

    /// Until dropped: what has to go on while nobody may act. A worker that a probe cleared serves again.
    pub async fn tend(&self) {
        loop {
            for endpoint in self.fleet.endpoints().values() {
                for (id, event) in endpoint.take_events() {
                    let worker = endpoint.worker(&id);
                    if let (Some(worker), WorkerEvent::ProbeSucceeded) = (worker, event)
                        && let (WorkerPhase::Ready, since) = worker.phase()
                    {
                        worker.set_phase(WorkerPhase::Ready, since);
                    }
                }
                endpoint.dispatch();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
