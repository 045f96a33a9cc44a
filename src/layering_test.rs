//! The allowed arrows between layers, and which layer may hold which heavy dependency.

use std::fs;
use std::path::{Path, PathBuf};

/// A layer and the layers it may use besides itself; `docs/ARCHITECTURE.md` has the same table.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("domain", &[]),
    ("policy", &["domain"]),
    ("simulate", &["domain", "policy"]),
    ("config", &["domain"]),
    ("engines", &["domain"]),
    ("fleet", &["domain", "policy"]),
    ("telemetry", &["domain"]),
    ("market", &["domain", "telemetry"]),
    ("ledger", &["domain", "telemetry"]),
    ("probe", &["domain", "fleet", "engines", "telemetry"]),
    (
        "proxy",
        &["domain", "policy", "fleet", "engines", "telemetry"],
    ),
    (
        "scaler",
        &["domain", "policy", "fleet", "market", "ledger", "telemetry"],
    ),
    (
        "admin",
        &[
            "domain",
            "policy",
            "fleet",
            "engines",
            "ledger",
            "telemetry",
        ],
    ),
    ("cli", &["app", "config", "telemetry"]),
];

/// A dependency and the only layers that may name it. `app` may name all.
const ONLY_IN: [(&str, &[&str]); 7] = [
    ("pingora", &["proxy", "admin"]),
    ("rusqlite", &["ledger"]),
    ("reqwest", &["probe"]),
    ("serde_saphyr", &["config"]),
    ("prometheus", &["telemetry", "admin", "proxy"]),
    ("sysinfo", &["market"]),
    ("std::time::SystemTime", &["telemetry"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of `src`, each with its layer: its folder, or its name for files directly below.
fn sources() -> Vec<(String, PathBuf, String)> {
    let mut folders = vec![root().join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of src") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let inside = path.strip_prefix(root().join("src")).expect("below src");
                let first = inside.components().next().expect("a name").as_os_str();
                let layer = first.to_string_lossy().trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((layer, path, text));
            }
        }
    }
    assert!(found.len() > 50, "only {} files", found.len());
    found
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
}

/// The names after `crate::`, those within braces included.
fn layers_named(line: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect()
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(list.split(',').map(word)),
            None => found.push(word(rest)),
        }
    }
    found
}

#[test]
fn layers_use_only_the_layers_they_may() {
    let known: Vec<&str> = MAY_USE
        .iter()
        .map(|(layer, _)| *layer)
        .chain(["app"])
        .collect();
    let mut wrong = Vec::new();
    for (layer, path, text) in sources() {
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == layer) else {
            assert!(
                ["app", "lib", "main", "layering_test"].contains(&layer.as_str()),
                "{layer} is in no layer: add it to the table"
            );
            continue;
        };
        for line in code_lines(&text) {
            for used in layers_named(line) {
                let allowed = used == layer || may_use.contains(&used.as_str());
                if known.contains(&used.as_str()) && !allowed {
                    wrong.push(format!(
                        "{}: {layer} uses {used}: {}",
                        path.display(),
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn heavy_dependencies_stay_in_their_layers() {
    let mut wrong = Vec::new();
    for (layer, path, text) in sources() {
        if ["app", "layering_test"].contains(&layer.as_str()) {
            continue;
        }
        for line in code_lines(&text) {
            for (dependency, only) in ONLY_IN {
                let named = line.contains(&format!("{dependency}::"))
                    || line.trim_start().starts_with(&format!("use {dependency}"));
                if named && !only.contains(&layer.as_str()) {
                    wrong.push(format!("{}: {layer} names {dependency}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_guard_sees_arrows_in_braces_and_paths() {
    assert_eq!(
        layers_named("use crate::{fleet::Fleet, market};"),
        ["fleet", "market"]
    );
    assert_eq!(
        layers_named("let now = crate::telemetry::now();"),
        ["telemetry"]
    );
    assert!(layers_named("use std::sync::Arc;").is_empty());
}

/// A document that names a path that is not there has been forgotten in a change.
#[test]
fn every_path_that_the_architecture_names_exists() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the document");
    let mut paths = 0;
    for quoted in text.split('`').skip(1).step_by(2) {
        let is_path = ["src/", "docs/", "conf/", "loadtest/", "workers/"]
            .iter()
            .any(|top| quoted.starts_with(top));
        if is_path {
            paths += 1;
            assert!(root().join(quoted).exists(), "{quoted} does not exist");
        }
    }
    assert!(paths > 15, "only {paths} paths found");
}
