//! The listeners and what they are told of HTTP; a taken port is said in one line before anything starts.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use pingora::apps::HttpServerOptions;
use pingora::listeners::{L4BufferSettings, ListenerConfig, TcpSocketOptions};
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::http_proxy;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::ServerConfig;
use crate::domain::ConnectionLimits;
use crate::proxy::{ConnectionServer, Front, Gateway, ProxySettings};
use crate::telemetry::Metrics;

/// Events are smaller: more would only be held for idle streams. Headers and bodies are read into buffers of their own.
const WRITE_BUFFER_BYTES: usize = 2 << 10;
const DESCRIPTORS_ASIDE: u64 = 500;

pub(super) fn check_free(address: SocketAddr, key: &str) -> Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| {
        format!("{key}: cannot listen on {address}; a gateway that runs already is replaced with `run --upgrade`")
    })
}

/// Pingora builds listeners in tasks of their own, and a task that fails there leaves a gateway that listens nowhere.
pub(super) fn end_without_listeners() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let said = panic.payload_as_str().unwrap_or_default();
        if said.starts_with("Failed to build listeners") {
            std::process::exit(1);
        }
    }));
}

/// A connection takes a descriptor, its request another for the worker; the rest is for files, probes and markets.
pub(super) fn raise_descriptor_limit(limits: &ConnectionLimits) {
    let needed = 2 * limits.connections_max as u64 + DESCRIPTORS_ASIDE;
    let now = getrlimit(Resource::Nofile);
    let allowed = now.maximum.unwrap_or(u64::MAX);
    let wanted = Rlimit {
        current: Some(needed.min(allowed)),
        maximum: now.maximum,
    };
    let raised = now.current.is_some_and(|current| current < needed)
        && setrlimit(Resource::Nofile, wanted).is_ok();
    let has = match raised {
        true => wanted.current,
        false => now.current,
    };
    // What is set aside is a guess: only a limit that the connections themselves can reach is worth a word.
    if let Some(has) = has.filter(|has| *has < needed - DESCRIPTORS_ASIDE) {
        tracing::warn!(
            "{has} file descriptors are allowed; connections.max may need {needed}: raise the limit, or lower the setting"
        );
    }
}

/// The service that clients call, on all its listeners.
pub(super) fn clients(
    conf: &Arc<ServerConf>,
    settings: &ServerConfig,
    gateway: Gateway,
    proxy_settings: Arc<ArcSwap<ProxySettings>>,
    metrics: Arc<Metrics>,
) -> Service<ConnectionServer<Front>> {
    let limits = &settings.connections;
    let tls_listen = settings.tls.as_ref().map(|tls| tls.listen);
    let app = Front::new(gateway, |passing| {
        let mut proxy = http_proxy(conf, passing);
        proxy.server_options = Some(server_options(limits));
        proxy.h2_options = Some(http2_options(limits));
        proxy
    });
    let app = ConnectionServer::new(app, proxy_settings, metrics, tls_listen);
    let mut service = Service::new("gateway".to_owned(), app);
    for (address, _) in client_addresses(settings) {
        service.add_listener(listener(address, limits));
    }
    service
}

/// Where clients call, with the setting that says so.
pub(super) fn client_addresses(
    settings: &ServerConfig,
) -> impl Iterator<Item = (SocketAddr, &'static str)> {
    let tls = settings.tls.as_ref().map(|tls| (tls.listen, "tls.listen"));
    [(settings.listen, "listen")].into_iter().chain(tls)
}

fn listener(address: SocketAddr, limits: &ConnectionLimits) -> ListenerConfig {
    let mut options = TcpSocketOptions::default();
    options.tcp_snd_buf = Some(limits.send_buffer_bytes);
    ListenerConfig::tcp(address.to_string())
        .tcp_socket_options(options)
        .l4_buffer(L4BufferSettings::new(0, WRITE_BUFFER_BYTES))
}

/// HTTP/2 without TLS is spoken to whoever begins with it.
fn server_options(limits: &ConnectionLimits) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(limits.http2_idle_timeout);
    options
}

fn http2_options(limits: &ConnectionLimits) -> H2Options {
    let mut options = default_h2_options();
    options.max_concurrent_streams(limits.http2_streams_max);
    let header_bytes = u32::try_from(2 * limits.header_bytes_max).unwrap_or(u32::MAX);
    options.max_header_list_size(header_bytes);
    options
}
