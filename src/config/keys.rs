//! `api_keys` and `key_limits`: who may call what, and how much of it.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::mistakes::Mistake;
use super::section::{REDACTED, Section, as_written, shown};
use super::tree::{Kind, NOTHING, Node};
use crate::domain::{
    Access, ApiKey, ClientKey, EndpointName, KeyLimits, KeyScope, NeedsKey, Secret,
};

const SECRET_CHARACTERS_MIN: usize = 16;
const KEY: &str = "key: \"${NAME}\" from the environment, or sha256: HEX of the key";
const HEX: &str = "64 hexadecimal digits, as from: printf %s \"$KEY\" | sha256sum";

/// One file's keys, with what its own limits leave open still open.
#[derive(Default)]
pub(super) struct KeyList {
    entries: Vec<Entry>,
    defaults: LimitSettings,
}

struct Entry {
    place: Place,
    name: String,
    /// For messages.
    shown_name: String,
    sha256: [u8; 32],
    /// Endpoints that the key is bound to by its own entry.
    endpoints: Option<Vec<(Place, String, String)>>,
    limits: LimitSettings,
}

#[derive(Clone)]
struct Place {
    file: String,
    line: u64,
    column: u64,
}

impl Place {
    fn of(s: &Section, node: &Node) -> Self {
        Self {
            file: s.reader.file.to_owned(),
            line: node.line,
            column: node.column,
        }
    }

    fn mistake(&self, what: String, expected: &str) -> Mistake {
        Mistake {
            file: self.file.clone(),
            line: self.line,
            column: self.column,
            what,
            expected: expected.to_owned(),
        }
    }
}

/// Limits as one place states them: unset ones are inherited, 0 is no limit.
#[derive(Clone, Copy, Default)]
struct LimitSettings {
    requests_per_second: Option<f64>,
    burst: Option<u32>,
    tokens_per_minute: Option<f64>,
    max_concurrency: Option<u32>,
}

impl LimitSettings {
    fn or(self, other: Self) -> Self {
        Self {
            requests_per_second: self.requests_per_second.or(other.requests_per_second),
            burst: self.burst.or(other.burst),
            tokens_per_minute: self.tokens_per_minute.or(other.tokens_per_minute),
            max_concurrency: self.max_concurrency.or(other.max_concurrency),
        }
    }

    /// A burst that nobody set is one second's requests.
    fn resolved(self) -> KeyLimits {
        let requests_per_second = self.requests_per_second.filter(|rate| *rate > 0.0);
        let second = requests_per_second.map_or(1.0, |rate| rate.ceil().max(1.0));
        KeyLimits {
            requests_per_second,
            burst: self.burst.unwrap_or(second as u32),
            tokens_per_minute: self.tokens_per_minute.filter(|rate| *rate > 0.0),
            max_concurrency: self.max_concurrency.filter(|max| *max > 0),
        }
    }
}

