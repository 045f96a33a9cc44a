//! LiteLLM's proxy, one process of it. It is an order of magnitude slower than the others: paced loads are smaller.

use std::time::Duration;

use super::{Kind, Launch, Recipe, Site, from_pypi, pypi_version};

pub(super) const LITELLM: Recipe = Recipe {
    name: "litellm",
    kind: Kind::Router,
    licence: "MIT",
    program: || from_pypi("litellm"),
    version: |_| pypi_version("litellm"),
    launch,
    start_within: Duration::from_secs(120),
    slower: 20,
    policies: &["simple-shuffle", "least-busy", "latency-based-routing"],
};

fn launch(site: &Site) -> Launch {
    let mut config = "model_list:\n".to_owned();
    for url in site.worker_urls() {
        config += &format!(
            "  - model_name: bench\n    litellm_params: {{model: openai/bench, api_base: \"{url}/v1\", api_key: none}}\n"
        );
    }
    config += &format!(
        "router_settings:\n  routing_strategy: {}\nlitellm_settings:\n  request_timeout: 3600\n",
        site.policy
    );
    let port = site.port.to_string();
    let arguments = [
        "--config",
        &site.path("litellm.yaml"),
        "--host",
        "127.0.0.1",
        "--port",
        &port,
    ];
    let environment = [
        (
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY",
            "true",
        ),
        // It would fetch a price list from the network.
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ("LITELLM_LOG", "ERROR"),
    ];
    Launch {
        arguments: arguments.map(str::to_owned).into(),
        files: vec![("litellm.yaml", config)],
        environment: environment
            .map(|(name, value)| (name, value.to_owned()))
            .into(),
    }
}
