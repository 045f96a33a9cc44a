//! Splits a byte stream into whole server-sent events, so that what is forwarded never ends within one.
//! Frames keep every byte they came with; a chunk that holds whole events is sliced, not copied.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// Bytes one event may take unless another bound is given.
pub const EVENT_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one event of the stream is longer than {bytes_max} bytes")]
pub struct EventTooLong {
    pub bytes_max: usize,
}

#[derive(Debug)]
pub struct EventSplitter {
    bytes_max: usize,
    /// The beginning of an event whose end was not seen.
    partial: BytesMut,
    /// Of `partial`: where its last line starts, and how far it was searched.
    line_start: usize,
    searched: usize,
}

impl Default for EventSplitter {
    fn default() -> Self {
        Self::new(EVENT_BYTES_MAX)
    }
}

impl EventSplitter {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            partial: BytesMut::new(),
            line_start: 0,
            searched: 0,
        }
    }

    /// The events that are whole now, each with the blank line that ends it.
    pub fn push(&mut self, chunk: Bytes) -> Result<Events, EventTooLong> {
        let events = if self.partial.is_empty() {
            let ends = self.find_ends(&chunk);
            let whole = ends.last().copied().unwrap_or(0);
            self.partial.extend_from_slice(&chunk[whole..]);
            Events {
                bytes: chunk.slice(..whole),
                ends,
            }
        } else {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(&chunk);
            let ends = self.find_ends(&joined);
            let bytes = joined.split_to(ends.last().copied().unwrap_or(0)).freeze();
            self.partial = joined;
            Events { bytes, ends }
        };
        let longest = events.ranges().map(|range| range.len()).max().unwrap_or(0);
        if longest.max(self.partial.len()) > self.bytes_max {
            return Err(EventTooLong {
                bytes_max: self.bytes_max,
            });
        }
        Ok(events)
    }

    /// What is left when the stream has ended: an event without its blank line.
    pub fn take_partial(&mut self) -> Bytes {
        self.line_start = 0;
        self.searched = 0;
        self.partial.split().freeze()
    }

    /// Where events end in `bytes`, which begin with what `partial` held. Leaves the search positions
    /// relative to the last end.
    fn find_ends(&mut self, bytes: &[u8]) -> Vec<usize> {
        let (mut line_start, mut at) = (self.line_start, self.searched);
        let mut ends = Vec::new();
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr2(b'\n', b'\r', rest)) {
            at += found;
            let line_end = match (bytes[at], bytes.get(at + 1)) {
                // Only the next byte tells whether a line feed belongs to this line's end.
                (b'\r', None) => break,
                (b'\r', Some(b'\n')) => at + 2,
                _ => at + 1,
            };
            if at == line_start {
                ends.push(line_end);
            }
            line_start = line_end;
            at = line_end;
        }
        let searched = if bytes.last() == Some(&b'\r') && at + 1 == bytes.len() {
            at
        } else {
            bytes.len()
        };
        let whole = ends.last().copied().unwrap_or(0);
        self.line_start = line_start - whole;
        self.searched = searched - whole;
        ends
    }
}

/// Whole events that follow each other in one piece of memory.
#[derive(Debug)]
pub struct Events {
    bytes: Bytes,
    ends: Vec<usize>,
}

impl Events {
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(self.ends.iter().copied())
            .map(|(start, end)| start..end)
    }

    /// The bytes of one event or of several that follow each other.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    pub fn frame(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }
}

/// An event's data; `None` for comments and events without any.
pub fn event_data(frame: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut data: Option<Cow<'_, [u8]>> = None;
    for line in lines(frame) {
        let Some(value) = data_value(line) else {
            continue;
        };
        match &mut data {
            None => data = Some(Cow::Borrowed(value)),
            Some(joined) => {
                joined.to_mut().push(b'\n');
                joined.to_mut().extend_from_slice(value);
            }
        }
    }
    data
}

