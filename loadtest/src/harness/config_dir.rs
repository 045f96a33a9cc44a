//! A configuration directory of its own for one gateway, removed with its handle.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

#[derive(Debug)]
pub struct ConfigDir {
    folder: TempDir,
    listen: u16,
    admin_listen: u16,
}

impl ConfigDir {
    /// `server` is added to `tidegate.yaml` after the addresses and the state directory. No endpoint yet.
    pub fn new(server: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        std::fs::create_dir(folder.path().join("endpoints"))?;
        let config = Self {
            folder,
            listen: super::free_port()?,
            admin_listen: super::free_port()?,
        };
        config.write_server(server)?;
        Ok(config)
    }

    /// Replaces what was given to `new`; the addresses stay.
    pub fn write_server(&self, server: &str) -> Result<()> {
        let text = format!(
            "listen: 127.0.0.1:{}\nadmin_listen: 127.0.0.1:{}\nstate_dir: {}\n{}\n",
            self.listen,
            self.admin_listen,
            self.state_dir().display(),
            server.trim_end(),
        );
        self.write("tidegate.yaml", &text)
    }

    /// Adds or replaces `endpoints/<name>.yaml`.
    pub fn write_endpoint(&self, name: &str, yaml: &str) -> Result<()> {
        self.write(&format!("endpoints/{name}.yaml"), yaml)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.listen)
    }

    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_listen)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.path().join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}
