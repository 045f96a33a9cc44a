//! What pasted searches and launch arguments mean, and where their mistakes stand.

use serde_json::{Value, json};

use super::super::{Config, Mistakes, SourceFile, parse};
use super::search;
use crate::domain::{RunType, Source, VastLaunch};

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
    means(
        "gpu_name=\"any\"",
        with_defaults(json!({"gpu_name": {"eq": "any"}})),
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

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

fn env(name: &str) -> Option<String> {
    Some(match name {
        "HF" => "secret with blanks".to_owned(),
        "VAST_API_KEY" | "OTHER_KEY" => format!("key-of-{name}"),
        _ => return None,
    })
}

const BEFORE: &str = "endpoint_name: e\nmarket: vast\nworker_groups:\n- engine: tgi\n";

fn read(group: &str) -> Result<Config, Mistakes> {
    let endpoint = file("e.yaml", &format!("{BEFORE}{group}"));
    let server = file(
        "tidegate.yaml",
        "public_url: https://gateway.example.com/\n",
    );
    parse(&server, &[endpoint], &env)
}

fn launch_of(group: &str) -> VastLaunch {
    let config = read(group).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    match &config.endpoints[0].groups[0].source {
        Source::Vast(launch) => launch.as_ref().clone(),
        other => panic!("{other:?}"),
    }
}

/// Each expected line begins one mistake, and there are no others.
#[track_caller]
fn mistaken(group: &str, expect: &[&str]) {
    let said = read(group).map(|_| ()).expect_err("mistakes").to_string();
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said.len(), expect.len(), "{said:#?}");
    for (said, expect) in said.iter().zip(expect) {
        assert!(said.starts_with(expect), "{said}\ninstead of\n{expect}");
    }
}

#[track_caller]
fn warned(group: &str, expect: &[&str]) {
    let warnings = read(group).expect("right").warnings;
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), expect.len(), "{said:#?}");
    for (said, expect) in said.iter().zip(expect) {
        assert!(said.starts_with(expect), "{said}\ninstead of\n{expect}");
    }
}

const SEARCH: &str = "  search_params: num_gpus=1\n";
const LAUNCH: &str = "  launch_args: --image i --env '-p 80:80' --onstart-cmd serve\n";

#[test]
fn mistakes_stand_at_their_column_however_the_text_is_written() {
    for (search, place) in [
        ("  search_params: num_gpus=>1\n", "5:26"),
        ("  search_params: 'num_gpus=>1'\n", "5:27"),
        ("  search_params: \"id=1 num_gpus=>1\"\n", "5:32"),
        (
            "  search_params: \"gpu_name=\\\"a b\\\" num_gpus=>1\"\n",
            "5:44",
        ),
        ("  search_params: >-\n    id=1\n    num_gpus=>1\n", "7:13"),
        ("  search_params: |\n    id=1\n\n    num_gpus=>1\n", "8:13"),
        ("  search_params: id=1\n    num_gpus=>1\n", "6:13"),
    ] {
        let expected = format!("e.yaml:{place}: search_params: \"=>\" behind num_gpus");
        mistaken(&format!("{search}{LAUNCH}"), &[&expected]);
    }
}

#[test]
fn unknown_flags_and_wrong_values_are_mistakes_at_their_place() {
    let launch =
        "  launch_args: --image i --env '-p 80:80' --dsk 20 --disk few --bid_price 0 555 --label\n";
    mistaken(
        &format!("{SEARCH}{launch}"),
        &[
            "e.yaml:6:43: unknown flag --dsk; expected a flag of `vastai create instance` (did you mean --disk?)",
            "e.yaml:6:49: \"20\" belongs to no flag",
            "e.yaml:6:59: --disk is \"few\"; expected a number",
            "e.yaml:6:75: the bid is out of range",
            "e.yaml:6:77: \"555\" belongs to no flag",
            "e.yaml:6:81: --label without a value",
        ],
    );
    mistaken(
        &format!("{SEARCH}  launch_args: --image i --env '-p 80:80\n"),
        &["e.yaml:6:32: launch_args has an open quote"],
    );
    mistaken(
        &format!("{SEARCH}  launch_args: --disk 20\n"),
        &[
            "e.yaml:4:3: the engine's port 80 is not mapped",
            "e.yaml:6:16: nothing says what to launch",
        ],
    );
    mistaken(
        &format!("{SEARCH}  launch_args: --image i --env '-p 80:80' --jupyter --args serve\n"),
        &["e.yaml:6:53: jupyter and args together"],
    );
}

