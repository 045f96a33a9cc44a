//! Groups of market Vast: `search_params` and `launch_args` as on Vast's command line, or the same as maps.

mod env;
mod launch;
mod maps;
mod options;
mod place;
mod search;
#[cfg(test)]
mod tests;
mod words;

use serde_json::Value;

use super::files::SourceFile;
use super::mistakes::Mistake;
use super::section::Section;
use super::server::ServerConfig;
use super::tree::{Kind, Node};
use crate::domain::{
    Endpoint, EngineKind, LaunchOptions, MarketKind, OfferSearch, Secret, Source, VastLaunch,
};

pub(super) const KEYS: [&str; 8] = [
    "search_params",
    "search",
    "launch_args",
    "launch",
    "port",
    "api_key_env",
    "image_gb",
    "model_gb",
];

pub(super) fn read(g: &Section, engine: Option<EngineKind>) -> VastLaunch {
    let search = read_search(g);
    let (launch, place) = read_launch(g);
    if let Err(why) = launch.takes_preamble() {
        let what =
            format!("these machines cannot end themselves when their gateway is gone: {why}");
        g.reader.warn(place.0, place.1, what);
    }
    if launch.starts_nothing() {
        let what = "nothing starts the engine: under ssh and jupyter the image's entry point does not run, and there is no onstart";
        g.reader.warn(place.0, place.1, what);
    }
    VastLaunch {
        port: port(g, engine, &launch),
        account_key: account_key(g),
        search,
        launch,
    }
}

/// One of two keys, and not both.
fn one_of<'n>(g: &Section<'n, '_>, text: &'static str, map: &'static str) -> Option<&'n Node> {
    match (g.get(text), g.get(map)) {
        (Some(_), Some(node)) => {
            let what = format!("{text} and {map} together");
            g.reader.mistake_at(node, what, "one of the two");
            None
        }
        (None, None) => {
            let expected = format!("{text} as on Vast's command line, or {map} as a map");
            g.required(text, &expected);
            None
        }
        (text, map) => text.or(map),
    }
}

fn read_search(g: &Section) -> OfferSearch {
    let empty = || search::Parsed::new().search;
    let Some(node) = one_of(g, "search_params", "search") else {
        return empty();
    };
    let Kind::Text(text) = &node.kind else {
        if g.get("search").is_some() {
            g.show("search", super::section::as_written(node));
            return maps::search(g, node);
        }
        g.wrong_type(node, "search_params", "a filter of Vast's offers");
        return empty();
    };
    if g.get("search").is_some() {
        return maps::search(g, node);
    }
    g.show("search_params", text.as_str());
    let located = place::Located::new(node, text, g.reader.text);
    let parsed = search::parse(text);
    for wrong in parsed.wrong {
        let (line, column) = located.place(wrong.at);
        let what = format!("search_params: {}", wrong.what);
        g.reader.mistake(line, column, what, wrong.expected);
    }
    for (at, what) in parsed.unknown {
        let (line, column) = located.place(at);
        g.reader.warn(line, column, what);
    }
    for doubt in parsed.doubts {
        let (line, column) = located.place(doubt.at);
        let what = format!("{} is {:?}: {}", doubt.field, doubt.value, doubt.why);
        g.reader.warn(line, column, what);
    }
    parsed.search
}

fn read_launch(g: &Section) -> (LaunchOptions, place::Place) {
    let none = options::Given::nothing;
    let whole = (g.node.line, g.node.column);
    let Some(node) = one_of(g, "launch_args", "launch") else {
        return (none().launch(g, whole), whole);
    };
    let whole = (node.line, node.column);
    let given = match &node.kind {
        _ if g.get("launch").is_some() => Some(maps::launch(g, node)),
        Kind::Text(text) => {
            g.show("launch_args", without_secrets(text));
            let located = place::Located::new(node, text, g.reader.text);
            launch::parse(g, &located)
        }
        _ => {
            g.wrong_type(node, "launch_args", "flags of `vastai create instance`");
            None
        }
    };
    (given.unwrap_or_else(none).launch(g, whole), whole)
}

