//! Bars of one figure for everybody, on a logarithmic scale: the slowest is a thousand times the fastest.

use anyhow::{Result, anyhow};
use plotters::prelude::{
    BLACK, Color, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle, SVGBackend, Text,
    WHITE,
};

use super::super::figures::Spread;

const WIDTH: i32 = 760;
const NAMES: i32 = 90;
const VALUES: i32 = 170;
const ROW: i32 = 30;
const HEAD: i32 = 44;

const OURS: RGBColor = RGBColor(20, 60, 140);
const OTHERS: RGBColor = RGBColor(170, 180, 200);

pub(super) struct Bar {
    pub name: String,
    pub ours: bool,
    /// Must be above 0 to be drawn.
    pub spread: Spread,
}

/// SVG, whose text whoever shows it draws: no font is needed where it is made.
pub(super) fn bars(title: &str, unit: &str, bars: &[Bar]) -> Result<String> {
    let mut text = String::new();
    draw(&mut text, title, unit, bars).map_err(|error| anyhow!("{title}: {error}"))?;
    Ok(text)
}

fn draw(
    text: &mut String,
    title: &str,
    unit: &str,
    bars: &[Bar],
) -> Result<(), Box<dyn std::error::Error>> {
    let height = HEAD + ROW * i32::try_from(bars.len())? + 10;
    let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
    let area = SVGBackend::with_string(text, size).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: i32| ("sans-serif", size).into_font();
    area.draw(&Text::new(
        format!("{title} ({unit}, logarithmic)"),
        (12, 12),
        font(17),
    ))?;
    let scale = Scale::over(bars);
    for (bar, n) in bars.iter().zip(0..) {
        let (top, middle) = (HEAD + n * ROW, HEAD + n * ROW + ROW / 2);
        area.draw(&Text::new(bar.name.clone(), (12, middle - 8), font(14)))?;
        let color = if bar.ours { OURS } else { OTHERS };
        let end = scale.place(bar.spread.median);
        area.draw(&Rectangle::new(
            [(NAMES, top + 4), (end, top + ROW - 4)],
            color.filled(),
        ))?;
        let whisker = [scale.place(bar.spread.least), scale.place(bar.spread.most)];
        area.draw(&PathElement::new(
            whisker.map(|x| (x, middle)),
            BLACK.mix(0.6),
        ))?;
        let value = bar.spread.show(1);
        area.draw(&Text::new(
            value,
            (whisker[1].max(end) + 8, middle - 8),
            font(13),
        ))?;
    }
    area.present()?;
    Ok(())
}

/// From a half of the least to the most.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn over(bars: &[Bar]) -> Self {
        let least = bars
            .iter()
            .map(|bar| bar.spread.least)
            .fold(f64::INFINITY, f64::min);
        let most = bars.iter().map(|bar| bar.spread.most).fold(0.0, f64::max);
        Self {
            least: least.max(1e-3) / 2.0,
            most: most.max(1e-2),
        }
    }

    fn place(&self, value: f64) -> i32 {
        let share = (value.max(self.least) / self.least).ln() / (self.most / self.least).ln();
        NAMES + (share * f64::from(WIDTH - NAMES - VALUES)) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_bar_with_name_and_figure_inside_the_picture() {
        let bar = |name: &str, median: f64| Bar {
            name: name.to_owned(),
            ours: name == "tidegate",
            spread: Spread {
                least: median * 0.9,
                median,
                most: median * 1.1,
            },
        };
        let all = [
            bar("tidegate", 40.0),
            bar("nginx", 20.0),
            bar("litellm", 12_600.0),
        ];
        let text = bars("CPU time of a request", "us", &all).unwrap();
        for wanted in ["tidegate", "litellm", "12600.0", "CPU time of a request"] {
            assert!(text.contains(wanted), "no {wanted} in {text}");
        }
        let scale = Scale::over(&all);
        assert!(scale.place(20.0) > NAMES && scale.place(13_860.0) <= WIDTH - VALUES);
    }
}
