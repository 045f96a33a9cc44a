//! What most parts start with: a gateway over workers at given addresses.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::harness::{ConfigDir, Gateway, wait_until};

/// An endpoint of the fixed market; `more` are further top-level keys.
pub(super) fn fixed_endpoint(urls: &[String], more: &str) -> String {
    endpoint_of("fake", urls, more)
}

pub(super) fn endpoint_of(engine: &str, urls: &[String], more: &str) -> String {
    let workers: Vec<String> = urls
        .iter()
        .map(|url| format!("{{url: \"{url}\"}}"))
        .collect();
    format!(
        "endpoint_name: model\nmarket: {{kind: fixed, engine: {engine}, workers: [{}]}}\nprobe_interval: 0.1\n{more}",
        workers.join(", ")
    )
}

/// Started, and `workers` of its endpoint are ready.
pub(super) async fn gateway_over(endpoint: &str, server: &str, workers: usize) -> Result<Gateway> {
    let config = ConfigDir::new(&format!("scaler_interval: 0.1\nlog: warn\n{server}"))?;
    config.write_endpoint("model", endpoint)?;
    let gateway = Gateway::start(config).await?;
    let ready = wait_until(Duration::from_secs(60), || async {
        gateway
            .fleet()
            .await
            .is_ok_and(|fleet| fleet.ready() == workers)
    });
    ensure!(
        ready.await,
        "the workers are not ready\n{}",
        gateway.child.log_tail()
    );
    Ok(gateway)
}
