//! Searches and what they find, in Vast's terms and in ours.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::rows;
use crate::domain::{
    Hardware, HostId, MachineId, MachineKey, Offer, OfferId, SearchValue, Usd, UsdPerHour,
    VastLaunch,
};

/// Vast prices storage by the month.
const HOURS_A_MONTH: f64 = 730.0;
/// Behind the id of an interruptible offer: the same ask may be there on demand too.
const INTERRUPTIBLE: &str = "-bid";
/// An offer that names no end.
const NO_END: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The body of a search; the price is asked for with the disk that would be rented.
pub(super) fn search_body(launch: &VastLaunch, interruptible: bool) -> Value {
    let mut body = Map::new();
    for (field, filters) in &launch.search.filters {
        let filters = filters
            .iter()
            .map(|(operator, value)| (operator.as_str().to_owned(), sent(value)));
        body.insert(field.clone(), Value::Object(filters.collect()));
    }
    let kind = if interruptible { "bid" } else { "on-demand" };
    body.insert("order".into(), json!([["score", "desc"]]));
    body.insert("type".into(), kind.into());
    body.insert("allocated_storage".into(), launch.launch.disk_gb.into());
    Value::Object(body)
}

pub(super) fn sent(value: &SearchValue) -> Value {
    match value {
        SearchValue::Null => Value::Null,
        SearchValue::Flag(flag) => (*flag).into(),
        SearchValue::Whole(number) => (*number).into(),
        SearchValue::Number(number) => (*number).into(),
        SearchValue::Text(text) => text.as_str().into(),
        SearchValue::List(items) => items.clone().into(),
    }
}

/// `None`: not an answer to a search. Rows that lack an id or a price are no offers.
pub(super) fn found(answer: &Value, interruptible: bool, disk_gb: f64) -> Option<Vec<Offer>> {
    let rows = answer.get("offers")?.as_array()?;
    let offers = rows.iter();
    Some(
        offers
            .filter_map(|row| offer(row, interruptible, disk_gb))
            .collect(),
    )
}

fn offer(row: &Value, interruptible: bool, disk_gb: f64) -> Option<Offer> {
    let ask = rows::id(row, "id").or_else(|| rows::id(row, "ask_contract_id"))?;
    let price = rows::number(row, "dph_total").filter(|price| *price >= 0.0)?;
    let suffix = if interruptible { INTERRUPTIBLE } else { "" };
    Some(Offer {
        id: OfferId::new(format!("{ask}{suffix}")),
        usd_per_hour: UsdPerHour(price),
        interruptible,
        hardware: hardware(row, disk_gb),
    })
}

/// The market's number for what an offer of ours offers.
pub(super) fn ask_of(id: &OfferId) -> &str {
    let id = id.as_str();
    id.strip_suffix(INTERRUPTIBLE).unwrap_or(id)
}

fn hardware(row: &Value, disk_gb: f64) -> Option<Hardware> {
    let number = |field| rows::number(row, field);
    let machine = MachineKey {
        host: HostId::new(rows::id(row, "host_id")?),
        machine: MachineId::new(rows::id(row, "machine_id")?),
    };
    let by_the_month = || number("storage_cost").map(|usd| usd * disk_gb / HOURS_A_MONTH);
    Some(Hardware {
        machine,
        gpu_name: rows::text(row, "gpu_name").unwrap_or_default().to_owned(),
        gpu_count: number("num_gpus").unwrap_or(0.0) as u32,
        gpu_ram_mb_each: number("gpu_ram").unwrap_or(0.0),
        dlperf: number("dlperf").unwrap_or(0.0),
        reliability: number("reliability2")
            .or_else(|| number("reliability"))
            .unwrap_or(0.0),
        location: rows::text(row, "geolocation")
            .unwrap_or_default()
            .to_owned(),
        verified: rows::text(row, "verification") == Some("verified")
            || rows::flag(row, "verified"),
        down_mbit_per_s: number("inet_down").unwrap_or(0.0),
        down_usd_per_gb: Usd(number("inet_down_cost").unwrap_or(0.0)),
        up_usd_per_gb: Usd(number("inet_up_cost").unwrap_or(0.0)),
        storage_usd_per_hour: UsdPerHour(
            number("storage_total_cost")
                .or_else(by_the_month)
                .unwrap_or(0.0),
        ),
        available_for: number("duration")
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .unwrap_or(NO_END),
    })
}
