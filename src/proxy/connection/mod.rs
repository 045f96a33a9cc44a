//! A client's connection, before and around its requests: counted, its TLS handshake and every request's header held
//! to a deadline, HTTP/2 told from HTTP/1. Pingora bounds single reads only, so that a byte now and then holds
//! a connection for ever.

mod count;
mod header;
mod header_scan;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::ProxySettings;
use crate::domain::ConnectionLimits;
use crate::telemetry::Metrics;
use count::{Connections, Full, Place};
use header::{NoHeader, Rejection, another_comes, read_header, tell};
use stream::{ClientStream, Facts, Transport};

pub use tls::TlsAcceptor;

/// What a client of HTTP/2 sends first.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A client that is turned away gets this long to hear why.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
const FULL_ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 99\r\n\r\n\
    {\"error\":{\"message\":\"too many connections\",\"type\":\"server_error\",\"code\":\"overloaded\",\"param\":null}}";

/// Serves connections with `App`, within the limits of the settings.
pub struct ConnectionServer<App> {
    app: Arc<App>,
    settings: Arc<ArcSwap<ProxySettings>>,
    metrics: Arc<Metrics>,
    connections: Arc<Connections>,
    /// Connections to this address begin with TLS.
    tls_listen: Option<SocketAddr>,
}

impl<App> ConnectionServer<App> {
    pub fn new(
        app: App,
        settings: Arc<ArcSwap<ProxySettings>>,
        metrics: Arc<Metrics>,
        tls_listen: Option<SocketAddr>,
    ) -> Self {
        Self {
            app: Arc::new(app),
            connections: Arc::new(Connections::new(&metrics)),
            settings,
            metrics,
            tls_listen,
        }
    }

    fn refused(&self, rule: &str) {
        self.metrics
            .clients_refused
            .with_label_values(&[rule])
            .inc();
    }

    /// A connection may come by any of the machine's addresses if the listener has none of its own.
    fn begins_with_tls(&self, facts: &Facts) -> bool {
        let (Some(listen), Some(local)) = (self.tls_listen, facts.local_address()) else {
            return false;
        };
        local.port() == listen.port() && (listen.ip().is_unspecified() || listen.ip() == local.ip())
    }
}

#[async_trait]
impl<App: HttpServerApp + Send + Sync + 'static> ServerApp for ConnectionServer<App> {
    /// In a task of its own: Pingora's has room for a TLS handshake, which it would keep until the connection ends.
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let (server, shutdown) = (Arc::clone(self), shutdown.clone());
        tokio::spawn(async move { server.serve(stream, &shutdown).await });
        None
    }

    async fn cleanup(&self) {
        self.app.http_cleanup().await;
    }
}

/// A connection that may send requests.
struct Open {
    stream: Box<ClientStream>,
    http2: bool,
    /// When the first header must be there.
    deadline: Instant,
    _place: Place,
}

impl<App: HttpServerApp + Send + Sync + 'static> ConnectionServer<App> {
    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let settings = self.settings.load_full();
        // On the heap, like all that is over before a stream flows.
        let Some(open) = Box::pin(self.open(stream, &settings)).await else {
            return;
        };
        if open.http2 {
            self.app.process_new(open.stream, shutdown).await;
        } else {
            let (stream, deadline) = (open.stream, open.deadline);
            self.http1(stream, deadline, &settings.connections, shutdown)
                .await;
        }
    }

    /// Finds a place for it, ends its TLS and tells which HTTP it speaks.
    async fn open(&self, stream: Stream, settings: &ProxySettings) -> Option<Open> {
        let limits = &settings.connections;
        let mut facts = Facts::of(&stream);
        let tls = self.begins_with_tls(&facts);
        let place = match self.connections.enter(facts.client_address(), limits) {
            Ok(place) => place,
            Err(full) => {
                self.refused(full.rule());
                if !tls {
                    say_full(stream, full).await;
                }
                return None;
            }
        };
        let deadline = Instant::now() + limits.header_timeout;
        let transport = if tls {
            let acceptor = settings.tls.as_ref()?;
            match timeout_at(deadline, acceptor.accept(stream)).await {
                Ok(Ok(tls)) => {
                    facts.secured(&tls);
                    Transport::Tls(Box::new(tls))
                }
                Ok(Err(_)) | Err(_) => {
                    self.refused("tls_handshake");
                    return None;
                }
            }
        } else {
            Transport::Plain(stream)
        };
        let mut stream = Box::new(ClientStream::new(transport, facts));
        let http2 = match stream.facts().negotiated_http2() {
            Some(negotiated) => negotiated,
            None => match timeout_at(deadline, begins_with_preface(&mut stream)).await {
                Ok(http2) => http2?,
                Err(_) => {
                    self.refused(Rejection::HeaderTimeout.rule());
                    return None;
                }
            },
        };
        Some(Open {
            stream,
            http2,
            deadline,
            _place: place,
        })
    }

    /// Request after request, until the client or a limit ends it.
    async fn http1(
        &self,
        mut stream: Box<ClientStream>,
        mut deadline: Instant,
        limits: &ConnectionLimits,
        shutdown: &ShutdownWatch,
    ) {
        let mut kept: Option<HttpPersistentSettings> = None;
        loop {
            let header = match Box::pin(read_header(&mut stream, limits, deadline)).await {
                Ok(header) => header,
                Err(NoHeader::Gone) => return,
                Err(NoHeader::Rejected(rejection)) => {
                    self.refused(rejection.rule());
                    return Box::pin(tell(&mut stream, rejection)).await;
                }
            };
            let mut session = ServerSession::new_http1(stream);
            session.set_pipelined_prefix(header);
            match kept.take() {
                Some(kept) => kept.apply_to_session(&mut session),
                None => {
                    // No time limit: it is held above.
                    session.set_keepalive((!*shutdown.borrow()).then_some(0));
                    let more = limits.requests_max.saturating_sub(1);
                    session.set_keepalive_reuses_remaining(Some(more));
                }
            }
            let answered = self.app.process_new_http(session, shutdown).await;
            let Some((reused, settings)) = answered.map(ReusedHttpStream::consume) else {
                return;
            };
            let Ok(reused) = reused.into_any().downcast() else {
                return;
            };
            (stream, kept) = (reused, settings);
            if !Box::pin(another_comes(&mut stream, limits)).await {
                return;
            }
            deadline = Instant::now() + limits.header_timeout;
        }
    }
}

/// Whether the first bytes are those of HTTP/2. `None`: the connection is over.
async fn begins_with_preface(stream: &mut ClientStream) -> Option<bool> {
    loop {
        let ahead = stream.ahead();
        let seen = ahead.len().min(HTTP2_PREFACE.len());
        if ahead[..seen] != HTTP2_PREFACE[..seen] {
            return Some(false);
        }
        if seen == HTTP2_PREFACE.len() {
            return Some(true);
        }
        match stream.read_ahead().await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return None,
        }
    }
}

async fn say_full(mut stream: Stream, _: Full) {
    let goodbye = async {
        stream.write_all(FULL_ANSWER).await?;
        stream.flush().await?;
        AsyncWriteExt::shutdown(&mut stream).await
    };
    let _ = timeout(GOODBYE_TIMEOUT, goodbye).await;
}

#[cfg(test)]
mod tests {
    use super::FULL_ANSWER;

    #[test]
    fn the_answer_of_a_full_house_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL_ANSWER).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{length}");
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
