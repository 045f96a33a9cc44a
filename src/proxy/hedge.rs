//! Asking a second worker when the first token is late; who is first answers, the other is let go.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::answer::Answering;
use super::attempt::{Begun, Failed};
use super::client::ClientLeft;
use super::reply::Reply;
use crate::domain::WorkerId;
use crate::engines::{self, Exchange};
use crate::fleet::{Claim, Worker};

type Tried = Result<Box<Begun>, Box<Failed>>;

impl Answering<'_> {
    /// One attempt, perhaps with another beside it.
    pub(super) async fn begin(
        &mut self,
        reply: &mut Reply<'_>,
        claim: Claim,
        exchange: Exchange,
    ) -> Result<Tried, ClientLeft> {
        let worker = Arc::clone(claim.worker());
        let first = Box::pin(self.gateway.attempt(self.request, claim, exchange));
        let hedged = Box::pin(self.hedged(first, &worker));
        let (done, refused_by) = reply.while_connected(hedged).await?;
        self.ticket.tried.extend(refused_by);
        Ok(done)
    }

    /// What became of it, and the worker besides that is not to be asked again.
    async fn hedged(
        &self,
        mut first: impl Future<Output = Tried> + Unpin,
        worker: &Worker,
    ) -> (Tried, Option<WorkerId>) {
        let Some(late_after) = self.late_after() else {
            return (first.await, None);
        };
        tokio::select! {
            biased;
            done = &mut first => return (done, None),
            () = tokio::time::sleep(late_after) => {}
        }
        let Some((claim, exchange)) = self.beside(worker) else {
            return (first.await, None);
        };
        self.request.record.hedged();
        let mut second = Box::pin(self.gateway.attempt(self.request, claim, exchange));
        let (done, of_second) = tokio::select! {
            biased;
            done = &mut first => (done, false),
            done = &mut second => (done, true),
        };
        match done {
            Ok(begun) => {
                self.count_hedge(if of_second { "won" } else { "lost" });
                (Ok(begun), None)
            }
            Err(failed) => {
                self.count_hedge("failed");
                let refused_by = self.note_failed(&failed);
                drop(failed);
                let other = if of_second { first.await } else { second.await };
                (other, refused_by)
            }
        }
    }

    /// Only a stream shows its first token, and one that is gone on with has no second try.
    fn late_after(&self) -> Option<Duration> {
        let first_time = self.request.call.streamed && !self.goes_on();
        let tries = &self.request.endpoint.second_tries;
        first_time
            .then(|| tries.late_after(&self.settings))
            .flatten()
    }

    /// Another worker for the same request, if one is free and the budget allows it.
    fn beside(&self, worker: &Worker) -> Option<(Claim, Exchange)> {
        let endpoint = &self.request.endpoint;
        let mut ticket = self.ticket.clone();
        ticket.tried.push(worker.id().clone());
        let claim = endpoint.claim_beside(&ticket)?;
        if !endpoint.second_tries.may_hedge() {
            return None;
        }
        let other = claim.worker();
        let contact = other.contact();
        let model = contact.as_ref().and_then(|c| c.served_model.as_deref());
        let exchange = engines::exchange(other.spec.engine, &self.request.call, model).ok()?;
        Some((claim, exchange))
    }

    fn count_hedge(&self, outcome: &str) {
        let name = self.request.endpoint.name.as_str();
        let counter = &self.gateway.metrics.hedges;
        counter.with_label_values(&[name, outcome]).inc();
    }
}