impl KeyList {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// `binds`: an entry may name the endpoints it opens; in an endpoint's own file there is nothing to name.
pub(super) fn read(s: &Section, binds: bool) -> KeyList {
    let node = s.get("key_limits").unwrap_or(&NOTHING);
    let section = s.reader.section(node, "key_limits");
    let defaults = limits(&section);
    s.show("key_limits", section.finish());
    let mut entries = Vec::new();
    let mut summary = Vec::new();
    for node in s.list("api_keys") {
        let (entry, shown) = entry(s, node, binds);
        entries.extend(entry);
        summary.push(shown);
    }
    s.show("api_keys", summary);
    KeyList { entries, defaults }
}

fn entry(s: &Section, node: &Node, binds: bool) -> (Option<Entry>, Value) {
    let e = s.reader.section(node, "an API key");
    let name = name(&e);
    let sha256 = hash(&e);
    let endpoints = if binds {
        endpoints(&e)
    } else {
        e.refuse(
            "endpoints",
            "is for keys in tidegate.yaml",
            "no endpoints: a key in an endpoint's file opens that endpoint",
        );
        None
    };
    let limits = limits(&e);
    let entry = match (name, sha256) {
        (Some(name), Some(sha256)) => Some(Entry {
            place: Place::of(s, node),
            shown_name: e.get("name").map(shown).unwrap_or_default(),
            name,
            sha256,
            endpoints,
            limits,
        }),
        _ => None,
    };
    (entry, e.finish())
}

fn name(e: &Section) -> Option<String> {
    let expected = "a name for the key, used for fairness, limits, metrics and in logs";
    let node = e.required("name", expected)?;
    e.show("name", as_written(node));
    let name = e.text_of(node, "name")?;
    if name.trim().is_empty() {
        e.reader.mistake_at(node, "name is empty", expected);
        return None;
    }
    Some(name)
}

fn hash(e: &Section) -> Option<[u8; 32]> {
    let (key, sha256) = (e.get("key"), e.get("sha256"));
    match (key, sha256) {
        (Some(key), None) => {
            e.show("key", REDACTED);
            let secret = secret(e, key, "key")?;
            Some(Sha256::digest(secret.as_bytes()).into())
        }
        (None, Some(node)) => {
            e.show("sha256", REDACTED);
            let hash = hex(&e.word_of(node, "sha256")?);
            if hash.is_none() {
                e.reader
                    .mistake_at(node, "sha256 is not a SHA-256 hash", HEX);
            }
            hash
        }
        (Some(_), Some(node)) => {
            let what = "a key given twice, as key and as sha256";
            e.reader.mistake_at(node, what, "one of the two");
            None
        }
        (None, None) => {
            e.required("key", KEY);
            None
        }
    }
}

/// `api_key` of a worker or a group: what their engine wants to see.
pub(super) fn worker_key(s: &Section) -> Option<Secret> {
    let Some(node) = s.get("api_key") else {
        s.show("api_key", Value::Null);
        return None;
    };
    s.show("api_key", REDACTED);
    let value = s.text_of(node, "api_key")?;
    if !node.names_environment() {
        let expected = "\"${NAME}\" of an environment variable";
        let what = "api_key is written out in the file";
        s.reader.mistake_at(node, what, expected);
        return None;
    }
    // How long it is was decided elsewhere.
    if value.is_empty() || !value.chars().all(|c| c.is_ascii_graphic()) {
        let what = "api_key is empty or has characters that no header carries";
        s.reader
            .mistake_at(node, what, "ASCII letters, digits and signs");
        return None;
    }
    Some(Secret::new(value))
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.len() != 64 || !digits {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// A key from the environment. Written out in a file it would be readable to whoever reads the file, and
/// copied wherever that is copied.
fn secret(s: &Section, node: &Node, key: &str) -> Option<String> {
    let value = s.text_of(node, key)?;
    if !node.names_environment() {
        let what = format!("{key} is written out in the file");
        s.reader.mistake_at(node, what, KEY);
        return None;
    }
    fit_for_header(s, node, key, &value).then_some(value)
}

/// Long enough, and of characters that arrive.
pub(super) fn fit_for_header(s: &Section, node: &Node, key: &str, value: &str) -> bool {
    if value.chars().count() < SECRET_CHARACTERS_MIN {
        let what = format!("{key} is too short to be secret");
        let expected = format!("at least {SECRET_CHARACTERS_MIN} characters");
        s.reader.mistake_at(node, what, expected);
        return false;
    }
    // Anything else never arrives in a header; a line break at the end of a variable is the usual case.
    if !value.chars().all(|c| c.is_ascii_graphic()) {
        let what = format!("{key} has characters that no header carries");
        let expected = "ASCII letters, digits and signs, without blanks and line breaks";
        s.reader.mistake_at(node, what, expected);
        return false;
    }
    true
}

fn endpoints(e: &Section) -> Option<Vec<(Place, String, String)>> {
    let Some(node) = e.get("endpoints") else {
        e.show("endpoints", Value::Null);
        return None;
    };
    let mut names = Vec::new();
    for node in e.list("endpoints") {
        if let Some(name) = e.text_of(node, "endpoints") {
            names.push((Place::of(e, node), name, shown(node)));
        }
    }
    if matches!(&node.kind, Kind::List(items) if items.is_empty()) {
        let expected = "names of endpoints, or no such key for all of them";
        e.reader.mistake_at(node, "endpoints is empty", expected);
    }
    e.show("endpoints", as_written(node));
    Some(names)
}

fn limits(s: &Section) -> LimitSettings {
    LimitSettings {
        requests_per_second: optional_number(s, "requests_per_second"),
        burst: s.optional_count("burst", 1..=1_000_000),
        tokens_per_minute: optional_number(s, "tokens_per_minute"),
        max_concurrency: s.optional_count("max_concurrency", 0..=1_000_000),
    }
}

fn optional_number(s: &Section, key: &'static str) -> Option<f64> {
    if s.get(key).is_none() {
        s.show(key, Value::Null);
        return None;
    }
    Some(s.number(key, 0.0, 0.0..=1e12))
}

/// Puts the lists of all files together. A name or a key that is used twice is a mistake: limits and metrics
/// go by the name, and a caller is known by the key.
pub(super) fn access(
    server: KeyList,
    endpoints: Vec<(EndpointName, KeyList)>,
    mistakes: &RefCell<Vec<Mistake>>,
) -> Access {
    // With an endpoint's file that cannot be read, its name is not known either.
    let names = mistakes
        .borrow()
        .is_empty()
        .then(|| endpoints.iter().map(|(name, _)| name.clone()).collect());
    let needs_key = if server.is_empty() {
        let own = endpoints.iter().filter(|(_, keys)| !keys.is_empty());
        NeedsKey::Only(own.map(|(name, _)| name.clone()).collect())
    } else {
        NeedsKey::Every
    };
    let server_defaults = server.defaults;
    let mut keys: Vec<ApiKey> = Vec::new();
    for entry in server.entries {
        let scope = scope(&entry, names.as_ref(), mistakes);
        add(&mut keys, entry, scope, server_defaults, mistakes);
    }
    for (name, list) in endpoints {
        let defaults = list.defaults.or(server_defaults);
        for entry in list.entries {
            let scope = KeyScope::Only(BTreeSet::from([name.clone()]));
            add(&mut keys, entry, scope, defaults, mistakes);
        }
    }
    Access { keys, needs_key }
}

fn add(
    keys: &mut Vec<ApiKey>,
    entry: Entry,
    scope: KeyScope,
    defaults: LimitSettings,
    mistakes: &RefCell<Vec<Mistake>>,
) {
    if keys.iter().any(|key| key.name.as_str() == entry.name) {
        let what = format!("a second API key named {}", entry.shown_name);
        let mistake = entry.place.mistake(what, "a name of its own for each key");
        mistakes.borrow_mut().push(mistake);
    } else if keys.iter().any(|key| key.sha256 == entry.sha256) {
        let what = "an API key that is in the list already".to_owned();
        let expected = "each key once; in tidegate.yaml it may open several endpoints";
        mistakes
            .borrow_mut()
            .push(entry.place.mistake(what, expected));
    }
    keys.push(ApiKey {
        name: ClientKey::new(&entry.name),
        sha256: entry.sha256,
        scope,
        limits: entry.limits.or(defaults).resolved(),
    });
}

fn scope(
    entry: &Entry,
    known: Option<&BTreeSet<EndpointName>>,
    mistakes: &RefCell<Vec<Mistake>>,
) -> KeyScope {
    let Some(endpoints) = &entry.endpoints else {
        return KeyScope::Every;
    };
    let mut names = BTreeSet::new();
    for (place, name, shown) in endpoints {
        let name = EndpointName::new(name);
        if known.is_some_and(|known| !known.contains(&name)) {
            let what = format!("there is no endpoint named {shown}");
            let mistake = place.mistake(what, "an endpoint_name of endpoints/*.yaml");
            mistakes.borrow_mut().push(mistake);
        }
        names.insert(name);
    }
    KeyScope::Only(names)
}
