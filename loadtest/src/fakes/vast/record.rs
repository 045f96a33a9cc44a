//! What was done to the account: every call that could change something, with its result.

use serde::Serialize;

/// One call.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// Seconds since the start, of this machine, and since 1970.
    pub at_s: f64,
    pub epoch_s: f64,
    /// Position of the key in the list of accounts.
    pub account: Option<usize>,
    /// The instance whose own key it was.
    pub container: Option<u64>,
    pub method: String,
    pub path: String,
    /// The label it carried.
    pub label: Option<String>,
    /// Where it made one.
    pub instance: Option<u64>,
    pub status: u16,
    /// The error's name, where it is one.
    pub error: Option<String>,
    /// It took effect.
    pub done: bool,
    /// Its answer was sent whole.
    pub answered: bool,
}

/// All of them, oldest first.
#[derive(Debug, Default)]
pub struct Record {
    pub calls: Vec<Call>,
    /// Calls of any kind so far: faults of calls are drawn by this number.
    pub number: u64,
}
