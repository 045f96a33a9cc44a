//! Connections outlive the listeners. Pingora closes idle ones, and those whose request is still on its way, the
//! moment it stops listening: a client that was just about to send would see a reset. Here they stay until the
//! process ends; what comes on them meanwhile is answered with `connection: close`.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::server::ShutdownWatch;

pub(super) struct KeepOpen<App>(Arc<App>);

impl<App> KeepOpen<App> {
    pub(super) fn new(app: App) -> Self {
        Self(Arc::new(app))
    }
}

#[async_trait]
impl<App: HttpServerApp + Send + Sync + 'static> HttpServerApp for KeepOpen<App> {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.0.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }

    /// Not passed on: this is where idle connections would be closed.
    async fn http_cleanup(&self) {}
}
