//! Where one worker's part of a stream meets the next one's.

use bytes::{Bytes, BytesMut};

use crate::domain::EngineKind;

/// Looks for stop sequences that begin in what the client has and end in what the next worker makes: that
/// worker takes the first part for prompt and does not see them.
#[derive(Debug)]
pub(super) struct SeamStop {
    stops: Vec<String>,
    anywhere: bool,
    longest: usize,
    /// The end of what the client had, and what came since.
    window: String,
    seam: usize,
}

impl SeamStop {
    pub fn new(stops: Vec<String>, engine: EngineKind, given: &str) -> Self {
        let longest = stops.iter().map(String::len).max().unwrap_or(0);
        let mut from = given.len().saturating_sub(longest.saturating_sub(1));
        while !given.is_char_boundary(from) {
            from += 1;
        }
        let window = given[from..].to_owned();
        Self {
            stops,
            // TGI matches a stop sequence only where a token ends with it (`StopSequenceCriteria` in its
            // server/text_generation_server/utils/tokens.py).
            anywhere: engine != EngineKind::Tgi,
            longest,
            seam: window.len(),
            window,
        }
    }

    /// Of a token's text, the bytes up to the end of a stop sequence that it completes.
    pub fn met(&mut self, text: &str) -> Option<usize> {
        if self.longest < 2 || self.window.len() - self.seam >= self.longest - 1 {
            return None;
        }
        let before = self.window.len();
        self.window.push_str(text);
        let end = self
            .stops
            .iter()
            .filter_map(|stop| self.end_of(stop))
            .min()?;
        Some(end.saturating_sub(before))
    }

    /// Where in the window a stop sequence ends that lies on both sides of the seam.
    fn end_of(&self, stop: &str) -> Option<usize> {
        let first = self.seam.saturating_sub(stop.len().saturating_sub(1));
        (first..self.seam)
            .filter(|start| self.window.is_char_boundary(*start))
            .find(|start| self.window[*start..].starts_with(stop))
            .map(|start| start + stop.len())
            .filter(|end| self.anywhere || *end == self.window.len())
    }
}

/// An event as OpenAI's interface frames it.
pub(super) fn frame(data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(data.len() + 8);
    frame.extend_from_slice(b"data: ");
    frame.extend_from_slice(data);
    frame.extend_from_slice(b"\n\n");
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(engine: EngineKind, stop: &str, given: &str, tokens: &[&str], expect: Option<usize>) {
        let mut watch = SeamStop::new(vec![stop.to_owned()], engine, given);
        let met = tokens.iter().find_map(|token| watch.met(token));
        assert_eq!(met, expect, "{given:?} then {tokens:?}");
    }

    #[test]
    fn a_stop_sequence_over_the_seam_is_met_where_it_ends() {
        let fake = EngineKind::Fake;
        check(fake, "END", "so E", &["N", "D"], Some(1));
        check(fake, "END", "so E", &["NDing"], Some(2));
        check(fake, "END", "so", &[" E", "ND"], None);
        check(fake, "END", "END", &["x"], None);
        check(fake, "海潮", "a海", &["潮x"], Some("潮".len()));
        check(fake, "x", "a", &["x"], None);
    }

    #[test]
    fn tgi_stops_only_where_a_token_ends_with_the_sequence() {
        check(EngineKind::Tgi, "END", "so E", &["ND"], Some(2));
        check(EngineKind::Tgi, "END", "so E", &["NDing"], None);
    }
}
