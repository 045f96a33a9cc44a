//! HAProxy as a plain proxy. Without `http-no-delay` it gathers events for up to a fifth of a second.

use std::time::Duration;

use super::{Kind, Launch, Recipe, Site, first_line, from_debian};

pub(super) const HAPROXY: Recipe = Recipe {
    name: "haproxy",
    kind: Kind::Proxy,
    licence: "GPL-2.0-or-later, headers LGPL-2.1",
    program: || from_debian("haproxy"),
    version: |program| {
        let line = first_line(program, "-v");
        line.split(" - ").next().unwrap_or(&line).to_owned()
    },
    launch,
    start_within: Duration::from_secs(10),
    slower: 1,
    policies: &["leastconn"],
};

fn launch(site: &Site) -> Launch {
    let servers: String = site
        .workers
        .iter()
        .zip(1..)
        .map(|(port, n)| format!("    server engine{n} 127.0.0.1:{port} check inter 2s\n"))
        .collect();
    // It wants two files for each at once, and 20,000 are often the most.
    let config = format!(
        "global
    nbthread 1
    maxconn 9900

defaults
    mode http
    option http-no-delay
    timeout connect 5s
    timeout client 1h
    timeout server 1h

frontend clients
    bind 127.0.0.1:{}
    default_backend engines

backend engines
    balance leastconn
    option httpchk GET /health
{servers}",
        site.port
    );
    Launch {
        arguments: vec!["-f".to_owned(), site.path("haproxy.cfg")],
        files: vec![("haproxy.cfg", config)],
        environment: Vec::new(),
    }
}
