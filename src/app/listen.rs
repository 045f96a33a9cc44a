//! A taken port is said in one line before anything starts.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};

pub(super) fn check_free(address: SocketAddr, key: &str) -> Result<()> {
    TcpListener::bind(address)
        .map(drop)
        .with_context(|| format!("{key}: cannot listen on {address}"))
}

/// Pingora builds listeners in tasks of their own, and a task that fails there leaves a gateway that listens nowhere.
pub(super) fn end_without_listeners() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let said = panic.payload_as_str().unwrap_or_default();
        if said.starts_with("Failed to build listeners") {
            std::process::exit(1);
        }
    }));
}
