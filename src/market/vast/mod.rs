//! Vast.ai: the only code that knows its market's JSON. Requests are those of `vastai` 1.9.1.

mod accounts;
mod billing;
mod change;
mod create;
mod exclusion;
mod failure;
mod instances;
mod inventory;
mod limiter;
mod logs;
mod offers;
mod preamble;
mod quota;
mod rows;
mod searches;
#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Inventory, Market, MarketError, Order};
use crate::domain::{
    Account as AccountState, AccountId, Charge, Exclusion, InstallationId, Instance, InstanceId,
    InstanceState, Offer, Secret, Source, Timestamp, UsdPerHour, VastLaunch, WorkerGroup,
};
use crate::telemetry::{Metrics, now};
use accounts::Accounts;
use failure::Failure;
use instances::Owner;
use limiter::Kind;
use preamble::Preamble;
use quota::Quota;
use searches::Searches;
use transport::{Account, Call, Transport};

const DEFAULT_URL: &str = "https://console.vast.ai";
/// Vast allows a listing a second; a fleet changes in tens of seconds.
const LISTING_INTERVAL: Duration = Duration::from_secs(5);
/// A search runs beside the plans and may wait for its turn behind those of other groups.
const SEARCH_TURN_WITHIN: Duration = Duration::from_secs(60);
/// Vast's bounds of a bid, in dollars an hour.
const BIDS: (f64, f64) = (0.001, 128.0);

/// What a reload may change.
#[derive(Clone, Debug)]
pub struct VastSettings {
    pub api_key: Option<Secret>,
    /// Keys that worker groups have for themselves.
    pub group_keys: Vec<Secret>,
    /// On Vast's published intervals.
    pub interval_scale: f64,
    pub search_interval: Duration,
    /// Where machines ask whether their gateway lives; without it they cannot end themselves.
    pub public_url: Option<String>,
    pub orphan_after: Duration,
}

pub struct VastMarket {
    transport: Arc<Transport>,
    installation: InstallationId,
    settings: ArcSwap<VastSettings>,
    accounts: Accounts,
    searches: Arc<Searches>,
    /// The paged listing is not served; until when the old one is asked for.
    old_list_until: Arc<Mutex<Option<Instant>>>,
    quota: Arc<Quota>,
    /// Words, labels and the like that were logged.
    told: Mutex<HashSet<String>>,
}

