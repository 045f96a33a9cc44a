//! Middle and ends of repeated figures, and ratios within a round.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Some(Self {
            least,
            median,
            most,
        })
    }

    pub fn show(self, digits: usize) -> String {
        let Self {
            least,
            median,
            most,
        } = self;
        format!("{median:.digits$} ({least:.digits$}-{most:.digits$})")
    }
}

/// Figures of rounds over another's of the same rounds: the machine's drift is in both and falls out.
pub(super) fn ratio(ours: &[(usize, f64)], theirs: &[(usize, f64)]) -> Option<Spread> {
    Spread::of(ours.iter().filter_map(|(round, our)| {
        let (_, their) = theirs.iter().find(|(other, _)| other == round)?;
        (*their > 0.0).then(|| our / their)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_rounds_so_that_drift_falls_out() {
        let ours = [(0, 40.0), (1, 80.0), (2, 44.0), (3, 9.0)];
        let theirs = [(1, 40.0), (0, 20.0), (2, 20.0)];
        let got = ratio(&ours, &theirs).unwrap();
        assert_eq!((got.least, got.median, got.most), (2.0, 2.0, 2.2));
        assert_eq!(got.show(1), "2.0 (2.0-2.2)");
        assert_eq!(ratio(&ours, &[]), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of([]), None);
    }
}
