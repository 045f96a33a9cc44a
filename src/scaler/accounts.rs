//! Which account each rental is paid from. What one account's listing lacks says nothing about another's machines, and
//! after a restart with another key nobody's machine is believed gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Scaler;
use crate::domain::{AccountId, EndpointName, GroupName, MarketKind, Rental, Timestamp, WorkerId};
use crate::ledger::LedgerError;
use crate::market::{Inventory, Market};
use crate::policy::reconcile::{Disagreement, Known};

/// Under which the ledger remembers.
const ACCOUNT: &str = "account";

#[derive(Default)]
pub(super) struct RentalAccounts(Mutex<BTreeMap<WorkerId, AccountId>>);

impl RentalAccounts {
    fn get(&self, worker: &WorkerId) -> Option<AccountId> {
        self.0.lock().get(worker).cloned()
    }

    pub(super) fn forget(&self, worker: &WorkerId) {
        self.0.lock().remove(worker);
    }
}

impl Scaler {
    /// Before the market is asked: its answer may be lost.
    pub(super) fn note_account(&self, worker: &WorkerId, account: &AccountId, at: Timestamp) {
        let mut accounts = self.accounts.0.lock();
        let before = accounts.insert(worker.clone(), account.clone());
        drop(accounts);
        if before.as_ref() != Some(account) {
            self.remember(ACCOUNT, worker.as_str(), account, at);
        }
    }

    /// For rentals of before there was a note, and for accounts whose key has changed.
    pub(super) fn learn_accounts(&self, inventory: &Inventory, at: Timestamp) {
        for instance in &inventory.instances {
            let worker = &instance.label.worker;
            let known = self.accounts.get(worker);
            // One account may have several keys, by which it is known until it has said who it is.
            let holds = known.is_some_and(|account| inventory.answered.contains(&account));
            let holder = inventory.held_by.get(&instance.id);
            if let Some(holder) = holder.filter(|holder| !holds || holder.is_of_user()) {
                self.note_account(worker, holder, at);
            }
        }
    }

    /// What the ledger remembers of the open rentals; their market is told.
    pub(super) fn recall_accounts(
        &self,
        rentals: &[(Rental, MarketKind)],
    ) -> Result<(), LedgerError> {
        let noted: BTreeMap<String, serde_json::Value> =
            self.ledger.recall(ACCOUNT)?.into_iter().collect();
        for (rental, kind) in rentals {
            let noted = noted.get(rental.worker.as_str()).cloned();
            let Some(account) = noted.and_then(|it| serde_json::from_value(it).ok()) else {
                continue;
            };
            if let (Some(market), Some(id)) = (self.markets.get(*kind), &rental.instance) {
                market.belongs(id, &account);
            }
            let mut accounts = self.accounts.0.lock();
            accounts.insert(rental.worker.clone(), account);
        }
        Ok(())
    }

    /// Whether it is news of this rental that a listing does not hold it.
    pub fn speaks_of(&self, inventory: &Inventory, worker: &WorkerId) -> bool {
        inventory.speaks_of(self.accounts.get(worker).as_ref())
    }

    /// A listing is no news about rentals of accounts that are not in it. Those of accounts that are not even configured
    /// are told.
    pub(super) fn settle_accounts(
        &self,
        known: &mut [Known],
        inventory: &Inventory,
    ) -> Vec<Disagreement> {
        let mut elsewhere = Vec::new();
        for one in known {
            let account = self.accounts.get(&one.worker);
            if inventory.speaks_of(account.as_ref()) {
                continue;
            }
            one.is_news = false;
            if account.is_some_and(|account| !inventory.silent.contains_key(&account)) {
                let worker = one.worker.clone();
                elsewhere.push(Disagreement::OtherAccount { worker });
            }
        }
        elsewhere
    }

    /// Groups that pay from one of these accounts, or have machines there.
    pub(super) fn groups_of(
        &self,
        kind: MarketKind,
        market: &Arc<dyn Market>,
        accounts: &BTreeMap<AccountId, String>,
    ) -> BTreeSet<(EndpointName, GroupName)> {
        let mut groups = BTreeSet::new();
        if accounts.is_empty() {
            return groups;
        }
        let concerned = |account: Option<AccountId>| {
            account.is_some_and(|account| accounts.contains_key(&account))
        };
        for endpoint in self.fleet.endpoints().values() {
            let settings = endpoint.settings();
            if settings.market != kind {
                continue;
            }
            let paying = settings.groups.iter();
            let paying = paying.filter(|group| concerned(market.account_for(group)));
            groups.extend(paying.map(|group| (endpoint.name.clone(), group.name.clone())));
            for worker in endpoint.workers().iter() {
                if concerned(self.accounts.get(worker.id())) {
                    groups.insert((endpoint.name.clone(), worker.spec.group.clone()));
                }
            }
        }
        groups
    }
}
