//! A taken port is said in one line before anything starts.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

pub(super) fn check_free(address: SocketAddr, key: &str) -> Result<()> {
    TcpListener::bind(address)
        .map(drop)
        .with_context(|| format!("{key}: cannot listen on {address}"))
}
