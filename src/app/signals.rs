//! Signals that end the gateway: SIGTERM and SIGINT let what is in flight finish; a second one does not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::fleet::Fleet;

pub(super) struct Signals {
    pub(super) fleet: Arc<Fleet>,
    /// How long the gateway is unready before it stops listening.
    pub(super) stop_delay: Duration,
    /// Asks for the same end: a new process leads.
    pub(super) end: Arc<Notify>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) else {
            tracing::error!("signals cannot be watched; only SIGKILL ends this process");
            return std::future::pending().await;
        };
        tokio::select! {
            () = self.end.notified() => {}
            () = either(&mut interrupt, &mut terminate) => {
                self.fleet.leave();
                tracing::info!("finishing what is in flight; a second signal ends at once");
                tokio::select! {
                    () = tokio::time::sleep(self.stop_delay) => {}
                    () = either(&mut interrupt, &mut terminate) => end_at_once(),
                }
            }
        }
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            end_at_once();
        });
        ShutdownSignal::GracefulTerminate
    }
}

fn end_at_once() {
    tracing::warn!("ended at once; local workers may be left running, the next start finds them");
    std::process::exit(130);
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
