//! Outside formats in, one validated `Config` out; every mistake is reported at once, with line and column.

mod account_keys;
mod connections;
mod endpoint;
mod files;
mod groups;
mod keys;
mod market;
mod mistakes;
mod offers;
mod routes;
mod routing;
mod section;
mod server;
mod spending;
#[cfg(test)]
mod tests;
mod tree;
mod vast;
mod wording;

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value, json};

use crate::domain::{Access, Endpoint};
pub use account_keys::{AccountKeys, account_keys};
pub use connections::TlsConfig;
use endpoint::Name;
use files::SERVER_FILE;
pub use files::{Files, SourceFile, read as read_files};
pub use mistakes::{Mistake, Mistakes};
use section::Reader;
pub use server::{AccessLogTo, LocalMarketConfig, ServerConfig, VastConfig};
use tree::Node;

#[derive(Clone, Debug)]
pub struct Config {
    pub server: ServerConfig,
    /// Never empty; names are unique.
    pub endpoints: Vec<Endpoint>,
    pub access: Access,
    /// What can be run as it is, and is perhaps not meant so.
    pub warnings: Vec<Mistake>,
}

/// Reads an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads `dir/tidegate.yaml`, which may be missing, and `dir/endpoints/*.yaml`.
pub fn load(dir: &Path, env: Env) -> Result<Config, Mistakes> {
    read_all(&files::read(dir), env).map(|(config, _)| config)
}

/// What `read_files` found, as a configuration.
pub fn load_files(files: &Files, env: Env) -> Result<Config, Mistakes> {
    read_all(files, env).map(|(config, _)| config)
}

/// The same without the endpoints whose files have mistakes, for looking at the others; with the files that were left out.
/// `None` where mistakes are elsewhere too, or nothing is left.
pub fn load_rest(files: &Files, mistakes: &Mistakes, env: Env) -> Option<(Config, Vec<String>)> {
    let mistaken = |name: &str| mistakes.iter().any(|mistake| mistake.file == name);
    let (out, rest): (Vec<_>, Vec<_>) = files
        .endpoints
        .iter()
        .cloned()
        .partition(|file| mistaken(&file.name));
    let left_out: Vec<String> = out.into_iter().map(|file| file.name).collect();
    let unreadable = files.unreadable.iter();
    let unreadable = unreadable.filter(|mistake| !left_out.contains(&mistake.file));
    let files = Files {
        server: files.server.clone(),
        endpoints: rest,
        unreadable: unreadable.cloned().collect(),
    };
    Some((load_files(&files, env).ok()?, left_out))
}

/// Only what concerns the server, whatever is wrong with endpoints.
pub fn load_server(files: &Files, env: Env) -> Result<ServerConfig, Mistakes> {
    let mistakes = RefCell::new(Vec::new());
    let unreadable = files.unreadable.iter();
    let unreadable = unreadable.filter(|mistake| mistake.file == files.server.name);
    mistakes.borrow_mut().extend(unreadable.cloned());
    let warnings = RefCell::default();
    let server = read_file(&files.server, env, (&mistakes, &warnings), server::read);
    let mistakes = mistakes.into_inner();
    match server {
        Some(file) if mistakes.is_empty() => Ok(file.config),
        _ => Err(Mistakes(mistakes)),
    }
}

/// What can be read of it whatever else is wrong: settings with mistakes are at their defaults. Only for finding a gateway
/// that runs; `None` where the file is no YAML.
pub fn readable_server(files: &Files, env: Env) -> Option<ServerConfig> {
    let (mistakes, warnings) = (RefCell::default(), RefCell::default());
    let server = read_file(&files.server, env, (&mistakes, &warnings), server::read);
    server.map(|file| file.config)
}

/// Reads YAML or JSON that is no configuration of the gateway, as strictly. The error says where.
pub fn parse_as<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    tree::parse_as(text).map_err(|error| {
        let (line, column) = (error.line, error.column);
        format!("{line}:{column}: {}", error.message)
    })
}

/// Every setting of the server at its default.
pub fn default_server(env: Env) -> Result<ServerConfig, Mistakes> {
    let server = SourceFile {
        name: SERVER_FILE.into(),
        text: String::new(),
    };
    let files = Files {
        server,
        endpoints: Vec::new(),
        unreadable: Vec::new(),
    };
    load_server(&files, env)
}

/// The configuration that is built in: one endpoint with the real small model.
pub fn load_embedded(env: Env) -> Result<Config, Mistakes> {
    read_all(&files::embedded(), env).map(|(config, _)| config)
}

