//! The figures of a benchmark and their document.

use std::fmt;
use std::path::Path;

use anyhow::Result;

use super::load::Case;

#[derive(Clone, Debug)]
pub struct Measurement {
    pub proxy: &'static str,
    pub case: Case,
    pub round: usize,
    /// CPU time of the proxy's process per request or event.
    pub micros: f64,
    pub units_per_s: f64,
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "round {}  {:8}  {:6.1} us/{} at {:.0}/s  ({})",
            self.round + 1,
            self.proxy,
            self.micros,
            self.case.unit(),
            self.units_per_s,
            self.case.title(),
        )
    }
}

pub struct Table {
    pub versions: Vec<String>,
    pub pinned: bool,
    pub rounds: usize,
    pub seconds: f64,
    pub measurements: Vec<Measurement>,
}

/// Middle and ends of a set of figures.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Self { min, median, max })
    }

    fn show(spread: Option<Self>, digits: usize) -> String {
        spread.map_or("-".to_owned(), |Self { min, median, max }| {
            format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
        })
    }
}

impl Table {
    fn micros(&self, proxy: &str, case: Case) -> Vec<f64> {
        let of_proxy = |one: &&Measurement| one.proxy == proxy && one.case == case;
        self.measurements
            .iter()
            .filter(of_proxy)
            .map(|one| one.micros)
            .collect()
    }

    /// Within each round, then over the rounds: the machine's drift is in both and falls out.
    fn ratio(&self, case: Case) -> Option<Spread> {
        let pairs = self
            .micros("tidegate", case)
            .into_iter()
            .zip(self.micros("nginx", case));
        Spread::of(pairs.map(|(tidegate, nginx)| tidegate / nginx).collect())
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        crate::harness::write_document(path, &self.document())
    }

    fn document(&self) -> String {
        let pinning = if self.pinned {
            "The proxy is pinned to one CPU, load and backend to another."
        } else {
            "Nothing is pinned: this machine has one CPU or no taskset."
        };
        format!(
            "# What the gateway costs beside nginx\n\n\
             CPU time (user and system, /proc/PID/stat) of the proxy's process, divided by what came through. \
             One worker thread or process each, loopback, HTTP/1.1 with kept connections, {} rounds of {} s for each case and proxy, \
             the proxies in turn. {pinning} Median, and least and most in brackets; the ratio is taken within each round. \
             Single figures move with the machine; the ratio is what can be compared.\n\n\
             Versions: {}\n\n```\nmake bench\n```\n\n{self}",
            self.rounds,
            self.seconds,
            self.versions.join(", "),
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| case | unit | tidegate, us | nginx, us | tidegate / nginx |"
        )?;
        writeln!(f, "|---|---|---|---|---|")?;
        for case in Case::ALL {
            writeln!(
                f,
                "| {} | {} | {} | {} | {} |",
                case.title(),
                case.unit(),
                Spread::show(Spread::of(self.micros("tidegate", case)), 1),
                Spread::show(Spread::of(self.micros("nginx", case)), 1),
                Spread::show(self.ratio(case), 2),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(proxy: &'static str, round: usize, micros: f64) -> Measurement {
        Measurement {
            proxy,
            case: Case::Small,
            round,
            micros,
            units_per_s: 1.0,
        }
    }

    #[test]
    fn the_ratio_is_taken_within_rounds_so_that_drift_falls_out() {
        let table = Table {
            versions: vec!["tidegate 0.1.0".to_owned(), "nginx/1.22.1".to_owned()],
            pinned: true,
            rounds: 3,
            seconds: 4.0,
            measurements: vec![
                one("tidegate", 0, 40.0),
                one("nginx", 0, 20.0),
                one("nginx", 1, 40.0),
                one("tidegate", 1, 80.0),
                one("tidegate", 2, 44.0),
                one("nginx", 2, 20.0),
            ],
        };
        let text = table.document();
        let row = "| request | 44.0 (40.0-80.0) | 20.0 (20.0-40.0) | 2.00 (2.00-2.20) |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("nginx/1.22.1") && text.contains("make bench"));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(vec![]), None);
    }
}
