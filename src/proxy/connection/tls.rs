//! TLS of the client's side, ended here and not by Pingora's listener: so the handshake has a deadline and a
//! place among the connections, and a reload takes a new certificate.

use std::io;
use std::sync::Arc;

use pingora::protocols::Stream;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::server::TlsStream;

/// Accepts TLS 1.2 and 1.3 with one certificate, and HTTP/2 before HTTP/1.1.
#[derive(Clone)]
pub struct TlsAcceptor(tokio_rustls::TlsAcceptor);

impl TlsAcceptor {
    pub fn new(certified: Arc<CertifiedKey>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self(Arc::new(config).into()))
    }

    pub(super) async fn accept(&self, stream: Stream) -> io::Result<TlsStream<Stream>> {
        self.0.accept(stream).await
    }
}
