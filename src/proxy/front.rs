//! Where requests come in, connection by connection. What the gateway answers by itself, generations above all, it
//! answers here: a request in Pingora's own phases holds the state of all of them for as long as its answer
//! takes. Only what passes goes there.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::BytesMut;
use http::Method;
use pingora::ErrorType;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;

use super::Gateway;
use super::pass::PassThrough;
use super::route::Route;

pub struct Front {
    gateway: Arc<Gateway>,
    passing: Arc<HttpProxy<PassThrough>>,
}

impl Front {
    /// `passing` makes Pingora's phases of what it is given.
    pub fn new(
        gateway: Gateway,
        passing: impl FnOnce(PassThrough) -> HttpProxy<PassThrough>,
    ) -> Self {
        let gateway = Arc::new(gateway);
        Self {
            passing: Arc::new(passing(PassThrough::new(Arc::clone(&gateway)))),
            gateway,
        }
    }
}

#[async_trait]
impl HttpServerApp for Front {
    // Written out: an `async fn` would hold the session twice.
    fn process_new_http<'s, 'w, 'f>(
        self: &'s Arc<Self>,
        session: ServerSession,
        shutdown: &'w ShutdownWatch,
    ) -> Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'f>>
    where
        's: 'f,
        'w: 'f,
    {
        Box::pin(self.answer(Box::new(session), shutdown))
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.passing.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.passing.server_options()
    }

    /// Nothing: connections outlive the listeners. Pingora would close idle ones, and those whose request is still on
    /// its way, and a client that was just about to send would see a reset. Here they stay until the process
    /// ends; what comes on them meanwhile is answered with `connection: close`.
    async fn http_cleanup(&self) {}
}

impl Front {
    async fn answer(
        &self,
        mut session: Box<ServerSession>,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !Box::pin(read_head(&mut session)).await {
            return None;
        }
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        match self.gateway.route(&method, &path) {
            // Pingora refuses tunnels.
            _ if method == Method::CONNECT => self.pass(session, shutdown).await,
            Route::Other { .. } => self.pass(session, shutdown).await,
            route => self.gateway.serve(session, route).await,
        }
    }

    fn pass<'f>(
        &'f self,
        session: Box<ServerSession>,
        shutdown: &'f ShutdownWatch,
    ) -> impl Future<Output = Option<ReusedHttpStream>> + use<'f> {
        self.passing.process_new_http(unread(*session), shutdown)
    }
}

/// False where there is no request to answer; as Pingora does it.
async fn read_head(session: &mut ServerSession) -> bool {
    match session.read_request().await {
        Ok(read) => read,
        Err(error) => {
            if error.etype() == &ErrorType::InvalidHTTPHeader {
                let _ = session.respond_error(400).await;
            }
            session.shutdown().await;
            false
        }
    }
}

/// The session as it was before its header was read: Pingora's phases begin with that. Nothing behind the header was read.
fn unread(session: ServerSession) -> ServerSession {
    let ServerSession::H1(read) = session else {
        return session;
    };
    let header = BytesMut::from(read.get_headers_raw_bytes());
    let reuses = read.get_keepalive_reuses_remaining();
    let mut session = ServerSession::new_http1(read.into_inner());
    session.set_pipelined_prefix(header);
    session.set_keepalive_reuses_remaining(reuses);
    session
}
