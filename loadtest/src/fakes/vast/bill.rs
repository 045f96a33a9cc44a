//! What an instance owes, to the microsecond: a rate for each stretch of time between two changes.

use serde::Serialize;

use super::clock::At;

/// Dollars an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub gpu: f64,
    pub storage: f64,
}

/// Dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Charges {
    pub gpu: f64,
    pub storage: f64,
    /// Bytes that came in and went out.
    pub traffic: f64,
    /// Of what time the GPU's dollars are.
    pub gpu_hours: f64,
    pub storage_hours: f64,
}

impl Charges {
    pub fn total(&self) -> f64 {
        self.gpu + self.storage + self.traffic
    }

    pub fn add(&mut self, other: &Self) {
        self.gpu += other.gpu;
        self.storage += other.storage;
        self.traffic += other.traffic;
        self.gpu_hours += other.gpu_hours;
        self.storage_hours += other.storage_hours;
    }
}

#[derive(Clone, Debug)]
struct Stretch {
    from: At,
    to: At,
    rates: Rates,
}

/// The meter of one instance.
#[derive(Clone, Debug)]
pub struct Meter {
    closed: Vec<Stretch>,
    since: At,
    rates: Rates,
    traffic: Vec<(At, f64)>,
}

impl Meter {
    pub fn start(now: At, rates: Rates) -> Self {
        Self {
            closed: Vec::new(),
            since: now,
            rates,
            traffic: Vec::new(),
        }
    }

    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// From now on, other rates.
    pub fn change(&mut self, now: At, rates: Rates) {
        if rates == self.rates {
            return;
        }
        self.closed.push(Stretch {
            from: self.since,
            to: now,
            rates: self.rates,
        });
        (self.since, self.rates) = (now, rates);
    }

    pub fn charge_traffic(&mut self, now: At, usd: f64) {
        self.traffic.push((now, usd));
    }

    /// What came due between two moments.
    pub fn charged(&self, from: At, to: At) -> Charges {
        let open = Stretch {
            from: self.since,
            to,
            rates: self.rates,
        };
        let mut sum = Charges::default();
        for stretch in self.closed.iter().chain([&open]) {
            let (begin, end) = (stretch.from.max(from), stretch.to.min(to));
            let hours = end.since(begin).as_secs_f64() / 3600.0;
            sum.gpu += stretch.rates.gpu * hours;
            sum.storage += stretch.rates.storage * hours;
            sum.gpu_hours += if stretch.rates.gpu > 0.0 { hours } else { 0.0 };
            sum.storage_hours += if stretch.rates.storage > 0.0 {
                hours
            } else {
                0.0
            };
        }
        let traffic = self
            .traffic
            .iter()
            .filter(|(at, _)| *at >= from && *at < to);
        sum.traffic = traffic.map(|(_, usd)| usd).sum();
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;

    #[test]
    fn each_stretch_is_charged_at_its_own_rate_and_windows_add_up() {
        let running = Rates {
            gpu: 2.0,
            storage: 0.5,
        };
        let stopped = Rates {
            gpu: 0.0,
            storage: 0.5,
        };
        let mut meter = Meter::start(At(0), stopped);
        meter.change(At(HOUR), running);
        meter.change(At(3 * HOUR), stopped);
        meter.charge_traffic(At(2 * HOUR), 0.25);
        let whole = meter.charged(At(0), At(4 * HOUR));
        assert_eq!((whole.gpu, whole.storage, whole.traffic), (4.0, 2.0, 0.25));
        assert_eq!((whole.gpu_hours, whole.storage_hours), (2.0, 4.0));
        let mut halves = meter.charged(At(0), At(2 * HOUR));
        halves.add(&meter.charged(At(2 * HOUR), At(4 * HOUR)));
        assert_eq!(halves, whole);
    }

    #[test]
    fn an_ended_instance_owes_no_more() {
        let mut meter = Meter::start(
            At(0),
            Rates {
                gpu: 1.0,
                storage: 1.0,
            },
        );
        meter.change(At(HOUR), Rates::default());
        assert_eq!(meter.charged(At(0), At(9 * HOUR)).total(), 2.0);
    }
}
