//! Small words of configurations: quantities with a unit, ranges in messages, the nearest known key.

use std::ops::RangeInclusive;

/// Seconds; longer endings first.
pub(super) const TIME_UNITS: &[(&str, f64)] =
    &[("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)];
pub(super) const BYTE_UNITS: &[(&str, f64)] = &[
    ("KiB", 1_024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("B", 1.0),
];

/// A number with one of the units.
pub(super) fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let number: f64 = number.trim().parse().ok()?;
    number.is_finite().then_some(number * factor)
}

/// A range in words; `kind` is "" or what kind of number, with a blank behind it.
pub(super) fn between(range: &RangeInclusive<f64>, kind: &str) -> String {
    let kind = if kind.is_empty() { "a number " } else { kind };
    format!("{kind}from {} to {}", range.start(), range.end())
}

pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|key| (distance(name, key), *key))
        .filter(|(distance, _)| *distance <= 1 + name.chars().count() / 4)
        .min()
        .map(|(_, key)| key)
}

/// Levenshtein: insertions, deletions and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