#[test]
fn what_is_dropped_or_not_used_is_a_warning() {
    warned(
        &format!(
            "{SEARCH}  launch_args: --image i --env '-p 80:80 --shm-size=16g' --label mine --onstart-cmd serve\n"
        ),
        &[
            "e.yaml:6:42: --shm-size is none of -e -p -h -v -n: Vast's command line drops it",
            "e.yaml:6:66: the label is not used",
        ],
    );
    warned(
        &format!("  search_params: num_gpus=1 inet_dwn>100\n{LAUNCH}"),
        &[
            "e.yaml:5:29: inet_dwn is a field that Vast's command line does not know (did you mean inet_down?)",
        ],
    );
    for launch in [
        "--image i --env '-p 80:80' --args serve",
        "--template_hash abc",
        "--image i --env '-p 80:80' --onstart-cmd '#!/usr/bin/python3'",
    ] {
        warned(
            &format!("{SEARCH}  launch_args: \"{launch}\"\n"),
            &["e.yaml:6:16: these machines cannot end themselves"],
        );
    }
}

#[test]
fn a_filter_that_hardly_finds_what_is_meant_is_a_warning() {
    warned(
        &format!(
            "  search_params: inet_down>fast verified=tru cuda_vers>=12,4 gpu_ram>=24000 num_gpus=1\n{LAUNCH}"
        ),
        &[
            "e.yaml:5:28: inet_down is \"fast\": it is compared with numbers",
            "e.yaml:5:42: verified is \"tru\": it is true or false",
            "e.yaml:5:57: cuda_vers is \"12,4\": it is compared with numbers",
            "e.yaml:5:71: gpu_ram is \"24000\": it is counted in GB",
        ],
    );
    warned(
        &format!(
            "  search: {{dph: {{lt: cheap}}, rented: 3, gpu_name: [RTX 4090, L40S], duration: {{gte: 86400}}}}\n{LAUNCH}"
        ),
        &[
            "e.yaml:5:22: dph is \"cheap\": it is compared with numbers",
            "e.yaml:5:38: rented is 3: it is true or false",
            "e.yaml:5:85: duration is 86400",
        ],
    );
    warned(
        &format!(
            "  search_params: num_gpus in [1,2] static_ip=None verified=any gpu_ram>=80 duration>=3 \
             gpu_name=H100_SXM driver_version>=535.86.05 geolocation=SE dph<2.5 has_avx=True id=3\n{LAUNCH}"
        ),
        &[],
    );
}

#[test]
fn a_launch_that_starts_no_engine_is_a_warning() {
    for more in ["", " --ssh --direct", " --jupyter", " --onstart-cmd ' '"] {
        warned(
            &format!("{SEARCH}  launch_args: --image i --env '-p 80:80'{more}\n"),
            &["e.yaml:6:16: nothing starts the engine"],
        );
    }
    warned(
        &format!("{SEARCH}  launch_args: --image i --env '-p 80:80' --ssh --entrypoint serve\n"),
        &[],
    );
}

#[test]
fn secrets_of_the_environment_go_into_variables_and_scripts_are_left_alone() {
    let launch = launch_of(&format!(
        "{SEARCH}  launch_args: --image i --ssh --env '-p 80:80 -e T=${{HF}}' --onstart-cmd 'echo ${{HOME}}'\n"
    ));
    assert_eq!(launch.launch.env["T"], "secret with blanks");
    assert_eq!(launch.launch.onstart.as_deref(), Some("echo ${HOME}"));
    assert_eq!(launch.launch.run_type, Some(RunType::SshProxy));
    let shown = format!(
        "{launch:?} {}",
        serde_json::to_string(&launch).expect("JSON")
    );
    assert!(!shown.contains("secret"), "{shown}");
    mistaken(
        &format!("{SEARCH}  launch_args: --image i --env '-p 80:80 -e T=${{NONE}}'\n"),
        &["e.yaml:6:16: ${NONE} is not set in the environment"],
    );
}

