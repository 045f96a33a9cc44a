//! The client's side of one request: what it is told, and noticing that it left.

use std::future::Future;

use bytes::Bytes;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;

use super::reply_headers::ReplyHeaders;

/// The client closed its connection, or sent what HTTP does not allow there.
#[derive(Debug)]
pub(super) struct ClientLeft;

/// A client's session, with the headers that go on whatever answer it gets.
pub(super) struct Client<'a> {
    pub(super) http: &'a mut ServerSession,
    pub(super) headers: &'a mut ReplyHeaders,
}

impl Client<'_> {
    pub(super) fn reborrow(&mut self) -> Client<'_> {
        Client {
            http: self.http,
            headers: self.headers,
        }
    }

    pub(super) async fn write_head(&mut self, mut head: Box<ResponseHeader>) -> Result<()> {
        self.headers.put_on(&mut head)?;
        self.http.write_response_header(head).await
    }

    pub(super) async fn write_body(&mut self, part: Bytes, end: bool) -> Result<()> {
        self.http.write_response_body(part, end).await
    }
}

/// Runs `work` until it is done or the client leaves. While a body is not read to its end, nothing tells that.
/// `work` is pinned by the caller: a future that is passed on is held twice.
pub(super) async fn while_connected<T>(
    http: &mut ServerSession,
    mut work: impl Future<Output = T> + Unpin,
) -> Result<T, ClientLeft> {
    if !http.is_body_done() {
        return Ok(work.await);
    }
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        _ = http.read_body_or_idle(true) => Err(ClientLeft),
    }
}
