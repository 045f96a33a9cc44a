//! The listing: all pages or none, and what each row of it says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use http::Method;
use serde_json::Value;

use super::create::PORT;
use super::failure::Failure;
use super::limiter::Kind;
use super::rows;
use super::transport::{Account, Call, Transport};
use crate::domain::{
    HostId, Instance, InstanceId, InstanceState, MachineId, MachineKey, RentalLabel, Timestamp,
    UsdPerHour,
};

/// Vast gives no more rows at once.
const PAGE_ROWS: usize = 25;
/// Ten thousand instances; a listing that goes on longer runs in a circle.
const PAGES_MAX: usize = 400;
const SSH_PORT: u16 = 22;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// In pages.
    V1,
    /// All at once; refused to some accounts.
    V0,
}

impl Version {
    pub(super) fn other(self) -> Self {
        match self {
            Version::V1 => Version::V0,
            Version::V0 => Version::V1,
        }
    }
}

/// Every row of the account, whosoever's label it carries.
pub(super) async fn list(
    transport: &Transport,
    account: &Account,
    scale: f64,
    version: Version,
) -> Result<Vec<Value>, Failure> {
    match version {
        Version::V1 => pages(transport, account, scale).await,
        Version::V0 => {
            let query = [("owner", "me".to_owned())];
            let mut call = Call::new(Kind::List, Method::GET, "/api/v0/instances/");
            call.query = &query;
            let mut answer = transport.call(account, &call, scale).await?;
            let rows = take_rows(&mut answer)?;
            let mut listing = Listing::default();
            listing.add(rows, &answer)?;
            listing.complete(1)
        }
    }
}

