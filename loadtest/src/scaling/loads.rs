//! The loads that are played.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tidegate::domain::RoutingSettings;
use tidegate::simulate::load::{Arrival, Load, Rates};

use crate::trace::Trace;

/// Prompt tokens that are as much work as one of output.
pub const KAPPA: f64 = 10.0;
const KAPPA_LOW: f64 = 5.0;
/// Mean load in workers.
pub const WORKERS: f64 = 8.0;
const DAY_S: u64 = 86_400;
const WINDOW_S: u64 = 600;
const FORTNIGHT: &str = "servegen_rates_14d_10min.csv";
/// Tokens of a typical request: what the load is uneven by from second to second, beside its curve. The curves do not say.
/// With the fine one a reactive scaler fares as in the reference the aims were taken from; the coarse one is what four
/// requests a second of the day's sizes come to.
const FINE: f64 = 125.0;
const COARSE: f64 = 500.0;
/// Mean load of the curves, tokens a second.
const MEAN: f64 = 1_000.0;

/// A load, and how lateness is promised and counted on it.
#[derive(Clone, Debug)]
pub struct NamedLoad {
    pub name: String,
    pub what: String,
    /// Different for each seed where a curve is all that is known.
    source: Source,
    pub count_from: Duration,
    pub late_share: f64,
}

#[derive(Clone, Debug)]
enum Source {
    Curve { rates: Arc<Rates>, request: f64 },
    Requests { load: Arc<Load>, kappa: f64 },
}

impl NamedLoad {
    /// One of the two that the aims name.
    pub fn is_of_aims(&self) -> bool {
        ["m_large_14d", "mlarge_1d"].contains(&self.name.as_str())
    }

    /// It can be played request by request: prompts weigh in it what the gateway takes them for.
    pub fn has_requests(&self) -> bool {
        let kappa = RoutingSettings::default().kappa;
        matches!(self.source, Source::Requests { kappa: of, .. } if of == kappa)
    }

    pub fn of(&self, seed: u64) -> Load {
        match &self.source {
            Source::Curve { rates, request } => Load::of_rates(rates, MEAN, *request, seed),
            Source::Requests { load, .. } => Load::clone(load),
        }
    }
}

pub struct Loads(Vec<NamedLoad>);

impl Loads {
    pub fn read(traces: Option<&Path>, only: &[String]) -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let folder = traces.map_or(repository, PathBuf::from);
        let mut loads = fortnight(&folder.join(FORTNIGHT))?;
        if traces.is_some() {
            loads.extend(day(&folder.join("servegen_mlarge_1d.csv"))?);
        }
        loads.retain(|load| only.is_empty() || only.contains(&load.name));
        Ok(Self(loads))
    }

    pub fn iter(&self) -> impl Iterator<Item = &NamedLoad> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The column of the aims, and two that nothing was tuned on.
fn fortnight(path: &Path) -> Result<Vec<NamedLoad>> {
    let read = || csv::Reader::from_path(path);
    let context = || format!("cannot read the rates {}", path.display());
    let headers = read().with_context(context)?.headers()?.clone();
    let mut loads = Vec::new();
    for (column, name, request) in [
        ("m_large_rps", "m_large_14d", FINE),
        ("m_large_rps", "m_large_14d_coarse", COARSE),
        ("m_mid_rps", "m_mid_14d", FINE),
        ("m_small_rps", "m_small_14d", FINE),
    ] {
        let place = headers.iter().position(|header| header == column);
        let place = place.with_context(|| format!("no column {column} in {}", path.display()))?;
        let rates = read().with_context(context)?.into_records().map(|row| {
            let row = row?;
            let rate: f64 = match row.get(place).unwrap_or_default() {
                "" => 0.0,
                rate => rate.parse()?,
            };
            Ok((rate > 0.0).then_some(rate))
        });
        let rates = Rates {
            window_s: WINDOW_S,
            rates: rates.collect::<Result<_>>().with_context(context)?,
        };
        loads.push(NamedLoad {
            name: name.to_owned(),
            what: format!(
                "`{column}` of the fortnight in requests of {request:.0} tokens at {MEAN:.0} tokens/s; days 8 to 14 counted, the first week teaches."
            ),
            source: Source::Curve {
                rates: Arc::new(rates),
                request,
            },
            count_from: Duration::from_secs(7 * DAY_S),
            late_share: 0.003,
        });
    }
    Ok(loads)
}

fn day(path: &Path) -> Result<Vec<NamedLoad>> {
    let requests = Trace::read(path)?.requests.into_iter();
    let requests = requests.map(|request| Arrival {
        at_s: request.arrival_s,
        prompt_tokens: request.input_tokens,
        output_tokens: request.output_tokens,
    });
    let requests: Vec<Arrival> = requests.collect();
    let heavy = Load::of_requests(requests.clone(), KAPPA_LOW);
    let day = Load::of_requests(requests, KAPPA);
    let half = day.length_s() / 2;
    let named = |name: &str, what: &str, load: Load, kappa: f64| NamedLoad {
        name: name.to_owned(),
        what: what.to_owned(),
        source: Source::Requests {
            load: Arc::new(load),
            kappa,
        },
        count_from: Duration::ZERO,
        late_share: 0.007,
    };
    let halves = [day.part(0, half), day.part(half, day.length_s())];
    let [first, second] = halves;
    Ok(vec![
        named(
            "mlarge_1d",
            "the day's requests, nothing taught before",
            day,
            KAPPA,
        ),
        named("mlarge_1d_first", "its first half", first, KAPPA),
        named("mlarge_1d_second", "its second half", second, KAPPA),
        named(
            "mlarge_1d_prompts",
            "the day, prompts weighing twice as much (kappa 5)",
            heavy,
            KAPPA_LOW,
        ),
    ])
}
