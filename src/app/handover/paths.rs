//! The files of a handover in the state directory, which only its owner can look into.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// What the kernel takes as the path of a unix socket, its end mark not counted.
const SOCKET_PATH_BYTES_MAX: usize = 107;

#[derive(Clone, Debug)]
pub(in crate::app) struct Paths {
    /// Where the process that leads is asked to hand over.
    pub(super) talk: PathBuf,
    /// Where a new process waits for the listening sockets.
    pub(super) sockets: PathBuf,
    /// The process that leads.
    pub(super) pid: PathBuf,
}

impl Paths {
    /// An error where the paths are too long for sockets.
    pub(in crate::app) fn in_dir(state_dir: &Path) -> Result<Self> {
        let paths = Self {
            talk: state_dir.join("handover.sock"),
            sockets: state_dir.join("upgrade.sock"),
            pid: state_dir.join("tidegate.pid"),
        };
        for path in [&paths.talk, &paths.sockets] {
            let bytes = path.as_os_str().len();
            if bytes > SOCKET_PATH_BYTES_MAX {
                bail!(
                    "{}: the path of a socket has at most {SOCKET_PATH_BYTES_MAX} bytes, this one {bytes}: \
                     a shorter state_dir is needed for upgrades in place",
                    path.display()
                );
            }
        }
        Ok(paths)
    }

    /// As Pingora takes it.
    pub(in crate::app) fn sockets(&self) -> String {
        self.sockets.to_string_lossy().into_owned()
    }

    /// For people and service managers; nothing here depends on it.
    pub(in crate::app) fn write_pid(&self) {
        let pid = format!("{}\n", std::process::id());
        if let Err(error) = std::fs::write(&self.pid, pid) {
            tracing::warn!(path = %self.pid.display(), %error, "the process id is not written");
        }
    }

    /// Leaves that of a successor alone.
    pub(in crate::app) fn remove_pid(&self) {
        let ours = std::fs::read_to_string(&self.pid)
            .is_ok_and(|pid| pid.trim() == std::process::id().to_string());
        if ours {
            let _ = std::fs::remove_file(&self.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_with_what_would_help() {
        assert!(Paths::in_dir(Path::new("/var/lib/tidegate")).is_ok());
        let long = PathBuf::from("/srv").join("x".repeat(100));
        let error = Paths::in_dir(&long).expect_err("too long").to_string();
        assert!(
            error.contains("at most 107 bytes") && error.contains("shorter state_dir"),
            "{error}"
        );
    }
}
