//! What comes from the environment, and what is secret, is shown nowhere.

use super::*;

const SECRET: &str = "sesame-opens-every-door";

/// Whatever is asked for, the answer is the same telling value.
fn secret(_: &str) -> Option<String> {
    Some(SECRET.to_owned())
}

fn with_secrets(server: &str, endpoint: &str) -> Result<Config, Mistakes> {
    parse(
        &file("tidegate.yaml", server),
        &[file("e.yaml", endpoint), file("f.yaml", endpoint)],
        &secret,
    )
}

/// Each setting in turn comes from the environment and is wrong there, or clashes.
#[test]
fn no_mistake_shows_a_value_from_the_environment() {
    for server in [
        "listen",
        "admin_listen",
        "insecure",
        "threads",
        "max_body_bytes",
        "body_timeout",
        "grace_period",
        "log",
        "local_market",
        "api_keys",
        "scaler_interval",
    ] {
        let said = with_secrets(&format!("{server}: '${{X}}'\n"), "").expect_err(server);
        assert!(!said.to_string().contains(SECRET), "{said}");
    }
    let group =
        "{name: '${X}', engine: '${X}', command: '${X}', concurrency: '${X}', boot_time: '${X}'}";
    for endpoint in [
        format!("endpoint_name: '${{X}}'\nmodel_names: ['${{X}}', '${{X}}']\nworker_groups: [{group}, {group}]\n"),
        "endpoint_name: '${X} '\nmarket: '${X}'\ntimeouts: '${X}'\nworker_groups: '${X}'\n".to_owned(),
        "endpoint_name: e\nmarket: {kind: fixed, engine: '${X}', workers: [{url: '${X}'}, {url: 'http://${X}.invalid'}]}\n".to_owned(),
        "endpoint_name: e\nworker_groups: [{name: '${X}', engine: fake, command: '{port}'}, {name: '${X}', engine: fake, command: '{port}'}]\n".to_owned(),
    ] {
        let said = with_secrets("", &endpoint).expect_err(&endpoint).to_string();
        assert!(said.contains("${X}") && !said.contains(SECRET), "{said}");
    }
}

#[test]
fn numbers_from_the_environment_are_not_shown_either() {
    let many = |_: &str| Some("7777".to_owned());
    for wrong in [
        "cold_workers: ${N}\n",
        "target_util: ${N}\n",
        "max_workers: ${N}\ncold_workers: 9000\n",
        "retry_attempts: '${N}.5'\n",
    ] {
        let endpoint = file("e.yaml", &format!("{wrong}{GOOD}"));
        let said = parse(&file("tidegate.yaml", ""), &[endpoint], &many).expect_err(wrong);
        let said = said.to_string();
        assert!(said.contains("${N}") && !said.contains("7777"), "{said}");
    }
}

#[test]
fn flags_may_come_from_the_environment() {
    let yes = |_: &str| Some("true".to_owned());
    let server = file("tidegate.yaml", "insecure: ${OPEN}\n");
    let config = parse(&server, &[file("e.yaml", GOOD)], &yes).expect("right");
    assert!(config.server.insecure);
}

#[test]
fn keys_are_long_different_and_fit_for_a_header() {
    let two = "api_keys: [{name: a, key: '${KEY}'}, {name: b, key: '${KEY}'}]\n";
    check_server(
        two,
        &["tidegate.yaml:1:38: an API key that is in the list already"],
    );
    check_server(
        "api_keys: [{name: a, key: '${SHORT}'}]\n",
        &["tidegate.yaml:1:27: key is too short to be secret; expected at least 16 characters"],
    );
    check_server(
        "api_keys: [{name: ' ', key: '${KEY}'}]\n",
        &["tidegate.yaml:1:19: name is empty"],
    );
    let broken_line = |_: &str| Some("a-long-enough-secret\n".to_owned());
    let server = file("tidegate.yaml", "admin_token: ${KEY}\n");
    let said = parse(&server, &[file("e.yaml", GOOD)], &broken_line).expect_err("no header");
    assert!(
        said.to_string()
            .starts_with("tidegate.yaml:1:14: admin_token has characters")
    );
}

#[test]
fn a_key_that_is_written_out_is_refused_and_not_shown() {
    for (server, endpoint) in [
        ("api_keys: [{name: a, key: sesame-opens-every-door}]\n", ""),
        ("", "api_keys: [{name: a, key: sesame-opens-every-door}]\n"),
        (
            "",
            "market: {kind: fixed, engine: vllm, workers: [{url: 'http://127.0.0.1:1', api_key: sesame-opens-every-door}]}\n",
        ),
    ] {
        let endpoint = if endpoint.starts_with("market") {
            format!("endpoint_name: e\n{endpoint}")
        } else {
            format!("{GOOD}{endpoint}")
        };
        let said = parse_both(server, &endpoint).expect_err(server).to_string();
        assert!(said.contains("is written out in the file"), "{said}");
        assert!(!said.contains(SECRET), "{said}");
    }
}

#[test]
fn secrets_print_as_redacted() {
    let config = parse_both("admin_token: '${KEY}'\n", GOOD).expect("right");
    let token = config.server.admin_token.expect("a token");
    assert_eq!(format!("{token} {token:?}"), "[redacted] [redacted]");
    assert_eq!(token.expose(), "a-long-enough-secret");
}

#[test]
fn a_summary_has_every_setting_and_no_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let write =
        |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    std::fs::create_dir(dir.path().join("endpoints")).expect("a directory");
    write(
        "tidegate.yaml",
        "api_keys: [{name: alice, key: '${X}'}]\nadmin_token: '${X}'\nstate_dir: '${X}'\n",
    );
    write(
        "endpoints/e.yaml",
        "endpoint_name: e\nmodel_names: ['${X}']\nworker_groups: [{engine: fake, command: 'w {port} --key ${X}', env: {TOKEN: written-out-too}}]\n",
    );
    let summary = redacted_summary(Some(dir.path()), &secret).expect("right");
    let text = summary.to_string();
    for hidden in [SECRET, "written-out"] {
        assert!(!text.contains(hidden), "{text}");
    }
    let server = &summary["server"];
    assert_eq!(server["api_keys"][0]["name"], "alice");
    assert_eq!(server["api_keys"][0]["key"], "[redacted]");
    assert_eq!(server["state_dir"], "${X}");
    assert_eq!(server["listen"], "127.0.0.1:8080");
    assert_eq!(server["local_market"]["slots"], 8);
    let endpoint = &summary["endpoints"][0];
    assert_eq!(endpoint["max_workers"], 16);
    assert_eq!(endpoint["timeouts"]["boot"], 600.0);
    assert_eq!(endpoint["model_names"][0], "${X}");
    let group = &endpoint["worker_groups"][0];
    assert_eq!(group["command"], "w {port} --key ${X}");
    assert_eq!(group["env"]["TOKEN"], "[redacted]");
}

/// A key that the reference has and the summary lacks would be a setting nobody is shown.
#[test]
fn the_summary_of_the_reference_has_all_its_keys() {
    let summary = redacted_summary(None, &env).expect("right");
    for (of, text) in [
        ("server", include_str!("../../../conf/tidegate.yaml")),
        (
            "endpoint",
            include_str!("../../../conf/endpoints/smollm2.yaml"),
        ),
    ] {
        let shown = if of == "server" {
            &summary["server"]
        } else {
            &summary["endpoints"][0]
        };
        let keys = text
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
            .filter_map(|line| line.split_once(':'));
        for (key, _) in keys {
            assert!(shown.get(key).is_some(), "{key} of {of}");
        }
    }
}