async fn pages(
    transport: &Transport,
    account: &Account,
    scale: f64,
) -> Result<Vec<Value>, Failure> {
    let mut listing = Listing::default();
    let mut token: Option<String> = None;
    for page in 1..=PAGES_MAX {
        let mut query = vec![
            ("select_filters", "{}".to_owned()),
            ("order_by", r#"[{"col": "id", "dir": "asc"}]"#.to_owned()),
            ("limit", PAGE_ROWS.to_string()),
        ];
        query.extend(token.clone().map(|token| ("after_token", token)));
        let mut call = Call::new(Kind::List, Method::GET, "/api/v1/instances/");
        call.query = &query;
        let mut answer = transport.call(account, &call, scale).await?;
        let rows = take_rows(&mut answer)?;
        listing.add(rows, &answer)?;
        let next = match answer.get("next_token") {
            None | Some(Value::Null) => None,
            Some(Value::String(token)) => Some(token.clone()).filter(|token| !token.is_empty()),
            Some(other) => Some(other.to_string()),
        };
        match next {
            None => return listing.complete(page),
            Some(next) if token.as_ref() == Some(&next) => {
                return Err(wrong("the same page follows itself"));
            }
            Some(next) => token = Some(next),
        }
    }
    Err(wrong("there is no end of pages"))
}

fn wrong(what: impl Into<String>) -> Failure {
    Failure::Strange(format!("the listing is wrong: {}", what.into()))
}

fn take_rows(answer: &mut Value) -> Result<Vec<Value>, Failure> {
    match answer.get_mut("instances").map(Value::take) {
        Some(Value::Array(rows)) => Ok(rows),
        _ => Err(wrong("it has no list of instances")),
    }
}

/// Pages so far, and what they say of the whole.
#[derive(Default)]
struct Listing {
    rows: Vec<Value>,
    ids: BTreeSet<String>,
    total: Option<usize>,
    /// Of the last page; whether it counts all or the page is not documented.
    found: Option<usize>,
}

impl Listing {
    fn add(&mut self, rows: Vec<Value>, answer: &Value) -> Result<(), Failure> {
        for row in &rows {
            let id = rows::id(row, "id").ok_or_else(|| wrong("a row has no id"))?;
            if !self.ids.insert(id) {
                return Err(wrong("an instance stands in it twice"));
            }
        }
        self.rows.extend(rows);
        let count = |field| rows::number(answer, field).map(|count| count as usize);
        let total = count("total_instances");
        if self.total.is_some() && total.is_some() && self.total != total {
            return Err(wrong(
                "its pages disagree about how many instances there are",
            ));
        }
        self.total = self.total.or(total);
        self.found = count("instances_found");
        Ok(())
    }

    fn complete(self, pages: usize) -> Result<Vec<Value>, Failure> {
        let rows = self.rows.len();
        let most = self.total.max(self.found).unwrap_or(rows);
        if rows < most {
            return Err(wrong(format!("{rows} instances of {most}")));
        }
        let least = [self.total, self.found.filter(|_| pages == 1)];
        if let Some(count) = least.into_iter().flatten().find(|count| *count < rows) {
            return Err(wrong(format!("{rows} instances, and it counts {count}")));
        }
        Ok(self.rows)
    }
}

/// What a row's label says of whose machine it is.
pub(super) enum Owner {
    /// Ours or another installation's.
    Tidegate(RentalLabel),
    /// It begins as ours do, and cannot be read.
    Garbled,
    SomebodyElse,
}

pub(super) fn owner(row: &Value) -> Owner {
    let label = rows::text(row, "label").unwrap_or_default();
    match label.parse() {
        Ok(label) => Owner::Tidegate(label),
        Err(()) if label.starts_with("tidegate/") => Owner::Garbled,
        Err(()) => Owner::SomebodyElse,
    }
}

/// `Err`: a word for a state that is not known.
pub(super) fn state(row: &Value) -> Result<InstanceState, String> {
    let word = |field| rows::text(row, field);
    let wanted = word("intended_status") != Some("stopped");
    let has_gpus = word("cur_state") == Some("running");
    Ok(match word("actual_status") {
        None | Some("created" | "loading" | "rebooting") if wanted || has_gpus => {
            InstanceState::Loading
        }
        None | Some("created" | "loading" | "rebooting") => InstanceState::Stopped,
        // A frozen container keeps its GPUs and is billed for them; probes tell that it does not answer.
        Some("running" | "frozen") => InstanceState::Running,
        Some("stopped" | "exited") if !wanted => InstanceState::Stopped,
        Some("stopped" | "exited") if !has_gpus => InstanceState::Scheduling,
        Some("exited") => InstanceState::Exited,
        // Its GPUs are its again, and the container comes.
        Some("stopped") => InstanceState::Loading,
        Some("unknown" | "offline") => InstanceState::Offline,
        Some(other) => return Err(other.to_owned()),
    })
}

pub(super) fn instance(
    id: InstanceId,
    label: RentalLabel,
    state: InstanceState,
    row: &Value,
) -> Instance {
    let usd = |field| UsdPerHour(rows::number(row, field).unwrap_or(0.0).max(0.0));
    let machine = || {
        Some(MachineKey {
            host: HostId::new(rows::id(row, "host_id")?),
            machine: MachineId::new(rows::id(row, "machine_id")?),
        })
    };
    Instance {
        id,
        label,
        state,
        address: address(row),
        usd_per_hour: usd("dph_total"),
        storage_usd_per_hour: usd("storage_total_cost"),
        interruptible: rows::flag(row, "is_bid"),
        least_bid: rows::number(row, "min_bid")
            .filter(|usd| *usd > 0.0)
            .map(UsdPerHour),
        machine: machine(),
        gpu_name: rows::text(row, "gpu_name").map(str::to_owned),
        message: rows::text(row, "status_msg").unwrap_or_default().to_owned(),
        ends_at: rows::number(row, "end_date")
            .filter(|seconds| *seconds > 0.0)
            .map(|seconds| Timestamp::from_millis((seconds * 1_000.0) as u64)),
    }
}

/// Where the engine's port is reached from outside, once the container runs.
fn address(row: &Value) -> Option<SocketAddr> {
    let host: IpAddr = rows::text(row, "public_ipaddr")?.parse().ok()?;
    let ports = mapped_ports(row);
    let outside = match engine_port(row) {
        Some(port) => *ports.get(&port)?,
        None => {
            let mut others = ports.iter().filter(|(inside, _)| **inside != SSH_PORT);
            match (others.next(), others.next()) {
                (Some((_, outside)), None) => *outside,
                _ => return None,
            }
        }
    };
    Some(SocketAddr::new(host, outside))
}

/// TCP ports by their number inside the container.
fn mapped_ports(row: &Value) -> BTreeMap<u16, u16> {
    let Some(Value::Object(ports)) = row.get("ports") else {
        return BTreeMap::new();
    };
    let outside = |mappings: &Value| {
        let mapping = mappings.as_array()?.first()?;
        rows::number(mapping, "HostPort").map(|port| port as u16)
    };
    ports
        .iter()
        .filter_map(|(inside, mappings)| {
            let inside = inside.strip_suffix("/tcp")?.parse().ok()?;
            outside(mappings)
                .filter(|port| *port != 0)
                .map(|outside| (inside, outside))
        })
        .collect()
}

/// What the create call told the machine; as pairs, or as a map from older versions.
fn engine_port(row: &Value) -> Option<u16> {
    let env = row.get("extra_env")?;
    let port = match env {
        Value::Array(pairs) => pairs
            .iter()
            .find(|pair| pair.get(0).and_then(Value::as_str) == Some(PORT))?
            .get(1)?,
        env => env.get(PORT)?,
    };
    port.as_str()?.parse().ok()
}
