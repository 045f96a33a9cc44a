//! The three routers that grew from one: sglang's, vLLM's and smg. Their command lines are alike.

use std::time::Duration;

use super::{Kind, Launch, Recipe, Site, from_pypi, pypi_version};

pub(super) const SGLANG: Recipe = Recipe {
    name: "sglang",
    kind: Kind::Router,
    licence: "Apache-2.0",
    program: || from_pypi("sglang"),
    version: |_| pypi_version("sglang"),
    launch: |site| launch(site, true, "warn"),
    start_within: Duration::from_secs(60),
    slower: 1,
    policies: &["power_of_two", "cache_aware", "round_robin"],
};

/// Its `consistent_hash` sends all of a session to one worker: requests that name none all go to the same.
pub(super) const VLLM: Recipe = Recipe {
    name: "vllm",
    program: || from_pypi("vllm"),
    version: |_| pypi_version("vllm"),
    launch: |site| launch(site, false, "warning"),
    ..SGLANG
};

pub(super) const SMG: Recipe = Recipe {
    name: "smg",
    program: || from_pypi("smg"),
    version: |_| pypi_version("smg"),
    launch: |site| launch(site, true, "warn"),
    policies: &["power_of_two", "cache_aware", "least_load"],
    ..SGLANG
};

/// One thread, as the others have; retries and breakers as they come.
fn launch(site: &Site, subcommand: bool, log_level: &str) -> Launch {
    let (port, side_port) = (site.port.to_string(), site.side_port.to_string());
    let mut arguments: Vec<String> = Vec::new();
    if subcommand {
        arguments.push("launch".to_owned());
    }
    let flags = [
        ("--host", "127.0.0.1"),
        ("--port", &port),
        ("--prometheus-host", "127.0.0.1"),
        ("--prometheus-port", &side_port),
        ("--policy", site.policy),
        ("--log-level", log_level),
    ];
    for (flag, value) in flags {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
    arguments.push("--worker-urls".to_owned());
    arguments.extend(site.worker_urls());
    Launch {
        files: Vec::new(),
        arguments,
        environment: vec![("TOKIO_WORKER_THREADS", "1".to_owned())],
    }
}
