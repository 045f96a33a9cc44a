//! Each kind of mistake with its exact place, and what a right configuration becomes.

mod connections;
mod files;
mod keys;
mod offers;
mod routes;
mod secrets;
mod spending;
mod syntax;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::{EngineKind, MarketKind, Secret, Source};

fn env(name: &str) -> Option<String> {
    match name {
        "KEY" | "FRONTEND_KEY" => Some("a-long-enough-secret".into()),
        "SHORT" => Some("hush-hush".into()),
        "HUGGING_FACE_HUB_TOKEN" => Some("hf_token".into()),
        "LOAD" => Some("12.5".into()),
        _ => None,
    }
}

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile {
        name: name.into(),
        text: text.into(),
    }
}

fn parse_both(server: &str, endpoint: &str) -> Result<Config, Mistakes> {
    parse(
        &file("tidegate.yaml", server),
        &[file("e.yaml", endpoint)],
        &env,
    )
}

const GOOD: &str = "endpoint_name: e\nworker_groups:\n  - {engine: fake, command: 'w {port}'}\n";

/// Every expected line is there, and nothing else.
#[track_caller]
fn check(server: &str, endpoint: &str, expect: &[&str]) {
    let said: Vec<String> = match parse_both(server, endpoint) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(said.len(), expect.len(), "{said:#?}");
    for (said, expect) in said.iter().zip(expect) {
        assert!(said.starts_with(expect), "{said}\ninstead of\n{expect}");
    }
}

#[track_caller]
fn check_server(server: &str, expect: &[&str]) {
    check(server, GOOD, expect);
}

#[track_caller]
fn check_endpoint(more: &str, expect: &[&str]) {
    check("", &format!("{more}{GOOD}"), expect);
}

#[test]
fn defaults_spend_nothing_by_surprise() {
    let config = parse_both("", GOOD).expect("right");
    let endpoint = &config.endpoints[0];
    let scaling = &endpoint.scaling;
    assert_eq!(
        (scaling.min_load.0, scaling.target_util, scaling.cold_mult),
        (0.0, Some(0.9), Some(1.0))
    );
    assert_eq!((scaling.cold_workers, scaling.max_workers), (0, 16));
    assert_eq!(scaling.inactivity_timeout, Some(Duration::from_secs(300)));
    assert_eq!(endpoint.routing.max_queue_time, Duration::from_secs(30));
    assert_eq!(endpoint.market, MarketKind::Local);
    assert!(config.server.listen.ip().is_loopback());
    assert_eq!(config.server.max_body_bytes, 16 << 20);
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    check(
        "listen_on: 1\n",
        "endpoint_name: e\ntarget_util: 3\nmax_workers: many\nworker_groups: []\n",
        &[
            "e.yaml:2:14: target_util is 3, which is out of range; expected a number from 0.01 to 1",
            "e.yaml:3:14: max_workers is the text \"many\"; expected a number from 1 to 10000",
            "e.yaml:4:16: worker_groups is empty; expected a list of at least one worker group",
            "tidegate.yaml:1:1: unknown key listen_on; expected a known key (did you mean listen?)",
        ],
    );
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    check_endpoint(
        "targt_util: 0.5\n",
        &["e.yaml:1:1: unknown key targt_util; expected a known key (did you mean target_util?)"],
    );
    check_endpoint(
        "zzz: 1\n",
        &["e.yaml:1:1: unknown key zzz; expected one of "],
    );
    check_server(
        "local_market: {slot: 3}\n",
        &["tidegate.yaml:1:16: unknown key slot; expected a known key (did you mean slots?)"],
    );
    check(
        "",
        "endpoint_name: e\nworker_groups:\n  - {engine: fake, command: 'w {port}', launch_args: x}\n",
        &["e.yaml:3:41: launch_args is for workers of market vast; expected no launch_args"],
    );
}

#[test]
fn wrong_types_and_values_are_named_with_what_would_be_right() {
    check_endpoint(
        "min_load: '5'\n",
        &["e.yaml:1:11: min_load is the text \"5\"; expected a number"],
    );
    check_endpoint(
        "max_workers: 2.5\n",
        &["e.yaml:1:14: max_workers is 2.5; expected a whole number"],
    );
    check_endpoint(
        "model_names: llama\n",
        &["e.yaml:1:14: model_names is the text \"llama\"; expected a list"],
    );
    check_endpoint(
        "timeouts: 5\n",
        &["e.yaml:1:11: timeouts is a number; expected a map"],
    );
    check_endpoint(
        "max_queue_time: soon\n",
        &["e.yaml:1:17: max_queue_time is the text \"soon\"; expected a number"],
    );
    check_endpoint(
        "cold_workers: 17\n",
        &["e.yaml:1:15: cold_workers is 17, more than max_workers (16)"],
    );
    check_server(
        "insecure: yes please\n",
        &["tidegate.yaml:1:11: insecure is the text \"yes please\"; expected true or false"],
    );
    check_server(
        "listen: everywhere\n",
        &["tidegate.yaml:1:9: listen is \"everywhere\"; expected an address"],
    );
    check_server(
        "max_body_bytes: 3\n",
        &["tidegate.yaml:1:17: max_body_bytes is 3, which is out of range; expected"],
    );
    check(
        "[1, 2]",
        GOOD,
        &["tidegate.yaml:1:1: the file is a list; expected a map"],
    );
}

