//! Log lines on standard error.

use tracing_subscriber::EnvFilter;

/// Pingora reports stale pooled connections and clients that left as errors; both are ordinary here
/// and counted in metrics. What its handover of sockets says is said better in `app::handover`.
const QUIET: &str = "pingora_core::connectors=off,pingora_core::server::transfer_fd=off,pingora_core=warn,pingora_proxy=off";

/// `filter` in the syntax of `tracing`'s EnvFilter, for example `info` or `tidegate=debug`.
pub fn init(filter: &str) -> Result<(), String> {
    let directives = format!("{QUIET},{filter}");
    let filter = EnvFilter::try_new(&directives).map_err(|error| error.to_string())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .map_err(|error| error.to_string())
}
