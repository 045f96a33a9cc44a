//! The same fleet all the time: what scaling has to beat.

use tidegate::domain::{ScalingPlan, Timestamp};
use tidegate::policy::scaling::ScalingInputs;
use tidegate::simulate::planner::Planner;

use super::orders::{Wanted, towards};

/// Tokens a second; lost workers are replaced.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    pub capacity: f64,
}

impl Fixed {
    /// Enough for `share` of the seconds of `work` (tokens in each), a minute's mean taken.
    pub fn peak(work: &[f64], share: f64) -> Self {
        let mut means: Vec<f64> = work
            .chunks(60)
            .map(|minute| minute.iter().sum::<f64>() / minute.len() as f64)
            .collect();
        means.sort_by(f64::total_cmp);
        let index = (means.len().saturating_sub(1) as f64 * share).round() as usize;
        Self {
            capacity: means.get(index).copied().unwrap_or(0.0),
        }
    }
}

impl Planner for Fixed {
    fn plan(&mut self, inputs: &ScalingInputs, _: Timestamp) -> ScalingPlan {
        let wanted = Wanted::without_reserve(self.capacity, self.capacity, usize::MAX);
        towards(&wanted, inputs)
    }
}