impl VastMarket {
    /// `url` is that of Vast or of something that behaves like it.
    pub fn new(
        url: &str,
        installation: InstallationId,
        settings: VastSettings,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, MarketError> {
        let transport = Transport::new(url, Arc::clone(&metrics))
            .map_err(|error| MarketError::Refused(format!("no HTTP client: {error}")))?;
        let market = Self {
            transport: Arc::new(transport),
            installation,
            accounts: Accounts::default(),
            settings: ArcSwap::from_pointee(settings.clone()),
            searches: Arc::default(),
            old_list_until: Arc::default(),
            quota: Arc::new(Quota::new(Arc::clone(&metrics))),
            told: Mutex::default(),
        };
        market.replace(settings);
        Ok(Arc::new(market))
    }

    /// Takes new settings; machines rented with keys that are no longer named stay known.
    pub fn replace(&self, settings: VastSettings) {
        self.accounts
            .name(settings.api_key.iter().chain(&settings.group_keys));
        self.settings.store(Arc::new(settings));
    }

    fn scale(&self) -> f64 {
        self.settings.load().interval_scale
    }

    /// Whose money a group spends.
    fn account_of(&self, launch: &VastLaunch) -> Result<Account, MarketError> {
        let settings = self.settings.load();
        let key = launch.account_key.as_ref().or(settings.api_key.as_ref());
        key.map(|key| self.accounts.of(key)).ok_or_else(no_key)
    }

    async fn search(
        &self,
        account: &Account,
        launch: &VastLaunch,
        interruptible: bool,
    ) -> Result<Vec<Offer>, MarketError> {
        let body = offers::search_body(launch, interruptible);
        let query = (account.number, body.to_string());
        let (transport, account) = (Arc::clone(&self.transport), account.clone());
        let quota = Arc::clone(&self.quota);
        let (scale, disk_gb) = (self.scale(), launch.launch.disk_gb);
        let interval = self.settings.load().search_interval;
        let search = move || async move {
            if let Some(why) = quota.forbids(account.number, now()) {
                return Err(why);
            }
            let mut call = Call::new(Kind::Search, Method::POST, "/api/v0/bundles/");
            call.body = Some(&body);
            call.patience = Some(SEARCH_TURN_WITHIN);
            match transport.call(&account, &call, scale).await {
                Ok(answer) => offers::found(&answer, interruptible, disk_gb)
                    .ok_or_else(|| "the answer has no list of offers".to_owned()),
                Err(Failure::QuotaUsedUp { reset }) => {
                    Err(quota.used_up(account.number, reset.as_deref(), now()))
                }
                Err(failure) => Err(failure.text()),
            }
        };
        self.searches.offers(query, interval, search).await
    }

    /// After how long without an answer of ours a machine ends itself; `None`: none does.
    pub fn orphan_after(&self) -> Option<Duration> {
        self.preamble().map(|preamble| preamble.orphan_after)
    }

    fn preamble(&self) -> Option<Preamble> {
        let settings = self.settings.load();
        let market_url = self.transport.base();
        Some(Preamble {
            gateway_url: settings.public_url.clone()?,
            market_url: (market_url != DEFAULT_URL).then(|| market_url.to_owned()),
            orphan_after: settings.orphan_after,
        })
    }

    fn ours(&self, row: &Value) -> Option<Instance> {
        let id = InstanceId::new(rows::id(row, "id")?);
        let label = match instances::owner(row) {
            Owner::Tidegate(label) if label.installation == self.installation => label,
            Owner::Tidegate(_) | Owner::SomebodyElse => return None,
            Owner::Garbled => {
                let label = rows::text(row, "label").unwrap_or_default();
                self.tell_once(format!("label of {id}"), || {
                    tracing::warn!(instance = %id, label, "a label that begins as ours and cannot be read: the machine is left alone");
                });
                return None;
            }
        };
        let state = instances::state(row).unwrap_or_else(|word| {
            self.tell_once(format!("state {word}"), || {
                tracing::warn!(instance = %id, state = %word, "a state that is not known counts as offline");
            });
            InstanceState::Offline
        });
        Some(instances::instance(id, label, state, row))
    }

    fn tell_once(&self, what: String, tell: impl FnOnce()) {
        if self.told.lock().insert(what) {
            tell();
        }
    }

    async fn set_state(&self, id: &InstanceId, state: &str) -> Result<(), MarketError> {
        let path = instance_path(id)?;
        let body = json!({"state": state});
        self.change(id, (Kind::Change, Method::PUT), &path, &body)
            .await
    }
}

fn no_key() -> MarketError {
    MarketError::Refused("there is no key of Vast".into())
}

/// Ids are numbers; nothing else becomes part of a path.
fn number_of(id: &str) -> Result<&str, MarketError> {
    match !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) {
        true => Ok(id),
        false => Err(MarketError::Refused("an id that is no number".into())),
    }
}

fn instance_path(id: &InstanceId) -> Result<String, MarketError> {
    let id = number_of(id.as_str())?;
    Ok(format!("/api/v0/instances/{id}/"))
}

fn launch_of(group: &WorkerGroup) -> Result<&VastLaunch, MarketError> {
    match &group.source {
        Source::Vast(launch) => Ok(launch),
        Source::Local(_) | Source::Fixed { .. } => Err(MarketError::Refused(
            "the group is of another market".into(),
        )),
    }
}

#[async_trait]
impl Market for VastMarket {
    async fn offers(&self, group: &WorkerGroup) -> Result<Vec<Offer>, MarketError> {
        let launch = launch_of(group)?;
        let account = self.account_of(launch)?;
        if launch.always_bids() {
            return self.search(&account, launch, true).await;
        }
        if !group.interruptible {
            return self.search(&account, launch, false).await;
        }
        let (on_demand, interruptible) = tokio::join!(
            self.search(&account, launch, false),
            self.search(&account, launch, true)
        );
        match (on_demand, interruptible) {
            (Ok(mut offers), Ok(more)) => {
                offers.extend(more);
                Ok(offers)
            }
            (Ok(offers), Err(_)) | (Err(_), Ok(offers)) => Ok(offers),
            (Err(error), Err(_)) => Err(error),
        }
    }

    async fn exclusion(&self, group: &WorkerGroup) -> Result<Option<Exclusion>, MarketError> {
        let launch = launch_of(group)?;
        let account = self.account_of(launch)?;
        self.leave_out_each(&account, launch).await.map(Some)
    }

