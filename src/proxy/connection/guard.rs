//! A connection as Pingora reads and writes it, with an eye on the headers that pass.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::header_scan::{HeaderScan, Seen};
use crate::domain::ConnectionLimits;

/// Why a connection ends before its request was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// No further request came: nobody is told, nothing is counted.
    Idle,
    HeaderTimeout,
    HeaderBytes,
    BareLineFeed,
}

impl Rejection {
    pub(super) fn rule(self) -> &'static str {
        match self {
            Rejection::Idle => "idle_timeout",
            Rejection::HeaderTimeout => "header_timeout",
            Rejection::HeaderBytes => "max_header_bytes",
            Rejection::BareLineFeed => "bare_line_feed",
        }
    }

    fn answer(self) -> &'static [u8] {
        match self {
            Rejection::Idle => b"" as &[u8],
            Rejection::HeaderTimeout => {
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            }
            Rejection::HeaderBytes => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            }
            Rejection::BareLineFeed => {
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            }
        }
    }
}

/// The server's side of a guarded connection.
pub(super) struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    next_request: AtomicBool,
    rejection: Mutex<Option<Rejection>>,
    rejected: Notify,
}

impl Watch {
    /// An answer is over: what comes next is another header.
    pub(super) fn next_request(&self) {
        self.0
            .next_request
            .store(true, std::sync::atomic::Ordering::Release);
    }

    /// Resolves when the connection is to be ended; its client has been told.
    pub(super) async fn rejected(&self) -> Rejection {
        loop {
            if let Some(rejection) = *self.0.rejection.lock() {
                return rejection;
            }
            self.0.rejected.notified().await;
        }
    }
}

/// What carries the bytes.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

/// What Pingora wants to know of a connection.
#[derive(Debug)]
pub(super) struct Facts {
    id: UniqueIDType,
    timing: Vec<Option<TimingDigest>>,
    proxy: Option<Arc<ProxyDigest>>,
    socket: Option<Arc<SocketDigest>>,
    tls: Option<Arc<SslDigest>>,
    alpn: Option<ALPN>,
}

impl Facts {
    pub(super) fn of(stream: &Stream) -> Self {
        Self {
            id: stream.id(),
            timing: stream.get_timing_digest(),
            proxy: stream.get_proxy_digest(),
            socket: stream.get_socket_digest(),
            tls: None,
            alpn: None,
        }
    }

    /// The handshake is done.
    pub(super) fn secured(&mut self, stream: &TlsStream<Stream>) {
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(b"h2");
        self.alpn = Some(if http2 { ALPN::H2 } else { ALPN::H1 });
        let version = session
            .protocol_version()
            .map(|version| format!("{version:?}"));
        let cipher = session
            .negotiated_cipher_suite()
            .map(|suite| format!("{:?}", suite.suite()));
        self.tls = Some(Arc::new(SslDigest::new(
            cipher.unwrap_or_default(),
            version.unwrap_or_default(),
            None,
            None,
            Vec::new(),
        )));
    }

    /// `None` without TLS, where the first bytes tell.
    pub(super) fn negotiated_http2(&self) -> Option<bool> {
        self.alpn.as_ref().map(|alpn| *alpn == ALPN::H2)
    }

    pub(super) fn client_address(&self) -> Option<IpAddr> {
        let address = self.socket.as_ref()?.peer_addr()?;
        Some(address.as_inet()?.ip())
    }

    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.socket.as_ref()?.local_addr()?.as_inet().copied()
    }
}

#[derive(Debug)]
enum State {
    /// A header is being read.
    Header {
        scan: HeaderScan,
        deadline: Pin<Box<Sleep>>,
    },
    /// Between two requests. Pingora waits for the next one without end.
    Between { deadline: Pin<Box<Sleep>> },
    /// Bodies and answers; or HTTP/2, which is bounded elsewhere.
    Open,
    /// Nothing more is read or written.
    Rejected,
}

#[derive(Debug)]
pub(super) struct Guard {
    transport: Transport,
    facts: Facts,
    /// Read ahead, to be read again.
    begin: BytesMut,
    state: State,
    shared: Arc<Shared>,
    header_timeout: Duration,
    header_bytes_max: usize,
    idle_timeout: Duration,
}

