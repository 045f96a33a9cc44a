//! What the admin port asks of the control path, which it may not use itself: `app` stands between.

use async_trait::async_trait;

use crate::domain::{EndpointName, GroupOffers, PlanPreview, WorkerId};

#[async_trait]
pub trait ControlPath: Send + Sync {
    /// What it would rent and release now. `explain`: also what keeps everything out where nothing is offered, which takes
    /// searches.
    async fn preview(&self, explain: bool) -> Vec<PlanPreview>;

    /// What could be rented; `None`: for every endpoint that rents.
    async fn offers(&self, endpoint: Option<&EndpointName>, explain: bool) -> Vec<GroupOffers>;

    /// The last lines a worker wrote.
    async fn logs(&self, worker: &WorkerId, lines: u32) -> Result<String, NoLogs>;
}

#[derive(Debug)]
pub enum NoLogs {
    /// There is no such worker, or it has no machine yet.
    Unknown,
    /// The market could not say, or keeps none.
    Failed(String),
}
