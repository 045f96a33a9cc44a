//! Getting a worker for a request: now, or after waiting in the endpoint's room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::proxy::Session;

use super::client::{ClientLeft, while_connected};
use super::record::Record;
use crate::fleet::{Admission, Claim, EndpointFleet, Held, Ticket};
use crate::telemetry::{Metrics, now};

pub(super) enum NotAdmitted {
    ClientLeft,
    /// Every ready worker was tried for this request.
    AllTried,
    /// The waiting room is full.
    RoomFull {
        retry_after: Duration,
        rule: &'static str,
    },
    /// No worker within the time a request may wait.
    WaitedTooLong {
        waited: Duration,
        retry_after: Duration,
    },
    /// The endpoint was removed meanwhile, or the gateway ends.
    Closed,
}

/// `deadline` bounds all waiting of one request, retries included.
pub(super) async fn worker_for(
    session: &mut Session,
    endpoint: &Arc<EndpointFleet>,
    ticket: &Ticket,
    deadline: Instant,
    metrics: &Metrics,
    record: &Record,
) -> Result<Claim, NotAdmitted> {
    match endpoint.admit(ticket, now()) {
        Admission::Assigned(claim) => Ok(claim),
        Admission::AllTried => Err(NotAdmitted::AllTried),
        Admission::Closed => Err(NotAdmitted::Closed),
        Admission::Refused {
            refusal,
            retry_after,
        } => Err(NotAdmitted::RoomFull {
            retry_after,
            rule: refusal.as_str(),
        }),
        Admission::Held(held) => {
            let began = Instant::now();
            let result = wait(session, endpoint, held, deadline).await;
            record.waited(began.elapsed());
            metrics
                .waiting_seconds
                .with_label_values(&[endpoint.name.as_str()])
                .observe(began.elapsed().as_secs_f64());
            result
        }
    }
}

async fn wait(
    session: &mut Session,
    endpoint: &EndpointFleet,
    mut held: Held,
    deadline: Instant,
) -> Result<Claim, NotAdmitted> {
    let began = Instant::now();
    let assigned = tokio::time::timeout_at(deadline.into(), held.assigned());
    match while_connected(session, assigned).await {
        Ok(Ok(Some(claim))) => Ok(claim),
        Ok(Ok(None)) => Err(NotAdmitted::Closed),
        Ok(Err(_)) => Err(NotAdmitted::WaitedTooLong {
            waited: began.elapsed(),
            retry_after: endpoint.retry_after(),
        }),
        Err(ClientLeft) => Err(NotAdmitted::ClientLeft),
    }
}
