//! Watching a request's header pass, byte by byte: where it ends, how long it is, and line ends that two
//! servers may understand differently.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// More is to come.
    Part,
    /// The header is complete; so many of the bytes just looked at belong to it.
    Whole(usize),
    TooLong,
    /// A line feed without a carriage return: to some servers a line's end, to others a part of it.
    BareLineFeed,
}

#[derive(Debug)]
pub(super) struct HeaderScan {
    bytes_max: usize,
    bytes: usize,
    /// Of the line that is being read, without its end.
    line: usize,
    after_return: bool,
    /// A line with something in it was seen: empty ones before a request are skipped by every server.
    begun: bool,
}

impl HeaderScan {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            line: 0,
            after_return: false,
            begun: false,
        }
    }

    /// Looks at what follows; after anything but `Part` the scan is over.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Seen {
        for (at, byte) in bytes.iter().enumerate() {
            self.bytes += 1;
            if self.bytes > self.bytes_max {
                return Seen::TooLong;
            }
            match byte {
                b'\n' if !self.after_return => return Seen::BareLineFeed,
                b'\n' => {
                    if self.line == 0 && self.begun {
                        return Seen::Whole(at + 1);
                    }
                    self.begun |= self.line > 0;
                    self.line = 0;
                }
                b'\r' => {}
                _ => self.line += 1,
            }
            self.after_return = *byte == b'\r';
        }
        Seen::Part
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(text: &str) -> Seen {
        HeaderScan::new(100).feed(text.as_bytes())
    }

    #[test]
    fn a_header_ends_with_an_empty_line() {
        let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(scan(&whole[..whole.len() - 2]), Seen::Part);
        assert_eq!(scan(whole), Seen::Whole(whole.len()));
        assert_eq!(scan(&format!("{whole}body")), Seen::Whole(whole.len()));
        let late = "\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        assert_eq!(scan(&format!("{late}body")), Seen::Whole(late.len()));
        assert_eq!(scan("\r\n\r\n\r\n"), Seen::Part);
    }

    #[test]
    fn bare_line_feeds_and_endless_headers_are_told() {
        assert_eq!(scan("GET / HTTP/1.1\nHost: a\n\n"), Seen::BareLineFeed);
        assert_eq!(scan("GET / HTTP/1.1\r\nA: b\nC: d"), Seen::BareLineFeed);
        assert_eq!(scan(&"a".repeat(101)), Seen::TooLong);
        assert_eq!(scan(&"a".repeat(100)), Seen::Part);
    }

    #[test]
    fn a_body_is_no_part_of_it() {
        let mut scan = HeaderScan::new(100);
        let header = b"POST / HTTP/1.1\r\n\r\n";
        let all = [&header[..], b"\n\n\n"].concat();
        assert_eq!(scan.feed(&all), Seen::Whole(header.len()));
    }

    proptest! {
        #[test]
        fn pieces_are_seen_as_the_whole(text in "[\r\nab:]{0,60}", cut in 0usize..60) {
            let bytes = text.as_bytes();
            let whole = HeaderScan::new(50).feed(bytes);
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut scan = HeaderScan::new(50);
            let seen = match scan.feed(first) {
                Seen::Part => match scan.feed(second) {
                    Seen::Whole(length) => Seen::Whole(first.len() + length),
                    seen => seen,
                },
                seen => seen,
            };
            prop_assert_eq!(seen, whole);
        }
    }
}
