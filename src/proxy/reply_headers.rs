//! Headers that go on whatever answer a request gets: a stream, an error, a worker's own.

use std::any::Any;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::modules::http::{HttpModule, HttpModuleBuilder, Module};
use pingora::proxy::Session;

#[derive(Default)]
pub(super) struct ReplyHeaders(Vec<(HeaderName, HeaderValue)>);

impl ReplyHeaders {
    pub(super) fn of(session: &mut Session) -> Option<&mut Self> {
        session.downstream_modules_ctx.get_mut()
    }

    /// In place of what was set before.
    pub(super) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self.0.iter_mut().find(|(set, _)| *set == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

#[async_trait]
impl HttpModule for ReplyHeaders {
    async fn response_header_filter(&mut self, answer: &mut ResponseHeader, _: bool) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        for (name, value) in &self.0 {
            answer.insert_header(name.clone(), value.clone())?;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Gives each request its own.
pub(super) struct ReplyHeadersBuilder;

impl HttpModuleBuilder for ReplyHeadersBuilder {
    fn init(&self) -> Module {
        Box::new(ReplyHeaders::default())
    }
}
