//! The access log: one JSON line a request, written by a thread of its own so that no request waits for a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec};

use super::AccessLine;

/// Lines are put together up to this size where they come faster than they can be written one by one.
const BATCH_BYTES: usize = 64 << 10;

/// Where lines go; switched off, they go nowhere.
#[derive(Default)]
pub struct AccessLog(Option<Queue>);

struct Queue {
    sender: SyncSender<Message>,
    dropped: IntCounter,
}

enum Message {
    Line(Box<AccessLine>),
    Reopen,
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// `lines` is counted by outcome; `queue` bounds the lines that wait for the thread.
    pub fn to_stdout(queue: usize, lines: &IntCounterVec) -> io::Result<Self> {
        Self::start(Sink::Stdout, queue, lines)
    }

    pub fn to_file(path: &Path, queue: usize, lines: &IntCounterVec) -> io::Result<Self> {
        let file = open(path)?;
        Self::start(Sink::File(path.to_owned(), file), queue, lines)
    }

    fn start(sink: Sink, queue: usize, lines: &IntCounterVec) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(queue);
        let writer = Writer {
            sink,
            batch: Vec::new(),
            lines_in_batch: 0,
            written: lines.with_label_values(&["written"]),
            failed: lines.with_label_values(&["failed"]),
            failing: false,
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&receiver))?;
        let dropped = lines.with_label_values(&["dropped"]);
        Ok(Self(Some(Queue { sender, dropped })))
    }

    /// Never waits; a line that finds no room is dropped and counted.
    pub fn write(&self, line: Box<AccessLine>) {
        if let Some(queue) = &self.0
            && queue.sender.try_send(Message::Line(line)).is_err()
        {
            queue.dropped.inc();
        }
    }

    /// After the file was moved away by whoever rotates it.
    pub fn reopen(&self) {
        if let Some(queue) = &self.0
            && let Err(TrySendError::Full(message)) = queue.sender.try_send(Message::Reopen)
        {
            // Rare, and not on a request's way: better late than never.
            let _ = queue.sender.send(message);
        }
    }

    /// Waits until what was written so far is out.
    pub fn flush(&self, limit: Duration) {
        let Some(queue) = &self.0 else {
            return;
        };
        let (done, flushed) = sync_channel(1);
        if queue.sender.try_send(Message::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(limit);
        }
    }
}

enum Sink {
    Stdout,
    File(PathBuf, File),
}

struct Writer {
    sink: Sink,
    batch: Vec<u8>,
    lines_in_batch: u64,
    written: IntCounter,
    failed: IntCounter,
    failing: bool,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            self.take(message);
            while let Ok(message) = receiver.try_recv() {
                self.take(message);
            }
            self.write_out();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                // Numbers and text only: this does not fail.
                if serde_json::to_writer(&mut self.batch, &line).is_ok() {
                    self.batch.push(b'\n');
                    self.lines_in_batch += 1;
                }
                if self.batch.len() >= BATCH_BYTES {
                    self.write_out();
                }
            }
            Message::Reopen => {
                self.write_out();
                if let Sink::File(path, file) = &mut self.sink {
                    match open(path) {
                        Ok(new) => *file = new,
                        Err(error) => {
                            tracing::error!(%error, path = %path.display(), "access log not reopened");
                        }
                    }
                }
            }
            Message::Flush(done) => {
                self.write_out();
                let _ = done.send(());
            }
        }
    }

    /// Whole lines in one piece: another process may append to the same file.
    fn write_out(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let result = match &mut self.sink {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.batch).and_then(|()| out.flush())
            }
            Sink::File(_, file) => file.write_all(&self.batch),
        };
        match &result {
            Ok(()) => self.written.inc_by(self.lines_in_batch),
            Err(error) => {
                self.failed.inc_by(self.lines_in_batch);
                if !self.failing {
                    tracing::error!(%error, "access log not written");
                }
            }
        }
        self.failing = result.is_err();
        self.batch.clear();
        self.lines_in_batch = 0;
    }
}

/// Lines tell who called: not for everybody to read.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn lines() -> IntCounterVec {
        IntCounterVec::new(Opts::new("lines", "for tests"), &["outcome"]).expect("a counter")
    }

    fn line(id: &str) -> Box<AccessLine> {
        Box::new(AccessLine {
            id: id.to_owned(),
            outcome: "ok",
            ..AccessLine::default()
        })
    }

    fn ids(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).expect("a log");
        text.lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
                line["id"].as_str().expect("an id").to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_come_in_order_and_go_on_in_a_new_file_after_rotation() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, old) = (dir.path().join("access.jsonl"), dir.path().join("old"));
        let counted = lines();
        let log = AccessLog::to_file(&path, 100, &counted).expect("a log");
        log.write(line("1"));
        log.write(line("2"));
        log.flush(Duration::from_secs(30));
        std::fs::rename(&path, &old).expect("moved");
        log.write(line("3"));
        log.reopen();
        log.write(line("4"));
        log.flush(Duration::from_secs(30));
        assert_eq!(ids(&old), ["1", "2", "3"]);
        assert_eq!(ids(&path), ["4"]);
        assert_eq!(counted.with_label_values(&["written"]).get(), 4);
    }

    #[test]
    fn a_line_that_finds_no_room_is_counted_and_waits_for_nobody() {
        let counted = lines();
        let (sender, receiver) = sync_channel(2);
        let dropped = counted.with_label_values(&["dropped"]);
        let log = AccessLog(Some(Queue { sender, dropped }));
        for n in 0..5 {
            log.write(line(&n.to_string()));
        }
        assert_eq!(counted.with_label_values(&["dropped"]).get(), 3);
        drop(receiver);
        log.write(line("nobody reads"));
        log.flush(Duration::from_secs(30));
        assert_eq!(counted.with_label_values(&["dropped"]).get(), 4);
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_said_at_once_and_none_is_fine() {
        assert!(AccessLog::to_file(Path::new("/nowhere/at/all"), 1, &lines()).is_err());
        let off = AccessLog::default();
        off.write(line("1"));
        off.reopen();
        off.flush(Duration::from_secs(30));
    }
}
