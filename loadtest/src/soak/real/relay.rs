//! A TCP relay between gateway and worker: it can reset all connections, and remembers what the gateway asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub struct Relay {
    pub url: String,
    resets: watch::Sender<u64>,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

/// Bytes of one connection from the gateway, from a request with a body on.
struct Asked {
    at: Instant,
    bytes: Vec<u8>,
}

impl Relay {
    pub async fn start(worker_port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (resets, reset) = watch::channel(0);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(
            listener,
            SocketAddr::from(([127, 0, 0, 1], worker_port)),
            reset,
            Arc::clone(&asked),
        ));
        Ok(Self {
            url,
            resets,
            asked,
            task,
        })
    }

    /// All connections of the gateway end with a TCP reset.
    pub fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }

    pub fn forget(&self) {
        lock(&self.asked).clear();
    }

    /// When something was asked last, since it was told to forget.
    pub fn last_asked(&self) -> Option<Instant> {
        lock(&self.asked).last().map(|asked| asked.at)
    }

    /// Bodies of the requests since it was told to forget.
    pub fn bodies(&self) -> Vec<(Instant, Value)> {
        let asked = lock(&self.asked);
        let read = |asked: &Asked| Some((asked.at, body_of(&asked.bytes)?));
        asked.iter().filter_map(read).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(asked: &Mutex<Vec<Asked>>) -> MutexGuard<'_, Vec<Asked>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

fn body_of(request: &[u8]) -> Option<Value> {
    let body = request.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    serde_json::from_slice(request.get(body..)?).ok()
}

async fn accept(
    listener: TcpListener,
    worker: SocketAddr,
    reset: watch::Receiver<u64>,
    asked: Arc<Mutex<Vec<Asked>>>,
) {
    // Errors of accepting are of one connection; the gateway tries again.
    loop {
        if let Ok((gateway, _)) = listener.accept().await {
            tokio::spawn(carry(gateway, worker, reset.clone(), Arc::clone(&asked)));
        }
    }
}

/// Both ways until either side ends or a reset is ordered.
async fn carry(
    gateway: TcpStream,
    worker: SocketAddr,
    mut reset: watch::Receiver<u64>,
    asked: Arc<Mutex<Vec<Asked>>>,
) {
    reset.mark_unchanged();
    let Ok(mut worker) = TcpStream::connect(worker).await else {
        return;
    };
    let mut gateway = gateway;
    let _ = (gateway.set_nodelay(true), worker.set_nodelay(true));
    let (mut from_gateway, mut from_worker) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        let carried = tokio::select! {
            _ = reset.changed() => {
                let _ = gateway.set_zero_linger();
                return;
            }
            read = gateway.read(&mut from_gateway) => match read {
                Ok(count) if count > 0 => {
                    note(&asked, &from_gateway[..count]);
                    worker.write_all(&from_gateway[..count]).await
                }
                _ => return,
            },
            read = worker.read(&mut from_worker) => match read {
                Ok(count) if count > 0 => gateway.write_all(&from_worker[..count]).await,
                _ => return,
            },
        };
        if carried.is_err() {
            return;
        }
    }
}

/// The gateway sends one request at a time to a worker of these tests, so pieces in a row belong together.
fn note(asked: &Mutex<Vec<Asked>>, bytes: &[u8]) {
    let mut asked = lock(asked);
    if bytes.starts_with(b"POST ") {
        asked.push(Asked {
            at: Instant::now(),
            bytes: bytes.to_vec(),
        });
    } else if !bytes.starts_with(b"GET ")
        && let Some(last) = asked.last_mut()
    {
        last.bytes.extend_from_slice(bytes);
    }
}
