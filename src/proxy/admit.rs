//! Getting a worker for a request: now, or after waiting in the endpoint's room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora::proxy::Session;

use super::client::{ClientLeft, while_connected};
use super::record::Record;
use crate::domain::WaitReason;
use crate::fleet::{Admission, Claim, EndpointFleet, Held, News, Ticket};
use crate::policy::admission::{Patience, Refusal};
use crate::telemetry::{Metrics, now};

pub(super) enum NotAdmitted {
    ClientLeft,
    /// Every ready worker was tried for this request.
    AllTried,
    /// The waiting room is full.
    RoomFull {
        retry_after: Duration,
        refusal: Refusal,
    },
    /// No worker within the time a request may wait.
    WaitedTooLong {
        reason: WaitReason,
        waited: Duration,
        retry_after: Duration,
    },
    /// The endpoint was removed meanwhile, or the gateway ends.
    Closed,
}

/// `patience` bounds all waiting of one request, retries included.
pub(super) async fn worker_for(
    session: &mut Session,
    endpoint: &Arc<EndpointFleet>,
    ticket: &Ticket,
    patience: &mut Patience,
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
        } => {
            metrics
                .waiting_refused
                .with_label_values(&[endpoint.name.as_str(), refusal.as_str()])
                .inc();
            Err(NotAdmitted::RoomFull {
                retry_after,
                refusal,
            })
        }
        Admission::Held(held) => {
            let began = Instant::now();
            let result = wait(session, endpoint, held, patience).await;
            record.waited(began.elapsed());
            let outcome = match &result {
                Ok(_) => "served",
                Err(NotAdmitted::WaitedTooLong { reason, .. }) => reason.as_str(),
                Err(NotAdmitted::ClientLeft) => "client_left",
                Err(_) => "closed",
            };
            metrics
                .waiting_seconds
                .with_label_values(&[endpoint.name.as_str(), outcome])
                .observe(began.elapsed().as_secs_f64());
            result
        }
    }
}

async fn wait(
    session: &mut Session,
    endpoint: &EndpointFleet,
    mut held: Held,
    patience: &mut Patience,
) -> Result<Claim, NotAdmitted> {
    let began = Instant::now();
    loop {
        let reason = held.reason();
        let since = Instant::now();
        let news = tokio::time::timeout(patience.left(reason), held.news());
        let news = while_connected(session, news).await;
        patience.spend(reason, since.elapsed());
        match news {
            Ok(Ok(News::Assigned(claim))) => return Ok(claim),
            Ok(Ok(News::Closed)) => return Err(NotAdmitted::Closed),
            Ok(Ok(News::ReasonChanged)) => {}
            Ok(Err(_)) => {
                return Err(NotAdmitted::WaitedTooLong {
                    reason,
                    waited: began.elapsed(),
                    retry_after: endpoint.retry_after(now()),
                });
            }
            Err(ClientLeft) => return Err(NotAdmitted::ClientLeft),
        }
    }
}