    async fn rent(&self, order: &Order<'_>) -> Result<InstanceId, MarketError> {
        let (offer, launch) = (order.offer, launch_of(order.group)?);
        let account = self.account_of(launch)?;
        let ask = number_of(offers::ask_of(&offer.id))?;
        let usual = || launch.launch.bid_price.unwrap_or(offer.usd_per_hour.0);
        let price = offer.interruptible.then(|| {
            order
                .bid
                .map_or_else(usual, |bid| bid.0)
                .clamp(BIDS.0, BIDS.1)
        });
        let preamble = self.preamble();
        let body = create::body(launch, price, order.label, preamble.as_ref());
        let path = format!("/api/v0/asks/{ask}/");
        let mut call = Call::new(Kind::Create, Method::PUT, &path);
        call.body = Some(&body);
        call.last_word = Some(order.last_word);
        let answer = self.transport.call(&account, &call, self.scale()).await;
        let rented = answer.map_err(Failure::of_creating).and_then(|answer| {
            match rows::id(&answer, "new_contract") {
                Some(id) => Ok(InstanceId::new(id)),
                None => Err(MarketError::Unavailable(
                    "the answer names no instance".into(),
                )),
            }
        });
        match &rented {
            Ok(id) => self.accounts.has(&account, id),
            Err(MarketError::Full(_) | MarketError::Refused(_)) => return rented,
            Err(_) => {}
        }
        self.searches.forget(|id| offers::ask_of(id) == ask);
        rented
    }

    async fn instances(&self) -> Result<Vec<Instance>, MarketError> {
        self.list_accounts().await?.complete()
    }

    async fn inventory(&self) -> Result<Inventory, MarketError> {
        self.list_accounts().await
    }

    fn account_for(&self, group: &WorkerGroup) -> Option<AccountId> {
        let launch = launch_of(group).ok()?;
        self.account_of(launch).ok().map(|account| account.id)
    }

    fn belongs(&self, id: &InstanceId, account: &AccountId) {
        self.accounts.belongs(id, account);
    }

    async fn start(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.set_state(id, "running").await
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), MarketError> {
        self.set_state(id, "stopped").await
    }

    async fn destroy(&self, id: &InstanceId) -> Result<(), MarketError> {
        let path = instance_path(id)?;
        let call = (Kind::Destroy, Method::DELETE);
        match self.change(id, call, &path, &json!({})).await {
            Err(MarketError::NotFound) => Ok(()),
            result => result,
        }
    }

    async fn set_bid(&self, id: &InstanceId, bid: UsdPerHour) -> Result<(), MarketError> {
        let id_number = number_of(id.as_str())?;
        let path = format!("/api/v0/instances/bid_price/{id_number}/");
        let price = bid.0.clamp(BIDS.0, BIDS.1);
        let body = json!({"client_id": "me", "price": price});
        self.change(id, (Kind::Bid, Method::PUT), &path, &body)
            .await
    }

    async fn logs(&self, id: &InstanceId, lines: u32) -> Result<String, MarketError> {
        number_of(id.as_str())?;
        let mut result = Err(no_key());
        for account in self.accounts.that_may_have(id) {
            let logs = logs::logs(&self.transport, &account, self.scale(), id, lines);
            result = logs.await.map_err(Failure::of_changing);
            if !matches!(result, Err(MarketError::NotFound)) {
                break;
            }
        }
        result
    }

    /// Of several accounts the one with the least: it is the first that stops its machines. One whose key is refused rents
    /// nothing.
    async fn account(&self) -> Result<Option<AccountState>, MarketError> {
        let mut least: Option<AccountState> = None;
        let mut refused = None;
        for account in self.accounts.all() {
            if !self.accounts.is_named(&account) {
                continue;
            }
            let user = match billing::user(&self.transport, &account, self.scale()).await {
                Ok(user) => user,
                Err(failure) if failure.is_about_the_key() => {
                    refused = Some(failure.of_reading());
                    continue;
                }
                Err(failure) => return Err(failure.of_reading()),
            };
            if let Some(id) = user.id {
                self.accounts.belongs_to(&account, id);
            }
            let none = || MarketError::Unavailable("the account's answer names no credit".into());
            let credit = user.credit.ok_or_else(none)?;
            if least.is_none_or(|least| credit < least.credit) {
                least = Some(AccountState { credit });
            }
        }
        match (least, refused) {
            (None, Some(error)) => Err(error),
            (least, _) => Ok(least),
        }
    }

    async fn charges(&self, since: Timestamp) -> Result<Vec<Charge>, MarketError> {
        let mut all: BTreeMap<InstanceId, Charge> = BTreeMap::new();
        let (mut answered, mut error) = (false, None);
        for account in self.accounts.all() {
            match billing::charges(&self.transport, &account, self.scale(), since, now()).await {
                Ok(charges) => {
                    answered = true;
                    let named = charges.into_iter();
                    all.extend(named.map(|charge| (charge.instance.clone(), charge)));
                }
                // What one account does not tell keeps no other's from being booked.
                Err(failure) => error = Some(failure.of_reading()),
            }
        }
        match error {
            Some(error) if !answered => Err(error),
            _ => Ok(all.into_values().collect()),
        }
    }

    fn listing_interval(&self) -> Option<Duration> {
        Some(LISTING_INTERVAL.mul_f64(self.scale()))
    }

    /// Vast tells nothing by itself.
    async fn changed(&self) {
        std::future::pending().await
    }
}
