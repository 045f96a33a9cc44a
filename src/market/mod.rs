//! Where machines come from: one trait, one file or folder a market.

mod fixed;
mod inventory;
mod local;
pub(crate) mod vast;

pub use fixed::FixedMarket;
pub use inventory::Inventory;
pub use local::{LocalMarket, LocalMarketSettings};
pub use vast::{VastMarket, VastSettings};

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{
    Account, AccountId, Charge, Exclusion, Instance, InstanceId, Offer, RentalLabel, Timestamp,
    UsdPerHour, WorkerGroup,
};

/// What is to be rented.
pub struct Order<'a> {
    pub offer: &'a Offer,
    /// For an interruptible offer; without it the offer's price is bid.
    pub bid: Option<UsdPerHour>,
    pub group: &'a WorkerGroup,
    /// On the machine before it can do anything.
    pub label: &'a RentalLabel,
    pub last_word: &'a LastWord<'a>,
}

#[cfg(test)]
impl<'a> Order<'a> {
    /// Of somebody who is asked nothing more.
    pub(crate) fn settled(
        offer: &'a Offer,
        bid: Option<UsdPerHour>,
        group: &'a WorkerGroup,
        label: &'a RentalLabel,
    ) -> Self {
        Self {
            offer,
            bid,
            group,
            label,
            last_word: &|| Ok(()),
        }
    }
}

/// Asked right before a request goes out, after everything that had to be waited for; its error is the order's.
pub type LastWord<'a> = dyn Fn() -> Result<(), MarketError> + Send + Sync + 'a;

/// A place to rent machines. Every call is bounded in time by its implementation.
#[async_trait]
pub trait Market: Send + Sync {
    /// What could be rented now for this group, in no order.
    async fn offers(&self, group: &WorkerGroup) -> Result<Vec<Offer>, MarketError>;

    /// Where nothing is offered for a group: which filters of its search keep everything out. For people who ask: it
    /// takes a search for each filter. `None`: there is nothing to tell.
    async fn exclusion(&self, _group: &WorkerGroup) -> Result<Option<Exclusion>, MarketError> {
        Ok(None)
    }

    async fn rent(&self, order: &Order<'_>) -> Result<InstanceId, MarketError>;

    /// Everything that carries our installation's label: complete, or an error.
    async fn instances(&self) -> Result<Vec<Instance>, MarketError>;

    /// The same where some of several accounts may not answer; an error where none does.
    async fn inventory(&self) -> Result<Inventory, MarketError> {
        self.instances().await.map(Inventory::of)
    }

    /// Whose money a group spends; `None` where there are no accounts.
    fn account_for(&self, _group: &WorkerGroup) -> Option<AccountId> {
        None
    }

    /// Told from the ledger: calls about the instance go to this account and no other.
    fn belongs(&self, _id: &InstanceId, _account: &AccountId) {}

    async fn start(&self, id: &InstanceId) -> Result<(), MarketError>;
    async fn stop(&self, id: &InstanceId) -> Result<(), MarketError>;

    /// Ends the instance for good. An unknown instance is a success.
    async fn destroy(&self, id: &InstanceId) -> Result<(), MarketError>;

    /// Raises or lowers what is bid for an interruptible instance.
    async fn set_bid(&self, _id: &InstanceId, _bid: UsdPerHour) -> Result<(), MarketError> {
        Err(MarketError::Refused("nothing is bid for here".into()))
    }

    /// The last lines its instance wrote.
    async fn logs(&self, _id: &InstanceId, _lines: u32) -> Result<String, MarketError> {
        Err(MarketError::Refused("this market keeps no logs".into()))
    }

    /// What is left to spend; `None` where nothing is paid.
    async fn account(&self) -> Result<Option<Account>, MarketError> {
        Ok(None)
    }

    /// What was charged so far for each instance that existed since `since`, ended ones included.
    async fn charges(&self, _since: Timestamp) -> Result<Vec<Charge>, MarketError> {
        Ok(Vec::new())
    }

    /// How often at most it may be listed; `None` where that costs nothing.
    fn listing_interval(&self) -> Option<Duration> {
        None
    }

    /// Returns when a listing may have changed; never, for a market that cannot tell.
    async fn changed(&self);
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MarketError {
    /// Nothing happened; another offer may do.
    #[error("offer is gone")]
    OfferGone,
    /// Nothing happened; the market has no room at all now.
    #[error("market is full: {0}")]
    Full(String),
    /// Nothing happened, and the same call will fail again.
    #[error("market refused: {0}")]
    Refused(String),
    #[error("no such instance")]
    NotFound,
    /// Whether anything happened is not known; the next listing tells.
    #[error("market unavailable: {0}")]
    Unavailable(String),
}
