//! Pingora's phases for what passes.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use super::Passing;
use crate::engines::ErrorKind;
use crate::proxy::Gateway;
use crate::proxy::client::Client;
use crate::proxy::record::Record;
use crate::proxy::reply_headers::ReplyHeaders;
use crate::proxy::respond::Refusal;
use crate::proxy::serve::{DRAIN_TIMEOUT, answer};
use crate::proxy::stop::{Outcome, Stop};

/// The gateway as Pingora's phases know it.
pub struct PassThrough(Arc<Gateway>);

impl PassThrough {
    pub(in crate::proxy) fn new(gateway: Arc<Gateway>) -> Self {
        Self(gateway)
    }
}

/// What lives as long as one request.
pub struct Context {
    record: Record,
    headers: ReplyHeaders,
    passing: Option<Box<Passing>>,
}

#[async_trait]
impl ProxyHttp for PassThrough {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            record: Record::new(&self.0.access_log),
            headers: ReplyHeaders::default(),
            passing: None,
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let mut client = Client {
            http: &mut session.downstream_session,
            headers: &mut ctx.headers,
        };
        ctx.passing = self.0.pass(&mut client, &ctx.record).await?;
        Ok(ctx.passing.is_none())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let http = &mut session.downstream_session;
        match &mut ctx.passing {
            Some(passing) => self.0.pass_peer(http, passing, &ctx.record).await,
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
            self.0.pass_not_connected(passing, &ctx.record, &mut error);
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
                let bytes_max = self.0.settings.load().max_body_bytes;
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
        if let Some(passing) = &ctx.passing {
            passing.answer(session, head)?;
        }
        ctx.headers.put_on(head)
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
            let record = &ctx.record;
            self.0
                .pass_broken(session, passing, record, &mut error, reused);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        let stop = match &mut ctx.passing {
            Some(passing) => self.0.pass_refusal(passing, &ctx.record, error),
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
            let http = &mut session.downstream_session;
            let headers = &mut ctx.headers;
            let _ = answer(&mut Client { http, headers }, stop).await;
            // A client that still sends would see a reset connection instead of the answer.
            let rest = session.downstream_session.drain_request_body();
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, rest).await;
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
            self.0.pass_over(session, error, passing, &ctx.record);
        }
        ctx.record.ended(&session.downstream_session);
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