/// Every setting under its own key, defaults included, fit to be shown: secrets and values of worker
/// environments are redacted, `${NAME}` stays as written. Without a directory: the built-in configuration.
pub fn redacted_summary(dir: Option<&Path>, env: Env) -> Result<Value, Mistakes> {
    let files = dir.map_or_else(files::embedded, files::read);
    read_all(&files, env).map(|(_, summary)| summary)
}

pub fn parse(server: &SourceFile, endpoints: &[SourceFile], env: Env) -> Result<Config, Mistakes> {
    let files = Files {
        server: server.clone(),
        endpoints: endpoints.to_vec(),
        unreadable: Vec::new(),
    };
    read_all(&files, env).map(|(config, _)| config)
}

/// The configuration and its summary.
fn read_all(files: &Files, env: Env) -> Result<(Config, Value), Mistakes> {
    let mistakes = RefCell::new(files.unreadable.clone());
    let warnings = RefCell::default();
    let broken: Vec<&str> = files.unreadable.iter().map(|m| m.file.as_str()).collect();
    let readable = |file: &&SourceFile| !broken.contains(&file.name.as_str());
    let server = Some(&files.server)
        .filter(readable)
        .and_then(|file| read_file(file, env, (&mistakes, &warnings), server::read));
    let mut endpoints = Vec::new();
    let mut summaries = Vec::new();
    let mut names: Vec<(&SourceFile, Name)> = Vec::new();
    let mut keys = Vec::new();
    for file in files.endpoints.iter().filter(readable) {
        let Some(read) = read_file(file, env, (&mistakes, &warnings), endpoint::read) else {
            continue;
        };
        refuse_shared_names(file, &read.names, &names, &mistakes);
        names.extend(read.names.into_iter().map(|name| (file, name)));
        if let Some(endpoint) = read.endpoint {
            keys.push((endpoint.name.clone(), read.keys));
            endpoints.push(endpoint);
        }
        summaries.push(read.summary);
    }
    let server = server.map(|file| {
        if keys.iter().any(|(_, keys)| keys.is_empty()) {
            mistakes.borrow_mut().extend(file.open_to_all);
        }
        let access = keys::access(file.keys, keys, &mistakes);
        (file.config, access, file.summary)
    });
    let mut mistakes = mistakes.into_inner();
    if files.endpoints.is_empty() && files.unreadable.is_empty() {
        mistakes.push(no_endpoint(&files.server));
    }
    mistakes.sort();
    mistakes.dedup();
    match server {
        Some((server, access, summary)) if mistakes.is_empty() => {
            let summary = json!({"server": summary, "endpoints": summaries});
            let mut warnings = warnings.into_inner();
            warnings.extend(vast::warnings(&files.server, &server, &endpoints));
            warnings.sort();
            let config = Config {
                server,
                endpoints,
                access,
                warnings,
            };
            Ok((config, summary))
        }
        _ => Err(Mistakes(mistakes)),
    }
}

fn no_endpoint(server: &SourceFile) -> Mistake {
    Mistake {
        file: server.name.replace(SERVER_FILE, "endpoints/"),
        line: 1,
        column: 1,
        what: "there is no endpoint".into(),
        expected: "at least one endpoints/NAME.yaml".into(),
    }
}

fn read_file<T>(
    file: &SourceFile,
    env: Env,
    (mistakes, warnings): (&RefCell<Vec<Mistake>>, &RefCell<Vec<Mistake>>),
    read: impl FnOnce(&Reader, &Node) -> T,
) -> Option<T> {
    let reader = Reader {
        file: &file.name,
        text: &file.text,
        env,
        mistakes,
        warnings,
    };
    match tree::parse(&file.text) {
        Ok(root) => Some(read(&reader, &root)),
        Err(error) => {
            reader.mistake(error.line, error.column, error.message, "valid YAML");
            None
        }
    }
}

/// A name that a request may use leads to one endpoint.
fn refuse_shared_names(
    file: &SourceFile,
    names: &[Name],
    others: &[(&SourceFile, Name)],
    mistakes: &RefCell<Vec<Mistake>>,
) {
    for name in names {
        let taken = others.iter().find(|(_, other)| other.text == name.text);
        if let Some((other, at)) = taken {
            mistakes.borrow_mut().push(Mistake {
                file: file.name.clone(),
                line: name.line,
                column: name.column,
                what: format!(
                    "the name {} is used in {}:{} already",
                    name.shown, other.name, at.line
                ),
                expected: "endpoint and model names that lead to one endpoint".into(),
            });
        }
    }
}
