//! `routes`, `builtin_routes`, `all_routes`: what passes through to workers besides generations.

use serde_json::Value;

use super::section::{Section, shown};
use super::tree::{Kind, Node};
use crate::domain::{PassCost, PassRoute, PassageSettings, PathPattern, Tokens};
use crate::policy::passing::DEFAULT_COST;

const DAY_S: f64 = 86_400.0;
const PATH: &str = "a path such as /prompt, or a beginning of paths such as /history/*";
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Generations and lists that the gateway answers itself.
const OWN: [&str; 6] = [
    "/generate",
    "/generate_stream",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/models",
    "/health",
];

pub(super) fn read(s: &Section) -> PassageSettings {
    let mut routes: Vec<PassRoute> = Vec::new();
    let mut summaries = Vec::new();
    for node in s.list("routes") {
        let (route, summary) = route(s, node);
        summaries.push(summary);
        routes.extend(route);
    }
    s.show("routes", summaries);
    PassageSettings {
        routes,
        builtin: s.flag("builtin_routes", true),
        all: s.flag("all_routes", false),
        websocket_idle: s.duration("websocket_idle", 600.0, 0.01..=DAY_S),
    }
}

fn route(s: &Section, node: &Node) -> (Option<PassRoute>, Value) {
    let r = s.reader.section(node, "a route");
    let path = path(&r);
    let route = PassRoute {
        methods: methods(&r),
        cost: cost(&r),
        websocket: r.flag("websocket", false),
        repeatable: r.flag("repeatable", false),
        path: PathPattern::from(path.clone().unwrap_or_default()),
    };
    (path.map(|_| route), r.finish())
}

fn path(r: &Section) -> Option<String> {
    let node = r.required("path", PATH)?;
    let path = r.text_of(node, "path")?;
    r.note("path", path.as_str());
    let fixed = path.strip_suffix('*').unwrap_or(&path);
    let plain = fixed.bytes().all(|b| b.is_ascii_graphic());
    if !path.starts_with('/') || !plain || fixed.contains(['*', '?', '#']) {
        r.reader
            .mistake_at(node, format!("path is {}", shown(node)), PATH);
        return None;
    }
    if OWN.contains(&path.as_str()) {
        let what = format!("path {} is answered by the gateway itself", shown(node));
        r.reader.mistake_at(node, what, "another path");
        return None;
    }
    Some(path)
}

fn methods(r: &Section) -> Vec<String> {
    let mut methods = Vec::new();
    for node in r.list("methods") {
        let Some(method) = r.word_of(node, "methods") else {
            continue;
        };
        if METHODS.contains(&method.as_str()) {
            methods.push(method);
        } else {
            let what = format!("a method is {}", shown(node));
            let expected = format!("one of {}", METHODS.join(", "));
            r.reader.mistake_at(node, what, expected);
        }
    }
    r.note("methods", methods.clone());
    methods
}

/// A number of tokens, or a map.
fn cost(r: &Section) -> PassCost {
    let is_map = r
        .get("cost")
        .is_none_or(|node| matches!(node.kind, Kind::Map(_)));
    if !is_map {
        return PassCost {
            tokens: Tokens(r.number("cost", DEFAULT_COST.tokens.0, 0.0..=1e9)),
            per_kib: 0.0,
            field: None,
        };
    }
    let node = r.get("cost").unwrap_or(&super::tree::NOTHING);
    let c = r.reader.section(node, "cost");
    let cost = PassCost {
        tokens: Tokens(c.number("tokens", DEFAULT_COST.tokens.0, 0.0..=1e9)),
        per_kib: c.number("per_kib", DEFAULT_COST.per_kib, 0.0..=1e6),
        field: c.get("field").and_then(|node| c.text_of(node, "field")),
    };
    c.note("field", cost.field.clone());
    r.show("cost", c.finish());
    cost
}