#[test]
fn repeated_keys_names_and_missing_ones_are_mistakes() {
    check_endpoint(
        "min_load: 1\nmin_load: 2\n",
        &["e.yaml:2:1: min_load is set twice, first in line 1"],
    );
    check(
        "",
        "worker_groups: [{engine: fake, command: 'w {port}'}]",
        &["e.yaml:1:1: endpoint_name is missing"],
    );
    check(
        "",
        "endpoint_name: e\n",
        &["e.yaml:1:1: worker_groups is missing"],
    );
    check(
        "",
        "endpoint_name: v1\nworker_groups: [{engine: fake, command: 'w {port}'}]",
        &["e.yaml:1:16: endpoint_name \"v1\" is a route of the gateway"],
    );
    check(
        "",
        "endpoint_name: e\nworker_groups: [{name: a, engine: fake, command: 'w {port}'}, {name: a, engine: fake, command: 'w {port}'}]",
        &["e.yaml:2:63: a second worker group named a"],
    );
    let two = [file("a.yaml", GOOD), file("b.yaml", GOOD)];
    let mistakes = parse(&file("tidegate.yaml", ""), &two, &env)
        .expect_err("a shared name")
        .to_string();
    assert!(
        mistakes.starts_with("b.yaml:1:16: the name \"e\" is used in a.yaml:1 already"),
        "{mistakes}"
    );
}

#[test]
fn commands_need_their_port_and_engines_their_name() {
    check(
        "",
        "endpoint_name: e\nworker_groups: [{engine: fake, command: w}]",
        &["e.yaml:2:41: the command is not told its port"],
    );
    check(
        "",
        "endpoint_name: e\nworker_groups: [{engine: fake, command: 'w \"{port}'}]",
        &["e.yaml:2:41: command has an open quote"],
    );
    check(
        "",
        "endpoint_name: e\nworker_groups: [{engine: gpt, command: 'w {port}'}]",
        &["e.yaml:2:26: engine is \"gpt\"; expected one of llamacpp"],
    );
    check(
        "",
        "endpoint_name: e\nworker_groups: [{engine: fake, command: [w], env: {PORT: '{port}'}}]",
        &[],
    );
}

#[test]
fn open_listeners_need_keys() {
    let open = "tidegate.yaml:1:9: listen is \"0.0.0.0:80\", open to the network without API keys";
    check_server("listen: 0.0.0.0:80\n", &[open]);
    check_server("listen: 0.0.0.0:80\ninsecure: true\n", &[]);
    check_server(
        "listen: 0.0.0.0:80\napi_keys: [{name: a, key: '${KEY}'}]\n",
        &[],
    );
    check_server(
        "admin_listen: 0.0.0.0:81\n",
        &["tidegate.yaml:1:15: admin_listen is \"0.0.0.0:81\", open to the network"],
    );
    check_server(
        "listen: 127.0.0.1:9464\n",
        &["tidegate.yaml:1:9: listen and admin_listen are the same"],
    );
}

#[test]
fn the_environment_is_filled_in_and_never_shown() {
    let config = parse_both(
        "admin_token: ${KEY}\n",
        &format!("min_load: ${{LOAD}}\n{GOOD}"),
    )
    .expect("right");
    assert_eq!(
        config.server.admin_token.as_ref().map(Secret::expose),
        Some("a-long-enough-secret")
    );
    assert_eq!(config.endpoints[0].scaling.min_load.0, 12.5);
    assert!(!format!("{config:?}").contains("long-enough"));
    check_server(
        "admin_token: ${NOWHERE}\n",
        &[
            "tidegate.yaml:1:14: ${NOWHERE} is not set in the environment; expected a value for NOWHERE",
        ],
    );
    for wrong in [
        "listen: ${SHORT}\n",
        "admin_token: ${SHORT}\n",
        "log: [a]\nlocal_market: {slots: '${SHORT}'}\n",
    ] {
        let said = parse_both(wrong, GOOD).expect_err("wrong").to_string();
        assert!(!said.contains("hush"), "{said}");
    }
}

