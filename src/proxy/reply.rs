//! The client's side of one answer, whoever makes it.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::{Client, ClientLeft, while_connected};
use super::respond;
use crate::domain::Api;
use crate::engines::stream_error_event;

pub(super) struct Reply<'a> {
    client: Client<'a>,
    pub(super) api: Api,
    /// While it is held; `None`: it is told nothing.
    pub(super) words_every: Option<Duration>,
    begun: bool,
}

impl<'a> Reply<'a> {
    pub(super) fn new(client: Client<'a>, api: Api) -> Self {
        Self {
            client,
            api,
            words_every: None,
            begun: false,
        }
    }

    /// The header of a stream is out: what goes wrong from now on is said by an event.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Runs `work` until it is done or the client leaves.
    pub(super) async fn while_connected<T>(
        &mut self,
        work: impl Future<Output = T> + Unpin,
    ) -> Result<T, ClientLeft> {
        while_connected(self.client.http, work).await
    }

    /// Sends the header of an event stream, once.
    pub(super) async fn begin(&mut self) -> Result<(), ClientLeft> {
        if !self.begun {
            self.begun = true;
            let header = respond::stream_header(self.client.http).map_err(|_| ClientLeft)?;
            self.client
                .write_head(Box::new(header))
                .await
                .map_err(|_| ClientLeft)?;
        }
        Ok(())
    }

    /// Events of the answer; how long the client took to take them.
    pub(super) async fn deliver(&mut self, events: Bytes) -> Result<Duration, ClientLeft> {
        let began = Instant::now();
        self.write(events).await?;
        Ok(began.elapsed())
    }

    /// Something that is no part of the answer, such as a comment.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), ClientLeft> {
        self.begin().await?;
        self.client
            .write_body(bytes, false)
            .await
            .map_err(|_| ClientLeft)
    }

    /// The proper end of the stream.
    pub(super) async fn end(&mut self, tail: Option<Bytes>) -> Result<(), ClientLeft> {
        self.begin().await?;
        self.client
            .write_body(tail.unwrap_or_default(), true)
            .await
            .map_err(|_| ClientLeft)
    }

    /// The end of a stream that is not whole: nobody takes the part for the whole.
    pub(super) async fn end_with_error(
        &mut self,
        kind: crate::engines::ErrorKind,
        why: &str,
    ) -> Result<(), ClientLeft> {
        let event = stream_error_event(self.api, kind, why);
        self.end(Some(event)).await
    }

    /// An unstreamed answer.
    pub(super) async fn whole(&mut self, body: Bytes) -> Result<(), ClientLeft> {
        respond::json(&mut self.client, 200, body)
            .await
            .map_err(|_| ClientLeft)
    }
}
