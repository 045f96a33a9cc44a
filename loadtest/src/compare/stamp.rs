//! Events that carry when they were made: clients and workers are one process, so that the way through the proxy can be
//! timed for every token, apart from how evenly the worker made them.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

const BEFORE: &str = r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":0,"model":"bench","choices":[{"index":0,"delta":{"content":""#;
const MARK: &[u8] = b" at-";
const AFTER: &str = "\"},\"finish_reason\":null}]}\n\n";
const DIGITS: usize = 14;

/// Nanoseconds since this process began to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(u64);

impl Stamp {
    pub fn now() -> Self {
        Self(u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn until(self, later: Self) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }
}

/// One token's event as an OpenAI stream has it.
pub(super) fn event(stamp: Stamp) -> String {
    format!("{BEFORE} at-{:0DIGITS$}{AFTER}", stamp.0)
}

/// Finds the events in a stream, whatever pieces it comes in and whatever a proxy made of the JSON around their texts.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The end of the piece before, where a mark may have been cut.
    carried: Vec<u8>,
    done: bool,
}

const LONGEST: usize = MARK.len() + DIGITS;
const DONE: &[u8] = b"[DONE]";

impl Reader {
    /// Hands over the stamp of each event that is whole with this piece.
    pub fn push(&mut self, piece: &[u8], mut take: impl FnMut(Stamp)) {
        let joined;
        let bytes = if self.carried.is_empty() {
            piece
        } else {
            joined = [self.carried.as_slice(), piece].concat();
            joined.as_slice()
        };
        let mut read = 0;
        while let Some(at) = memchr::memmem::find(&bytes[read..], MARK) {
            let begin = read + at + MARK.len();
            let Some(digits) = bytes.get(begin..begin + DIGITS) else {
                break;
            };
            if let Some(stamp) = number(digits) {
                take(Stamp(stamp));
            }
            read = begin + DIGITS;
        }
        let tail = bytes.len().saturating_sub(LONGEST - 1).max(read);
        self.done |= memchr::memmem::find(&bytes[read..], DONE).is_some();
        let tail = bytes[tail..].to_vec();
        self.carried = tail;
    }

    /// The stream said that it is whole.
    pub fn is_done(&self) -> bool {
        self.done
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = u64::from(digit.checked_sub(b'0')?);
        (digit < 10).then_some(number * 10 + digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_found_once_in_any_division() {
        let stamps = [Stamp(1), Stamp(234_567), Stamp(99_999_999_999_999)];
        let mut stream: String = stamps.map(event).concat();
        stream.push_str("data: [DONE]\n\n");
        for size in 1..=stream.len() {
            let (mut reader, mut got) = (Reader::default(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                reader.push(piece, |stamp| got.push(stamp));
            }
            assert_eq!(got, stamps, "in pieces of {size}");
            assert!(reader.is_done(), "in pieces of {size}");
        }
    }

    #[test]
    fn a_stream_without_its_end_is_not_done() {
        let mut reader = Reader::default();
        reader.push(event(Stamp(5)).as_bytes(), |_| {});
        assert!(!reader.is_done());
    }

    #[test]
    fn the_way_of_an_event_is_never_negative() {
        let (early, late) = (Stamp(10), Stamp(2_010));
        assert_eq!(early.until(late), Duration::from_micros(2));
        assert_eq!(late.until(early), Duration::ZERO);
    }
}
