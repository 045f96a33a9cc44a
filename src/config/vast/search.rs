//! The query language of `vastai search offers`: `gpu_ram>=23 num_gpus=4 gpu_name in [RTX_4090,RTX_3090]`.

use super::super::wording::nearest;
use crate::domain::{OfferSearch, SearchOperator, SearchValue};

/// Filters that hold unless the query says otherwise; `FIELD=any` takes one away.
const DEFAULTS: [(&str, bool); 3] = [("verified", true), ("external", false), ("rentable", true)];

const ALIASES: [(&str, &str); 5] = [
    ("cuda_vers", "cuda_max_good"),
    ("display_active", "gpu_display_active"),
    ("dlperf_usd", "dlperf_per_dphtotal"),
    ("dph", "dph_total"),
    ("flops_usd", "flops_per_dphtotal"),
];

/// Typed in GB or days, sent in MB or seconds.
const FACTORS: [(&str, f64); 4] = [
    ("cpu_ram", 1_000.0),
    ("gpu_ram", 1_000.0),
    ("gpu_total_ram", 1_000.0),
    ("duration", 86_400.0),
];

/// What Vast's command line knows; others are sent all the same.
const FIELDS: &str = "bw_nvlink compute_cap cpu_arch cpu_cores cpu_cores_effective cpu_ghz cpu_ram \
    cuda_max_good datacenter direct_port_count driver_version disk_bw disk_space dlperf dlperf_per_dphtotal \
    dph_total duration external flops_per_dphtotal gpu_arch gpu_display_active gpu_frac gpu_mem_bw gpu_name \
    gpu_ram gpu_total_ram gpu_max_power gpu_max_temp has_avx host_id id inet_down inet_down_cost inet_up \
    inet_up_cost machine_id min_bid mobo_name num_gpus pci_gen pcie_bw reliability rentable rented storage_cost \
    static_ip total_flops ubuntu_version verification verified vms_enabled geolocation cluster_id";

const FLAGS: &str =
    "datacenter external gpu_display_active has_avx rentable rented static_ip verified vms_enabled";
const TEXTS: &str =
    "cpu_arch driver_version geolocation gpu_arch gpu_name mobo_name ubuntu_version verification";

/// More than any machine has, as typed: the unit was mistaken.
const FAR_TOO_MUCH: [(&str, f64, &str); 4] = [
    ("cpu_ram", 20_000.0, "it is counted in GB"),
    ("gpu_ram", 1_000.0, "it is counted in GB"),
    ("gpu_total_ram", 20_000.0, "it is counted in GB"),
    ("duration", 3_650.0, "it is counted in days"),
];

const OPERATORS: &str =
    "= == != > >= < <= or, between blanks, eq neq gt gte lt lte in nin \"not in\"";

/// Longer ones first. They count only with a blank on both sides.
const WORDS: [(&str, SearchOperator); 12] = [
    ("not eq", SearchOperator::Neq),
    ("not in", SearchOperator::NotIn),
    ("noteq", SearchOperator::Neq),
    ("notin", SearchOperator::NotIn),
    ("neq", SearchOperator::Neq),
    ("nin", SearchOperator::NotIn),
    ("gte", SearchOperator::Gte),
    ("lte", SearchOperator::Lte),
    ("gt", SearchOperator::Gt),
    ("lt", SearchOperator::Lt),
    ("eq", SearchOperator::Eq),
    ("in", SearchOperator::In),
];

/// What is wrong at a byte of the query.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) what: String,
    pub(super) expected: &'static str,
}

/// What can be sent, and will hardly find what is meant: a field, its value as typed, and why.
#[derive(Debug, PartialEq)]
pub(super) struct Doubt {
    pub(super) at: usize,
    pub(super) field: String,
    pub(super) value: String,
    pub(super) why: &'static str,
}

/// The filters as far as they are right, what is wrong, and what is doubtful.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) search: OfferSearch,
    pub(super) wrong: Vec<Wrong>,
    /// Fields that the command line does not know: a sentence of each.
    pub(super) unknown: Vec<(usize, String)>,
    pub(super) doubts: Vec<Doubt>,
}

impl Parsed {
    pub(super) fn new() -> Self {
        let mut parsed = Self::default();
        for (field, flag) in DEFAULTS {
            parsed.set(field, SearchOperator::Eq, SearchValue::Flag(flag));
        }
        parsed
    }

    fn set(&mut self, field: &str, operator: SearchOperator, value: SearchValue) {
        let filters = &mut self.search.filters;
        filters
            .entry(field.to_owned())
            .or_default()
            .insert(operator, value);
    }

