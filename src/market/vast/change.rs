//! Calls that change an instance: on the account that has it, or on each until one knows it.

use http::Method;
use serde_json::Value;

use super::super::MarketError;
use super::VastMarket;
use super::failure::Failure;
use super::limiter::Kind;
use super::transport::Call;
use crate::domain::InstanceId;

impl VastMarket {
    /// A key that is refused keeps no other account from being asked.
    pub(super) async fn change(
        &self,
        id: &InstanceId,
        (kind, method): (Kind, Method),
        path: &str,
        body: &Value,
    ) -> Result<(), MarketError> {
        let mut worst = None;
        for account in self.accounts.that_may_have(id) {
            let mut call = Call::new(kind, method.clone(), path);
            call.body = Some(body);
            let answer = self.transport.call(&account, &call, self.scale()).await;
            match answer.map_err(Failure::of_changing) {
                Ok(_) => return Ok(()),
                Err(error) => worst = Some(worse(worst, error)),
            }
        }
        let nobody = || MarketError::Refused("there is no key of the account that has it".into());
        Err(worst.unwrap_or_else(nobody))
    }
}

/// What leaves most open: an account that did not answer may have it.
fn worse(before: Option<MarketError>, now: MarketError) -> MarketError {
    let weight = |error: &MarketError| match error {
        MarketError::NotFound => 0,
        MarketError::Unavailable(_) => 2,
        _ => 1,
    };
    match before {
        Some(before) if weight(&before) >= weight(&now) => before,
        _ => now,
    }
}
