//! `connections` and `tls`: what clients' connections may hold, how slow they may be, and how they are secured.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::section::{Section, shown};
use super::tree::{NOTHING, Node};
use crate::domain::ConnectionLimits;

const KIB: usize = 1 << 10;

/// A listener of its own for TLS.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub listen: SocketAddr,
    /// The certificate's and its key's.
    pub files: [PathBuf; 2],
    /// Read and checked: the key belongs to the certificate.
    pub certified: Arc<CertifiedKey>,
}

pub(super) fn limits(s: &Section) -> ConnectionLimits {
    let node = s.get("connections").unwrap_or(&NOTHING);
    let c = s.reader.section(node, "connections");
    let limits = ConnectionLimits {
        connections_max: c.count("max", 10_000, 1..=1_000_000) as usize,
        per_address_max: none_is_all(c.count("max_per_address", 0, 0..=1_000_000)),
        header_timeout: c.duration("header_timeout", 10.0, 0.05..=600.0),
        idle_timeout: c.duration("idle_timeout", 60.0, 0.1..=86_400.0),
        write_timeout: c.duration("write_timeout", 60.0, 0.1..=3_600.0),
        requests_max: c.count("max_requests", 10_000, 1..=u32::MAX),
        header_bytes_max: c.bytes("max_header_bytes", 32 * KIB, 1_024..=512 * KIB),
        header_count_max: c.count("max_headers", 100, 8..=250) as usize,
        uri_bytes_max: c.bytes("max_uri_bytes", 8 * KIB, 64..=64 * KIB),
        send_buffer_bytes: c.bytes("send_buffer", 256 * KIB, 4 * KIB..=16 * KIB * KIB),
        http2_streams_max: c.count("http2_max_streams", 100, 1..=10_000),
        http2_idle_timeout: c.duration("http2_idle_timeout", 60.0, 0.1..=86_400.0),
    };
    s.show("connections", c.finish());
    limits
}

fn none_is_all(max: u32) -> usize {
    match max {
        0 => usize::MAX,
        max => max as usize,
    }
}

pub(super) fn tls(s: &Section) -> Option<TlsConfig> {
    let Some(node) = s.get("tls") else {
        s.show("tls", serde_json::Value::Null);
        return None;
    };
    let t = s.reader.section(node, "tls");
    let expected = "an address and port such as 0.0.0.0:8443";
    let listen = t.required("listen", expected).map(|node| {
        let default = SocketAddr::from(([127, 0, 0, 1], 8443));
        let listen = t.parsed("listen", default, expected);
        if listen.port() == 0 {
            let what = "listen has no port";
            t.reader.mistake_at(node, what, expected);
        }
        listen
    });
    let cert = path(&t, "cert", "a PEM file with the certificate and its chain");
    let key = path(&t, "key", "a PEM file with the certificate's private key");
    let (files, certified) = match (cert, key) {
        (Some(cert), Some(key)) => (
            Some([cert.1.clone(), key.1.clone()]),
            certified(&t, cert, key),
        ),
        _ => (None, None),
    };
    s.show("tls", t.finish());
    Some(TlsConfig {
        listen: listen?,
        files: files?,
        certified: Arc::new(certified?),
    })
}

fn path<'n>(t: &Section<'n, '_>, key: &'static str, expected: &str) -> Option<(&'n Node, PathBuf)> {
    let node = t.required(key, expected)?;
    let path = t.parsed(key, String::new(), expected);
    (!path.is_empty()).then(|| (node, PathBuf::from(path)))
}

fn certified(
    t: &Section,
    (cert_node, cert): (&Node, PathBuf),
    (key_node, key): (&Node, PathBuf),
) -> Option<CertifiedKey> {
    let chain = chain(&cert);
    if let Err(why) = &chain {
        mistake(t, cert_node, "cert", why);
    }
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| in_words(&key, &error));
    if let Err(why) = &private {
        mistake(t, key_node, "key", why);
    }
    // Both are read before either is refused: two mistakes are told at once.
    let (chain, private) = (chain.ok()?, private.ok()?);
    match CertifiedKey::from_der(chain, private, &ring::default_provider()) {
        Ok(certified) => Some(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            mistake(t, key_node, "key", "is not the key of this certificate");
            None
        }
        Err(error) => {
            mistake(t, cert_node, "cert", &format!("cannot be used: {error}"));
            None
        }
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = |error: &_| in_words(path, error);
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| read(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| read(&error))?;
    if chain.is_empty() {
        return Err("has no certificate in it".to_owned());
    }
    Ok(chain)
}

fn in_words(path: &Path, error: &rustls::pki_types::pem::Error) -> String {
    use rustls::pki_types::pem::Error as E;
    match error {
        E::Io(error) => format!("cannot be read: {error}"),
        E::NoItemsFound if path.is_file() => "has none in it".to_owned(),
        other => format!("is not PEM: {other}"),
    }
}

fn mistake(t: &Section, node: &Node, key: &str, why: &str) {
    let what = format!("{key} {} {why}", shown(node));
    let expected = "PEM files of a certificate and its private key";
    t.reader.mistake_at(node, what, expected);
}