#[test]
fn given_workers_are_urls_of_hosts_and_ports() {
    let given = |url: &str| {
        format!(
            "endpoint_name: e\nmarket: {{kind: fixed, engine: vllm, workers: [{{url: \"{url}\"}}]}}\n"
        )
    };
    let config = parse_both("", &given("http://127.0.0.1:9001/")).expect("right");
    let group = &config.endpoints[0].groups[0];
    assert_eq!(group.engine, EngineKind::Vllm);
    let Source::Fixed { workers } = &group.source else {
        panic!("{group:?}")
    };
    assert_eq!(workers[0].address.port(), 9001);
    check(
        "",
        &given("https://127.0.0.1:1"),
        &["e.yaml:2:53: url \"https://127.0.0.1:1\": https to workers is not supported yet"],
    );
    check(
        "",
        &given("http://127.0.0.1:1/v1"),
        &["e.yaml:2:53: url \"http://127.0.0.1:1/v1\": has more than a host and a port"],
    );
    check(
        "",
        &given("127.0.0.1"),
        &["e.yaml:2:53: url \"127.0.0.1\": does not begin with http://"],
    );
    check(
        "",
        "endpoint_name: e\nmarket: fixed\n",
        &["e.yaml:2:9: a fixed market without workers"],
    );
}

#[test]
fn broken_yaml_is_a_mistake_with_a_place() {
    let said = parse_both("", "endpoint_name: [e\nmin_load: 3")
        .expect_err("no YAML")
        .to_string();
    assert!(
        said.starts_with("e.yaml:") && said.contains("expected valid YAML"),
        "{said}"
    );
}

#[test]
fn every_configuration_that_is_shipped_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let examples = std::fs::read_dir(root.join("examples")).expect("conf/examples");
    let folders = examples
        .map(|entry| entry.expect("an entry").path())
        .chain([root]);
    for folder in folders {
        if let Err(mistakes) = load(&folder, &env) {
            panic!("{mistakes}");
        }
    }
    load_embedded(&env).expect("the embedded default");
}

/// The commented reference says what is so: its values are the defaults.
#[test]
fn the_reference_states_the_defaults() {
    let stated = load_embedded(&env).expect("right").server;
    let default = parse_both("", GOOD).expect("right").server;
    assert_eq!(format!("{stated:?}"), format!("{default:?}"));
}

proptest! {
    #[test]
    fn no_text_panics_the_loader(server in "\\PC{0,80}", endpoint in "[a-z_:{}\\[\\]$\"'\n 0-9-]{0,200}") {
        let _ = parse_both(&server, &endpoint);
    }

    #[test]
    fn no_value_panics_a_key(key in "(listen|market|worker_groups|timeouts|api_keys|min_load|endpoint_name|local_market)", value in "\\PC{0,40}") {
        let _ = parse_both(&format!("{key}: {value}"), &format!("{GOOD}{key}: {value}"));
    }
}

#[test]
fn a_name_is_taken_where_it_stands_not_where_the_word_occurs() {
    let first = file("a.yaml", GOOD);
    let second = file(
        "b.yaml",
        "# e is here\nendpoint_name: f\nmodel_names:\n  - g\n  - e\nworker_groups: [{engine: fake, command: 'w {port}'}]\n",
    );
    let mistakes = parse(&file("tidegate.yaml", ""), &[first, second], &env)
        .expect_err("a shared name")
        .to_string();
    assert_eq!(
        mistakes,
        "b.yaml:5:5: the name \"e\" is used in a.yaml:1 already; expected endpoint and model names that lead to one endpoint"
    );
}

#[test]
fn keys_of_another_market_are_told_where_they_belong() {
    check(
        "",
        "endpoint_name: e\nmarket: vast\nworker_groups: [{engine: vllm, search_params: id=1, launch_args: \"--image i --env '-p 8000:8000'\", boot_time: 3}]\n",
        &["e.yaml:3:100: boot_time is for workers of market local"],
    );
    check(
        "",
        "endpoint_name: e\nmarket: {kind: local, workers: []}\nworker_groups: [{engine: fake, command: 'w {port}'}]\n",
        &["e.yaml:2:23: workers is for market fixed"],
    );
    check(
        "",
        "endpoint_name: e\nmarket: vast\nworker_groups: [{engine: vllm}]\n",
        &[
            "e.yaml:3:17: launch_args is missing",
            "e.yaml:3:17: search_params is missing",
        ],
    );
}

