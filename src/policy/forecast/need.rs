//! How much capacity would have been enough.

use std::collections::VecDeque;

/// The least constant capacity with which nothing that arrived in these bins (loads, in time order) waits longer than
/// `wait_bins`: what arrives within any `w` from the start must be done within `w` and the wait.
pub(super) fn of(loads: &VecDeque<f32>, wait_bins: f64) -> f64 {
    let mut work = 0.0;
    let mut need = 0.0_f64;
    for (bin, load) in loads.iter().enumerate() {
        work += f64::from(*load);
        // One bin alone says too little: it may hold the one request of a minute.
        if bin > 0 {
            need = need.max(work / ((bin + 1) as f64 + wait_bins));
        }
    }
    need
}
