//! The certificate's files, watched by their marks in the file system: a renewal is no change of the configuration.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::config::ServerConfig;

/// Where the certificate and its key lie, and what marked them when they were last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CertificateFiles(Vec<(PathBuf, Option<Mark>)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl CertificateFiles {
    pub(super) fn of(settings: &ServerConfig) -> Self {
        let paths = settings.tls.iter().flat_map(|tls| tls.files.iter());
        Self(paths.map(|path| (path.clone(), None)).collect()).as_now()
    }

    /// The same files as they are now. Links are followed: renewing programs put new files behind them.
    pub(super) fn as_now(&self) -> Self {
        let mark = |path: &PathBuf| {
            std::fs::metadata(path).ok().map(|file| Mark {
                inode: file.ino(),
                bytes: file.size(),
                modified: (file.mtime(), file.mtime_nsec()),
            })
        };
        let files = self.0.iter().map(|(path, _)| (path.clone(), mark(path)));
        Self(files.collect())
    }
}
