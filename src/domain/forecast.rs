//! What load to be ready for, as it was foretold.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TokensPerSecond;

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadForecast {
    /// The least capacity with which nothing waits too long, expected over the time that a restart takes.
    pub need: TokensPerSecond,
    /// By how much that may be exceeded: what the covered share of the surprises comes to.
    pub surprise: TokensPerSecond,
    /// Load that has lasted: less than this is not enough for long.
    pub lasting: TokensPerSecond,
    /// What the load may grow to within a cold start.
    pub pool: TokensPerSecond,
    /// Share of the surprises that is covered.
    pub covered: f64,
    /// How many times the load may grow within a cold start.
    pub growth: f64,
    /// Share of the work of the last day that waited too long.
    #[serde(default)]
    pub late_share: f64,
}

impl fmt::Display for LoadForecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} tokens/s needed soon and {:.0} more to be ready for {:.1}% of the surprises; up to {:.0} within a cold \
             start; {:.2}% of the last day's work was late",
            self.need.0,
            self.surprise.0,
            100.0 * self.covered,
            self.pool.0,
            100.0 * self.late_share
        )
    }
}
