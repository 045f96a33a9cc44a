//! How things are shown: tables, times, money; and written where a reader may have gone away.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::domain::{Timestamp, TokensPerSecond, Usd, UsdPerHour};

/// A table without lines; columns whose title begins with `>` are aligned to the right.
pub(super) struct Grid(Table);

impl Grid {
    pub(super) fn new(titles: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(titles.iter().map(|title| title.trim_start_matches('>')));
        for (column, title) in table.column_iter_mut().zip(titles) {
            column.set_padding((0, 2));
            if title.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells);
    }

    /// Each line indented, and ended by a newline.
    pub(super) fn indented(&self, by: usize) -> String {
        let lines = self.0.lines();
        lines
            .map(|line| format!("{:by$}{}\n", "", line.trim_end()))
            .collect()
    }
}

/// To standard output. A reader that has seen enough, as `head` has, is no error.
pub(super) fn print(text: &str) {
    let _ = try_print(text);
}

/// An error is a reader that went away, or a full disk.
pub(super) fn try_print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

pub(super) fn print_json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => eprintln!("{error}"),
    }
}

/// The two largest units: `45s`, `3m12s`, `2h05m`, `3d04h`.
pub(super) fn span(time: Duration) -> String {
    let s = time.as_secs();
    let (m, h, d) = (s / 60, s / 3_600, s / 86_400);
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{m}m{:02}s", s % 60),
        3_600..86_400 => format!("{h}h{:02}m", m % 60),
        _ => format!("{d}d{:02}h", h % 24),
    }
}

pub(super) fn seconds(s: f64) -> String {
    if s < 10.0 {
        return format!("{s:.1}s");
    }
    span(Duration::try_from_secs_f64(s).unwrap_or_default())
}

/// UTC, to the second: `2026-11-25 16:34:31`.
pub(super) fn moment(at: Timestamp) -> String {
    i64::try_from(at.as_millis())
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .map_or_else(|| "?".to_owned(), |at| at.format("%F %T").to_string())
}

pub(super) fn speed(speed: TokensPerSecond) -> String {
    format!("{:.0}", speed.0)
}

/// An hourly price; small ones to a hundredth of a cent.
pub(super) fn price(price: UsdPerHour) -> String {
    dollars(Usd(price.0))
}

/// At least to the cent, small sums to a hundredth of one.
pub(super) fn dollars(usd: Usd) -> String {
    let digits = if usd.0 == 0.0 || usd.0.abs() >= 1.0 {
        2
    } else {
        4
    };
    // A sum that rounds to nothing has no sign.
    let shown = format!("{:.digits$}", usd.0.abs());
    let minus = usd.0 < 0.0 && shown.bytes().any(|b| (b'1'..=b'9').contains(&b));
    format!("{}${shown}", if minus { "-" } else { "" })
}

pub(super) fn requests_wait(requests: usize) -> String {
    match requests {
        1 => "1 request waits".into(),
        _ => format!("{requests} requests wait"),
    }
}

/// At most so many characters; what is cut away is said by a dot.
pub(super) fn short(text: &str, characters: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= characters {
        return line;
    }
    let kept: String = line.chars().take(characters.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        let check = |s, expected| assert_eq!(span(Duration::from_secs(s)), expected);
        check(0, "0s");
        check(59, "59s");
        check(192, "3m12s");
        check(7_500, "2h05m");
        check(273_600, "3d04h");
    }

    #[test]
    fn columns_align_and_lines_have_no_blanks_at_their_end() {
        let mut grid = Grid::new(&["NAME", ">$/H", "SAYS"]);
        grid.row(["a".into(), "0.1".into(), String::new()]);
        grid.row(["longer".into(), "12.25".into(), "pulling".into()]);
        assert_eq!(
            grid.indented(1),
            " NAME      $/H  SAYS\n a         0.1\n longer  12.25  pulling\n"
        );
    }

    #[test]
    fn a_long_message_is_cut_to_one_line() {
        assert_eq!(short("pulling\n image", 20), "pulling image");
        assert_eq!(short("pulling image layers", 8), "pulling…");
    }

    #[test]
    fn small_sums_are_told_more_exactly_than_large_ones() {
        assert_eq!(dollars(Usd(0.0)), "$0.00");
        assert_eq!(dollars(Usd(0.05)), "$0.0500");
        assert_eq!(dollars(Usd(12.345)), "$12.35");
        assert_eq!(dollars(Usd(-0.0024)), "-$0.0024");
        assert_eq!(dollars(Usd(-0.00001)), "$0.0000");
    }

    #[test]
    fn one_request_waits_and_two_wait() {
        assert_eq!(requests_wait(1), "1 request waits");
        assert_eq!(requests_wait(2), "2 requests wait");
    }

    #[test]
    fn a_moment_is_told_in_utc() {
        assert_eq!(moment(Timestamp::from_millis(1_000)), "1970-01-01 00:00:01");
    }
}
