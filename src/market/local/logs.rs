//! The end of a worker's log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// A log is read no further back than this.
const BYTES_MAX: u64 = 1 << 20;

/// The last `lines` lines; a worker that wrote nothing yet has none.
pub(super) fn tail(path: &Path, lines: u32) -> io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    Ok(all[all.len().saturating_sub(lines as usize)..].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_read_and_a_log_that_is_not_there_is_empty() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("worker.log");
        assert_eq!(tail(&path, 5).expect("read"), "");
        std::fs::write(&path, "one\ntwo\nthree\nfou").expect("written");
        assert_eq!(tail(&path, 2).expect("read"), "three\nfou");
        assert_eq!(tail(&path, 9).expect("read"), "one\ntwo\nthree\nfou");
    }

    #[test]
    fn only_the_end_of_a_long_log_is_read() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("worker.log");
        std::fs::write(&path, "0123456\n".repeat(300_000)).expect("written");
        let text = tail(&path, u32::MAX).expect("read");
        assert_eq!(text.len() as u64, BYTES_MAX);
        assert!(text.ends_with("0123456\n"));
    }
}
