//! `connections` and `tls`: defaults, and certificates that cannot be used.

use std::fs;

use rcgen::generate_simple_self_signed;

use super::*;

/// A directory with a certificate and its key, a second key, and the text of a `tls` section.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let pair = |name: &str| {
            let made = generate_simple_self_signed(["localhost".to_owned()]).expect("made");
            let write = |ending: &str, text: String| {
                fs::write(dir.path().join(format!("{name}.{ending}")), text).expect("written");
            };
            write("crt", made.cert.pem());
            write("key", made.signing_key.serialize_pem());
        };
        pair("one");
        pair("other");
        fs::write(dir.path().join("empty"), "").expect("written");
        Self(dir)
    }

    fn tls(&self, cert: &str, key: &str) -> String {
        let dir = self.0.path().display();
        format!("tls: {{listen: '127.0.0.1:8443', cert: '{dir}/{cert}', key: '{dir}/{key}'}}\n")
    }

    #[track_caller]
    fn check(&self, cert: &str, key: &str, expected: &[&str]) {
        let said = match parse_both(&self.tls(cert, key), GOOD) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said} without {expected}");
        }
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_a_mistake_in_its_place() {
    let files = Files::new();
    files.check("one.crt", "one.key", &[]);
    files.check(
        "one.crt",
        "other.key",
        &["is not the key of this certificate"],
    );
    files.check("none", "one.key", &["cannot be read"]);
    files.check(
        "empty",
        "empty",
        &["has no certificate in it", "has none in it"],
    );
    files.check(
        "one.key",
        "one.crt",
        &["has no certificate in it", "has none in it"],
    );
    check_server(
        "tls: {listen: '127.0.0.1:8443'}\n",
        &[
            "tidegate.yaml:1:6: cert is missing",
            "tidegate.yaml:1:6: key is missing",
        ],
    );
}

#[test]
fn a_tls_listener_needs_a_port_of_its_own_and_keys() {
    let files = Files::new();
    let with = |listen: &str, more: &str| {
        let tls = files.tls("one.crt", "one.key");
        let server = format!("{}{more}", tls.replace("127.0.0.1:8443", listen));
        parse_both(&server, GOOD)
            .err()
            .map(|mistakes| mistakes.to_string())
    };
    let said = with("127.0.0.1:8080", "").expect("listen has it");
    assert!(said.contains("the same as another listener"), "{said}");
    let said = with("0.0.0.0:8443", "").expect("open");
    assert!(
        said.contains("open to the network without API keys"),
        "{said}"
    );
    assert_eq!(
        with("0.0.0.0:8443", "api_keys: [{name: a, key: '${KEY}'}]\n"),
        None
    );
    assert!(
        with("127.0.0.1:0", "")
            .expect("no port")
            .contains("has no port")
    );
}

#[test]
fn connections_are_bounded_without_being_told() {
    let limits = parse_both("", GOOD).expect("right").server.connections;
    assert_eq!(limits.connections_max, 10_000);
    assert_eq!(limits.per_address_max, usize::MAX, "0 is no limit");
    let server = "connections: {max_per_address: 7, header_timeout: 500ms}\n";
    let limits = parse_both(server, GOOD).expect("right").server.connections;
    assert_eq!(limits.per_address_max, 7);
    assert_eq!(limits.header_timeout, Duration::from_millis(500));
    check_server(
        "connections: {max_headers: 300}\n",
        &["tidegate.yaml:1:28: max_headers is 300, which is out of range"],
    );
}
