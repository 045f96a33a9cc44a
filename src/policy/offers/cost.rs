//! What a token of an offered machine is expected to cost, all in.

use std::time::Duration;

use crate::domain::{Hardware, OfferSettings, UsdPerHour, WhyNot, WorkerGroup};

/// Share of a machine's stated download speed that one download gets, and the most any registry gives.
const DOWN_SHARE: f64 = 0.5;
const DOWN_MBIT_MAX: f64 = 2_500.0;
const DOWN_MBIT_MIN: f64 = 10.0;
/// From the order to the first byte, and from the last byte to the first healthy answer.
const QUEUE_S: f64 = 10.0;
const LOAD_S: f64 = 60.0;
/// What an answer's token weighs on the wire as an event of a stream, with what its prompt weighed.
const UP_GB_PER_TOKEN: f64 = 250.0 / 1e9;
/// A bid worker is lost now and then; so many more of them are kept.
pub(super) const SPARES: f64 = 0.1;

/// Expected of one rental.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outlook {
    pub start_s: f64,
    pub life_s: f64,
    pub usd_per_token: f64,
}

pub(super) struct Terms {
    pub usd_per_hour: UsdPerHour,
    pub interruptible: bool,
    pub tokens_per_second: f64,
    pub chance: f64,
    pub hazard_per_hour: f64,
}

/// `E$ = price * (life + start) + downloads + traffic`, over `speed * life * chance` tokens. The start counts as if
/// it were paid in full: capacity that comes late is worth less.
pub(super) fn outlook(
    terms: &Terms,
    hardware: &Hardware,
    group: &WorkerGroup,
    settings: &OfferSettings,
) -> Outlook {
    let start_s = start(hardware, group).as_secs_f64();
    let within = settings.horizon.min(hardware.available_for).as_secs_f64();
    let life_s = expected_life(within, terms.hazard_per_hour / 3_600.0);
    let price = terms.usd_per_hour.0 / 3_600.0;
    let spares = if terms.interruptible { SPARES } else { 0.0 };
    let tokens = terms.tokens_per_second * life_s;
    let down = (group.image_gb + group.model_gb) * sane(hardware.down_usd_per_gb.0);
    let up = tokens * UP_GB_PER_TOKEN * sane(hardware.up_usd_per_gb.0);
    let usd = price * (life_s * (1.0 + spares) + start_s) + down + up;
    Outlook {
        start_s,
        life_s,
        usd_per_token: usd / (tokens * terms.chance).max(f64::MIN_POSITIVE),
    }
}

/// From rental to ready, if it comes up.
pub(super) fn start(hardware: &Hardware, group: &WorkerGroup) -> Duration {
    let seconds = QUEUE_S + fetch_s(hardware, group, DOWN_SHARE) + LOAD_S;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Downloading image and model with a share of the line.
fn fetch_s(hardware: &Hardware, group: &WorkerGroup, share: f64) -> f64 {
    let mbit = sane(hardware.down_mbit_per_s) * share;
    let mbit = mbit.clamp(DOWN_MBIT_MIN, DOWN_MBIT_MAX);
    (group.image_gb + group.model_gb).max(0.0) * 8_000.0 / mbit
}

/// A start that is expected to outlast the deadline is paid for and thrown away. A machine that has nothing to fetch is
/// given the benefit of the doubt.
pub(super) fn too_late(
    hardware: &Hardware,
    group: &WorkerGroup,
    deadline: Duration,
) -> Option<WhyNot> {
    let (expected, least) = (
        fetch_s(hardware, group, DOWN_SHARE),
        fetch_s(hardware, group, 1.0),
    );
    let left = (deadline.as_secs_f64() - QUEUE_S - LOAD_S).max(0.0);
    (expected > left).then(|| WhyNot::StartsTooLate {
        start_s: start(hardware, group).as_secs_f64(),
        surely: least > deadline.as_secs_f64(),
    })
}

/// Mean of the lesser of `within` and an exponential life.
fn expected_life(within_s: f64, hazard_per_s: f64) -> f64 {
    if hazard_per_s > 0.0 {
        -(-hazard_per_s * within_s).exp_m1() / hazard_per_s
    } else {
        within_s
    }
}

fn sane(figure: f64) -> f64 {
    if figure.is_finite() {
        figure.max(0.0)
    } else {
        0.0
    }
}
