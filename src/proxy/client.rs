//! The client's side of the connection: noticing that it left.

use std::future::Future;

use pingora::proxy::Session;

/// The client closed its connection, or sent what HTTP does not allow there.
#[derive(Debug)]
pub(super) struct ClientLeft;

/// Runs `work` until it is done or the client leaves. While a body is not read to its end, nothing tells that.
pub(super) async fn while_connected<T>(
    session: &mut Session,
    work: impl Future<Output = T>,
) -> Result<T, ClientLeft> {
    if !session.downstream_session.is_body_done() {
        return Ok(work.await);
    }
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        _ = session.downstream_session.read_body_or_idle(true) => Err(ClientLeft),
    }
}
