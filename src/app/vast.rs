//! The market of Vast from a configuration: its keys and what may change with a reload.

use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::config::ServerConfig;
use crate::domain::{Endpoint, InstallationId, MarketKind, Secret, Source, VastLaunch};
use crate::market::{VastMarket, VastSettings};
use crate::telemetry::Metrics;

/// `None` without any key. With one it is there even where no endpoint needs it: machines of earlier ones may be.
pub(super) fn market(
    server: &ServerConfig,
    endpoints: &[Endpoint],
    more_keys: &[Secret],
    installation: &InstallationId,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<VastMarket>>> {
    let mut settings = settings(server, endpoints);
    settings.group_keys.extend_from_slice(more_keys);
    if settings.api_key.is_none() && settings.group_keys.is_empty() {
        return Ok(None);
    }
    let metrics = Arc::clone(metrics);
    let market = VastMarket::new(&server.vast.url, installation.clone(), settings, metrics);
    Ok(Some(market.context("vast")?))
}

pub(super) fn settings(server: &ServerConfig, endpoints: &[Endpoint]) -> VastSettings {
    let keys = launches(endpoints).filter_map(|(_, launch)| launch.account_key.clone());
    VastSettings {
        api_key: server.vast.api_key.clone(),
        group_keys: keys.collect(),
        interval_scale: server.vast.interval_scale,
        search_interval: server.vast.search_interval,
        public_url: server.public_url.clone(),
        orphan_after: server.orphan_after,
    }
}

fn launches(endpoints: &[Endpoint]) -> impl Iterator<Item = (&Endpoint, &VastLaunch)> {
    endpoints.iter().flat_map(|endpoint| {
        let groups = endpoint.groups.iter();
        groups.filter_map(move |group| match &group.source {
            Source::Vast(launch) => Some((endpoint, launch.as_ref())),
            Source::Local(_) | Source::Fixed { .. } => None,
        })
    })
}

pub(super) fn refuse_without_key(server: &ServerConfig, endpoints: &[Endpoint]) -> Result<()> {
    let without = |(_, launch): &(&Endpoint, &VastLaunch)| launch.account_key.is_none();
    if server.vast.api_key.is_none()
        && let Some((endpoint, _)) = launches(endpoints).find(without)
    {
        bail!(
            "endpoint {}: there is no key of Vast: set VAST_API_KEY, vast.api_key or vast.api_key_file",
            endpoint.name
        );
    }
    Ok(())
}

/// A gateway that was started without a key lists and rents nothing until it is started with one.
pub(super) fn refuse_without_market(
    market: Option<&VastMarket>,
    endpoints: &[Endpoint],
) -> Result<()> {
    let wanted = endpoints
        .iter()
        .find(|endpoint| endpoint.market == MarketKind::Vast);
    if let (None, Some(endpoint)) = (market, wanted) {
        bail!(
            "endpoint {}: the gateway was started without a key of Vast; start it again to rent there",
            endpoint.name
        );
    }
    Ok(())
}
