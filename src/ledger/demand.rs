//! How much was asked of each endpoint, in coarse steps: what a restart should know of yesterday.

use std::time::Duration;

use rusqlite::params;

use super::rows::millis;
use super::{Ledger, LedgerError};
use crate::domain::{EndpointName, Timestamp, Tokens, TokensPerSecond};

pub const DEMAND_STEP: Duration = Duration::from_secs(300);
/// Eight weeks show what a weekday is like.
const KEPT_FOR: Duration = Duration::from_secs(56 * 86_400);

/// The mean load of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DemandStep {
    pub start: Timestamp,
    pub load: TokensPerSecond,
}

impl Ledger {
    /// Adds work that arrived to the step `at` lies in; corrections of earlier predictions may be negative.
    pub fn add_demand(
        &self,
        endpoint: &EndpointName,
        work: Tokens,
        at: Timestamp,
    ) -> Result<(), LedgerError> {
        let step = millis(at) / DEMAND_STEP.as_millis() as i64;
        let kept = step - (KEPT_FOR.as_secs() / DEMAND_STEP.as_secs()) as i64;
        self.write(|tx| {
            tx.execute(
                "INSERT INTO demand (endpoint, step, tokens) VALUES (?1, ?2, ?3)
                 ON CONFLICT (endpoint, step) DO UPDATE SET tokens = tokens + excluded.tokens",
                params![endpoint.as_str(), step, work.0],
            )?;
            tx.execute(
                "DELETE FROM demand WHERE endpoint = ?1 AND step < ?2",
                params![endpoint.as_str(), kept],
            )?;
            Ok(())
        })
    }

    /// The steps from `since` on, in order; one in which nothing arrived is not there.
    pub fn demand_of(
        &self,
        endpoint: &EndpointName,
        since: Timestamp,
    ) -> Result<Vec<DemandStep>, LedgerError> {
        let step_ms = DEMAND_STEP.as_millis() as u64;
        self.read(|connection| {
            connection
                .prepare(
                    "SELECT step, tokens FROM demand WHERE endpoint = ?1 AND step >= ?2 ORDER BY step",
                )?
                .query_map(
                    params![endpoint.as_str(), millis(since) / step_ms as i64],
                    |row| {
                        let (step, tokens): (u32, f64) = (row.get(0)?, row.get(1)?);
                        Ok(DemandStep {
                            start: Timestamp::from_millis(u64::from(step) * step_ms),
                            load: TokensPerSecond(tokens.max(0.0) / DEMAND_STEP.as_secs_f64()),
                        })
                    },
                )?
                .collect()
        })
    }
}
