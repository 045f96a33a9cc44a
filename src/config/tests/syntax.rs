//! YAML itself: what is plain and what is quoted, repeated use, and text that is hostile to a reader.

use super::*;

fn launch(group: &str) -> crate::domain::LocalLaunch {
    let text = format!("endpoint_name: e\nworker_groups:\n  - {group}\n");
    let config = parse_both("", &text).expect("right");
    match &config.endpoints[0].groups[0].source {
        Source::Local(launch) => launch.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn words_of_commands_and_environments_stay_as_they_are_written() {
    let launch = launch(
        "{engine: fake, command: [w, '{port}', 4096, 1.10], env: {A: 1.10, B: 0123, C: yes, D: 0x10, E: True, F: 12345678901234567890123}}",
    );
    assert_eq!(launch.command, ["w", "{port}", "4096", "1.10"]);
    let env: Vec<_> = launch.env.values().map(String::as_str).collect();
    let written = [
        "1.10",
        "0123",
        "yes",
        "0x10",
        "True",
        "12345678901234567890123",
    ];
    assert_eq!(env, written);
}

#[test]
fn a_value_from_the_environment_stays_one_word_of_a_command() {
    let env = |name: &str| (name == "BLANKS").then(|| "a b 'c".to_owned());
    let text = "endpoint_name: e\nworker_groups: [{engine: fake, command: 'w {port} ${BLANKS} \"d e\"'}]\n";
    let config = parse(&file("tidegate.yaml", ""), &[file("e.yaml", text)], &env).expect("right");
    let Source::Local(launch) = &config.endpoints[0].groups[0].source else {
        panic!("local")
    };
    assert_eq!(launch.command, ["w", "{port}", "a b 'c", "d e"]);
}

#[test]
fn only_true_and_false_are_flags() {
    check_server(
        "insecure: yes\n",
        &["tidegate.yaml:1:11: insecure is the text \"yes\"; expected true or false"],
    );
    let group = "endpoint_name: e\nworker_groups: [{name: y, engine: fake, command: 'w {port}'}]\n";
    let config = parse_both("", group).expect("y is a name");
    assert_eq!(config.endpoints[0].groups[0].name.as_str(), "y");
}

#[test]
fn quoted_numbers_are_text_and_need_a_unit() {
    check_endpoint(
        "max_queue_time: '5'\n",
        &[
            "e.yaml:1:17: max_queue_time is the text \"5\"; expected a number from 0 to 86400 seconds",
        ],
    );
    check_endpoint(
        "max_waiting_bytes: '77'\n",
        &["e.yaml:1:20: max_waiting_bytes is the text \"77\""],
    );
    check_server(
        "max_body_bytes: 1024.5\n",
        &["tidegate.yaml:1:17: max_body_bytes is 1024.5"],
    );
    let config = parse_both(
        "",
        &format!("max_queue_time: 500ms\nmax_wait_time: 2h\n{GOOD}"),
    )
    .expect("units");
    let endpoint = &config.endpoints[0];
    assert_eq!(endpoint.routing.max_queue_time, Duration::from_millis(500));
    assert_eq!(endpoint.waiting.wait_max, Duration::from_secs(7_200));
}

#[test]
fn numbers_without_end_are_out_of_range() {
    for number in [".inf", "-.inf", ".nan", "1e999"] {
        let said = parse_both("", &format!("min_load: {number}\n{GOOD}")).expect_err(number);
        let said = said.to_string();
        assert!(said.starts_with("e.yaml:1:11: min_load is "), "{said}");
    }
}

#[test]
fn groups_may_share_settings_by_anchor_and_merge() {
    let text = "endpoint_name: e\nworker_groups:\n  - &base {name: a, engine: fake, command: 'w {port}'}\n  - {<<: *base, name: b, concurrency: 3}\n";
    let config = parse_both("", text).expect("right");
    let groups = &config.endpoints[0].groups;
    assert_eq!(groups[1].name.as_str(), "b");
    assert_eq!(groups[1].speed_prior.concurrency, 3);
    assert_eq!(groups[0].source, groups[1].source);
}

#[test]
fn one_file_is_one_document_without_tags() {
    check(
        "",
        &format!("{GOOD}---\n{GOOD}"),
        &["e.yaml:5:1: only single YAML document expected"],
    );
    check_endpoint(
        "min_load: !big 5\n",
        &["e.yaml:1:16: unsupported tag `!big`"],
    );
}

/// Each of these is short, and asks for more stack or memory than a reader has.
#[test]
fn depth_and_repetition_are_bounded() {
    let nine = |of: &str, from: &str| format!("{of}: &{of} [{}]\n", [from; 9].join(","));
    let doublings: String = ["xa", "ab", "bc", "cd", "de", "ef", "fg", "gh"]
        .iter()
        .map(|pair| match pair.split_at(1) {
            ("x", of) => nine(of, "x"),
            (from, of) => nine(of, &format!("*{from}")),
        })
        .collect();
    for hostile in [
        "[".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(100_000),
        "? ".repeat(100_000),
        format!("a: {}{}", "[".repeat(200), "]".repeat(200)),
        (0..2_000).map(|n| " ".repeat(n) + "a:\n").collect(),
        doublings,
    ] {
        let said = parse_both(&hostile, GOOD).expect_err("hostile").to_string();
        assert!(said.starts_with("tidegate.yaml:"), "{said}");
        assert!(said.len() < 1_000, "{said}");
    }
}

proptest! {
    #[test]
    fn no_arrangement_of_yaml_panics_the_loader(
        tokens in prop::collection::vec(
            prop::sample::select(vec![
                "endpoint_name", "worker_groups", "market", "api_keys", "env", ":", ": ", "\n", "  ", "- ", "[", "]", "{",
                "}", ",", "&a ", "*a", "<<", "!!int ", "!x ", "'", "\"", "|\n", ">\n", "? ", "---\n", "#", "${", "}", "KEY",
                "\u{feff}", "\t", "é", "5", "-1", "~", "true",
            ]),
            0..60,
        )
    ) {
        let text = tokens.concat();
        let _ = parse_both(&text, &text);
    }
}
