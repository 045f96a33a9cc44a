//! The two proxies under measurement, each with one process or thread at work on one CPU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use tempfile::TempDir;

use super::backend::Backend;
use super::cpu::{children_of, cpu_time};
use crate::harness::{ConfigDir, Gateway, Program, free_port, http_client};

const PROXY_CPU: &str = "0";
const LOAD_CPU: &str = "1";

/// A proxy that answers at `url` and whose CPU time is that of `pid`.
pub struct Proxy {
    pub name: &'static str,
    pub url: String,
    pid: u32,
    /// Ends with the proxy.
    _running: Running,
}

/// Held for its end.
enum Running {
    #[expect(dead_code, reason = "owned so that it ends with the proxy")]
    Tidegate(Box<Gateway>),
    #[expect(dead_code, reason = "owned so that it ends with the proxy")]
    Nginx(Program, TempDir),
}

impl Proxy {
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid)
    }

    pub async fn tidegate(program: &Path, backend: &Backend, pinning: &Pinning) -> Result<Self> {
        let config = ConfigDir::new("threads: 1\nlog: warn\n")?;
        config.write_endpoint("bench", &tidegate_endpoint(backend.port))?;
        let gateway = Gateway::start_with(pinning.command(program), config).await?;
        Ok(Self {
            name: "tidegate",
            url: gateway.base_url.clone(),
            pid: gateway.child.pid(),
            _running: Running::Tidegate(Box::new(gateway)),
        })
    }

    pub async fn nginx(program: &Path, backend: &Backend, pinning: &Pinning) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let config = folder.path().join("nginx.conf");
        std::fs::write(
            &config,
            nginx_config(port, backend.port, geteuid().is_root()),
        )?;
        let mut command = pinning.command(program);
        command.arg("-p").arg(folder.path()).arg("-c").arg(&config);
        let mut child = Program::start("nginx", command, &folder.path().join("nginx.log"))?;
        let url = format!("http://127.0.0.1:{port}");
        let (client, health) = (http_client()?, format!("{url}/health"));
        child
            .wait_ready(Duration::from_secs(10), || async {
                let asked = client.get(&health).send().await;
                asked.is_ok_and(|response| response.status().is_success())
            })
            .await?;
        let workers = children_of(child.pid())?;
        ensure!(
            workers.len() == 1,
            "nginx has {} workers, not one",
            workers.len()
        );
        Ok(Self {
            name: "nginx",
            url,
            pid: workers[0],
            _running: Running::Nginx(child, folder),
        })
    }
}

/// No limit of the gateway's own is to shape the load: the backend takes everything at once.
fn tidegate_endpoint(backend_port: u16) -> String {
    format!(
        "endpoint_name: bench
max_queue_time: 3600
market:
  kind: fixed
  engine: fake
  workers:
    - url: \"http://127.0.0.1:{backend_port}\"
"
    )
}

fn nginx_config(port: u16, backend_port: u16, root: bool) -> String {
    // Started by root it would drop to a user who may not read its own folder.
    let user = if root { "user root;" } else { "" };
    format!(
        "{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 100000000;
    upstream engine {{
        server 127.0.0.1:{backend_port};
        keepalive 512;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_buffering off;
        }}
    }}
}}
"
    )
}

/// nginx as Debian installs it, on the path or beside it.
pub fn find_nginx() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("nginx"))
        .find(|file| file.is_file())
}

/// It says its version to stderr.
pub fn nginx_version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("-v").output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let version = text.trim().trim_start_matches("nginx version: ");
    Ok(version.to_owned())
}

/// The proxy on one CPU, the load and the backend on another, where there are two.
pub struct Pinning {
    possible: bool,
}

impl Pinning {
    pub fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let taskset = Command::new("taskset").arg("--version").output().is_ok();
        Self {
            possible: cpus >= 2 && taskset,
        }
    }

    pub fn is_possible(&self) -> bool {
        self.possible
    }

    /// All threads of this process; those started later inherit it.
    pub fn pin_this_process(&self) -> Result<()> {
        if !self.possible {
            return Ok(());
        }
        let output = Command::new("taskset")
            .args(["-a", "-c", "-p", LOAD_CPU, &std::process::id().to_string()])
            .output()
            .context("cannot start taskset")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "taskset: {}", complaint.trim());
        Ok(())
    }

    /// A command that runs `program` on the proxies' CPU. taskset becomes the program, so the process id is its own.
    fn command(&self, program: &Path) -> Command {
        if !self.possible {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", PROXY_CPU]).arg(program);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::{Case, Load};

    #[tokio::test]
    async fn nginx_carries_every_case_and_its_cpu_time_is_seen() {
        let Some(program) = find_nginx() else {
            eprintln!("not run: nginx is not installed");
            return;
        };
        let backend = Backend::start().await.unwrap();
        let unpinned = Pinning { possible: false };
        let proxy = Proxy::nginx(&program, &backend, &unpinned).await.unwrap();
        for case in Case::ALL {
            let load = Load::start(case, &proxy.url).unwrap();
            load.warm_up().await.unwrap();
            load.stop().await.unwrap();
            backend.wait_idle().await.unwrap();
        }
        assert!(proxy.cpu_time().is_ok());
    }
}
