//! Log lines on standard error, and how many of them told of trouble.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, Opts};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// Pingora reports stale pooled connections and clients that left as errors; both are ordinary here
/// and counted in metrics. What its handover of sockets says is said better in `app::handover`.
const QUIET: &str = "pingora_core::connectors=off,pingora_core::server::transfer_fd=off,pingora_core=warn,pingora_proxy=off";

/// Of the whole process, as the log is.
pub(super) static LOG_LINES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let opts = Opts::new(
        "tidegate_log_lines_total",
        "Lines of the log that told of trouble, by level: what has no metric of its own shows here.",
    );
    let lines = IntCounterVec::new(opts, &["level"]).expect("a constant name and label");
    for level in ["error", "warn"] {
        lines.with_label_values(&[level]);
    }
    lines
});

/// `filter` in the syntax of `tracing`'s EnvFilter, for example `info` or `tidegate=debug`.
pub fn init(filter: &str) -> Result<(), String> {
    let directives = format!("{QUIET},{filter}");
    let filter = EnvFilter::try_new(&directives).map_err(|error| error.to_string())?;
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(CountTrouble)
        .try_init()
        .map_err(|error| error.to_string())
}

struct CountTrouble;

impl<S: Subscriber> Layer<S> for CountTrouble {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => return,
        };
        LOG_LINES.with_label_values(&[level]).inc();
    }
}
