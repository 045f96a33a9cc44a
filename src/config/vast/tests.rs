//! What pasted searches and launch arguments mean, and where their mistakes stand.

use serde_json::{Value, json};

use super::search;

/// Values travel as text unless scaled, as captured from vastai 1.9.1.
#[track_caller]
fn means(query: &str, filters: Value) {
    let parsed = search::parse(query);
    assert_eq!(parsed.wrong, [], "{query}");
    let found = serde_json::to_value(&parsed.search.filters).expect("JSON");
    assert_eq!(found, filters, "{query}");
}

/// The defaults and `more`.
fn with_defaults(more: Value) -> Value {
    let mut all =
        json!({"verified": {"eq": true}, "external": {"eq": false}, "rentable": {"eq": true}});
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}

#[test]
fn every_operator_has_signs_and_words() {
    for (operator, name) in [
        ("=", "eq"),
        ("==", "eq"),
        (" eq ", "eq"),
        ("!=", "neq"),
        (" neq ", "neq"),
        (" noteq ", "neq"),
        (" not eq ", "neq"),
        (">", "gt"),
        (" gt ", "gt"),
        (">=", "gte"),
        ("  >=  ", "gte"),
        (" gte ", "gte"),
        ("<", "lt"),
        (" lt ", "lt"),
        ("<=", "lte"),
        (" lte ", "lte"),
    ] {
        let query = format!("num_gpus{operator}4");
        means(&query, with_defaults(json!({"num_gpus": {name: "4"}})));
    }
    for (operator, name) in [
        ("in", "in"),
        ("nin", "notin"),
        ("notin", "notin"),
        ("not in", "notin"),
    ] {
        let query = format!("geolocation {operator} [SE,US]");
        let filter = json!({"geolocation": {name: ["SE", "US"]}});
        means(&query, with_defaults(filter));
    }
}

#[test]
fn values_are_scaled_renamed_and_blanks_come_from_underscores() {
    for (query, more) in [
        ("gpu_ram>=23", json!({"gpu_ram": {"gte": 23000.0}})),
        ("duration>3", json!({"duration": {"gt": 259200.0}})),
        ("dph<2", json!({"dph_total": {"lt": "2"}})),
        ("cuda_vers>=12.1", json!({"cuda_max_good": {"gte": "12.1"}})),
        ("gpu_name=RTX_4090", json!({"gpu_name": {"eq": "RTX 4090"}})),
        (
            "gpu_name=\"RTX 4090\"",
            json!({"gpu_name": {"eq": "RTX 4090"}}),
        ),
        (
            "gpu_name in [RTX_4090, \"RTX_3090\"]",
            json!({"gpu_name": {"in": ["RTX 4090", "RTX 3090"]}}),
        ),
        (
            "driver_version>=535.86.05",
            json!({"driver_version": {"gte": 535086005}}),
        ),
        (
            "driver_version>=535086005",
            json!({"driver_version": {"gte": "535086005"}}),
        ),
        (
            "num_gpus>=1 num_gpus<=4",
            json!({"num_gpus": {"gte": "1", "lte": "4"}}),
        ),
        ("static_ip=None", json!({"static_ip": {"eq": null}})),
        ("verified=False", json!({"verified": {"eq": false}})),
        (
            "rented=False num_gpus=1\nrented=true",
            json!({"rented": {"eq": true}, "num_gpus": {"eq": "1"}}),
        ),
    ] {
        means(query, with_defaults(more));
    }
}

#[test]
fn any_takes_a_filter_away_also_one_that_is_a_default() {
    means(
        "num_gpus=1 verified=any external=* rentable=? num_gpus=any id=3",
        json!({"id": {"eq": "3"}}),
    );
}

/// The wrong parts of a query: at which byte, and what.
#[test]
fn each_wrong_filter_is_a_mistake_of_its_own() {
    let parsed = search::parse(
        "num_gpus=>4 gpu_ram id=1 gpu_ram>=much ~x dph<any driver_version>=5.1 gpu_ram in [1,2] gpu_name= ",
    );
    let found: Vec<(usize, &str)> = parsed
        .wrong
        .iter()
        .map(|wrong| (wrong.at, wrong.what.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (8, "\"=>\" behind num_gpus is no operator"),
            (19, "gpu_ram without an operator"),
            (34, "gpu_ram is \"much\""),
            (39, "\"~x\" is no filter"),
            (46, "any with another operator"),
            (66, "driver_version is \"5.1\""),
            (81, "a list of values of gpu_ram"),
            (97, "gpu_name has no value"),
        ]
    );
}