    /// One filter, its value as typed. `field` may be an alias.
    pub(super) fn add(
        &mut self,
        at: usize,
        field: &str,
        operator: SearchOperator,
        value: Typed<'_>,
    ) -> Result<(), Wrong> {
        let typed_field = field;
        let field = unaliased(field);
        if let Typed::One(text) = value
            && ["any", "?", "*"].contains(&text)
        {
            return match operator {
                SearchOperator::Eq => {
                    self.search.filters.remove(field);
                    Ok(())
                }
                _ => wrong(at, format!("{text} with another operator"), "FIELD=any"),
            };
        }
        let value = match value {
            Typed::Quoted(text) => Typed::One(text),
            other => other,
        };
        let meant = value.meant(at, field)?;
        if let Some(why) = doubt(field, &meant) {
            self.doubts.push(Doubt {
                at,
                field: typed_field.to_owned(),
                value: value.text(),
                why,
            });
        }
        self.set(field, operator, meant);
        Ok(())
    }
}

fn unaliased(field: &str) -> &str {
    let mut names = ALIASES.iter();
    names
        .find_map(|(alias, name)| (*alias == field).then_some(*name))
        .unwrap_or(field)
}

fn is_among(field: &str, names: &str) -> bool {
    names.split_whitespace().any(|name| name == field)
}

/// What is to be said of a field that the command line does not know.
pub(super) fn unknown(field: &str) -> Option<String> {
    if is_among(unaliased(field), FIELDS) {
        return None;
    }
    let aliases = ALIASES.iter().map(|(alias, _)| *alias);
    let known: Vec<&str> = FIELDS.split_whitespace().chain(aliases).collect();
    let near =
        nearest(field, &known).map_or(String::new(), |near| format!(" (did you mean {near}?)"));
    Some(format!(
        "{field} is a field that Vast's command line does not know{near}"
    ))
}

/// Whether a field can hardly have such a value. Of fields that are not known nothing is said.
fn doubt(field: &str, value: &SearchValue) -> Option<&'static str> {
    const NO_NUMBER: &str = "it is compared with numbers";
    if !is_among(field, FIELDS) || is_among(field, TEXTS) || *value == SearchValue::Null {
        return None;
    }
    if is_among(field, FLAGS) {
        let is_flag = matches!(value, SearchValue::Flag(_));
        return (!is_flag).then_some("it is true or false");
    }
    let is_number = |text: &String| text.trim().parse::<f64>().is_ok_and(f64::is_finite);
    match value {
        SearchValue::Text(text) => (!is_number(text)).then_some(NO_NUMBER),
        SearchValue::List(items) => (!items.iter().all(is_number)).then_some(NO_NUMBER),
        SearchValue::Flag(_) => Some(NO_NUMBER),
        SearchValue::Number(number) => {
            let factor = FACTORS.iter().find(|(name, _)| *name == field)?.1;
            let (_, most, why) = FAR_TOO_MUCH.iter().find(|(name, ..)| *name == field)?;
            (*number / factor > *most).then_some(*why)
        }
        SearchValue::Whole(_) | SearchValue::Null => None,
    }
}

/// A value as somebody wrote it.
#[derive(Clone, Copy)]
pub(super) enum Typed<'a> {
    One(&'a str),
    /// In quotes: never a word with a meaning of its own.
    Quoted(&'a str),
    Many(&'a [String]),
}

impl Typed<'_> {
    fn text(self) -> String {
        match self {
            Typed::One(text) | Typed::Quoted(text) => text.to_owned(),
            Typed::Many(items) => items.join(","),
        }
    }

    fn meant(self, at: usize, field: &str) -> Result<SearchValue, Wrong> {
        let factor = FACTORS.iter().find(|(name, _)| *name == field);
        match (self, factor) {
            (Typed::Many(_), Some(_)) => {
                let what = format!("a list of values of {field}");
                wrong(at, what, "one number, with >= or the like")
            }
            (Typed::Many([]), None) => wrong(at, format!("{field} has no value"), "a value"),
            (Typed::Many(items), None)
                if field == "driver_version" && items.iter().any(|item| item.contains('.')) =>
            {
                let expected = "each as nine digits: 535086005";
                wrong(at, "a list of driver versions with dots", expected)
            }
            (Typed::Many(items), None) => Ok(SearchValue::List(items.to_vec())),
            (Typed::One(""), _) => wrong(at, format!("{field} has no value"), "a value"),
            (Typed::One(text), Some((_, factor))) => match text.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(SearchValue::Number(number * factor)),
                _ => wrong(at, format!("{field} is {text:?}"), "a number"),
            },
            (Typed::One(text), None) if field == "driver_version" && text.contains('.') => {
                match version(text) {
                    Some(version) => Ok(SearchValue::Whole(version)),
                    None => wrong(at, format!("{field} is {text:?}"), "a version X.Y.Z"),
                }
            }
            (Typed::One("true" | "True"), None) => Ok(SearchValue::Flag(true)),
            (Typed::One("false" | "False"), None) => Ok(SearchValue::Flag(false)),
            (Typed::One("null" | "None"), None) => Ok(SearchValue::Null),
            (Typed::One(text) | Typed::Quoted(text), _) => Ok(SearchValue::Text(text.to_owned())),
        }
    }
}

