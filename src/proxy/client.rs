//! The client's side of the connection: noticing that it left.

use std::future::Future;

use pingora::proxy::Session;

/// The client closed its connection, or sent what HTTP does not allow there.
#[derive(Debug)]
pub(super) struct ClientLeft;

/// Runs `work` until it is done or the client leaves. The request's body must have been read before.
pub(super) async fn while_connected<T>(
    session: &mut Session,
    work: impl Future<Output = T>,
) -> Result<T, ClientLeft> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        _ = session.downstream_session.read_body_or_idle(true) => Err(ClientLeft),
    }
}
