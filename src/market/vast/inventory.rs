//! The listing of all accounts, side by side: one that does not answer, or answers slowly, hides no other's machines.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::{Inventory, MarketError};
use super::billing;
use super::failure::Failure;
use super::instances::{self, Version};
use super::transport::{Account, Transport};
use super::{VastMarket, no_key};
use crate::domain::AccountId;

/// The paged listing is tried again after this.
pub(super) const OLD_LIST_FOR: Duration = Duration::from_secs(600);

/// How one account is listed.
struct Lister {
    transport: Arc<Transport>,
    scale: f64,
    old_list_until: Arc<Mutex<Option<Instant>>>,
}

impl Lister {
    /// Whose key it is: another key of the same account is the same account.
    async fn ask_whose(&self, account: &Account) -> Option<AccountId> {
        let user = billing::user(&self.transport, account, self.scale).await;
        user.ok().and_then(|user| user.id)
    }

    /// The rows of one account, in the version they are served in.
    async fn rows_of(&self, account: &Account) -> Result<Vec<Value>, Failure> {
        let until = *self.old_list_until.lock();
        let old = until.is_some_and(|until| Instant::now() < until);
        let version = if old { Version::V0 } else { Version::V1 };
        match instances::list(&self.transport, account, self.scale, version).await {
            Err(failure) if failure.is_about_the_path() => {
                let other = version.other();
                let rows = instances::list(&self.transport, account, self.scale, other).await?;
                // The old one has no counts by which a part is known: it is the second choice.
                *self.old_list_until.lock() = match other {
                    Version::V0 => Some(Instant::now() + OLD_LIST_FOR),
                    Version::V1 => None,
                };
                Ok(rows)
            }
            result => result,
        }
    }
}

impl VastMarket {
    /// An error only where no account answers.
    pub(super) async fn list_accounts(&self) -> Result<Inventory, MarketError> {
        let accounts = self.accounts.all();
        if accounts.is_empty() {
            return Err(no_key());
        }
        let mut under_way = JoinSet::new();
        for account in accounts {
            let asks_whose = self.accounts.asks_whose(&account);
            let lister = Lister {
                transport: Arc::clone(&self.transport),
                scale: self.scale(),
                old_list_until: Arc::clone(&self.old_list_until),
            };
            under_way.spawn(async move {
                let (rows, user) = tokio::join!(lister.rows_of(&account), async {
                    match asks_whose {
                        true => lister.ask_whose(&account).await,
                        false => None,
                    }
                });
                (account, user, rows)
            });
        }
        let mut inventory = Inventory::default();
        let mut first_error = None;
        while let Some(listed) = under_way.join_next().await {
            let broken = |_| MarketError::Unavailable("a listing broke off".into());
            let (account, user, rows) = listed.map_err(broken)?;
            let account = match user {
                Some(user) => self.accounts.belongs_to(&account, user),
                None => account,
            };
            match rows {
                Ok(rows) => self.take_in(&account, &rows, &mut inventory),
                Err(failure) if failure.is_about_the_key() && !self.accounts.is_named(&account) => {
                    tracing::warn!(
                        "a key that is no longer configured is refused: its machines are not seen any more"
                    );
                    self.accounts.drop_key(&account);
                }
                Err(failure) => {
                    let error = failure.of_reading();
                    inventory.silent.insert(account.id, error.to_string());
                    first_error.get_or_insert(error);
                }
            }
        }
        // Another key of the same account told.
        let answered = &inventory.answered;
        inventory
            .silent
            .retain(|account, _| !answered.contains(account));
        if let Some(error) = first_error
            && inventory.answered.is_empty()
        {
            return Err(error);
        }
        self.accounts.forget_instances_but(|id, account| {
            inventory.held_by.contains_key(id) || !inventory.answered.contains(account)
        });
        Ok(inventory)
    }

    fn take_in(&self, account: &Account, rows: &[Value], inventory: &mut Inventory) {
        inventory.answered.extend(self.accounts.names(account));
        for instance in rows.iter().filter_map(|row| self.ours(row)) {
            self.accounts.has(account, &instance.id);
            let (id, holder) = (instance.id.clone(), account.id.clone());
            // Two keys of one account show the same machine.
            if inventory.held_by.insert(id, holder).is_none() {
                inventory.instances.push(instance);
            }
        }
    }
}
