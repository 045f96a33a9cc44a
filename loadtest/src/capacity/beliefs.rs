//! What the gateway believes of its workers, read from `/fleet`.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use tidegate::domain::CapacityView;

/// One worker at one moment.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Belief {
    pub(super) address: Option<String>,
    pub(super) capacity: CapacityView,
    standing: Standing,
}

#[derive(Clone, Debug, Deserialize)]
struct Standing {
    state: String,
    #[serde(default)]
    fault: Option<String>,
}

impl Belief {
    /// Why it is ejected, where it is.
    pub(super) fn fault(&self) -> Option<&str> {
        let ejected = self.standing.state == "ejected";
        ejected.then_some(self.standing.fault.as_deref().unwrap_or("unknown"))
    }
}

/// The workers of one endpoint.
pub(super) async fn of(
    client: &reqwest::Client,
    admin_url: &str,
    endpoint: &str,
) -> Result<Vec<Belief>> {
    let answer = client.get(format!("{admin_url}/fleet")).send().await?;
    let text = answer.error_for_status()?.text().await?;
    let fleet: Value = serde_json::from_str(&text)?;
    let rows = fleet["endpoints"].as_array().context("no endpoints")?;
    let row = rows.iter().find(|row| row["endpoint"] == endpoint);
    let workers = row.with_context(|| format!("no endpoint {endpoint}"))?["workers"].clone();
    Ok(serde_json::from_value(workers)?)
}
