//! What Tidegate tells about itself: clock readings, metrics, logs, the decision log.

mod access_line;
mod access_log;
mod clock;
mod decisions;
mod logging;
mod metrics;

pub use access_line::AccessLine;
pub use access_log::AccessLog;
pub use clock::now;
pub use decisions::{DecisionLog, find_decisions};
pub use logging::init as init_logging;
pub use metrics::{FleetGauges, Metrics};
