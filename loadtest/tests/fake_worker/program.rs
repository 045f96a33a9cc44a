//! The worker as a program.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use loadtest::fakes::worker::SpeedLaw;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::client::*;

/// The program itself; killed when dropped.
struct Program {
    child: Child,
    url: String,
}

impl Program {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fake-worker"));
        command
            .args(["--listen", "127.0.0.1:0", "--a-ms", "20"])
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let url = format!("http://{address}");
        Self { child, url }
    }

    /// The exit code, waited for; `None` if a signal ended it.
    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_exit_fault_ends_the_process_in_the_middle_of_everybodys_answer() {
    let mut program = Program::start();
    let bystander = post(&program.url, "/generate_stream", &generate("Hi", 100_000)).await;
    let mut body = generate("Hi", 20);
    body["user"] = json!("fault:exit=3");
    let streamed = stream(&program.url, "/generate_stream", &body).await;
    assert!(streamed.broken);
    assert_eq!(streamed.tokens(), 3);
    assert!(read_stream(bystander).await.broken);
    assert_eq!(program.exit_code(), Some(1));
}

#[tokio::test]
async fn the_freeze_fault_stops_the_process_until_it_is_let_go_on() {
    let program = Program::start();
    let mut body = generate("Hi", 20);
    body["user"] = json!("fault:freeze=3");
    let url = program.url.clone();
    let answer = tokio::spawn(async move { stream(&url, "/generate_stream", &body).await });
    let deadline = Instant::now() + DEADLINE;
    while !is_stopped(program.child.id()) {
        assert!(Instant::now() < deadline, "it never stops");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    kill_process(Pid::from_child(&program.child), Signal::CONT).unwrap();
    let streamed = answer.await.unwrap();
    assert!(streamed.is_done());
    assert_eq!(streamed.tokens(), 20);
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let state = stat.rsplit(") ").next().unwrap();
    state.starts_with('T')
}

#[tokio::test]
async fn a_termination_signal_ends_the_program_at_once_without_complaint() {
    let mut program = Program::start();
    let _stream = post(&program.url, "/generate_stream", &generate("Hi", 100_000)).await;
    let pid = Pid::from_child(&program.child);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(program.exit_code(), Some(0));
}

#[tokio::test]
async fn a_taken_port_is_said_clearly() {
    let worker = start_at(SpeedLaw::TINY).await;
    let address = worker.address().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fake-worker"));
    let mut child = command
        .args(["--listen", &address])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(
        said.contains(&address) && said.contains("cannot listen"),
        "{said}"
    );
}
