//! What is looked for on Vast's market and what is launched there, as plain data in the market's own terms.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Secret;

/// A group of Vast's: which offers, what is launched on them, and on whose account.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VastLaunch {
    pub search: OfferSearch,
    pub launch: LaunchOptions,
    /// The container's port on which the engine listens.
    pub port: u16,
    /// A key of its own; `None`: the server's.
    #[serde(skip)]
    pub account_key: Option<Secret>,
}

impl VastLaunch {
    /// Only interruptible offers will do: the user named a bid.
    pub fn always_bids(&self) -> bool {
        self.launch.bid_price.is_some()
    }
}

/// Filters of offers by field, in the market's units (MB, seconds), defaults included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OfferSearch {
    pub filters: BTreeMap<String, BTreeMap<SearchOperator, SearchValue>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchOperator {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
    In,
    NotIn,
}

impl SearchOperator {
    /// The market's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            SearchOperator::Eq => "eq",
            SearchOperator::Neq => "neq",
            SearchOperator::Gt => "gt",
            SearchOperator::Gte => "gte",
            SearchOperator::Lt => "lt",
            SearchOperator::Lte => "lte",
            SearchOperator::In => "in",
            SearchOperator::NotIn => "notin",
        }
    }
}

/// Most numbers travel as text; only scaled ones and versions are numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SearchValue {
    Null,
    Flag(bool),
    Whole(u64),
    Number(f64),
    Text(String),
    List(Vec<String>),
}

/// What a create call says. Values of `env`, `image_login` and the scripts may hold secrets.
#[derive(Clone, PartialEq, Serialize)]
pub struct LaunchOptions {
    pub image: Option<String>,
    /// Variables by name; port mappings, volumes and the like as keys such as `-p 3000:3000`.
    #[serde(skip)]
    pub env: BTreeMap<String, String>,
    /// The most to bid for a machine, dollars an hour; there makes it interruptible.
    pub bid_price: Option<f64>,
    pub disk_gb: f64,
    pub extra: Option<String>,
    #[serde(skip)]
    pub onstart: Option<String>,
    #[serde(skip)]
    pub image_login: Option<String>,
    pub python_utf8: bool,
    pub lang_utf8: bool,
    pub jupyter_lab: bool,
    pub jupyter_dir: Option<String>,
    pub force: bool,
    pub cancel_unavail: bool,
    pub template_hash: Option<String>,
    pub user: Option<String>,
    /// `None`: the template says.
    pub run_type: Option<RunType>,
    /// For the image's entry point.
    #[serde(skip)]
    pub args: Option<Vec<String>>,
    pub volume: Option<VolumeMount>,
}

impl fmt::Debug for LaunchOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchOptions")
            .field("image", &self.image)
            .field("env", &self.env.keys())
            .field("bid_price", &self.bid_price)
            .field("disk_gb", &self.disk_gb)
            .field("run_type", &self.run_type)
            .field("template_hash", &self.template_hash)
            .finish_non_exhaustive()
    }
}

/// How the container is run; ssh and jupyter replace the image's entry point and run `onstart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunType {
    Ssh,
    SshProxy,
    SshDirect,
    JupyterProxy,
    JupyterDirect,
    Args,
}

impl RunType {
    /// As the command line of Vast spells it, the missing t included.
    pub fn as_str(self) -> &'static str {
        match self {
            RunType::Ssh => "ssh",
            RunType::SshProxy => "ssh_proxy",
            RunType::SshDirect => "ssh_direc ssh_proxy",
            RunType::JupyterProxy => "jupyter_proxy ssh_proxy",
            RunType::JupyterDirect => "jupyter_direc ssh_direc ssh_proxy",
            RunType::Args => "args",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VolumeMount {
    pub mount_path: String,
    /// Of a volume's ask if it is to be created, else of a rented volume.
    pub id: u64,
    pub create: bool,
    pub name: Option<String>,
    pub size_gb: Option<u64>,
}

/// What `onstart` and `args` may take together, by Vast's documentation.
pub const SCRIPT_BYTES_MAX: usize = 4_096;
/// What our own part of `onstart` takes at most.
pub const PREAMBLE_BYTES_MAX: usize = 1_200;

/// Why a machine cannot end itself when its gateway is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPreamble {
    /// The image's own entry point runs, and no script of ours.
    EntryPoint,
    /// The template's script would be replaced by ours.
    TemplateScript,
    /// The script is in another language than the shell's.
    OtherLanguage,
    TooLong,
}

impl fmt::Display for NoPreamble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoPreamble::EntryPoint => "it runs the image's entry point and no onstart script",
            NoPreamble::TemplateScript => "its template has an onstart script of its own",
            NoPreamble::OtherLanguage => "its onstart script is no shell script",
            NoPreamble::TooLong => "its onstart script and arguments are too long",
        })
    }
}

impl LaunchOptions {
    /// Whether a few lines of shell before `onstart` can be run.
    pub fn takes_preamble(&self) -> Result<(), NoPreamble> {
        if self.run_type == Some(RunType::Args) {
            return Err(NoPreamble::EntryPoint);
        }
        let onstart = self.onstart.as_deref().unwrap_or_default();
        if self.template_hash.is_some() && onstart.is_empty() {
            return Err(NoPreamble::TemplateScript);
        }
        if let Some(line) = onstart.strip_prefix("#!") {
            let line = line.lines().next().unwrap_or_default();
            let program = line.rsplit(['/', ' ']).find(|word| !word.starts_with('-'));
            if !["sh", "bash", "dash", "ash", "ksh", "zsh"].contains(&program.unwrap_or_default()) {
                return Err(NoPreamble::OtherLanguage);
            }
        }
        if self.script_bytes() + PREAMBLE_BYTES_MAX > SCRIPT_BYTES_MAX {
            return Err(NoPreamble::TooLong);
        }
        Ok(())
    }

    /// The image's entry point is replaced by nothing.
    pub fn starts_nothing(&self) -> bool {
        let runs_onstart = self
            .run_type
            .is_some_and(|run_type| run_type != RunType::Args);
        let onstart = self.onstart.as_deref().unwrap_or_default();
        // What is missing altogether is a mistake of its own.
        let is_there = self.image.as_deref().is_some_and(|image| !image.is_empty());
        is_there && runs_onstart && onstart.trim().is_empty()
    }

    /// What `onstart` and `args` take together.
    pub fn script_bytes(&self) -> usize {
        let args = self.args.iter().flatten().map(|arg| arg.len() + 1);
        self.onstart.as_deref().map_or(0, str::len) + args.sum::<usize>()
    }

    /// The container's TCP ports that are mapped to the outside.
    pub fn mapped_ports(&self) -> Vec<u16> {
        self.env
            .keys()
            .filter_map(|key| container_port(key.strip_prefix("-p ")?))
            .collect()
    }
}

/// Of `3000:3001/tcp`: 3001.
fn container_port(mapping: &str) -> Option<u16> {
    let (ports, protocol) = mapping.split_once('/').unwrap_or((mapping, "tcp"));
    let port = ports.rsplit(':').next()?;
    (protocol == "tcp").then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_port_is_the_containers_and_tcp() {
        assert_eq!(container_port("3000:3001"), Some(3001));
        assert_eq!(container_port("3000"), Some(3000));
        assert_eq!(container_port("70:80/tcp"), Some(80));
        assert_eq!(container_port("70:80/udp"), None);
        assert_eq!(container_port("a:b"), None);
    }
}
