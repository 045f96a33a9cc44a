//! Dollars: what is spent on what, what may be spent, and where that stands.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EndpointName, MarketKind, Timestamp, Usd, UsdPerHour, WorkerId};

const DAY_MS: u64 = 86_400_000;

/// A calendar day in UTC: days since 1970-01-01.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Day(pub u32);

impl Day {
    pub fn of(at: Timestamp) -> Self {
        Self(u32::try_from(at.as_millis() / DAY_MS).unwrap_or(u32::MAX))
    }

    pub fn start(self) -> Timestamp {
        Timestamp::from_millis(u64::from(self.0) * DAY_MS)
    }

    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The first day of its month.
    pub fn month_start(self) -> Self {
        let (_, _, day) = self.date();
        Self(self.0.saturating_sub(day - 1))
    }

    /// Year, month and day of the Gregorian calendar; by Howard Hinnant's `civil_from_days`, which counts in eras of
    /// 400 years from 1 March.
    pub fn date(self) -> (u32, u32, u32) {
        let days = u64::from(self.0) + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        (year as u32, month as u32, day as u32)
    }
}

impl FromStr for Day {
    type Err = NoDay;

    /// `2026-11-25`; by Howard Hinnant's `days_from_civil`.
    fn from_str(text: &str) -> Result<Self, NoDay> {
        let numbers: Vec<u32> = text
            .split('-')
            .map(|part| part.parse().map_err(|_| NoDay))
            .collect::<Result<_, _>>()?;
        let [year @ 1970..=9999, month @ 1..=12, day @ 1..=31] = numbers[..] else {
            return Err(NoDay);
        };
        let years = u64::from(if month > 2 { year } else { year - 1 });
        let (era, year_of_era) = (years / 400, years % 400);
        let of_year = u64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        let days = u32::try_from(era * 146_097 + of_era - 719_468).map_err(|_| NoDay)?;
        // What the calendar does not have comes out as another day.
        let found = Self(days);
        (found.date() == (year, month, day))
            .then_some(found)
            .ok_or(NoDay)
    }
}

/// Not a day as in `2026-11-25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a day such as 2026-11-25")]
pub struct NoDay;

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// What a market charges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpendKind {
    Gpu,
    Storage,
    Traffic,
}

impl SpendKind {
    pub const ALL: [SpendKind; 3] = [SpendKind::Gpu, SpendKind::Storage, SpendKind::Traffic];

    pub fn as_str(self) -> &'static str {
        match self {
            SpendKind::Gpu => "gpu",
            SpendKind::Storage => "storage",
            SpendKind::Traffic => "traffic",
        }
    }
}

/// What the money was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpendUse {
    /// Requests were in flight.
    Serving,
    /// Able to serve, and nobody asked.
    Idle,
    /// Running and not ready: the model is loaded, benchmarked, or it never came up.
    ColdStart,
    /// Disk, whatever the machine does.
    Storage,
}

impl SpendUse {
    pub const ALL: [SpendUse; 4] = [
        SpendUse::Serving,
        SpendUse::Idle,
        SpendUse::ColdStart,
        SpendUse::Storage,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            SpendUse::Serving => "serving",
            SpendUse::Idle => "idle",
            SpendUse::ColdStart => "cold_start",
            SpendUse::Storage => "storage",
        }
    }
}

/// Most that may be spent; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SpendingLimits {
    /// Of all that is committed at one moment.
    pub per_hour: Option<UsdPerHour>,
    /// In a calendar day, UTC.
    pub per_day: Option<Usd>,
    /// In a calendar month, UTC.
    pub per_month: Option<Usd>,
}

/// What happens to machines that run when a limit is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforce {
    /// They go on; nothing is rented or restarted.
    #[default]
    Soft,
    /// They are released, the worst value first, until the rest is within the limit.
    Hard,
}

/// `spending:` of the whole installation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpendingSettings {
    pub limits: SpendingLimits,
    /// Nothing is rented with less left in the market's account.
    pub min_credit: Option<Usd>,
    pub enforce: Enforce,
    /// Of a day's or month's limit, so much time of everything committed is set aside: a machine that is told to go
    /// still costs until it is gone.
    #[serde(with = "super::time::seconds")]
    pub reserve: Duration,
    /// Share by which a price on demand may have moved between the search and the order; so much more is set aside.
    #[serde(default)]
    pub price_margin: f64,
    /// How often a market is asked what is left in its account.
    #[serde(with = "super::time::seconds")]
    pub credit_interval: Duration,
    /// How often a market is asked what it charged.
    #[serde(with = "super::time::seconds")]
    pub charges_interval: Duration,
}

