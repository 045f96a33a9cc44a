//! The scaler as the admin port sees it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::admin::{ControlPath, NoLogs};
use crate::domain::{EndpointName, GroupOffers, PlanPreview, WorkerId};
use crate::market::MarketError;
use crate::scaler::Scaler;

pub(super) struct AskScaler(pub(super) Arc<Scaler>);

#[async_trait]
impl ControlPath for AskScaler {
    async fn preview(&self, explain: bool) -> Vec<PlanPreview> {
        self.0.preview(explain).await
    }

    async fn offers(&self, endpoint: Option<&EndpointName>, explain: bool) -> Vec<GroupOffers> {
        self.0.offers(endpoint, explain).await
    }

    async fn logs(&self, worker: &WorkerId, lines: u32) -> Result<String, NoLogs> {
        self.0
            .logs(worker, lines)
            .await
            .map_err(|error| match error {
                MarketError::NotFound => NoLogs::Unknown,
                error => NoLogs::Failed(error.to_string()),
            })
    }
}
