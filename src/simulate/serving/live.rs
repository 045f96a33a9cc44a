//! Requests that are waiting or being answered.

use super::gateway::Stream;
use crate::domain::{PredictedCost, RequestShape};
use crate::policy::queueing::Place;

#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Index of its arrival.
    pub id: usize,
    pub shape: RequestShape,
    /// Tokens that are still to be read and made, what was made elsewhere being read again.
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// As it was believed when it arrived.
    pub believed: PredictedCost,
    pub stream: Option<Stream>,
    pub place: Option<Place>,
    pub first_ns: Option<u64>,
    pub sent_ns: u64,
    /// When an engine first began with it.
    pub begun_ns: Option<u64>,
    pub late: bool,
    pub attempts: u32,
    pub resumes: u32,
}

/// A table whose keys are used again.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Option<Live>>,
    free: Vec<usize>,
}

impl Table {
    pub fn add(&mut self, live: Live) -> usize {
        match self.free.pop() {
            Some(key) => {
                self.entries[key] = Some(live);
                key
            }
            None => {
                self.entries.push(Some(live));
                self.entries.len() - 1
            }
        }
    }

    pub fn get(&self, key: usize) -> Option<&Live> {
        self.entries.get(key)?.as_ref()
    }

    pub fn get_mut(&mut self, key: usize) -> Option<&mut Live> {
        self.entries.get_mut(key)?.as_mut()
    }

    pub fn remove(&mut self, key: usize) -> Option<Live> {
        let live = self.entries.get_mut(key)?.take();
        if live.is_some() {
            self.free.push(key);
        }
        live
    }
}
