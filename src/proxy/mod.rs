//! The data path, one file per phase: route, authorize, read_request, admit, forward, relay, settle.

mod admit;
mod allow;
mod answer;
mod answer_head;
mod attempt;
mod authorize;
mod client;
mod connection;
mod forward;
mod framing;
mod front;
mod gaps;
mod hedge;
mod meter;
mod models;
mod moving;
mod own_routes;
mod pass;
mod read_request;
mod record;
mod relay;
mod reply;
mod reply_headers;
mod respond;
mod route;
mod screen;
mod serve;
mod stop;
mod trace;
mod understand;
mod upstream;
mod wishes;

use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora::connectors::TransportConnector;

use crate::domain::{ConnectionLimits, InstallationId};
use crate::fleet::Fleet;
use crate::telemetry::{AccessLog, Metrics};

pub use authorize::KeyRing;
pub use connection::{ConnectionServer, TlsAcceptor};
pub use front::Front;

/// Server-wide settings of the data path; replaced whole on reload.
pub struct ProxySettings {
    pub keys: KeyRing,
    pub max_body_bytes: usize,
    pub body_timeout: std::time::Duration,
    pub connections: ConnectionLimits,
    /// Whose machines may ask whether it lives.
    pub installation: InstallationId,
    /// How connections of the TLS listener are secured.
    pub tls: Option<TlsAcceptor>,
}

/// The proxy's side of Tidegate: everything a request needs.
pub struct Gateway {
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    settings: Arc<ArcSwap<ProxySettings>>,
    access_log: Arc<AccessLog>,
    connector: TransportConnector,
}

impl Gateway {
    pub fn new(
        fleet: Arc<Fleet>,
        metrics: Arc<Metrics>,
        settings: Arc<ArcSwap<ProxySettings>>,
        access_log: Arc<AccessLog>,
    ) -> Self {
        Self {
            fleet,
            metrics,
            settings,
            access_log,
            connector: TransportConnector::new(None),
        }
    }
}
