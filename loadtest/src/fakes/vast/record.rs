//! What was asked: every call that could change something, with its result, and the last searches.

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::Value;

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
    /// As it was sent.
    pub body: Value,
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

/// One search and what it found.
#[derive(Clone, Debug, Serialize)]
pub struct Search {
    pub at_s: f64,
    pub body: Value,
    pub offers: Vec<Value>,
}

const SEARCHES_MAX: usize = 100;

/// All of them, oldest first.
#[derive(Debug, Default)]
pub struct Record {
    pub calls: Vec<Call>,
    pub searches: VecDeque<Search>,
    /// Calls of any kind so far: faults of calls are drawn by this number.
    pub number: u64,
}

impl Record {
    /// Keeps a search, and forgets the oldest beyond a hundred.
    pub fn searched(&mut self, search: Search) {
        if self.searches.len() == SEARCHES_MAX {
            self.searches.pop_front();
        }
        self.searches.push_back(search);
    }
}
