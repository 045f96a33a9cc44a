//! Getting a worker for a request: now, or after waiting in the endpoint's room.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::protocols::http::ServerSession;

use super::client::{ClientLeft, while_connected};
use super::record::Record;
use super::reply::Reply;
use crate::domain::WaitReason;
use crate::fleet::{Admission, Claim, EndpointFleet, Held, News, Standing, Ticket};
use crate::policy::admission::{Patience, Refusal};
use crate::telemetry::{Metrics, now};

/// The status is 200 from the first word on: who waits less than this may still get another.
const FIRST_WORD_AFTER: Duration = Duration::from_secs(1);

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

/// Who waits.
pub(super) trait Waiting {
    /// Runs `work` until it is done or the client leaves.
    async fn stay<T>(&mut self, work: impl Future<Output = T> + Unpin) -> Result<T, ClientLeft>;

    /// How often the client is told its place; `None`: never.
    fn words_every(&self) -> Option<Duration>;

    async fn say(&mut self, comment: Bytes) -> Result<(), ClientLeft>;
}

impl Waiting for Reply<'_> {
    async fn stay<T>(&mut self, work: impl Future<Output = T> + Unpin) -> Result<T, ClientLeft> {
        self.while_connected(work).await
    }

    fn words_every(&self) -> Option<Duration> {
        self.words_every
    }

    async fn say(&mut self, comment: Bytes) -> Result<(), ClientLeft> {
        self.write(comment).await
    }
}

/// A client of which nothing is known but that it is there.
impl Waiting for ServerSession {
    async fn stay<T>(&mut self, work: impl Future<Output = T> + Unpin) -> Result<T, ClientLeft> {
        while_connected(self, work).await
    }

    fn words_every(&self) -> Option<Duration> {
        None
    }

    async fn say(&mut self, _: Bytes) -> Result<(), ClientLeft> {
        Ok(())
    }
}

/// `patience` bounds all waiting of one request, retries included.
pub(super) async fn worker_for(
    client: &mut impl Waiting,
    endpoint: &Arc<EndpointFleet>,
    ticket: &Ticket,
    patience: &mut Patience,
    metrics: &Metrics,
    record: &Record,
) -> Result<Claim, NotAdmitted> {
    let name = endpoint.name.as_str();
    match endpoint.admit(ticket, now()) {
        Admission::Assigned(claim) => Ok(claim),
        Admission::AllTried => Err(NotAdmitted::AllTried),
        Admission::Closed => Err(NotAdmitted::Closed),
        Admission::Refused {
            refusal,
            retry_after,
        } => {
            let counter = &metrics.waiting_refused;
            counter.with_label_values(&[name, refusal.as_str()]).inc();
            Err(NotAdmitted::RoomFull {
                retry_after,
                refusal,
            })
        }
        Admission::Held(held) => {
            let began = Instant::now();
            let result = wait(client, endpoint, held, patience).await;
            record.waited(began.elapsed());
            endpoint.waited(ticket, began.elapsed());
            let outcome = match &result {
                Ok(_) => "served",
                Err(NotAdmitted::WaitedTooLong { reason, .. }) => reason.as_str(),
                Err(NotAdmitted::ClientLeft) => "client_left",
                Err(_) => "closed",
            };
            metrics
                .waiting_seconds
                .with_label_values(&[name, outcome])
                .observe(began.elapsed().as_secs_f64());
            result
        }
    }
}

async fn wait(
    client: &mut impl Waiting,
    endpoint: &EndpointFleet,
    mut held: Held,
    patience: &mut Patience,
) -> Result<Claim, NotAdmitted> {
    let began = Instant::now();
    let interval = client.words_every();
    let mut next_word = interval.map(|interval| began + interval.min(FIRST_WORD_AFTER));
    loop {
        let reason = held.reason();
        let since = Instant::now();
        let left = patience.left(reason);
        let until_word = next_word.map_or(left, |next| next.saturating_duration_since(since));
        let news = tokio::time::timeout(until_word.min(left), held.news());
        let news = client.stay(pin!(news)).await;
        patience.spend(reason, since.elapsed());
        match news {
            Ok(Ok(News::Assigned(claim))) => return Ok(claim),
            Ok(Ok(News::Closed)) => return Err(NotAdmitted::Closed),
            Ok(Ok(News::ReasonChanged)) => {}
            Ok(Err(_)) if patience.left(reason).is_zero() => {
                return Err(NotAdmitted::WaitedTooLong {
                    reason,
                    waited: began.elapsed(),
                    retry_after: endpoint.retry_after(now()),
                });
            }
            Ok(Err(_)) => {
                next_word = interval.map(|interval| Instant::now() + interval);
                if let Some(standing) = held.standing(now()) {
                    let said = client.say(comment(&standing)).await;
                    said.map_err(|ClientLeft| NotAdmitted::ClientLeft)?;
                }
            }
            Err(ClientLeft) => return Err(NotAdmitted::ClientLeft),
        }
    }
}

/// A comment of an event stream, which readers skip.
fn comment(standing: &Standing) -> Bytes {
    let Standing { place, of, .. } = standing;
    let expected = match standing.expected {
        Some(expected) => format!("{}s", expected.as_secs_f64().ceil()),
        None => "unknown".to_owned(),
    };
    format!(": waiting place={place} of={of} expected={expected}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_says_the_place_and_the_wait() {
        let standing = Standing {
            place: 3,
            of: 10,
            expected: Some(Duration::from_millis(41_200)),
        };
        assert_eq!(
            comment(&standing),
            ": waiting place=3 of=10 expected=42s\n\n"
        );
    }
}
