//! Server-sent events are split the same, however the bytes arrive.

use bytes::Bytes;
use tidegate::engines::{EventSplitter, event_data};

use super::{Input, pieces};

/// Small, so that inputs reach it.
const EVENT_BYTES_MAX: usize = 512;

/// Events and what is left of the input, or `None` where an event is too long.
fn split<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    let mut splitter = EventSplitter::new(EVENT_BYTES_MAX);
    let mut frames = Vec::new();
    for chunk in chunks {
        let events = splitter.push(Bytes::copy_from_slice(chunk)).ok()?;
        for range in events.ranges() {
            let frame = events.frame(range);
            assert!(
                frame.len() <= EVENT_BYTES_MAX,
                "a frame of {} bytes",
                frame.len()
            );
            let data = event_data(frame).unwrap_or_default();
            assert!(data.len() <= frame.len());
            frames.push(frame.to_vec());
        }
    }
    let rest = splitter.take_partial();
    assert!(
        rest.len() <= EVENT_BYTES_MAX,
        "{} bytes are kept",
        rest.len()
    );
    Some((frames, rest.to_vec()))
}

pub(super) fn check(input: &[u8]) {
    let mut input = Input(input);
    let (one, other) = (input.byte(), input.byte());
    let bytes = input.rest();
    let (one, other) = (split(pieces(bytes, one)), split(pieces(bytes, other)));
    if let (Some(one), Some(other)) = (&one, &other) {
        assert_eq!(one, other);
    }
    for (frames, rest) in one.iter().chain(&other) {
        assert_eq!(
            [frames.concat().as_slice(), rest].concat(),
            bytes,
            "bytes are lost"
        );
    }
    // A bound on whole chunks is stricter than one on what is kept, so only this way round.
    assert!(split(pieces(bytes, 1)).is_some() || bytes.len() > EVENT_BYTES_MAX);
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let streams = [
        "data: {\"a\":1}\n\ndata: [DONE]\n\n",
        "event: x\r\ndata: a\r\ndata: b\r\n\r\n: ping\r\r",
        "id: 1\ndata:é🌊\n\n\n\ndata",
    ];
    streams
        .iter()
        .map(|stream| [&[3, 9], stream.as_bytes()].concat())
        .collect()
}
