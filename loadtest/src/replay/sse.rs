//! Splits a stream of server-sent events into the payloads of its `data:` lines, however the bytes arrive.

/// A line longer than this is no event any engine sends.
const LINE_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub struct SseReader {
    partial: Vec<u8>,
}

impl SseReader {
    /// The payloads completed by these bytes. `Err`: a line without end.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, LineTooLong> {
        let mut payloads = Vec::new();
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.partial.extend_from_slice(&rest[..end]);
            payloads.extend(payload(&self.partial));
            self.partial.clear();
            rest = &rest[end + 1..];
        }
        if self.partial.len() + rest.len() > LINE_BYTES_MAX {
            return Err(LineTooLong);
        }
        self.partial.extend_from_slice(rest);
        Ok(payloads)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong;

fn payload(line: &[u8]) -> Option<String> {
    let data = line.strip_prefix(b"data:")?;
    Some(String::from_utf8_lossy(data).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_bytes_arrive() {
        let stream = ": ping\n\ndata:{\"a\":\"é\"}\r\n\r\nevent: x\ndata: [DONE]\n\n".as_bytes();
        for size in 1..=stream.len() {
            let mut reader = SseReader::default();
            let got: Vec<String> = stream
                .chunks(size)
                .flat_map(|chunk| reader.push(chunk).unwrap())
                .collect();
            assert_eq!(got, ["{\"a\":\"é\"}", "[DONE]"], "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_cut_off_before_its_line_ended_is_not_seen() {
        let mut reader = SseReader::default();
        assert!(reader.push(b"data: [DO").unwrap().is_empty());
        assert!(reader.push(b"NE]").unwrap().is_empty());
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut reader = SseReader::default();
        let megabyte = vec![b'x'; 1 << 20];
        let refused = (0..6).any(|_| reader.push(&megabyte).is_err());
        assert!(refused);
    }
}
