//! A request's hold on a worker; dropping it frees the worker, whatever happened.

use std::sync::Arc;

use super::endpoint::EndpointFleet;
use super::load::work_units;
use super::worker::Worker;
use crate::domain::{PredictedCost, Tokens};

/// While a request runs it counts as at least this much work, however wrong the prediction was.
const LEAST_LEFT: u64 = 8_000;

pub struct Claim {
    endpoint: Arc<EndpointFleet>,
    worker: Arc<Worker>,
    /// What the worker's load still holds for this request, in thousandths of a token.
    left: u64,
    prompt: u64,
    passes_on: bool,
}

impl Claim {
    /// `left` was added to the worker's load by the caller.
    pub(super) fn new(
        endpoint: Arc<EndpointFleet>,
        worker: Arc<Worker>,
        cost: &PredictedCost,
        left: u64,
    ) -> Self {
        let output = work_units(Tokens(cost.output_tokens));
        Self {
            endpoint,
            worker,
            left,
            prompt: left.saturating_sub(output),
            passes_on: true,
        }
    }

    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// The first token came: the prompt's share is done.
    pub fn prefilled(&mut self) {
        let prompt = std::mem::take(&mut self.prompt);
        self.done(prompt);
    }

    pub fn produced(&mut self, tokens: u32) {
        self.done(u64::from(tokens) * 1_000);
    }

    fn done(&mut self, work: u64) {
        let work = work.min(self.left.saturating_sub(LEAST_LEFT));
        if work > 0 {
            self.left -= work;
            self.worker.load.work_done(work);
        }
    }

    /// Drops the claim without handing the freed place to the next waiting request.
    pub(super) fn drop_quietly(mut self) {
        self.passes_on = false;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.worker.load.release(self.left);
        if self.passes_on {
            self.endpoint.place_freed(&self.worker);
        }
    }
}
