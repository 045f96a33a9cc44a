//! What arrives in a simulated world: requests one by one, or only work by the second.

use super::chance::SplitMix;

/// A request as a trace has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    pub at_s: f64,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
}

impl Arrival {
    /// In output-equivalent tokens.
    pub fn work(&self, kappa: f64) -> f64 {
        f64::from(self.output_tokens) + f64::from(self.prompt_tokens) / kappa
    }
}

/// Arrivals of one endpoint, from second 0 on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// In order; empty where a curve is all that is known.
    pub requests: Vec<Arrival>,
    /// Output-equivalent tokens that arrive in each second.
    pub work: Vec<f64>,
}

/// A curve of rates: one for each window, `None` where nothing was collected.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    pub window_s: u64,
    pub rates: Vec<Option<f64>>,
}

impl Load {
    /// `requests` in order of arrival; `kappa` prompt tokens are as much work as one of output.
    pub fn of_requests(requests: Vec<Arrival>, kappa: f64) -> Self {
        let length = requests
            .last()
            .map_or(0, |last| last.at_s.max(0.0) as usize + 1);
        let mut work = vec![0.0; length];
        for request in &requests {
            work[request.at_s.max(0.0) as usize] += request.work(kappa);
        }
        Self { requests, work }
    }

    /// Work that follows a curve, scaled to `mean` tokens a second. A window's rate is that of its middle; between two
    /// middles it changes evenly. Each second's work is drawn (gamma) around it with a variance of `dispersion` times
    /// it: the tokens of a typical request for Poisson arrivals, more for burstier ones, 0 for the curve itself. Windows
    /// without a rate are left out, as if no time had passed.
    pub fn of_rates(rates: &Rates, mean: f64, dispersion: f64, seed: u64) -> Self {
        let known: Vec<f64> = rates.rates.iter().flatten().copied().collect();
        let average = known.iter().sum::<f64>() / known.len().max(1) as f64;
        let scale = if average > 0.0 { mean / average } else { 0.0 };
        let mut work = Vec::with_capacity(known.len() * rates.window_s as usize);
        for window in 0..known.len() {
            let mut chance = SplitMix::about(seed, "arrivals", window as u64);
            for second in 0..rates.window_s {
                let place = (second as f64 + 0.5) / rates.window_s as f64 - 0.5;
                let expected = scale * between(&known, window, place);
                work.push(if dispersion > 0.0 {
                    chance.gamma(expected / dispersion) * dispersion
                } else {
                    expected
                });
            }
        }
        Self {
            requests: Vec::new(),
            work,
        }
    }

    pub fn length_s(&self) -> usize {
        self.work.len()
    }

    /// All work from second `from_s` on.
    pub fn total_from(&self, from_s: usize) -> f64 {
        self.work.iter().skip(from_s).sum()
    }

    /// Mean tokens a second.
    pub fn mean(&self) -> f64 {
        self.total_from(0) / self.length_s().max(1) as f64
    }

    /// The seconds from `from_s` to before `to_s`, as a load of its own.
    pub fn part(&self, from_s: usize, to_s: usize) -> Self {
        let to_s = to_s.min(self.length_s());
        let from_s = from_s.min(to_s);
        let within =
            |request: &&Arrival| (from_s as f64..to_s as f64).contains(&request.at_s.max(0.0));
        let requests = self.requests.iter().filter(within);
        Self {
            requests: requests
                .map(|request| Arrival {
                    at_s: request.at_s - from_s as f64,
                    ..*request
                })
                .collect(),
            work: self.work[from_s..to_s].to_vec(),
        }
    }

    /// Mean tokens a second in steps of `step_s`.
    pub fn means(&self, step_s: usize) -> Vec<f64> {
        let steps = self.work.chunks(step_s.max(1));
        steps
            .map(|step| step.iter().sum::<f64>() / step.len() as f64)
            .collect()
    }
}

/// The curve at `place` windows from the middle of a window, in -0.5 to 0.5.
fn between(rates: &[f64], window: usize, place: f64) -> f64 {
    let neighbour = if place < 0.0 {
        window.saturating_sub(1)
    } else {
        (window + 1).min(rates.len() - 1)
    };
    rates[window] + place.abs() * (rates[neighbour] - rates[window])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(at_s: f64, prompt_tokens: u32, output_tokens: u32) -> Arrival {
        Arrival {
            at_s,
            prompt_tokens,
            output_tokens,
        }
    }

    #[test]
    fn requests_become_work_in_the_second_they_arrive() {
        let load = Load::of_requests(vec![request(0.2, 500, 50), request(2.9, 0, 10)], 5.0);
        assert_eq!(load.work, [150.0, 0.0, 10.0]);
        assert_eq!(load.part(1, 3).requests, [request(1.9, 0, 10)]);
        assert_eq!(load.means(2), [75.0, 10.0]);
    }

    #[test]
    fn a_curve_keeps_its_shape_its_mean_and_its_dispersion() {
        let rates = Rates {
            window_s: 20_000,
            rates: vec![Some(1.0), Some(1.0), None, Some(4.0)],
        };
        let plain = Load::of_rates(&rates, 100.0, 0.0, 1);
        assert_eq!(plain.length_s(), 60_000);
        let at = |second: usize| plain.work[second].round();
        assert_eq!(
            [0, 20_000, 40_000, 59_000].map(at),
            [50.0, 50.0, 125.0, 200.0]
        );
        let drawn = Load::of_rates(&rates, 100.0, 200.0, 1);
        assert_eq!(drawn, Load::of_rates(&rates, 100.0, 200.0, 1));
        let first = &drawn.work[..20_000];
        let mean = first.iter().sum::<f64>() / 20_000.0;
        let variance = first.iter().map(|work| (work - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!((mean / 50.0 - 1.0).abs() < 0.05, "{mean}");
        assert!((variance / mean / 200.0 - 1.0).abs() < 0.1, "{variance}");
    }
}
