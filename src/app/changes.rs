//! What a reload cannot do: settings that wait for the next start, and those that only new workers see.

use crate::config::{ServerConfig, TlsConfig};
use crate::domain::{ConnectionLimits, Endpoint, Source, WorkerGroup};
use crate::fleet::Fleet;

/// Keys whose new values count from the next start, or upgrade, on.
pub(super) fn at_next_start(running: &ServerConfig, new: &ServerConfig) -> Vec<&'static str> {
    // No `..`: whoever adds a setting says here whether a reload changes it.
    let ServerConfig {
        listen,
        admin_listen,
        insecure: _,
        connections,
        tls,
        admin_token: _,
        state_dir,
        threads,
        max_body_bytes: _,
        body_timeout: _,
        stop_delay,
        grace_period,
        scaler_interval,
        reload_on_change,
        local_market,
        spending: _,
        vast,
        public_url: _,
        orphan_after: _,
        log,
        access_log,
        access_log_queue,
    } = running;
    let of_listeners = |limits: &ConnectionLimits| {
        let http2 = (limits.http2_streams_max, limits.http2_idle_timeout);
        (limits.send_buffer_bytes, http2)
    };
    let tls_listen = |tls: &Option<TlsConfig>| tls.as_ref().map(|tls| tls.listen);
    let differs = [
        (
            "connections (send_buffer, http2_max_streams, http2_idle_timeout)",
            of_listeners(connections) != of_listeners(&new.connections),
        ),
        ("tls.listen", tls_listen(tls) != tls_listen(&new.tls)),
        ("listen", *listen != new.listen),
        ("admin_listen", *admin_listen != new.admin_listen),
        ("state_dir", *state_dir != new.state_dir),
        ("threads", *threads != new.threads),
        ("stop_delay", *stop_delay != new.stop_delay),
        ("grace_period", *grace_period != new.grace_period),
        ("scaler_interval", *scaler_interval != new.scaler_interval),
        (
            "reload_on_change",
            *reload_on_change != new.reload_on_change,
        ),
        ("local_market", *local_market != new.local_market),
        ("vast.url", vast.url != new.vast.url),
        ("log", *log != new.log),
        ("access_log", *access_log != new.access_log),
        (
            "access_log_queue",
            *access_log_queue != new.access_log_queue,
        ),
    ];
    differs
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
}

/// Settings that workers were started with; their present workers go on as they are.
pub(super) fn for_new_workers(fleet: &Fleet, endpoints: &[Endpoint]) -> Vec<String> {
    let mut out = Vec::new();
    for endpoint in endpoints {
        let Some(live) = fleet.endpoint(endpoint.name.as_str()) else {
            continue;
        };
        let (workers, settings) = (live.workers(), live.settings());
        for group in &endpoint.groups {
            let has_workers = workers.iter().any(|worker| worker.spec.group == group.name);
            let Some(old) = settings.group(&group.name).filter(|_| has_workers) else {
                continue;
            };
            let changed = launch_changes(old, group);
            out.extend(changed.map(|key| format!("{key} of {}/{}", endpoint.name, group.name)));
        }
    }
    out
}

fn launch_changes(old: &WorkerGroup, new: &WorkerGroup) -> impl Iterator<Item = &'static str> {
    let launch = match (&old.source, &new.source) {
        (Source::Local(old), Source::Local(new)) => vec![
            ("command", old.command != new.command),
            ("env", old.env != new.env),
            ("boot_time", old.boot_time != new.boot_time),
            ("restart_time", old.restart_time != new.restart_time),
        ],
        // A given worker that left the list is not spoken of as rented.
        (Source::Fixed { .. }, Source::Fixed { .. }) => Vec::new(),
        (old, new) => vec![("the launch", old != new)],
    };
    launch
        .into_iter()
        .chain([("engine", old.engine != new.engine)])
        .filter_map(|(key, changed)| changed.then_some(key))
}

#[cfg(test)]
mod tests {
    use crate::config::{self, SourceFile};

    fn server(text: &str) -> config::ServerConfig {
        let file = |name: &str, text: &str| SourceFile {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        let endpoint = "endpoint_name: e\nworker_groups: [{engine: fake, command: 'w {port}'}]";
        config::parse(
            &file("tidegate.yaml", text),
            &[file("e.yaml", endpoint)],
            &|_| None,
        )
        .expect("right")
        .server
    }

    #[test]
    fn what_only_a_start_changes_is_named_and_what_a_reload_changes_is_not() {
        let check = |new: &str, expected: &[&str]| {
            assert_eq!(
                super::at_next_start(&server(""), &server(new)),
                expected,
                "{new}"
            );
        };
        check("", &[]);
        check("max_body_bytes: 1MiB\nbody_timeout: 3\ninsecure: true", &[]);
        check(
            "listen: 127.0.0.1:1\nthreads: 2\nlocal_market: {slots: 3}",
            &["listen", "threads", "local_market"],
        );
    }
}
