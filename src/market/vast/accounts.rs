//! Whose keys there are, and which account has which instance.

use std::collections::HashMap;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::transport::Account;
use crate::domain::{AccountId, InstanceId, Secret};

#[derive(Default)]
pub(super) struct Accounts(Mutex<State>);

#[derive(Default)]
struct State {
    /// A key keeps its number for as long as the process runs.
    keys: Vec<Key>,
    owners: HashMap<InstanceId, AccountId>,
}

struct Key {
    secret: Secret,
    id: AccountId,
    /// In the configuration; others are kept for the machines they rented.
    named: bool,
    dropped: bool,
}

impl State {
    fn number(&mut self, key: &Secret) -> usize {
        let known = self.keys.iter().position(|known| known.secret == *key);
        known.unwrap_or_else(|| {
            self.keys.push(Key {
                secret: key.clone(),
                id: fingerprint(key),
                named: true,
                dropped: false,
            });
            self.keys.len() - 1
        })
    }

    fn accounts(&self) -> impl Iterator<Item = Account> {
        let kept = self.keys.iter().enumerate().filter(|(_, key)| !key.dropped);
        kept.map(|(number, key)| Account {
            number,
            id: key.id.clone(),
            key: key.secret.clone(),
        })
    }
}

impl Accounts {
    /// These are configured now, and no others.
    pub(super) fn name<'k>(&self, keys: impl Iterator<Item = &'k Secret>) {
        let mut state = self.0.lock();
        for key in &mut state.keys {
            key.named = false;
        }
        for key in keys {
            let number = state.number(key);
            if let Some(key) = state.keys.get_mut(number) {
                (key.named, key.dropped) = (true, false);
            }
        }
    }

    pub(super) fn of(&self, key: &Secret) -> Account {
        Account {
            number: self.0.lock().number(key),
            id: fingerprint(key),
            key: key.clone(),
        }
    }

    pub(super) fn all(&self) -> Vec<Account> {
        self.0.lock().accounts().collect()
    }

    pub(super) fn is_named(&self, account: &Account) -> bool {
        let state = self.0.lock();
        state.keys.get(account.number).is_some_and(|key| key.named)
    }

    pub(super) fn drop_key(&self, account: &Account) {
        if let Some(key) = self.0.lock().keys.get_mut(account.number) {
            key.dropped = true;
        }
    }

    pub(super) fn has(&self, account: &Account, id: &InstanceId) {
        self.0.lock().owners.insert(id.clone(), account.id.clone());
    }

    /// Known from an earlier life; the account need not be among ours.
    pub(super) fn belongs(&self, id: &InstanceId, account: &AccountId) {
        let mut state = self.0.lock();
        state.owners.insert(id.clone(), account.clone());
    }

    pub(super) fn forget_instances_but(&self, keep: impl Fn(&InstanceId, &AccountId) -> bool) {
        let mut state = self.0.lock();
        state.owners.retain(|id, account| keep(id, account));
    }

    /// The one that has it, or all where that is not known.
    pub(super) fn that_may_have(&self, id: &InstanceId) -> Vec<Account> {
        let state = self.0.lock();
        let owner = state.owners.get(id);
        state
            .accounts()
            .filter(|account| owner.is_none_or(|owner| *owner == account.id))
            .collect()
    }
}

/// Tells accounts apart in the ledger without holding the key.
fn fingerprint(key: &Secret) -> AccountId {
    let digest = Sha256::digest(key.expose().as_bytes());
    let hex: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    AccountId::new(hex)
}
