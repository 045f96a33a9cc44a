//! A request's hold on a worker; dropping it frees the worker, whatever happened.

use std::sync::Arc;

use super::endpoint::EndpointFleet;
use super::worker::Worker;
use crate::domain::{ClientKey, Timestamp};
use crate::policy::routing::hold::{Hold, Progress};

pub struct Claim {
    endpoint: Arc<EndpointFleet>,
    worker: Arc<Worker>,
    hold: Hold,
    passes_on: bool,
    /// The worker has begun to answer.
    counted: bool,
    /// Its tokens are counted as held in the worker's KV cache.
    resident: bool,
    /// When the prompt was sent, in ms, until its first token; 0 afterwards and where nobody sees that.
    unread_since_ms: u64,
    /// Whose place it is, where places are counted by client.
    client: Option<ClientKey>,
}

impl Claim {
    /// The work of `hold` was added to the worker's load by the caller.
    pub(super) fn new(
        endpoint: Arc<EndpointFleet>,
        worker: Arc<Worker>,
        hold: Hold,
        client: &ClientKey,
    ) -> Self {
        let is_counted = endpoint.present.served(client);
        worker.scan.prompt_sent(hold.prompt());
        worker.scan.kv_taken(hold.kv());
        let mut claim = Self {
            endpoint,
            worker,
            hold,
            passes_on: true,
            counted: false,
            resident: false,
            unread_since_ms: 0,
            client: is_counted.then(|| client.clone()),
        };
        if claim.hold.is_unseen() {
            claim.prompt_is_read();
        } else {
            if let Some(since) = claim.endpoint.reviewed_at() {
                claim.unread_since_ms = since.as_millis();
                claim.worker.meter.prompt_sent(since);
            }
        }
        claim
    }

    fn prompt_is_read(&mut self) {
        let meter = &self.worker.meter;
        meter.prompt_read(self.hold.prompt_tokens());
        if !std::mem::replace(&mut self.resident, true) {
            meter.held(self.hold.resident());
        }
    }

    fn prompt_left(&mut self) {
        let since_ms = std::mem::take(&mut self.unread_since_ms);
        if since_ms > 0 {
            let sent_at = Timestamp::from_millis(since_ms);
            self.worker.meter.prompt_left(sent_at);
        }
    }

    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// The first token came: the prompt's share is done.
    pub fn prefilled(&mut self) {
        let progress = self.hold.prefilled();
        self.took(progress);
        self.prompt_left();
        self.prompt_is_read();
        if self.answered() {
            self.endpoint.dispatch();
        } else {
            self.endpoint.prompt_read();
        }
    }

    /// The worker has begun to answer, which counts once. Whether that made a place.
    fn answered(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.counted, true);
        first
            && self
                .worker
                .scan
                .ramp
                .answered(self.worker.max_concurrency())
    }

    pub fn produced(&mut self, tokens: u32) {
        let progress = self.hold.produced(tokens);
        self.took(progress);
        if self.resident && !self.hold.is_unseen() {
            self.worker.meter.held(u64::from(tokens));
        }
    }

    fn took(&self, progress: Progress) {
        let scan = &self.worker.scan;
        if progress.work > 0 {
            scan.load.work_done(progress.work);
        }
        if progress.more_work > 0 {
            scan.load.work_added(progress.more_work);
        }
        if progress.prompt > 0 {
            scan.prompt_read(progress.prompt);
        }
        if progress.more_kv > 0 {
            scan.kv_taken(progress.more_kv);
        }
    }

    /// Drops the claim without handing the freed place to the next waiting request.
    pub(super) fn drop_quietly(mut self) {
        self.passes_on = false;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.prompt_left();
        if self.resident {
            self.worker.meter.freed(self.hold.resident());
        }
        let scan = &self.worker.scan;
        scan.kv_freed(self.hold.kv());
        scan.prompt_read(self.hold.prompt());
        scan.load.release(self.hold.work());
        if let Some(client) = &self.client {
            self.endpoint.present.done(client);
        }
        if self.passes_on {
            self.answered();
            self.endpoint.place_freed(&self.worker);
        }
    }
}