impl Guard {
    pub(super) fn http2(transport: Transport, facts: Facts, begin: BytesMut) -> Self {
        Self {
            transport,
            facts,
            begin,
            state: State::Open,
            shared: Arc::default(),
            header_timeout: Duration::ZERO,
            header_bytes_max: 0,
            idle_timeout: Duration::ZERO,
        }
    }

    /// `deadline` is the first header's.
    pub(super) fn http1(
        transport: Transport,
        facts: Facts,
        begin: BytesMut,
        limits: &ConnectionLimits,
        deadline: Instant,
    ) -> (Self, Watch) {
        let shared = Arc::<Shared>::default();
        // Headers that are over a limit by less are told so in the form of the interface.
        let header_bytes_max = 2 * limits.header_bytes_max + limits.uri_bytes_max;
        let guard = Self {
            transport,
            facts,
            begin,
            state: State::Header {
                scan: HeaderScan::new(header_bytes_max),
                deadline: Box::pin(sleep_until(deadline)),
            },
            shared: Arc::clone(&shared),
            header_timeout: limits.header_timeout,
            header_bytes_max,
            idle_timeout: limits.idle_timeout,
        };
        (guard, Watch(shared))
    }

    fn reject(&mut self, context: &mut Context<'_>, rejection: Rejection) {
        // To an empty buffer; a client that does not even read this is told nothing.
        let answer = rejection.answer();
        if !answer.is_empty()
            && let Poll::Ready(Ok(_)) = Pin::new(&mut self.transport).poll_write(context, answer)
        {
            let _ = Pin::new(&mut self.transport).poll_flush(context);
        }
        self.state = State::Rejected;
        *self.shared.rejection.lock() = Some(rejection);
        self.shared.rejected.notify_one();
    }

    fn read(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.begin.is_empty() {
            return Pin::new(&mut self.transport).poll_read(context, into);
        }
        let length = self.begin.len().min(into.remaining());
        into.put_slice(&self.begin[..length]);
        self.begin.advance(length);
        if self.begin.is_empty() {
            self.begin = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        if guard.shared.next_request.swap(false, AcqRel) {
            guard.state = State::Between {
                deadline: Box::pin(sleep_until(Instant::now() + guard.idle_timeout)),
            };
        }
        let (deadline, rejection) = match &mut guard.state {
            State::Header { deadline, .. } => (Some(deadline), Rejection::HeaderTimeout),
            State::Between { deadline } => (Some(deadline), Rejection::Idle),
            State::Open => (None, Rejection::Idle),
            State::Rejected => return Poll::Pending,
        };
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            guard.reject(context, rejection);
            return Poll::Pending;
        }
        let before = into.filled().len();
        ready!(guard.read(context, into))?;
        let new = &into.filled()[before..];
        if matches!(guard.state, State::Between { .. }) && !new.is_empty() {
            guard.state = State::Header {
                scan: HeaderScan::new(guard.header_bytes_max),
                deadline: Box::pin(sleep_until(Instant::now() + guard.header_timeout)),
            };
        }
        if let State::Header { scan, .. } = &mut guard.state {
            let rejection = match scan.feed(new) {
                Seen::Part => return Poll::Ready(Ok(())),
                Seen::Whole => {
                    guard.state = State::Open;
                    return Poll::Ready(Ok(()));
                }
                Seen::TooLong => Rejection::HeaderBytes,
                Seen::BareLineFeed => Rejection::BareLineFeed,
            };
            guard.reject(context, rejection);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[async_trait]
impl Shutdown for Guard {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

#[async_trait]
impl Peek for Guard {
    /// Only what was read ahead: the beginning of HTTP/2, which Pingora looks for once more.
    async fn try_peek(&mut self, into: &mut [u8]) -> io::Result<bool> {
        match self.begin.get(..into.len()) {
            Some(begin) => {
                into.copy_from_slice(begin);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

impl UniqueID for Guard {
    fn id(&self) -> UniqueIDType {
        self.facts.id
    }
}

impl Ssl for Guard {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.facts.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.facts.alpn.clone()
    }
}

impl GetTimingDigest for Guard {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.facts.timing.clone()
    }
}

impl GetProxyDigest for Guard {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.facts.proxy.clone()
    }
}

impl GetSocketDigest for Guard {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.facts.socket.clone()
    }
}
