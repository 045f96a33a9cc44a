//! The data path, one file per phase: route, authorize, read_request, admit, forward, relay, settle.

mod admit;
mod allow;
mod answer;
mod attempt;
mod authorize;
mod client;
mod forward;
mod gaps;
mod hedge;
mod meter;
mod models;
mod read_request;
mod record;
mod relay;
mod reply;
mod reply_headers;
mod respond;
mod route;
mod serve;
mod stop;
mod understand;
mod wishes;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::Result;
use pingora::connectors::http::Connector;
use pingora::http::ResponseHeader;
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};

use crate::fleet::Fleet;
use crate::telemetry::{AccessLog, Metrics};
use record::Record;
use reply_headers::ReplyHeadersBuilder;

pub use authorize::KeyRing;

/// Server-wide settings of the data path; replaced whole on reload.
pub struct ProxySettings {
    pub keys: KeyRing,
    pub max_body_bytes: usize,
    pub body_timeout: std::time::Duration,
}

/// The proxy's side of Tidegate: everything a request needs.
pub struct Gateway {
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    settings: Arc<ArcSwap<ProxySettings>>,
    access_log: Arc<AccessLog>,
    connector: Connector,
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
            connector: Connector::new(None),
        }
    }
}

/// What lives as long as one request.
pub struct Context {
    record: Record,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            record: Record::new(&self.access_log),
        }
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(ReplyHeadersBuilder));
    }

    /// Every route is answered here: the body must be read before a worker can be chosen, and
    /// Pingora's own phases keep no body over 64 KiB for that.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        self.serve(session, &ctx.record).await.map(|()| true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Context) -> Result<Box<HttpPeer>> {
        Err(Error::explain(
            ErrorType::InternalError,
            "no route leads through Pingora's upstream phase",
        ))
    }

    /// Errors reach this only when the client is gone or its connection broke: there is nobody to answer.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        _: &mut Context,
    ) -> FailToProxy {
        let mut error_code = 0;
        if error.etype() == &ErrorType::InternalError && session.response_written().is_none() {
            error_code = 500;
            let answer = ResponseHeader::build(500, None);
            if let Ok(answer) = answer {
                let _ = session.write_response_header(Box::new(answer), true).await;
            }
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Context) {
        ctx.record.ended(session);
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }
}
