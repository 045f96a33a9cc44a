//! `api_keys` and `key_limits` of both kinds of file, and what they become together.

use super::*;
use crate::domain::{EndpointName, KeyScope, NeedsKey};

/// Of some other key.
const HASH: &str = "d86145ae1c8df980b5dad1b5abfe2b4453f69fac418dabe1ae88b47c4b0ca06f";

#[test]
fn a_key_is_given_by_the_environment_or_by_its_hash() {
    let by_env =
        parse_both("api_keys: [{name: a, key: '${KEY}'}]\n", GOOD).expect("from the environment");
    let hash: String = by_env.access.keys[0]
        .sha256
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let server = format!("api_keys: [{{name: a, sha256: '{hash}'}}]\n");
    let by_hash = parse_both(&server, GOOD).expect("by its hash");
    assert_eq!(by_hash.access, by_env.access);
    check_server(
        &format!("api_keys: [{{name: a, sha256: '{}'}}]\n", &HASH[1..]),
        &["tidegate.yaml:1:30: sha256 is not a SHA-256 hash"],
    );
    check_server(
        &format!("api_keys: [{{name: a, key: '${{KEY}}', sha256: '{HASH}'}}]\n"),
        &["tidegate.yaml:1:45: a key given twice, as key and as sha256"],
    );
    check_server(
        "api_keys: [{name: a}]\n",
        &["tidegate.yaml:1:12: key is missing"],
    );
}

#[test]
fn keys_of_the_server_open_what_they_name_and_keys_of_an_endpoint_that_one() {
    let server = format!(
        "api_keys: [{{name: all, key: '${{KEY}}'}}, {{name: one, sha256: '{HASH}', endpoints: [e]}}]\n"
    );
    let own = format!("{GOOD}api_keys: [{{name: own, key: 'own-${{KEY}}'}}]\n");
    let access = parse_both(&server, &own).expect("right").access;
    let scopes: Vec<_> = access.keys.iter().map(|key| key.scope.clone()).collect();
    let only = KeyScope::Only([EndpointName::new("e")].into());
    assert_eq!(scopes, [KeyScope::Every, only.clone(), only]);
    assert_eq!(access.needs_key, NeedsKey::Every);
    check_server(
        "api_keys: [{name: a, key: '${KEY}', endpoints: [f, e]}]\n",
        &["tidegate.yaml:1:49: there is no endpoint named \"f\""],
    );
    check(
        "",
        &format!("{GOOD}api_keys: [{{name: a, key: '${{KEY}}', endpoints: [e]}}]\n"),
        &["e.yaml:4:37: endpoints is for keys in tidegate.yaml"],
    );
}

#[test]
fn only_endpoints_with_keys_need_one_where_the_server_has_none() {
    let files = [
        file(
            "e.yaml",
            &format!("{GOOD}api_keys: [{{name: a, key: '${{KEY}}'}}]\n"),
        ),
        file(
            "f.yaml",
            &GOOD.replace("endpoint_name: e", "endpoint_name: f"),
        ),
    ];
    let access = parse(&file("tidegate.yaml", ""), &files, &env)
        .expect("right")
        .access;
    let e = EndpointName::new("e");
    assert_eq!(access.needs_key, NeedsKey::Only([e].into()));
    let open = file("tidegate.yaml", "listen: 0.0.0.0:80\n");
    let said = parse(&open, &files, &env).expect_err("f is open to the network");
    assert!(said.to_string().contains("without API keys"), "{said}");
    assert!(
        parse(&open, &files[..1], &env).is_ok(),
        "every endpoint has keys"
    );
}

#[test]
fn a_name_or_a_key_used_in_two_files_is_a_mistake() {
    let own = |entry: &str| format!("{GOOD}api_keys: [{entry}]\n");
    let server = "api_keys: [{name: a, key: '${KEY}'}]\n";
    check(
        server,
        &own("{name: a, key: 'other-${KEY}'}"),
        &["e.yaml:4:12: a second API key named \"a\""],
    );
    check(
        server,
        &own("{name: b, key: '${KEY}'}"),
        &["e.yaml:4:12: an API key that is in the list already"],
    );
}

#[test]
fn limits_are_inherited_from_the_endpoint_and_the_server() {
    let server =
        "key_limits: {requests_per_second: 4, tokens_per_minute: 900, max_concurrency: 7}\n";
    let endpoint = format!(
        "{GOOD}key_limits: {{tokens_per_minute: 0, burst: 9}}\napi_keys: [{{name: a, key: '${{KEY}}', requests_per_second: 0.5}}, {{name: b, key: 'b-${{KEY}}'}}]\n"
    );
    let access = parse_both(server, &endpoint).expect("right").access;
    let (a, b) = (access.keys[0].limits, access.keys[1].limits);
    assert_eq!((a.requests_per_second, a.burst), (Some(0.5), 9));
    assert_eq!(b.requests_per_second, Some(4.0));
    assert_eq!((b.tokens_per_minute, b.max_concurrency), (None, Some(7)));
    let burst = |limits: &str| {
        let server = format!("api_keys: [{{name: a, key: '${{KEY}}', {limits}}}]\n");
        parse_both(&server, GOOD).expect("right").access.keys[0]
            .limits
            .burst
    };
    assert_eq!(burst("requests_per_second: 2.5"), 3, "one second's");
    assert_eq!(burst("requests_per_second: 0.1"), 1);
}
