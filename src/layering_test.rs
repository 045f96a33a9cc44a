//! The allowed arrows between layers, which layer may hold which heavy dependency, and that the
//! documents name what exists.

use std::fs;
use std::path::{Path, PathBuf};

/// A layer and the layers it may use besides itself; `docs/ARCHITECTURE.md` has the same table.
const MAY_USE: [(&str, &[&str]); 14] = [
    ("domain", &[]),
    ("policy", &["domain"]),
    ("simulate", &["domain", "policy"]),
    ("picture", &["domain", "simulate"]),
    ("config", &["domain", "policy"]),
    ("engines", &["domain"]),
    ("fleet", &["domain", "policy"]),
    ("market", &["domain", "telemetry"]),
    ("ledger", &["domain", "telemetry"]),
    ("telemetry", &["domain"]),
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
];

/// Where the parts meet: these may use all.
const MEETING_PLACES: [&str; 5] = ["app", "cli", "main", "lib", "layering_test"];

/// A path and the only layers that may name it; `app` may name all.
const ONLY_IN: [(&str, &[&str]); 10] = [
    ("pingora", &["proxy", "admin"]),
    ("rusqlite", &["ledger"]),
    ("reqwest", &["probe", "market", "cli"]),
    ("serde_saphyr", &["config"]),
    ("plotters", &["picture"]),
    ("prometheus", &["telemetry", "admin", "proxy"]),
    ("sysinfo", &["market"]),
    ("rand", &[]),
    ("std::time::SystemTime", &["telemetry"]),
    // The data path measures gaps of real time; its deadlines and everybody else's are tokio's.
    ("std::time::Instant", &["telemetry", "proxy", "market"]),
];