fn wrong<T>(at: usize, what: impl Into<String>, expected: &'static str) -> Result<T, Wrong> {
    Err(Wrong {
        at,
        what: what.into(),
        expected,
    })
}

/// `535.86.05` is 535086005.
fn version(text: &str) -> Option<u64> {
    let parts: Vec<&str> = text.split('.').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if parts.len() != 3 || !parts.iter().all(digits) {
        return None;
    }
    let padded: String = parts.iter().map(|part| format!("{part:0>3}")).collect();
    padded.parse().ok()
}

/// Line breaks and tabs count as blanks, so that a query may stand in several lines.
pub(super) fn parse(query: &str) -> Parsed {
    let query = query.replace(['\n', '\r', '\t'], " ");
    let mut parsed = Parsed::new();
    let mut rest = Scanner {
        text: &query,
        at: 0,
    };
    rest.blanks();
    while !rest.is_over() {
        if let Err(wrong) = filter(&mut parsed, &mut rest) {
            parsed.wrong.push(wrong);
        }
        rest.blanks();
    }
    parsed
}

fn filter(parsed: &mut Parsed, rest: &mut Scanner<'_>) -> Result<(), Wrong> {
    let at = rest.at;
    let field = rest.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
    if field.is_empty() {
        let text = rest.take_while(|c| c != ' ');
        return wrong(at, format!("{text:?} is no filter"), "FIELD>=VALUE");
    }
    let unknown = unknown(field);
    parsed.unknown.extend(unknown.map(|what| (at, what)));
    let operator_at = rest.at;
    let operator = rest.operator();
    rest.blanks();
    let value_at = rest.at;
    let value = rest.value().trim_matches([',', '[', ']']);
    let operator = match operator {
        Some(Ok(operator)) => operator,
        Some(Err(unknown)) => {
            let what = format!("{unknown:?} behind {field} is no operator");
            return wrong(operator_at, what, OPERATORS);
        }
        None => {
            return wrong(
                operator_at,
                format!("{field} without an operator"),
                OPERATORS,
            );
        }
    };
    if value.contains("${") {
        let what = "${ in search_params is not filled in";
        return wrong(value_at, what, "values that are written out");
    }
    // Blanks are typed as underscores; versions and numbers have none.
    let plain = |text: &str| text.replace('_', " ").trim_matches('"').to_owned();
    if matches!(operator, SearchOperator::In | SearchOperator::NotIn) {
        let items = value.split(',').map(str::trim);
        let items: Vec<String> = items.filter(|item| !item.is_empty()).map(plain).collect();
        return parsed.add(value_at, field, operator, Typed::Many(&items));
    }
    let text = plain(value);
    let typed = match value.starts_with('"') {
        true => Typed::Quoted(&text),
        false => Typed::One(&text),
    };
    parsed.add(value_at, field, operator, typed)
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        self.rest().is_empty()
    }

    fn blanks(&mut self) {
        self.take_while(|c| c == ' ');
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.take(length)
    }

    fn take(&mut self, length: usize) -> &'a str {
        let taken = self.rest().get(..length).unwrap_or_default();
        self.at += taken.len();
        taken
    }

    /// Signs stand anywhere, words between blanks. `Err`: signs that are none.
    fn operator(&mut self) -> Option<Result<SearchOperator, &'a str>> {
        let before = self.at;
        self.blanks();
        let signs = self.take_while(|c| "=><!".contains(c));
        if !signs.is_empty() {
            return Some(match signs {
                "=" | "==" => Ok(SearchOperator::Eq),
                "!=" => Ok(SearchOperator::Neq),
                ">" => Ok(SearchOperator::Gt),
                ">=" => Ok(SearchOperator::Gte),
                "<" => Ok(SearchOperator::Lt),
                "<=" => Ok(SearchOperator::Lte),
                unknown => Err(unknown),
            });
        }
        if self.at > before {
            for (word, operator) in WORDS {
                let follows = self.rest().strip_prefix(word);
                if follows.is_some_and(|rest| rest.starts_with(' ')) {
                    self.take(word.len());
                    return Some(Ok(operator));
                }
            }
        }
        self.at = before;
        None
    }

    /// A list in brackets, a text in quotes, or everything up to a blank.
    fn value(&mut self) -> &'a str {
        let rest = self.rest();
        let closed = |open: char, close: char| {
            let inner = rest.strip_prefix(open)?;
            let length = inner.find(close).filter(|length| *length > 0)?;
            Some(length + 2)
        };
        match closed('[', ']').or_else(|| closed('"', '"')) {
            Some(length) => self.take(length),
            None => self.take_while(|c| c != ' '),
        }
    }
}

/// The operator of a structured search's `{gte: 23}`.
pub(super) fn operator_named(name: &str) -> Option<SearchOperator> {
    let named = WORDS.iter().find(|(word, _)| *word == name);
    named.map(|(_, operator)| *operator)
}
