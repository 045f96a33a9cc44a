//! `spending:`, of the installation and of an endpoint: what may be spent, and what happens at the limit.

use super::endpoint::DAY_S;
use super::section::Section;
use super::tree::NOTHING;
use crate::domain::{EndpointSpending, Enforce, SpendingLimits, SpendingSettings, Usd, UsdPerHour};

const WORDS: [(&str, Enforce); 2] = [("soft", Enforce::Soft), ("hard", Enforce::Hard)];
const MOST_USD: f64 = 1e9;

/// Of `tidegate.yaml`.
pub(super) fn installation(s: &Section) -> SpendingSettings {
    let default = SpendingSettings::default();
    let node = s.get("spending").unwrap_or(&NOTHING);
    let m = s.reader.section(node, "spending");
    let settings = SpendingSettings {
        limits: limits(&m),
        min_credit: m.optional_number("min_credit", 0.0..=MOST_USD).map(Usd),
        enforce: m.one_of("enforce", &WORDS, default.enforce),
        reserve: m.duration("reserve", default.reserve.as_secs_f64(), 0.0..=DAY_S),
        price_margin: m.number("price_margin", default.price_margin, 0.0..=1.0),
        credit_interval: m.duration(
            "credit_interval",
            default.credit_interval.as_secs_f64(),
            0.1..=DAY_S,
        ),
        charges_interval: m.duration(
            "charges_interval",
            default.charges_interval.as_secs_f64(),
            0.1..=DAY_S,
        ),
    };
    s.show("spending", m.finish());
    settings
}

/// Of an endpoint's file.
pub(super) fn endpoint(s: &Section) -> EndpointSpending {
    let node = s.get("spending").unwrap_or(&NOTHING);
    let m = s.reader.section(node, "spending");
    let limits = limits(&m);
    let enforce = m.get("enforce").is_some();
    let word = if enforce {
        Some(m.one_of("enforce", &WORDS, Enforce::Soft))
    } else {
        m.show("enforce", None::<&str>);
        None
    };
    s.show("spending", m.finish());
    EndpointSpending {
        limits,
        enforce: word,
    }
}

fn limits(m: &Section) -> SpendingLimits {
    SpendingLimits {
        per_hour: m
            .optional_number("max_usd_per_hour", 0.0..=MOST_USD)
            .map(UsdPerHour),
        per_day: m
            .optional_number("max_usd_per_day", 0.0..=MOST_USD)
            .map(Usd),
        per_month: m
            .optional_number("max_usd_per_month", 0.0..=MOST_USD)
            .map(Usd),
    }
}
