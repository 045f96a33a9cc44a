//! Outside formats in, one validated `Config` out; every mistake is reported at once, with line and column.

mod endpoint;
mod groups;
mod mistakes;
mod section;
mod server;
#[cfg(test)]
mod tests;
mod tree;

use std::cell::RefCell;
use std::path::Path;

use crate::domain::Endpoint;
pub use mistakes::{Mistake, Mistakes};
use section::Reader;
pub use server::{ApiKey, LocalMarketConfig, Secret, ServerConfig};
use tree::Node;

#[derive(Clone, Debug)]
pub struct Config {
    pub server: ServerConfig,
    /// Never empty; names are unique.
    pub endpoints: Vec<Endpoint>,
}

/// A file's name, for messages, and its text.
#[derive(Clone, Debug)]
pub struct SourceFile {
    pub name: String,
    pub text: String,
}

/// Reads an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

const SERVER_FILE: &str = "tidegate.yaml";

/// Reads `dir/tidegate.yaml`, which may be missing, and `dir/endpoints/*.yaml`.
pub fn load(dir: &Path, env: Env) -> Result<Config, Mistakes> {
    let unreadable = |path: &Path, error: std::io::Error| {
        Mistakes(vec![Mistake {
            file: path.display().to_string(),
            line: 1,
            column: 1,
            what: format!("cannot be read: {error}"),
            expected: String::new(),
        }])
    };
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        Ok(SourceFile {
            name: path.display().to_string(),
            text,
        })
    };
    let server = dir.join(SERVER_FILE);
    let server = if server.exists() {
        read(&server)?
    } else {
        SourceFile {
            name: server.display().to_string(),
            text: String::new(),
        }
    };
    let folder = dir.join("endpoints");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .map_err(|error| unreadable(&folder, error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "yaml" || ending == "yml")
        })
        .collect();
    paths.sort();
    let endpoints = paths
        .iter()
        .map(|path| read(path))
        .collect::<Result<Vec<_>, _>>()?;
    parse(&server, &endpoints, env)
}

/// The configuration that is built in: one endpoint with the real small model.
pub fn load_embedded(env: Env) -> Result<Config, Mistakes> {
    let file = |name: &str, text: &str| SourceFile {
        name: name.into(),
        text: text.into(),
    };
    parse(
        &file(
            "(embedded) tidegate.yaml",
            include_str!("../../conf/tidegate.yaml"),
        ),
        &[file(
            "(embedded) endpoints/smollm2.yaml",
            include_str!("../../conf/endpoints/smollm2.yaml"),
        )],
        env,
    )
}

pub fn parse(server: &SourceFile, endpoints: &[SourceFile], env: Env) -> Result<Config, Mistakes> {
    let mistakes = RefCell::default();
    let server_config = read_file(server, env, &mistakes, |reader, root| {
        Some(server::read(reader, root))
    });
    let mut found: Vec<(&SourceFile, Endpoint)> = Vec::new();
    for file in endpoints {
        let endpoint = read_file(file, env, &mistakes, endpoint::read);
        if let Some(endpoint) = endpoint {
            refuse_shared_names(file, &endpoint, &found, &mistakes);
            found.push((file, endpoint));
        }
    }
    if endpoints.is_empty() {
        mistakes.borrow_mut().push(Mistake {
            file: server.name.replace(SERVER_FILE, "endpoints/"),
            line: 1,
            column: 1,
            what: "there is no endpoint".into(),
            expected: "at least one endpoints/NAME.yaml".into(),
        });
    }
    let mut mistakes = mistakes.into_inner();
    mistakes.sort();
    mistakes.dedup();
    match server_config {
        Some(server) if mistakes.is_empty() => Ok(Config {
            server,
            endpoints: found.into_iter().map(|(_, endpoint)| endpoint).collect(),
        }),
        _ => Err(Mistakes(mistakes)),
    }
}

fn read_file<T>(
    file: &SourceFile,
    env: Env,
    mistakes: &RefCell<Vec<Mistake>>,
    read: impl FnOnce(&Reader, &Node) -> Option<T>,
) -> Option<T> {
    let reader = Reader {
        file: &file.name,
        env,
        mistakes,
    };
    match tree::parse(&file.text) {
        Ok(root) => read(&reader, &root),
        Err(error) => {
            reader.mistake(error.line, error.column, error.message, "valid YAML");
            None
        }
    }
}

/// A name that a request may use leads to one endpoint.
fn refuse_shared_names(
    file: &SourceFile,
    endpoint: &Endpoint,
    others: &[(&SourceFile, Endpoint)],
    mistakes: &RefCell<Vec<Mistake>>,
) {
    let names = std::iter::once(endpoint.name.as_str())
        .chain(endpoint.model_names.iter().map(String::as_str));
    for name in names {
        let taken = others.iter().find(|(_, other)| other.answers_to(name));
        if let Some((other, _)) = taken {
            let line = line_of(&file.text, name);
            mistakes.borrow_mut().push(Mistake {
                file: file.name.clone(),
                line: line.0,
                column: line.1,
                what: format!("the name {name} is used by {} already", other.name),
                expected: "endpoint and model names that lead to one endpoint".into(),
            });
        }
    }
}

/// Where `word` first stands by itself in `text`, from 1.
fn line_of(text: &str, word: &str) -> (u64, u64) {
    let in_word = |c: char| c.is_alphanumeric() || "_-/.".contains(c);
    let alone = |line: &str, at: usize| {
        !line[..at].ends_with(in_word) && !line[at + word.len()..].starts_with(in_word)
    };
    text.lines()
        .enumerate()
        .find_map(|(n, line)| {
            let (at, _) = line.match_indices(word).find(|(at, _)| alone(line, *at))?;
            Some((n as u64 + 1, line[..at].chars().count() as u64 + 1))
        })
        .unwrap_or((1, 1))
}
