//! The gateway itself, with as much thread as the others have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Kind, Launch, Recipe, Site, first_line};
use crate::harness::tidegate_binary;

pub(super) const TIDEGATE: Recipe = Recipe {
    name: "tidegate",
    kind: Kind::Ours,
    licence: "Apache-2.0",
    program,
    version: |program| first_line(program, "--version"),
    launch,
    start_within: Duration::from_secs(30),
    slower: 1,
    policies: &["default"],
};

fn program() -> Result<PathBuf> {
    let program = tidegate_binary()?;
    let program = std::path::absolute(program)?;
    ensure!(Path::new(&program).is_file(), "not built");
    Ok(program)
}

/// No limit of the gateway's own is to shape the load: the workers take everything at once.
fn launch(site: &Site) -> Launch {
    let server = format!(
        "listen: 127.0.0.1:{}\nadmin_listen: 127.0.0.1:{}\nstate_dir: {}\nthreads: 1\nlog: warn\n",
        site.port,
        site.side_port,
        site.path("state"),
    );
    let workers: String = site
        .worker_urls()
        .map(|url| format!("    - url: \"{url}\"\n"))
        .collect();
    let endpoint = format!(
        "endpoint_name: bench\nmax_queue_time: 3600\nmarket:\n  kind: fixed\n  engine: fake\n  workers:\n{workers}"
    );
    Launch {
        files: vec![
            ("tidegate.yaml", server),
            ("endpoints/bench.yaml", endpoint),
        ],
        arguments: vec![
            "run".to_owned(),
            "--config".to_owned(),
            site.folder.display().to_string(),
        ],
        environment: Vec::new(),
    }
}
