//! Envoy as a plain proxy on one thread.

use std::time::Duration;

use super::{Kind, Launch, Recipe, Site, from_pypi, pypi_version};

pub(super) const ENVOY: Recipe = Recipe {
    name: "envoy",
    kind: Kind::Proxy,
    licence: "Apache-2.0",
    program: || from_pypi("envoy"),
    version: |_| pypi_version("envoy"),
    launch,
    start_within: Duration::from_secs(30),
    slower: 1,
    policies: &["LEAST_REQUEST"],
};

fn launch(site: &Site) -> Launch {
    let workers: String = site
        .workers
        .iter()
        .map(|port| format!("        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n"))
        .collect();
    // Its limits for a cluster are 1,024 of everything.
    let config = format!(
        "static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: clients
          codec_type: HTTP1
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: engines, timeout: 0s}}
          http_filters:
          - name: router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
              dynamic_stats: false
  clusters:
  - name: engines
    type: STATIC
    connect_timeout: 5s
    lb_policy: LEAST_REQUEST
    circuit_breakers:
      thresholds:
      - {{max_connections: 40000, max_pending_requests: 40000, max_requests: 40000}}
    load_assignment:
      cluster_name: engines
      endpoints:
      - lb_endpoints:
{workers}",
        site.port
    );
    Launch {
        arguments: [
            "-c",
            &site.path("envoy.yaml"),
            "--concurrency",
            "1",
            "-l",
            "error",
        ]
        .map(str::to_owned)
        .into(),
        files: vec![("envoy.yaml", config)],
        environment: Vec::new(),
    }
}