#[test]
fn maps_say_the_same_as_texts() {
    let text = launch_of(
        "  search_params: gpu_ram>=23 num_gpus=4 gpu_name in [RTX_4090,RTX_3090] driver_version>=535.86.05 \
         external=any verified=true dph<2.5\n  launch_args: --image i/j:1 --disk 200 --ssh --direct --bid_price 0.5 \
         --env '-p 3000:3000 -e A=b' --onstart-cmd 'serve | tee log' --login '-u me' --cancel-unavail\n",
    );
    let maps = launch_of(
        "  search:\n    gpu_ram: {gte: 23}\n    num_gpus: 4\n    gpu_name: [RTX 4090, RTX 3090]\n    \
         driver_version: {gte: 535.86.05}\n    external: any\n    verified: true\n    dph: {lt: 2.5}\n  launch:\n    \
         image: i/j:1\n    disk: 200\n    ssh: true\n    direct: true\n    bid_price: 0.5\n    ports: [3000]\n    \
         env: {A: b}\n    onstart: serve | tee log\n    login: -u me\n    cancel_unavail: true\n",
    );
    assert_eq!(text, maps);
    assert_eq!(text.launch, maps.launch);
    assert_eq!(maps.port, 3000);
    mistaken(
        &format!("  search: {{num_gpus: {{atleast: 3}}, gpu_ram: [1, 2]}}\n{LAUNCH}{SEARCH}"),
        &["e.yaml:5:11: search_params and search together"],
    );
    mistaken(
        &format!("  search: {{num_gpus: {{atleast: 3}}, gpu_ram: [1, 2]}}\n{LAUNCH}"),
        &[
            "e.yaml:5:23: atleast is no operator",
            "e.yaml:5:45: gpu_ram is a list",
        ],
    );
}

#[test]
fn the_engines_port_is_the_only_one_mapped_or_the_one_that_is_named() {
    let port = |more: &str| launch_of(&format!("{SEARCH}{more}")).port;
    assert_eq!(
        port("  launch_args: --image i --env '-p 3000:3000'\n"),
        3000
    );
    assert_eq!(
        port("  launch_args: --image i --env '-p 22:22 -p 80:80'\n"),
        80
    );
    assert_eq!(
        port("  launch_args: --image i --env '-p 22:22 -p 8000:9000'\n  port: 9000\n"),
        9000
    );
    mistaken(
        &format!("{SEARCH}{LAUNCH}  port: 81\n"),
        &["e.yaml:7:9: the engine's port 81 is not mapped to the outside"],
    );
}

#[test]
fn keys_come_from_the_environment_or_a_file_and_groups_may_have_their_own() {
    let config = read(&format!("{SEARCH}{LAUNCH}  api_key_env: OTHER_KEY\n")).expect("right");
    let key = config.server.vast.api_key.as_ref().expect("a key");
    assert_eq!(key.expose(), "key-of-VAST_API_KEY");
    assert!(!format!("{config:?}").contains("key-of"));
    let Source::Vast(launch) = &config.endpoints[0].groups[0].source else {
        panic!("of another market")
    };
    let key = launch.account_key.as_ref().expect("a key");
    assert_eq!(key.expose(), "key-of-OTHER_KEY");
    mistaken(
        &format!("{SEARCH}{LAUNCH}  api_key_env: sesame-opens-every-door\n"),
        &["e.yaml:7:16: api_key_env is no name of a variable"],
    );
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, "key-in-a-file\n").expect("written");
    let server = |text: String| {
        let endpoint = file("e.yaml", &format!("{BEFORE}{SEARCH}{LAUNCH}"));
        parse(&file("tidegate.yaml", &text), &[endpoint], &|_| None)
    };
    let config = server(format!("vast: {{api_key_file: {}}}\n", path.display())).expect("right");
    assert_eq!(
        config.server.vast.api_key.expect("a key").expose(),
        "key-in-a-file"
    );
    let said = server("vast: {api_key: written-out}\n".to_owned()).expect_err("written out");
    assert!(
        said.to_string()
            .starts_with("tidegate.yaml:1:17: api_key is written out"),
        "{said}"
    );
    let warnings = server(String::new()).expect("right").warnings;
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("there is no key of Vast"), "{said:?}");
    assert!(said[1].contains("without public_url"), "{said:?}");
}

#[test]
fn a_volume_may_be_linked_and_none_is_made_for_each_rental() {
    let launch = |volume: &str| {
        format!("{SEARCH}  launch_args: --image i --env '-p 80:80' {volume} --mount-path /models\n")
    };
    let linked = launch_of(&launch("--link-volume 7")).launch.volume;
    let linked = linked.expect("a volume");
    assert_eq!((linked.id, linked.create), (7, false));
    mistaken(
        &launch("--create-volume 7 --volume-size 20"),
        &["e.yaml:6:59: a new volume for each rental, which nothing would delete or count"],
    );
    mistaken(
        &format!(
            "{SEARCH}  launch: {{image: i, ports: [80], create_volume: 7, mount_path: /models}}\n"
        ),
        &["e.yaml:6:50: a new volume for each rental"],
    );
}
