//! `search` and `launch`: the same as `search_params` and `launch_args`, as maps.

use serde_json::Value;

use super::super::section::{REDACTED, Section, as_written, shown};
use super::super::tree::{Kind, Node};
use super::options::Given;
use super::search::{Parsed, Typed, operator_named, unknown};
use crate::domain::{OfferSearch, SearchOperator};

const FILTER: &str = "a value, a list of values, any, or operators such as {gte: 23}";
const GB_MAX: f64 = 1e6;

/// Fields with a value (`num_gpus: 4`), several (`gpu_name: [RTX 4090, L40S]`), operators (`gpu_ram: {gte: 23}`) or `any`.
pub(super) fn search(g: &Section, node: &Node) -> OfferSearch {
    let mut parsed = Parsed::new();
    let Kind::Map(entries) = &node.kind else {
        g.wrong_type(node, "search", "a map of fields and filters");
        return parsed.search;
    };
    g.reader.section(node, "search");
    for (field, value) in entries {
        if let Some(what) = unknown(&field.name) {
            g.reader.warn(field.line, field.column, what);
        }
        match &value.kind {
            Kind::Map(operators) => {
                for (operator, value) in operators {
                    match operator_named(&operator.name) {
                        Some(named) => filter(g, &mut parsed, &field.name, named, value),
                        None => {
                            let what = format!("{} is no operator", operator.name);
                            let expected = "eq, neq, gt, gte, lt, lte, in or notin";
                            g.reader
                                .mistake(operator.line, operator.column, what, expected);
                        }
                    }
                }
            }
            Kind::List(_) => filter(g, &mut parsed, &field.name, SearchOperator::In, value),
            _ => filter(g, &mut parsed, &field.name, SearchOperator::Eq, value),
        }
    }
    parsed.search
}

fn filter(g: &Section, parsed: &mut Parsed, field: &str, operator: SearchOperator, value: &Node) {
    let several = matches!(operator, SearchOperator::In | SearchOperator::NotIn);
    let added = match &value.kind {
        Kind::List(items) if several => {
            let words = items.iter().map(|item| g.word_of(item, field));
            let Some(words) = words.collect::<Option<Vec<_>>>() else {
                return;
            };
            parsed.add(0, field, operator, Typed::Many(&words))
        }
        Kind::Null | Kind::Map(_) | Kind::List(_) => {
            return g.wrong_type(value, field, FILTER);
        }
        _ => match g.word_of(value, field) {
            Some(word) if several => parsed.add(0, field, operator, Typed::Many(&[word])),
            Some(word) => parsed.add(0, field, operator, Typed::One(&word)),
            None => return,
        },
    };
    if added.is_err() {
        // The environment's values are not shown, and the parser's message would.
        let what = format!("{field} is {}", shown(value));
        g.reader.mistake_at(value, what, FILTER);
    }
    for doubt in parsed.doubts.drain(..) {
        let what = format!("{field} is {}: {}", shown(value), doubt.why);
        g.reader.warn(value.line, value.column, what);
    }
}

pub(super) fn launch(g: &Section, node: &Node) -> Given {
    let l = g.reader.section(node, "launch");
    let mut given = Given::default();
    for (key, node) in l.entries() {
        given.placed(&key.name, (node.line, node.column));
    }
    given.image = text(&l, "image");
    given.template_hash = text(&l, "template_hash");
    given.user = text(&l, "user");
    given.extra = text(&l, "extra");
    given.onstart_file = text(&l, "onstart_file");
    given.jupyter_dir = text(&l, "jupyter_dir");
    // Scripts and arguments run on the machine: ${NAME} in them is the machine's.
    given.onstart = verbatim(&l, "onstart");
    given.entrypoint = verbatim(&l, "entrypoint");
    given.args = args(&l);
    given.login = secret_text(&l, "login");
    given.disk = optional_number(&l, "disk", GB_MAX);
    given.bid_price = optional_number(&l, "bid_price", 1e3);
    given.ssh = l.flag("ssh", false);
    given.jupyter = l.flag("jupyter", false);
    given.direct = l.flag("direct", false);
    given.jupyter_lab = l.flag("jupyter_lab", false);
    given.lang_utf8 = l.flag("lang_utf8", false);
    given.python_utf8 = l.flag("python_utf8", false);
    given.force = l.flag("force", false);
    given.cancel_unavail = l.flag("cancel_unavail", false);
    given.env = super::super::groups::environment(&l);
    ports(&l, &mut given);
    let id = |key| l.optional_count(key, 1..=u32::MAX).map(u64::from);
    given.create_volume = id("create_volume");
    given.link_volume = id("link_volume");
    given.volume_size = id("volume_size");
    given.mount_path = text(&l, "mount_path");
    given.volume_label = text(&l, "volume_label");
    g.show("launch", l.finish());
    given
}

fn text(l: &Section, key: &'static str) -> Option<String> {
    let node = l.get(key)?;
    l.show(key, as_written(node));
    l.word_of(node, key)
}

fn secret_text(l: &Section, key: &'static str) -> Option<String> {
    let node = l.get(key)?;
    l.show(key, REDACTED);
    match &node.kind {
        Kind::Text(text) => l.reader.fill_in(node, text),
        _ => {
            let what = format!("{key} is {}", node.kind.what());
            l.reader.mistake_at(node, what, "text");
            None
        }
    }
}

fn verbatim(l: &Section, key: &'static str) -> Option<String> {
    let node = l.get(key)?;
    l.show(key, as_written(node));
    match &node.kind {
        Kind::Text(text) => Some(text.clone()),
        _ => {
            l.wrong_type(node, key, "text");
            None
        }
    }
}

fn args(l: &Section) -> Option<Vec<String>> {
    let node = l.get("args")?;
    l.show("args", as_written(node));
    let word = |item: &Node| match &item.kind {
        Kind::Text(text) => Some(text.clone()),
        Kind::Number(_) | Kind::Bool(_) => l.word_of(item, "args"),
        _ => None,
    };
    let words = match &node.kind {
        Kind::List(items) => items.iter().map(word).collect(),
        Kind::Text(text) => shlex::split(text),
        _ => None,
    };
    if words.is_none() {
        l.wrong_type(
            node,
            "args",
            "a list of words, or one text with its quotes closed",
        );
    }
    words
}

fn optional_number(l: &Section, key: &'static str, max: f64) -> Option<f64> {
    l.find_number(key, 0.0..=max)
}

/// `ports: [8000, "9000:9001/udp"]`.
fn ports(l: &Section, given: &mut Given) {
    let mut shown = Vec::new();
    for node in l.list("ports") {
        let Some(port) = l.word_of(node, "ports") else {
            continue;
        };
        let allowed = |c: char| c.is_ascii_digit() || ":tcp/ud".contains(c);
        if port.is_empty() || !port.chars().all(allowed) {
            let what = format!("a port is {}", super::super::section::shown(node));
            l.reader
                .mistake_at(node, what, "8000, or \"8000:8000/tcp\"");
            continue;
        }
        let whole = if port.contains(':') {
            port
        } else {
            format!("{port}:{port}")
        };
        given.env.insert(format!("-p {whole}"), "1".to_owned());
        shown.push(Value::from(whole));
    }
    l.show("ports", shown);
}
