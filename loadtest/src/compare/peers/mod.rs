//! What is measured beside the gateway: how each is had, configured, started and seen to be ready.

mod envoy;
mod haproxy;
mod litellm;
mod nginx;
mod routers;
mod running;
mod tidegate;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

pub(crate) use self::running::{Running, Setup};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Ours,
    /// Knows HTTP only.
    Proxy,
    /// Made for engines like ours.
    Router,
}

/// One peer: everything that is particular about it.
pub(crate) struct Recipe {
    pub name: &'static str,
    pub kind: Kind,
    pub licence: &'static str,
    /// Ends with why it cannot be had.
    pub program: fn() -> Result<PathBuf>,
    pub version: fn(&Path) -> String,
    pub launch: fn(&Site) -> Launch,
    /// Until it answers a first request through a worker.
    pub start_within: Duration,
    /// Paced loads have so many times fewer clients: more than it can carry tells nothing of what a token costs.
    pub slower: usize,
    /// What it may be told to choose workers by; the first is used where nothing is said.
    pub policies: &'static [&'static str],
}

/// What a peer is started with.
pub(crate) struct Site<'s> {
    /// Its own, for configuration and whatever it writes.
    pub folder: &'s Path,
    pub port: u16,
    /// For administration or metrics, where it insists.
    pub side_port: u16,
    pub workers: &'s [u16],
    pub policy: &'static str,
}

/// Files in its folder and the rest of the command line.
#[derive(Debug, Default)]
pub(crate) struct Launch {
    pub files: Vec<(&'static str, String)>,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
}

impl Site<'_> {
    fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    fn worker_urls(&self) -> impl Iterator<Item = String> {
        self.workers
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}"))
    }
}

const ALL: [&Recipe; 8] = [
    &tidegate::TIDEGATE,
    &nginx::NGINX,
    &haproxy::HAPROXY,
    &envoy::ENVOY,
    &routers::SGLANG,
    &routers::VLLM,
    &routers::SMG,
    &litellm::LITELLM,
];

/// Peers of which nothing can be measured here, and why.
pub(super) const NOT_HAD: [(&str, &str); 1] = [(
    "vLLM production-stack router",
    "published as container images and a chart for Kubernetes, not in a package registry",
)];

/// In the order of their tables; the gateway is always among them and the first.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<&'static Recipe>> {
    for name in names {
        if !ALL.iter().any(|recipe| recipe.name == name) {
            let known: Vec<&str> = ALL.iter().map(|recipe| recipe.name).collect();
            bail!("no peer named {name}; there are {}", known.join(", "));
        }
    }
    let wanted = |recipe: &&&Recipe| {
        recipe.kind == Kind::Ours
            || names.is_empty()
            || names.iter().any(|name| name == recipe.name)
    };
    Ok(ALL.iter().filter(wanted).copied().collect())
}

/// Where `loadtest/peers` puts what it gets.
fn home(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join(".tidegate/peers").join(name)
}

/// What `loadtest/peers` has got from PyPI, or its reason why not.
fn from_pypi(name: &str) -> Result<PathBuf> {
    let home = home(name);
    if home.join("ready").is_file() {
        return std::fs::canonicalize(home.join("program"))
            .with_context(|| format!("{name}: run loadtest/peers"));
    }
    bail!(why_missing(&home))
}

/// A program of Debian's, on the path or beside it.
fn from_debian(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    found.with_context(|| why_missing(&home(name)))
}

fn why_missing(home: &Path) -> String {
    let reason = std::fs::read_to_string(home.join("missing"));
    reason.map_or("not installed: run loadtest/peers".to_owned(), |reason| {
        reason.trim().to_owned()
    })
}

/// The package and version that was asked for, as `loadtest/peers` notes it.
fn pypi_version(name: &str) -> String {
    let ready = std::fs::read_to_string(home(name).join("ready")).unwrap_or_default();
    let package = ready.split_whitespace().next().unwrap_or("unknown");
    package.replace("==", " ")
}

/// The first line that a program says of itself, to either output.
fn first_line(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let text = output.map_or(Vec::new(), |output| [output.stdout, output.stderr].concat());
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_among_the_chosen_and_unknown_names_are_told() {
        let names = |chosen: Vec<&Recipe>| chosen.iter().map(|r| r.name).collect::<Vec<_>>();
        let some = chosen(&["envoy".to_owned()]).unwrap();
        assert_eq!(names(some), ["tidegate", "envoy"]);
        assert_eq!(chosen(&[]).unwrap().len(), ALL.len());
        let error = chosen(&["traefik".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("haproxy"), "{error}");
    }

    #[test]
    fn every_configuration_names_its_port_and_all_workers() {
        for recipe in ALL {
            let site = Site {
                folder: Path::new("/run"),
                port: 18_001,
                side_port: 18_002,
                workers: &[18_003, 18_004],
                policy: recipe.policies[0],
            };
            let launch = (recipe.launch)(&site);
            let mut text = launch.arguments.join(" ");
            launch.files.iter().for_each(|(_, file)| text += file);
            for port in ["18001", "18003", "18004"] {
                assert!(text.contains(port), "{}: no {port} in {text}", recipe.name);
            }
        }
    }
}