impl Default for SpendingSettings {
    fn default() -> Self {
        Self {
            limits: SpendingLimits::default(),
            min_credit: None,
            enforce: Enforce::Soft,
            reserve: Duration::from_secs(600),
            price_margin: 0.03,
            credit_interval: Duration::from_secs(60),
            charges_interval: Duration::from_secs(900),
        }
    }
}

/// `spending:` of one endpoint, within what the installation may spend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointSpending {
    pub limits: SpendingLimits,
    /// `None`: as the installation.
    pub enforce: Option<Enforce>,
}

/// Whose limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpendingScope {
    Installation,
    Endpoint(EndpointName),
}

impl SpendingScope {
    /// The label in metrics; endpoints cannot be called so.
    pub fn as_str(&self) -> &str {
        match self {
            SpendingScope::Installation => "(all)",
            SpendingScope::Endpoint(name) => name.as_str(),
        }
    }

    pub fn covers(&self, endpoint: &EndpointName) -> bool {
        match self {
            SpendingScope::Installation => true,
            SpendingScope::Endpoint(name) => name == endpoint,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpendingRule {
    Hour,
    Day,
    Month,
    /// `min_credit`.
    Credit,
    /// The operator's mark: nothing may be rented, and everything goes.
    Stopped,
}

impl SpendingRule {
    pub fn as_str(self) -> &'static str {
        match self {
            SpendingRule::Hour => "hour",
            SpendingRule::Day => "day",
            SpendingRule::Month => "month",
            SpendingRule::Credit => "credit",
            SpendingRule::Stopped => "stopped",
        }
    }
}

/// One limit and how much of it is used, in dollars or dollars an hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitView {
    pub scope: SpendingScope,
    pub rule: SpendingRule,
    /// Spent and set aside; of `credit`, what is left.
    pub used: f64,
    pub limit: f64,
    /// Nothing more is rented for it.
    pub reached: bool,
    /// What is wanted and does not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// What a market's listings and the ledger say of each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgreementView {
    pub market: MarketKind,
    /// Why nothing is rented there now; empty where they agree.
    pub renting_paused: Vec<String>,
    pub listed_at: Option<Timestamp>,
    pub credit: Option<Usd>,
}

/// Of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointMoney {
    pub committed: UsdPerHour,
    pub today: Usd,
    pub this_month: Usd,
    /// Over the last hour, for output-equivalent tokens; `None` without any.
    pub usd_per_million_tokens: Option<f64>,
}

/// Where the money stands; what metrics and `/fleet` show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MoneyView {
    pub stopped: bool,
    pub total: EndpointMoney,
    pub endpoints: Vec<(EndpointName, EndpointMoney)>,
    pub limits: Vec<LimitView>,
    pub markets: Vec<AgreementView>,
    /// Workers being released because a limit asks for it.
    pub releasing: Vec<WorkerId>,
    /// Open rentals that no worker stands for; they are being ended.
    #[serde(default)]
    pub orphans: Vec<WorkerId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(at_s: u64) -> String {
        Day::of(Timestamp::from_millis(at_s * 1_000)).to_string()
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_399), "2000-02-28");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(951_868_800), "2000-03-01");
        assert_eq!(date(1_798_761_599), "2026-12-31");
        assert_eq!(date(1_798_761_600), "2027-01-01");
    }

    #[test]
    fn a_day_is_read_as_it_is_shown_and_one_that_never_was_is_refused() {
        for n in (0..73_000).step_by(17) {
            assert_eq!(Day(n).to_string().parse(), Ok(Day(n)));
        }
        for wrong in [
            "2026-02-29",
            "1969-12-31",
            "2026-1",
            "2026-13-01",
            "today",
            "",
        ] {
            assert_eq!(wrong.parse::<Day>(), Err(NoDay), "{wrong}");
        }
    }

    #[test]
    fn every_day_of_two_centuries_belongs_to_the_month_it_says() {
        let (mut month_start, mut before) = (Day(0), Day(0).date());
        for n in 1..73_000 {
            let day = Day(n);
            let date = day.date();
            if date.2 == 1 {
                month_start = day;
                assert_ne!((date.0, date.1), (before.0, before.1));
            } else {
                assert_eq!(date, (before.0, before.1, before.2 + 1));
            }
            assert_eq!(day.month_start(), month_start);
            before = date;
        }
    }
}