fn data_value(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    match rest.first() {
        None => Some(rest),
        Some(b':') => Some(rest[1..].strip_prefix(b" ").unwrap_or(&rest[1..])),
        Some(_) => None,
    }
}

fn lines(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    frame
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut splitter = EventSplitter::default();
        let mut frames = Vec::new();
        for chunk in chunks {
            let events = splitter.push(Bytes::copy_from_slice(chunk)).unwrap();
            frames.extend(events.ranges().map(|range| events.frame(range).to_vec()));
        }
        (frames, splitter.take_partial().to_vec())
    }

    fn check(stream: &str, expected: &[&str], rest: &str) {
        let (frames, partial) = split(&[stream.as_bytes()]);
        let frames: Vec<_> = frames
            .iter()
            .map(|frame| String::from_utf8_lossy(frame))
            .collect();
        assert_eq!(frames, expected);
        assert_eq!(partial, rest.as_bytes());
    }

    #[test]
    fn every_kind_of_blank_line_ends_an_event() {
        check(
            "data: a\n\ndata: b\n\n",
            &["data: a\n\n", "data: b\n\n"],
            "",
        );
        check(
            "data: a\r\n\r\ndata: b\r\n\r\n",
            &["data: a\r\n\r\n", "data: b\r\n\r\n"],
            "",
        );
        check(
            "data: a\r\rdata: b\r\rx",
            &["data: a\r\r", "data: b\r\r"],
            "x",
        );
        check(
            "data: a\n\r\ndata: b\r\n\ndata",
            &["data: a\n\r\n", "data: b\r\n\n"],
            "data",
        );
    }

    #[test]
    fn comments_and_multi_line_data_are_whole_events() {
        check(
            ": ping\n\ndata: a\ndata: b\n\n",
            &[": ping\n\n", "data: a\ndata: b\n\n"],
            "",
        );
        assert_eq!(event_data(b": ping\n\n"), None);
        assert_eq!(
            event_data(b"data: a\r\ndata:b\n\n").as_deref(),
            Some(b"a\nb".as_slice())
        );
        assert_eq!(
            event_data(b"id: 1\ndata:  x\n\n").as_deref(),
            Some(b" x".as_slice())
        );
        assert_eq!(event_data(b"database: x\n\n"), None);
    }

    #[test]
    fn whole_events_of_one_chunk_are_not_copied() {
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\ndata: c");
        let events = EventSplitter::default().push(chunk.clone()).unwrap();
        let ranges: Vec<_> = events.ranges().collect();
        assert_eq!(events.slice(0..ranges[1].end), "data: a\n\ndata: b\n\n");
        assert_eq!(
            events.slice(ranges[1].clone()).as_ptr(),
            chunk[9..].as_ptr()
        );
    }

    #[test]
    fn an_event_without_end_is_refused_at_the_bound() {
        let mut splitter = EventSplitter::new(16);
        assert!(
            splitter
                .push(Bytes::from_static(b"data: 123456789"))
                .is_ok()
        );
        assert!(splitter.push(Bytes::from_static(b"0123")).is_err());
        assert!(
            EventSplitter::new(4)
                .push(Bytes::from_static(b"data: 1\n\n"))
                .is_err()
        );
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just("\n"),
            Just("\r"),
            Just("\r\n"),
            Just("\n\n"),
            Just("data: x"),
            Just(":"),
            Just("é😀"),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            stream in stream(),
            sizes in prop::collection::vec(1_usize..7, 1..80),
        ) {
            let whole = split(&[&stream]);
            let mut chunks = Vec::new();
            let mut rest = stream.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, tail) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk);
                rest = tail;
            }
            prop_assert_eq!(split(&chunks), whole.clone());
            let (frames, partial) = whole;
            prop_assert_eq!([frames.concat(), partial].concat(), stream);
        }

        #[test]
        fn arbitrary_bytes_never_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            for frame in split(&chunks).0 {
                let _ = event_data(&frame);
            }
        }
    }
}
