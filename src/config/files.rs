//! Where configurations lie: a directory, or what is built in.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::mistakes::Mistake;

/// A file's name, for messages, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub name: String,
    pub text: String,
}

/// The files of one configuration as they were at one moment, and those that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub(super) server: SourceFile,
    pub(super) endpoints: Vec<SourceFile>,
    pub(super) unreadable: Vec<Mistake>,
}

impl Files {
    /// A file is gone or empty that was not before: perhaps only half of a change.
    pub fn lost_something_of(&self, before: &Files) -> bool {
        let text_of = |files: &Files, name: &str| {
            std::iter::once(&files.server)
                .chain(&files.endpoints)
                .find(|file| file.name == name)
                .is_some_and(|file| !file.text.trim().is_empty())
        };
        std::iter::once(&before.server)
            .chain(&before.endpoints)
            .any(|file| text_of(before, &file.name) && !text_of(self, &file.name))
    }
}

pub(super) const SERVER_FILE: &str = "tidegate.yaml";

pub(super) fn embedded() -> Files {
    let file = |name: &str, text: &str| SourceFile {
        name: format!("(embedded) {name}"),
        text: text.to_owned(),
    };
    Files {
        server: file(SERVER_FILE, include_str!("../../conf/tidegate.yaml")),
        endpoints: vec![file(
            "endpoints/smollm2.yaml",
            include_str!("../../conf/endpoints/smollm2.yaml"),
        )],
        unreadable: Vec::new(),
    }
}

/// What lies in `dir` now; trouble with reading it is found when it is parsed.
pub fn read(dir: &Path) -> Files {
    let mut unreadable = Vec::new();
    let mut read = |path: &Path| {
        let text = std::fs::read_to_string(path).or_else(|error| match error.kind() {
            // Every server-wide setting has a default.
            ErrorKind::NotFound if path.ends_with(SERVER_FILE) => Ok(String::new()),
            _ => Err(error),
        });
        SourceFile {
            name: path.display().to_string(),
            text: text.unwrap_or_else(|error| {
                unreadable.push(cannot_be_read(path, &error));
                String::new()
            }),
        }
    };
    let server = read(&dir.join(SERVER_FILE));
    let folder = dir.join("endpoints");
    let paths = endpoint_paths(&folder);
    let endpoints = paths.iter().flatten().map(|path| read(path)).collect();
    if let Err(error) = &paths {
        unreadable.push(cannot_be_read(&folder, error));
    }
    Files {
        server,
        endpoints,
        unreadable,
    }
}

fn cannot_be_read(path: &Path, error: &std::io::Error) -> Mistake {
    Mistake {
        file: path.display().to_string(),
        line: 1,
        column: 1,
        what: format!("cannot be read: {error}"),
        expected: String::new(),
    }
}

/// In the order of their names. Hidden files are editors' own.
fn endpoint_paths(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let yaml = path
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml");
        if yaml && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
