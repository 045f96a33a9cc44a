//! A TLS listener whose certificate changes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Certificate, Client};
use tempfile::TempDir;

use crate::harness::{free_port, http_client};

pub(super) struct Secured {
    folder: TempDir,
    port: u16,
}

impl Secured {
    pub(super) fn new() -> Result<Self> {
        // Installs the TLS provider.
        http_client()?;
        let secured = Self {
            folder: tempfile::tempdir()?,
            port: free_port()?,
        };
        secured.renew()?;
        Ok(secured)
    }

    /// For `tidegate.yaml`.
    pub(super) fn setting(&self) -> String {
        format!(
            "tls: {{listen: '127.0.0.1:{}', cert: '{}', key: '{}'}}",
            self.port,
            self.file("cert.pem").display(),
            self.file("key.pem").display()
        )
    }

    pub(super) fn base_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// As renewing programs do it: certificate and key, one after the other.
    pub(super) fn renew(&self) -> Result<()> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        std::fs::write(self.file("cert.pem"), made.cert.pem())?;
        std::fs::write(self.file("key.pem"), made.signing_key.serialize_pem())?;
        Ok(())
    }

    /// Trusts whatever it meets: it is there for the answers.
    pub(super) fn trusting_client(&self, keeps: bool) -> Result<Client> {
        Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .pool_max_idle_per_host(if keeps { usize::MAX } else { 0 })
            .build()
            .context("cannot make a client")
    }

    /// A new connection meets the certificate of this moment.
    pub(super) async fn is_served(&self) -> bool {
        let asked = async {
            let trusted = std::fs::read(self.file("cert.pem"))?;
            let client = Client::builder()
                .no_proxy()
                .tls_certs_only([Certificate::from_pem(&trusted)?])
                .timeout(Duration::from_secs(5))
                .build()?;
            let answer = client.get(format!("{}/health", self.base_url())).send();
            anyhow::Ok(answer.await?.status().is_success())
        };
        asked.await.unwrap_or(false)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
