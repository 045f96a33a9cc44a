//! The client against canned answers over real sockets.

mod accounts;
mod calls;
mod listing;
mod preamble;
mod renting;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::stand_in::{Asked, Reply, StandIn};
use super::*;
use crate::domain::{
    EndpointName, EngineKind, GroupName, LaunchOptions, OfferId, OfferSearch, RentalLabel, RunType,
    SpeedPrior, TokensPerSecond, WorkerId,
};

const KEY: &str = "a-key-that-nobody-may-see";

fn settings() -> VastSettings {
    VastSettings {
        api_key: Some(Secret::new(KEY)),
        group_keys: Vec::new(),
        interval_scale: 0.0,
        search_interval: Duration::from_secs(30),
        public_url: None,
        orphan_after: Duration::from_secs(600),
    }
}

fn market_at(url: &str, settings: VastSettings) -> Arc<VastMarket> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    VastMarket::new(url, InstallationId::new("mine"), settings, metrics).expect("a market")
}

async fn market(
    answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
) -> (Arc<VastMarket>, StandIn) {
    let vast = StandIn::start(answer).await;
    (market_at(&vast.url, settings()), vast)
}

fn launch() -> VastLaunch {
    VastLaunch {
        search: OfferSearch::default(),
        launch: LaunchOptions {
            image: Some("foo/bar".to_owned()),
            env: [("-p 3000:3000".to_owned(), "1".to_owned())].into(),
            bid_price: None,
            disk_gb: 64.0,
            extra: None,
            onstart: Some("serve".to_owned()),
            image_login: None,
            python_utf8: false,
            lang_utf8: false,
            jupyter_lab: false,
            jupyter_dir: None,
            force: false,
            cancel_unavail: false,
            template_hash: None,
            user: None,
            run_type: Some(RunType::Ssh),
            args: None,
            volume: None,
        },
        port: 3000,
        account_key: None,
    }
}

fn group(launch: VastLaunch) -> WorkerGroup {
    WorkerGroup {
        name: GroupName::new("g"),
        engine: EngineKind::Tgi,
        source: Source::Vast(Box::new(launch)),
        speed_prior: SpeedPrior {
            tokens_per_second: TokensPerSecond(100.0),
            concurrency: 4,
        },
        max_concurrency: None,
        kv_tokens: None,
        usd_per_hour: UsdPerHour::ZERO,
        image_gb: 10.0,
        model_gb: 15.0,
        interruptible: false,
        api_key: None,
    }
}

fn label() -> RentalLabel {
    RentalLabel {
        installation: InstallationId::new("mine"),
        endpoint: EndpointName::new("chat"),
        worker: WorkerId::new("g-1"),
    }
}

fn offer(id: &str) -> Offer {
    Offer::plain(OfferId::new(id), UsdPerHour(0.5))
}

async fn rent_at(
    market: &VastMarket,
    ask: &str,
    launch: VastLaunch,
) -> Result<InstanceId, MarketError> {
    let (offer, group, label) = (offer(ask), group(launch), label());
    let order = Order::settled(&offer, None, &group, &label);
    market.rent(&order).await
}