#[test]
fn layers_use_only_the_layers_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == source.layer) else {
            assert!(
                MEETING_PLACES.contains(&source.layer.as_str()),
                "{} is in no layer: add it to the tables here and in docs/ARCHITECTURE.md",
                source.layer
            );
            continue;
        };
        for used in layers_used(&source) {
            if used != source.layer && !may_use.contains(&used.as_str()) {
                let (file, layer) = (source.file.display(), &source.layer);
                wrong.push(format!("{file}: {layer} may not use {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn heavy_dependencies_clock_and_chance_stay_in_their_layers() {
    let mut wrong = Vec::new();
    for source in sources() {
        for path in paths(&source.text) {
            let path = format!("{}::", path.join("::"));
            for (name, only) in ONLY_IN {
                let named = path.starts_with(&format!("{name}::"));
                if named && source.layer != "app" && !only.contains(&source.layer.as_str()) {
                    let (file, layer) = (source.file.display(), &source.layer);
                    wrong.push(format!("{file}: {layer} may not name {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_document_has_the_same_table() {
    let text = read("docs/ARCHITECTURE.md");
    for (layer, may_use) in MAY_USE {
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `src/{layer}/`")))
            .unwrap_or_else(|| panic!("docs/ARCHITECTURE.md has no row for {layer}"));
        let last = row.trim_end_matches([' ', '|']).rsplit('|').next();
        let mut written: Vec<&str> = last
            .unwrap_or_default()
            .split(',')
            .filter_map(|used| used.trim().split('\'').next())
            .filter(|used| *used != "nothing")
            .collect();
        let mut expected = may_use.to_vec();
        written.sort_unstable();
        expected.sort_unstable();
        assert_eq!(written, expected, "{layer}");
    }
}

/// A document that names a path that is not there has been forgotten in a change.
#[test]
fn every_path_that_a_document_names_exists() {
    let mut documents = vec![PathBuf::from("README.md")];
    let folder = fs::read_dir(root().join("docs")).expect("docs");
    documents.extend(folder.filter_map(|entry| {
        let file = PathBuf::from("docs").join(entry.expect("an entry").file_name());
        file.extension()
            .is_some_and(|ending| ending == "md")
            .then_some(file)
    }));
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents {
        let text = read(&document);
        let here = document.parent().unwrap_or(Path::new(""));
        let linked = links(&text).into_iter().map(|link| here.join(link));
        for path in linked.chain(repository_paths(&text).map(PathBuf::from)) {
            checked += 1;
            if !root().join(&path).exists() {
                let (document, path) = (document.display(), path.display());
                wrong.push(format!("{document} names {path}, which does not exist"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 15, "only {checked} paths found");
}

#[test]
fn the_guard_sees_every_way_to_write_an_arrow() {
    let check = |file: &str, text: &str, expected: &[&str]| {
        let source = Source::new(Path::new(file), text.to_owned());
        assert_eq!(layers_used(&source), expected, "{text}");
    };
    let file = "policy/routing/score.rs";
    check(file, "use crate::fleet::Fleet;", &["fleet"]);
    check(file, "let now = crate::telemetry::now();", &["telemetry"]);
    check(
        file,
        "use crate::{\n    domain::{Choice, market::Odd},\n    fleet,\n};",
        &["domain", "fleet"],
    );
    check(file, "use super::super::super::ledger;", &["ledger"]);
    check(file, "use super::super::{admission, ledger};", &[]);
    check("policy/mod.rs", "super::probe::ask();", &["probe"]);
    check("main.rs", "tidegate::cli::main()", &["cli"]);
    check(file, "// crate::fleet\nfn f() { \"crate::fleet\"; }", &[]);
    check(
        file,
        "let c = '\"'; crate::proxy::f(r#\"crate::fleet\"#)",
        &["proxy"],
    );
}

#[test]
fn the_guard_sees_clocks_in_braces() {
    let found = paths("use std::{fmt, time::{Duration, SystemTime}};");
    assert!(found.contains(&vec!["std".into(), "time".into(), "SystemTime".into()]));
}

struct Source {
    file: PathBuf,
    layer: String,
    /// Modules between the crate's root and this file.
    depth: usize,
    text: String,
}

impl Source {
    /// `file` is relative to `src`. Its layer is its folder, or its name if it lies directly below.
    fn new(file: &Path, text: String) -> Self {
        let modules: Vec<String> = file
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .filter(|part| part != "mod")
            .collect();
        Self {
            file: file.to_owned(),
            layer: modules[0].clone(),
            depth: modules.len(),
            text,
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    let file = root().join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let (mut folders, mut found) = (vec![src.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder of src") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let file = path.strip_prefix(&src).expect("below src");
                found.push(Source::new(file, read(&path)));
            }
        }
    }
    assert!(found.len() > 50, "only {} files", found.len());
    found
}

/// Layers that the file's paths lead to, from the crate's root or upwards through `super`.
fn layers_used(source: &Source) -> Vec<String> {
    let known = |name: &str| {
        name == "app" || name == "cli" || MAY_USE.iter().any(|(layer, _)| *layer == name)
    };
    let mut used: Vec<String> = paths(&source.text)
        .into_iter()
        .filter_map(|path| {
            let ups = path.iter().take_while(|part| *part == "super").count();
            // A module within the file needs one `super` more.
            let start = match path[0].as_str() {
                "crate" | "tidegate" => 1,
                "super" if ups >= source.depth => ups,
                _ => return None,
            };
            path.get(start).filter(|name| known(name)).cloned()
        })
        .collect();
    used.sort();
    used.dedup();
    used
}

/// Every path of two or more parts, and every `use`, with braces multiplied out.
fn paths(text: &str) -> Vec<Vec<String>> {
    let tokens = tokens(text);
    let (mut at, mut found) = (0, Vec::new());
    while at < tokens.len() {
        let begins = at > 0 && tokens[at - 1] == "use"
            || tokens.get(at + 1).is_some_and(|next| next == "::");
        if is_name(&tokens[at]) && begins {
            at = expand(&tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path or tree of paths from `at` and returns where it ends.
fn expand(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = before.to_vec();
    while tokens.get(at).is_some_and(|token| is_name(token)) {
        path.push(tokens[at].clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
        if tokens.get(at).is_some_and(|token| token == "{") {
            at += 1;
            while at < tokens.len() && tokens[at] != "}" {
                at = expand(tokens, at, &path, found).max(at + 1);
            }
            return at + 1;
        }
    }
    if path.len() > before.len() {
        found.push(path);
    }
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single signs; comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' || rest.starts_with("r\"") || rest.starts_with("r#") {
            string_length(rest)
        } else if first == '\'' {
            character_length(rest)
        } else {
            let length = if is_name(rest) {
                let ends = |c: char| !c.is_alphanumeric() && c != '_';
                rest.find(ends).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                found.push(rest[..length].to_owned());
            }
            length
        };
        rest = &rest[length..];
    }
    found
}

fn string_length(rest: &str) -> usize {
    let hashes = rest.bytes().skip(1).take_while(|b| *b == b'#').count();
    if let Some(raw) = rest.strip_prefix('r') {
        if !raw[hashes..].starts_with('"') {
            // A raw name such as `r#type`.
            return 1 + hashes;
        }
        let (begin, end) = (2 + hashes, format!("\"{}", "#".repeat(hashes)));
        return rest[begin..]
            .find(&end)
            .map_or(rest.len(), |at| begin + at + end.len());
    }
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Of a character, or of the mark that begins a lifetime.
fn character_length(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    let escaped = matches!(characters.next(), Some((_, '\\')));
    if escaped {
        characters.next();
        let end = characters.find(|(_, c)| *c == '\'');
        return end.map_or(rest.len(), |(at, _)| at + 1);
    }
    match characters.next() {
        Some((at, '\'')) => at + 1,
        _ => 1,
    }
}

/// Targets of links that lead to files.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

/// Quoted words that look like paths of this repository.
fn repository_paths(text: &str) -> impl Iterator<Item = &str> {
    let tops = ["src/", "docs/", "conf/", "loadtest/", "workers/", ".ci/"];
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(move |quoted| tops.iter().any(|top| quoted.starts_with(top)))
        .filter(|quoted| !quoted.contains(['<', '*', '{', ' ']))
}
