//! Starts the real programs for end-to-end tests, scenarios and benchmarks, and waits for conditions instead of sleeping.
//! Everything started here ends with the value that started it.

mod config_dir;
mod fleet;
mod gateway;
mod program;
mod vast;

use std::collections::HashMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep, sleep_until};

pub use self::config_dir::ConfigDir;
pub use self::fleet::{FleetSample, read_fleet};
pub use self::gateway::{FakeWorker, Gateway, leading};
pub use self::program::Program;
pub use self::vast::{FakeVast, fake_vast_binary};

/// Asks every 20 ms until the condition holds; `false` if it did not within `limit`, a condition that hangs included.
pub async fn wait_until<F, Fut>(limit: Duration, mut condition: F) -> bool
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let asking = async {
        while !condition().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        biased;
        () = asking => true,
        () = sleep_until(Instant::now() + limit) => false,
    }
}

/// Ports given out by this process, each with the lock that keeps others from giving it out too.
static GIVEN: LazyLock<Mutex<HashMap<u16, File>>> = LazyLock::new(Mutex::default);

/// A port of 127.0.0.1 that nobody listens on, given to nobody else while this process lives: what is started there may
/// end and start again. Below the range of outgoing connections, so that none takes it before the program it is meant for.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 12_000;
    const COUNT: u32 = 18_000;
    // One folder a user: another's cannot be written to.
    let user = rustix::process::getuid().as_raw();
    let folder = std::env::temp_dir().join(format!("tidegate-test-ports-{user}"));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Concurrent test processes start their search at different places.
    let offset = std::process::id().wrapping_mul(7_919);
    for step in 0..COUNT {
        let port = (FIRST + offset.wrapping_add(step) % COUNT) as u16;
        if given.contains_key(&port) {
            continue;
        }
        let lock = File::create(folder.join(port.to_string()))?;
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port, lock);
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1")
}

/// The program named by `variable`, else the one built beside the running executable.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let running = std::env::current_exe().context("where is this program")?;
    // Tests run from target/<profile>/deps.
    running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("{name} is not built: run `cargo build --workspace --bins` or set {variable}")
        })
}

/// The gateway: `TIDEGATE_BIN`, else the build's.
pub fn tidegate_binary() -> Result<PathBuf> {
    binary("tidegate", "TIDEGATE_BIN")
}

/// The stand-in worker: `FAKE_WORKER_BIN`, else the build's.
pub fn fake_worker_binary() -> Result<PathBuf> {
    binary("fake-worker", "FAKE_WORKER_BIN")
}

/// A client for measuring: no proxy, no redirect, no timeout of its own.
pub fn http_client() -> Result<reqwest::Client> {
    client_builder()
        .build()
        .context("cannot make an HTTP client")
}

/// The same with a connection of its own for every request.
pub fn http_client_without_pool() -> Result<reqwest::Client> {
    let builder = client_builder().pool_max_idle_per_host(0);
    builder.build().context("cannot make an HTTP client")
}

fn client_builder() -> reqwest::ClientBuilder {
    // Fails only if it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
}

/// Writes a result's document, its folder too if need be.
pub fn write_document(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What the program says to `--version`.
pub fn version_of(program: &Path) -> Result<String> {
    let output = std::process::Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashSet;

    #[test]
    fn ports_are_free_and_never_given_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
        }
    }

    #[tokio::test]
    async fn waiting_ends_with_the_condition_or_the_limit() {
        let asked = Cell::new(0);
        let third_time = || {
            asked.set(asked.get() + 1);
            let now = asked.get() == 3;
            async move { now }
        };
        assert!(wait_until(Duration::from_secs(60), third_time).await);
        assert_eq!(asked.get(), 3);
        let short = Duration::from_millis(50);
        assert!(!wait_until(short, || async { false }).await);
        assert!(!wait_until(short, std::future::pending).await);
    }
}
