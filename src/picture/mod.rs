//! A simulated run as a picture: load and capacity by state, waiting, dollars, all over time. SVG, whose text whoever
//! shows it draws: no font is needed where it is made.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    AreaSeries, BLACK, Cartesian2d, ChartBuilder, ChartContext, Color, DrawingArea,
    IntoDrawingArea, LineSeries, RGBColor, Rectangle, SVGBackend, SeriesLabelPosition, WHITE,
};

use crate::simulate::world::Point;

const SIZE: (u32, u32) = (1_200, 900);
/// More points than this are no finer on the picture.
const POINTS_MAX: usize = 1_200;

const READY: RGBColor = RGBColor(120, 190, 130);
const STARTING: RGBColor = RGBColor(240, 190, 90);
const STOPPED: RGBColor = RGBColor(200, 205, 215);
const LOAD: RGBColor = RGBColor(20, 60, 140);
const WANTED: RGBColor = RGBColor(120, 60, 140);
const WAITING: RGBColor = RGBColor(190, 60, 50);
const USD: RGBColor = RGBColor(60, 60, 60);

/// What could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the picture could not be drawn: {0}")]
pub struct DrawError(String);

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// `wait_s`: the longest wait that was promised.
pub fn svg(title: &str, series: &[Point], wait_s: f64) -> Result<String, DrawError> {
    let mut text = String::new();
    draw(&mut text, title, series, wait_s).map_err(|error| DrawError(error.to_string()))?;
    Ok(text)
}

fn draw(
    text: &mut String,
    title: &str,
    series: &[Point],
    wait_s: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let points = thinned(series);
    let (unit_s, unit) = match points.last().map_or(0.0, |last| last.at_s) {
        0.0..7_200.0 => (60.0, "minutes"),
        0.0..180_000.0 => (3_600.0, "hours"),
        _ => (86_400.0, "days"),
    };
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 20))?;
    let (upper, lower) = root.split_vertically(480);
    let (middle, lower) = lower.split_vertically(190);
    let x = |point: &Point| point.at_s / unit_s;
    let end = points.last().map_or(1.0, x).max(1e-9);

    let all = |p: &Point| p.ready_capacity + p.starting_capacity + p.stopped_capacity;
    let highest = most(&points, |p| all(p).max(p.load).max(p.wanted));
    let mut chart = axes(&upper, end, highest, "tokens/s", "")?;
    let area = |of: fn(&Point) -> f64| points.iter().map(move |p| (p.at_s / unit_s, of(p)));
    legend(
        chart.draw_series(AreaSeries::new(
            area(|p| p.ready_capacity + p.starting_capacity + p.stopped_capacity),
            0.0,
            STOPPED.filled(),
        ))?,
        "stopped",
        STOPPED,
    );
    legend(
        chart.draw_series(AreaSeries::new(
            area(|p| p.ready_capacity + p.starting_capacity),
            0.0,
            STARTING.filled(),
        ))?,
        "starting",
        STARTING,
    );
    legend(
        chart.draw_series(AreaSeries::new(
            area(|p| p.ready_capacity),
            0.0,
            READY.filled(),
        ))?,
        "ready",
        READY,
    );
    legend(
        chart.draw_series(LineSeries::new(area(|p| p.wanted), WANTED))?,
        "wanted",
        WANTED,
    );
    legend(
        chart.draw_series(LineSeries::new(area(|p| p.load), LOAD))?,
        "load",
        LOAD,
    );
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;

    let highest = most(&points, |p| p.waiting_s).max(1.5 * wait_s);
    let mut chart = axes(&middle, end, highest, "longest wait, s", "")?;
    chart.draw_series(AreaSeries::new(
        area(|p| p.waiting_s),
        0.0,
        WAITING.filled(),
    ))?;
    let promised = [(0.0, wait_s), (end, wait_s)];
    chart.draw_series(LineSeries::new(promised, BLACK.mix(0.5)))?;

    let highest = most(&points, |p| p.usd);
    let mut chart = axes(&lower, end, highest, "dollars", unit)?;
    chart.draw_series(LineSeries::new(area(|p| p.usd), USD.stroke_width(2)))?;
    root.present()?;
    Ok(())
}

fn axes<'a, 'b>(
    area: &DrawingArea<SVGBackend<'b>, Shift>,
    end: f64,
    highest: f64,
    name: &str,
    below: &str,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>>
where
    'b: 'a,
{
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(if below.is_empty() { 22 } else { 40 })
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, 0.0..(1.05 * highest).max(1e-9))?;
    chart
        .configure_mesh()
        .x_desc(below)
        .y_desc(name)
        .light_line_style(WHITE)
        .draw()?;
    Ok(chart)
}

fn legend<'a>(
    series: &mut plotters::chart::SeriesAnno<'a, SVGBackend<'_>>,
    name: &str,
    color: RGBColor,
) {
    series
        .label(name)
        .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
}

fn most(points: &[Point], of: impl Fn(&Point) -> f64) -> f64 {
    points.iter().map(of).fold(0.0, f64::max)
}

/// Several points become one: the mean of what flows, the highest of what waits, the last of what adds up.
fn thinned(series: &[Point]) -> Vec<Point> {
    let each = series.len().div_ceil(POINTS_MAX).max(1);
    let one = |points: &[Point]| {
        let mean =
            |of: fn(&Point) -> f64| points.iter().map(of).sum::<f64>() / points.len().max(1) as f64;
        let last = points.last().copied().unwrap_or_default();
        Point {
            load: mean(|p| p.load),
            wanted: mean(|p| p.wanted),
            ready_capacity: mean(|p| p.ready_capacity),
            starting_capacity: mean(|p| p.starting_capacity),
            stopped_capacity: mean(|p| p.stopped_capacity),
            waiting_s: most(points, |p| p.waiting_s),
            backlog: most(points, |p| p.backlog),
            ..last
        }
    };
    series.chunks(each).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: usize) -> Vec<Point> {
        let point = |n: usize| Point {
            at_s: n as f64 * 60.0,
            load: 100.0,
            ready_capacity: 120.0,
            waiting_s: if n == 7 { 90.0 } else { 0.0 },
            usd: n as f64,
            ..Point::default()
        };
        (0..points).map(point).collect()
    }

    #[test]
    fn a_fortnight_becomes_a_picture_of_moderate_size_with_its_names() {
        let text = svg("two weeks", &series(20_160), 10.0).expect("drawn");
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        for name in ["two weeks", "ready", "load", "dollars", "days"] {
            assert!(text.contains(name), "{name}");
        }
        assert!(text.len() < 600_000, "{} bytes", text.len());
    }

    #[test]
    fn nothing_and_little_can_be_drawn_too() {
        assert!(svg("nothing", &[], 10.0).is_ok());
        assert!(svg("one", &series(1), 10.0).is_ok());
    }

    #[test]
    fn the_longest_wait_is_kept_when_points_are_put_together() {
        let thin = thinned(&series(10_000));
        assert!(thin.len() <= POINTS_MAX);
        assert_eq!(most(&thin, |p| p.waiting_s), 90.0);
    }
}
