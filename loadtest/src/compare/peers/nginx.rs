//! nginx as a plain proxy that passes on what it reads at once.

use std::time::Duration;

use rustix::process::geteuid;

use super::{Kind, Launch, Recipe, Site, first_line, from_debian};

pub(super) const NGINX: Recipe = Recipe {
    name: "nginx",
    kind: Kind::Proxy,
    licence: "BSD-2-Clause",
    program: || from_debian("nginx"),
    version: |program| first_line(program, "-v").replace("nginx version: ", ""),
    launch,
    start_within: Duration::from_secs(10),
    slower: 1,
    policies: &["least_conn"],
};

fn launch(site: &Site) -> Launch {
    // Started by root it would drop to a user who may not read its own folder.
    let user = if geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let servers: String = site
        .workers
        .iter()
        .map(|port| format!("        server 127.0.0.1:{port};\n"))
        .collect();
    let port = site.port;
    let config = format!(
        "{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_max_body_size 64m;
    client_body_buffer_size 1m;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 100000000;
    upstream engines {{
        least_conn;
{servers}        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engines;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
            proxy_read_timeout 3600s;
        }}
    }}
}}
"
    );
    Launch {
        arguments: vec![
            "-p".to_owned(),
            site.folder.display().to_string(),
            "-c".to_owned(),
            site.path("nginx.conf"),
        ],
        files: vec![("nginx.conf", config)],
        environment: Vec::new(),
    }
}
