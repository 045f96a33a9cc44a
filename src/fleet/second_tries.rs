//! What one endpoint may spend on asking more than one worker for the same answer.

use std::time::Duration;

use parking_lot::Mutex;

use crate::domain::Endpoint;
use crate::policy::hedge::HedgeBook;
use crate::policy::retry::RetryBudget;

#[derive(Debug, Default)]
pub struct SecondTries {
    retries: Mutex<RetryBudget>,
    hedges: Mutex<HedgeBook>,
}

impl SecondTries {
    /// A request is sent for the first time.
    pub fn request_sent(&self, settings: &Endpoint) {
        self.retries.lock().earn(&settings.retry);
        self.hedges.lock().sent(&settings.hedge);
    }

    pub fn may_retry(&self) -> bool {
        self.retries.lock().spend()
    }

    pub fn may_hedge(&self) -> bool {
        self.hedges.lock().spend()
    }

    /// After this a first token is late; `None`: it is not known when.
    pub fn late_after(&self, settings: &Endpoint) -> Option<Duration> {
        self.hedges.lock().late_after(&settings.hedge)
    }

    /// From the request sent to its first token.
    pub fn first_token(&self, ttft: Duration) {
        self.hedges.lock().first_token(ttft);
    }
}
