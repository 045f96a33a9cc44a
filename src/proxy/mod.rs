//! The data path, one file per phase: route, authorize, read_request, admit, forward, relay, settle.

mod admit;
mod allow;
mod answer;
mod attempt;
mod authorize;
mod client;
mod connection;
mod forward;
mod gaps;
mod hedge;
mod meter;
mod models;
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
mod wishes;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::Result;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};

use crate::domain::ConnectionLimits;
use crate::engines::ErrorKind;
use crate::fleet::Fleet;
use crate::telemetry::{AccessLog, Metrics};
use pass::Passing;
use record::Record;
use reply_headers::ReplyHeadersBuilder;
use respond::Refusal;
use serve::answer;
use stop::{Outcome, Stop};

pub use authorize::KeyRing;
pub use connection::{ConnectionServer, TlsAcceptor};

/// Server-wide settings of the data path; replaced whole on reload.
pub struct ProxySettings {
    pub keys: KeyRing,
    pub max_body_bytes: usize,
    pub body_timeout: std::time::Duration,
    pub connections: ConnectionLimits,
    /// How connections of the TLS listener are secured.
    pub tls: Option<TlsAcceptor>,
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
    /// What goes through Pingora's own phases instead of being answered in the first.
    passing: Option<Box<Passing>>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            record: Record::new(&self.access_log),
            passing: None,
        }
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(ReplyHeadersBuilder));
    }

    /// Generations are answered here: their body must be read before a worker can be chosen, and Pingora's own
    /// phases keep no body over 64 KiB for that. What passes goes on through those phases.
    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        ctx.passing = self.serve(session, &ctx.record).await?;
        Ok(ctx.passing.is_none())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        match &mut ctx.passing {
            Some(passing) => self.pass_peer(session, passing, &ctx.record).await,
            None => Err(Error::explain(ErrorType::InternalError, "nothing passes")),
        }
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(passing) = &mut ctx.passing {
            self.pass_not_connected(passing, &ctx.record, &mut error);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        match &mut ctx.passing {
            Some(passing) => passing.ask(head, &ctx.record),
            None => Ok(()),
        }
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        part: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        match &mut ctx.passing {
            Some(passing) => {
                let bytes_max = self.settings.load().max_body_bytes;
                passing.send_body(session, part, bytes_max)
            }
            None => Ok(()),
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        match &ctx.passing {
            Some(passing) => passing.answer(session, head),
            None => Ok(()),
        }
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        if let Some(passing) = &mut ctx.passing {
            self.pass_broken(session, passing, &ctx.record, &mut error, reused);
        }
        error
    }

    /// Errors of generations reach this only when the client is gone or its connection broke: there is nobody to
    /// answer.
    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let stop = match &mut ctx.passing {
            Some(passing) => self.pass_refusal(passing, &ctx.record, error),
            None if error.etype() == &ErrorType::InternalError => {
                let refusal = Refusal::new(None, ErrorKind::Internal, "something went wrong");
                Some(Stop::Refused(refusal, Outcome::UpstreamFailed))
            }
            None => None,
        };
        let mut error_code = 0;
        if let Some(stop) = stop
            && session.response_written().is_none()
        {
            session.set_keepalive(None);
            let _ = answer(session, stop).await;
            // A client that still sends would see a reset connection instead of the answer.
            let rest = session.downstream_session.drain_request_body();
            let _ = tokio::time::timeout(serve::DRAIN_TIMEOUT, rest).await;
            let head = session.response_written();
            error_code = head.map_or(0, |head| head.status.as_u16());
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        if let Some(passing) = &ctx.passing {
            self.pass_over(session, error, passing, &ctx.record);
        }
        ctx.record.ended(session);
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }
}
