//! A round of the real gateway's scaler over many endpoints, by its own metric.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::compare::processes::resident_kb;
use crate::harness::{ConfigDir, Gateway, http_client, wait_until};

pub(super) struct Tick {
    pub endpoints: usize,
    pub rounds: u64,
    pub mean_ms: f64,
    /// So many rounds took at most this.
    pub within: u64,
    pub limit_ms: f64,
    pub kb_per_endpoint: u64,
}

const ROUNDS: u64 = 30;
const METRIC: &str = "tidegate_scaler_tick_seconds";

pub(super) async fn measure(endpoints: usize) -> Result<Tick> {
    let alone_kb = rounds(1).await?.1;
    let (seen, full_kb) = rounds(endpoints).await?;
    let grown = full_kb.saturating_sub(alone_kb);
    Ok(Tick {
        endpoints,
        kb_per_endpoint: grown / endpoints.saturating_sub(1).max(1) as u64,
        ..seen
    })
}

/// Also the gateway's resident size.
async fn rounds(endpoints: usize) -> Result<(Tick, u64)> {
    let config = ConfigDir::new("scaler_interval: 0.2\nlog: warn\n")?;
    for n in 0..endpoints {
        config.write_endpoint(&format!("model-{n}"), &endpoint(n))?;
    }
    let gateway = Gateway::start(config).await?;
    let (client, url) = (http_client()?, format!("{}/metrics", gateway.admin_url));
    let ask = async || anyhow::Ok(client.get(&url).send().await?.text().await?);
    let enough = || async {
        let text = ask().await;
        text.is_ok_and(|text| Histogram::read(&text, METRIC).is_some_and(|h| h.count >= ROUNDS))
    };
    ensure!(
        wait_until(Duration::from_secs(60), enough).await,
        "the scaler stands still"
    );
    let seen = Histogram::read(&ask().await?, METRIC).context("no metric of rounds")?;
    let (limit_s, within) = seen.nearly_all();
    let tick = Tick {
        endpoints,
        rounds: seen.count,
        mean_ms: 1e3 * seen.sum / seen.count as f64,
        within,
        limit_ms: 1e3 * limit_s,
        kb_per_endpoint: 0,
    };
    Ok((tick, resident_kb(gateway.child.pid())?))
}

fn endpoint(n: usize) -> String {
    format!(
        "endpoint_name: model-{n}\nmax_workers: 4\nworker_groups:\n  \
         - {{name: pretend, engine: fake, command: [fake-worker, --listen, \"127.0.0.1:{{port}}\"], tokens_per_second: 280, \
         concurrency: 8, usd_per_hour: 0.1}}\n"
    )
}

/// Of Prometheus' text, without labels but the bounds.
#[derive(Debug, PartialEq)]
struct Histogram {
    count: u64,
    sum: f64,
    /// Upper bound in seconds, and how many lie below.
    buckets: Vec<(f64, u64)>,
}

impl Histogram {
    fn read(text: &str, name: &str) -> Option<Self> {
        let value = |suffix: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("{name}{suffix} ")));
            line?.trim().parse::<f64>().ok()
        };
        let bucket = |line: &str| {
            let rest = line.strip_prefix(&format!("{name}_bucket{{le=\""))?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.parse().ok()?, count.trim().parse().ok()?))
        };
        Some(Self {
            count: value("_count")? as u64,
            sum: value("_sum")?,
            buckets: text.lines().filter_map(bucket).collect(),
        })
    }

    /// The least bound that 19 in 20 lie below, and how many do.
    fn nearly_all(&self) -> (f64, u64) {
        let enough = |(_, count): &&(f64, u64)| 20 * count >= 19 * self.count;
        let found = self.buckets.iter().find(enough);
        found.copied().unwrap_or((f64::INFINITY, self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_from_the_metrics_text() {
        let text = "# TYPE t histogram\nt_bucket{le=\"0.001\"} 18\nt_bucket{le=\"0.01\"} 39\n\
                    t_bucket{le=\"+Inf\"} 40\nt_sum 0.08\nt_count 40\nt_other 1\n";
        let seen = Histogram::read(text, "t").unwrap();
        assert_eq!((seen.count, seen.sum), (40, 0.08));
        assert_eq!(seen.nearly_all(), (0.01, 39));
        assert_eq!(Histogram::read("", "t"), None);
    }
}
