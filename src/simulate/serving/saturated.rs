//! What a modelled worker does while far more is asked of it than it can do: the truth that estimates are held against.

use super::worker::{Job, ModelledWorker};
use super::{Arrival, MachineLaw};

/// Filling and emptying the batch is not measured: shares of the time until the last request begins.
const MEASURED: (f64, f64) = (0.1, 0.9);

/// Output-equivalent tokens a second, all requests being there from the start; `kappa` prompt tokens count as one. The
/// engine keeps room for whole answers.
pub fn saturated(law: MachineLaw, requests: &[Arrival], kappa: f64) -> f64 {
    let mut worker = ModelledWorker::new(law);
    for (id, request) in requests.iter().enumerate() {
        worker.submit(Job {
            id,
            prompt_tokens: request.prompt_tokens,
            output_tokens: request.output_tokens,
            reserve_tokens: u32::MAX,
        });
    }
    // When something was done, and how much.
    let mut done: Vec<(f64, f64)> = Vec::new();
    let (mut at_s, mut last_begun_s) = (0.0, 0.0);
    let mut begun = vec![false; requests.len()];
    let mut emissions = Vec::new();
    while let Some(took_s) = worker.begin() {
        at_s += took_s;
        emissions.clear();
        worker.end(&mut emissions);
        let mut work = 0.0;
        for emission in &emissions {
            work += 1.0;
            if !std::mem::replace(&mut begun[emission.id], true) {
                work += f64::from(requests[emission.id].prompt_tokens) / kappa;
                last_begun_s = at_s;
            }
        }
        done.push((at_s, work));
    }
    let (from_s, to_s) = (MEASURED.0 * last_begun_s, MEASURED.1 * last_begun_s);
    let within = done
        .iter()
        .filter(|(at_s, _)| (from_s..to_s).contains(at_s));
    within.map(|(_, work)| work).sum::<f64>() / (to_s - from_s).max(f64::MIN_POSITIVE)
}
