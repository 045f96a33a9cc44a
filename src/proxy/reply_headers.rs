//! Headers that go on whatever answer a request gets: a stream, an error, a worker's own.

use http::{HeaderName, HeaderValue};
use pingora::Result;
use pingora::http::ResponseHeader;

#[derive(Default)]
pub(super) struct ReplyHeaders(Vec<(HeaderName, HeaderValue)>);

impl ReplyHeaders {
    /// In place of what was set before.
    pub(super) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self.0.iter_mut().find(|(set, _)| *set == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    pub(super) fn put_on(&self, answer: &mut ResponseHeader) -> Result<()> {
        if answer.status.is_informational() {
            return Ok(());
        }
        for (name, value) in &self.0 {
            answer.insert_header(name.clone(), value.clone())?;
        }
        Ok(())
    }
}