#[test]
fn a_fixed_market_names_its_workers_once_and_one_engine() {
    let fixed = |workers: &str, more: &str| {
        format!(
            "endpoint_name: e\nmarket: {{kind: fixed, engine: tgi, workers: {workers}}}\n{more}"
        )
    };
    check(
        "",
        &fixed("[]", ""),
        &["e.yaml:2:45: workers is empty; expected a list"],
    );
    let twice = "[{url: 'http://127.0.0.1:1'}, {url: 'http://127.0.0.1:1/'}]";
    check(
        "",
        &fixed(twice, ""),
        &["e.yaml:2:75: a worker that is in the list already"],
    );
    let one = "[{url: 'http://127.0.0.1:1'}]";
    check(
        "",
        &fixed(one, "worker_groups: [{engine: vllm}]\n"),
        &["e.yaml:3:26: engine is \"vllm\", the market's is another"],
    );
    check(
        "",
        &fixed(one, "worker_groups: [{}, {name: other}]\n"),
        &["e.yaml:3:21: a second worker group"],
    );
    for (host, why) in [
        ("127.0.0.1:0", "the port is not from 1 to 65535"),
        ("127.0.0.1:99999", "the port is not from 1 to 65535"),
        (":80", "has no host"),
        ("[::g]:80", "the host is no IPv6 address"),
        ("no-such-host.invalid:80", "the host is not known"),
    ] {
        let url = format!("[{{url: 'http://{host}'}}]");
        let said = format!("e.yaml:2:52: url \"http://{host}\": {why}");
        check("", &fixed(&url, ""), &[&said]);
    }
}

#[test]
fn given_workers_of_several_kinds_have_a_group_each_with_its_own_speed() {
    let endpoint =
        |groups: &str| format!("endpoint_name: e\nmarket: fixed\nworker_groups:\n{groups}");
    let fast = "  - {name: fast, engine: vllm, tokens_per_second: 4000, workers: [{url: 'http://127.0.0.1:1'}]}\n";
    let slow = "  - {name: slow, engine: vllm, max_concurrency: 4, workers: [{url: 'http://127.0.0.1:2'}]}\n";
    let config = parse_both("", &endpoint(&format!("{fast}{slow}"))).expect("right");
    let groups = &config.endpoints[0].groups;
    let ports: Vec<u16> = groups.iter().map(|g| g.given()[0].address.port()).collect();
    assert_eq!(ports, [1, 2]);
    assert_eq!(groups[0].speed_prior.tokens_per_second.0, 4000.0);
    assert_eq!(groups[1].max_concurrency, Some(4));
    let again = slow.replace(":2'", ":1'");
    check(
        "",
        &endpoint(&format!("{fast}{again}")),
        &["e.yaml:5:62: a worker that is in the list already"],
    );
    check(
        "",
        &endpoint("  - {engine: vllm}\n"),
        &["e.yaml:4:5: workers is missing"],
    );
    check(
        "",
        "endpoint_name: e\nworker_groups: [{engine: fake, command: 'w {port}', workers: []}]\n",
        &["e.yaml:2:53: workers is for workers of market fixed"],
    );
}

#[test]
fn a_mistaken_key_makes_no_second_mistake_of_an_open_listener() {
    check_server(
        "listen: 0.0.0.0:80\napi_keys: [{name: a, key: '${NOWHERE}'}]\n",
        &["tidegate.yaml:2:27: ${NOWHERE} is not set"],
    );
    check(
        "",
        "endpoint_name: e\nworker_groups: 5\n",
        &["e.yaml:2:16: worker_groups is a number; expected a list"],
    );
}

#[test]
fn an_address_for_all_interfaces_takes_the_port_of_the_others() {
    check_server(
        "listen: 0.0.0.0:9464\ninsecure: true\n",
        &["tidegate.yaml:1:9: listen and admin_listen are the same"],
    );
    check_server("listen: 127.0.0.1:0\nadmin_listen: 127.0.0.1:0\n", &[]);
}

#[test]
fn a_wrong_log_filter_is_found_before_the_start() {
    check_server("log: info,tidegate::scaler=debug\n", &[]);
    check_server(
        "log: tidegate=loud=er\n",
        &["tidegate.yaml:1:6: log is \"tidegate=loud=er\"; expected error, warn"],
    );
    check(
        "log: verbose\n",
        GOOD,
        &["tidegate.yaml:1:6: log is \"verbose\"; expected error, warn"],
    );
    check(
        "log: 'info,tidegate'\n",
        GOOD,
        &["tidegate.yaml:1:6: log is"],
    );
    for right in [
        "debug",
        "INFO",
        "off",
        "info,tidegate::scaler=debug",
        "tidegate=trace",
    ] {
        parse_both(&format!("log: '{right}'\n"), GOOD).expect(right);
    }
}
