//! A configuration's text, as an operator mistypes it.

use tidegate::config::{SourceFile, parse};

const SERVER: &str = include_str!("../../../conf/tidegate.yaml");
const ENDPOINT: &str = include_str!("../../../conf/endpoints/smollm2.yaml");

/// Parts the server's file from the endpoint's.
const BETWEEN: u8 = 0;

pub(super) fn check(input: &[u8]) {
    let mut files = input.splitn(2, |byte| *byte == BETWEEN);
    let mut file = |name: &str| SourceFile {
        name: name.to_owned(),
        text: String::from_utf8_lossy(files.next().unwrap_or_default()).into_owned(),
    };
    let (server, endpoint) = (file("tidegate.yaml"), file("endpoints/a.yaml"));
    let env = |name: &str| (name != "UNSET").then(|| "secret-of-the-environment".to_owned());
    if let Err(mistakes) = parse(&server, &[endpoint], &env) {
        let told = mistakes.to_string();
        assert!(!told.is_empty(), "refused without a reason");
        assert!(
            !told.contains("secret-of-the-environment"),
            "a secret is told: {told}"
        );
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let fixed =
        "endpoint_name: a\nmarket: {kind: fixed, engine: vllm, workers: [{url: \"http://h:1\"}]}\n";
    let keys =
        "listen: 0.0.0.0:80\napi_keys:\n  - {name: a, key: \"${KEY}\"}\nadmin_token: ${UNSET}\n";
    let joined = |server: &str, endpoint: &str| {
        [server.as_bytes(), &[BETWEEN], endpoint.as_bytes()].concat()
    };
    vec![
        joined("", fixed),
        joined(keys, fixed),
        joined(SERVER, ENDPOINT),
    ]
}