/// What follows `--env` and `--login` may be secret even where it is written out.
fn without_secrets(text: &str) -> Value {
    let Ok(words) = words::split(text) else {
        return super::section::REDACTED.into();
    };
    let mut shown = Vec::new();
    let mut hide = false;
    for word in words {
        let (flag, value) = match word.text.split_once('=') {
            Some((flag, _)) if flag.starts_with("--") => (flag, true),
            _ => (word.text.as_str(), false),
        };
        let secret = ["--env", "--login"]
            .iter()
            .any(|name| name.starts_with(flag) && flag.len() > 3);
        match (hide, secret && value) {
            (true, _) => shown.push(super::section::REDACTED.to_owned()),
            (_, true) => shown.push(format!("{flag}={}", super::section::REDACTED)),
            _ => shown.push(word.text.clone()),
        }
        hide = secret && !value && !hide;
    }
    shown.into()
}

/// The port the engine listens on inside the container: as given, else the only one mapped, else the engine's usual one.
fn port(g: &Section, engine: Option<EngineKind>, launch: &LaunchOptions) -> u16 {
    let mapped = launch.mapped_ports();
    let usual = match engine {
        Some(EngineKind::Tgi) => 80,
        Some(EngineKind::LlamaCpp) => 8_080,
        Some(EngineKind::Vllm | EngineKind::Fake) | None => 8_000,
    };
    let given = g.optional_count("port", 1..=65_535).map(|port| port as u16);
    let port = given.unwrap_or(match mapped.as_slice() {
        [only] => *only,
        _ => usual,
    });
    g.show("port", port);
    if !mapped.contains(&port)
        && launch.template_hash.is_none()
        && launch.image.as_deref() != Some("")
    {
        let what = format!("the engine's port {port} is not mapped to the outside");
        let expected =
            format!("-p {port}:{port} in --env (or ports: [{port}]), or port: another one");
        g.reader
            .mistake_at(g.get("port").unwrap_or(g.node), what, expected);
    }
    port
}

/// A group may have an account of its own.
fn account_key(g: &Section) -> Option<Secret> {
    let Some(node) = g.get("api_key_env") else {
        g.show("api_key_env", Value::Null);
        return None;
    };
    let expected = "the name of an environment variable that holds a key of Vast";
    let Kind::Text(name) = &node.kind else {
        let what = format!("api_key_env is {}", node.kind.what());
        g.reader.mistake_at(node, what, expected);
        return None;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        // A key pasted here is not repeated.
        let what = "api_key_env is no name of a variable";
        g.reader.mistake_at(node, what, expected);
        return None;
    }
    g.show("api_key_env", name.as_str());
    let Some(key) = (g.reader.env)(name).filter(|key| !key.is_empty()) else {
        let what = "the variable that api_key_env names is not set";
        g.reader.mistake_at(node, what, expected);
        return None;
    };
    usable_key(g, node, key)
}

/// One that a header can carry.
pub(super) fn usable_key(s: &Section, node: &Node, key: String) -> Option<Secret> {
    let key = key.trim();
    if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
        let what = "the key of Vast is empty or has characters that no header carries";
        s.reader
            .mistake_at(node, what, "ASCII letters, digits and signs");
        return None;
    }
    Some(Secret::new(key))
}

/// What only the whole configuration shows.
pub(super) fn warnings(
    server_file: &SourceFile,
    server: &ServerConfig,
    endpoints: &[Endpoint],
) -> Vec<Mistake> {
    let launches = || {
        let groups = endpoints
            .iter()
            .filter(|endpoint| endpoint.market == MarketKind::Vast)
            .flat_map(|endpoint| &endpoint.groups);
        groups.filter_map(|group| match &group.source {
            Source::Vast(launch) => Some(launch),
            _ => None,
        })
    };
    let mut warnings = Vec::new();
    let mut warn = |what: &str| {
        warnings.push(Mistake {
            file: server_file.name.clone(),
            line: 1,
            column: 1,
            what: what.to_owned(),
            expected: String::new(),
        });
    };
    if launches().next().is_some() && server.public_url.is_none() {
        warn(
            "without public_url, machines rented on Vast cannot end themselves when their gateway is gone",
        );
    }
    if server.vast.api_key.is_none() && launches().any(|launch| launch.account_key.is_none()) {
        warn(
            "there is no key of Vast: set VAST_API_KEY, vast.api_key or vast.api_key_file before running",
        );
    }
    warnings
}
